"""Prometheus metrics: what is counted, under which names, and the observers that count it."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500)
_BOUNDS: Final = (*map(floatToGoString, _SECONDS), "+Inf")


class Sample(NamedTuple):
    """One value that is read when somebody looks: a metric's name, its labels, its value."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


Source = Callable[[], Iterable[Sample]]

# What sources may report: name -> (help, label names). They say it of stores, so any process can serve it.
GAUGES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "tessera_follower_lag_events": ("Events in the log that a follower has not handled.", ("shard", "follower")),
    "tessera_follower_halted": ("1 when a follower stopped and waits for somebody.", ("follower",)),
    "tessera_relay_state": ("1 for what a relay does: publishing, standby, retrying, halted.", ("shard", "state")),
    "tessera_sagas": ("Sagas by the step they are at.", ("shard", "step")),
    "tessera_dead_letters": ("Events and commands parked for an operator.", ("shard", "source")),
    "tessera_dead_letters_failed": (
        "Those of them that failed themselves; the rest waits behind.",
        ("shard", "source"),
    ),
    "tessera_dead_letters_oldest_seconds": ("Since the oldest of them was parked.", ("shard", "source")),
    "tessera_distributions": ("Distributions that are not over, by status.", ("shard", "status")),
    "tessera_distribution_rows_left": ("Rows of distributions that are not decided yet.", ("shard",)),
    "tessera_budget_leases_out": ("Leases whose money is still with their holder.", ("holder",)),
    "tessera_budget_lease_overdue_seconds": ("Since the end of the oldest lease that is not settled.", ("holder",)),
    "tessera_budget_holder_away": ("1 when a holder's store cannot be reached.", ("holder",)),
    "tessera_intake_lag_records": ("Records of a topic that are not finished yet.", ("topic", "partition")),
    "tessera_intake_partitions_held": (
        "1 for a partition that waits for an operator: one of its records cannot be read.",
        ("topic", "partition"),
    ),
    "tessera_engine_queue_commands": ("Commands that wait for their batch.", ()),
}


class Metrics:
    """All metrics of one process. Passed to the engine and to the edge as their observer."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._sources: list[Source] = []
        here = self.registry
        self._commands = Counter("tessera_commands", "Commands answered.", ("type", "outcome"), registry=here)
        self._refusals = Counter("tessera_refusals", "Commands refused, by reason.", ("type", "code"), registry=here)
        self._codes_refused = Counter(
            "tessera_codes_refused", "Codes that were tried and refused, by reason.", ("reason",), registry=here
        )
        self._problems = Counter("tessera_http_problems", "Requests answered with a problem.", ("code",), registry=here)
        self._problem_children: dict[str, Counter] = {}
        self._hints = Counter("tessera_claim_hints", "Claims answered with a hint.", ("code",), registry=here)
        self._hint_failures = Counter(
            "tessera_claim_hint_store_failures", "Times that Redis did not answer about hints.", registry=here
        )
        self._batch_commands = Histogram(
            "tessera_append_batch_commands", "Commands per transaction.", buckets=_SIZES, registry=here
        )
        self._batch_events = Histogram(
            "tessera_append_batch_events", "Events per transaction.", buckets=_SIZES, registry=here
        )
        self._batch_seconds = Histogram(
            "tessera_append_batch_seconds",
            "Seconds per transaction, from when it was sent (or its lock was asked for) to its commit.",
            buckets=_SECONDS,
            registry=here,
        )
        self._batches_failed = Counter(
            "tessera_append_batches_failed", "Transactions rolled back or of unknown fate.", ("error",), registry=here
        )
        self._batches_overtaken = Counter(
            "tessera_append_batches_overtaken",
            "Batches decided again because another process appended first.",
            registry=here,
        )
        self._batches_misjudged = Counter(
            "tessera_append_batches_misjudged",
            "Batches decided again because something was there that was guessed not to be: an answer, a counter.",
            registry=here,
        )
        self._engine_seconds = Counter(
            "tessera_engine_processor_seconds",
            "Processor time of the engines that run on the event loop; the rest of the loop's is the edge's.",
            registry=here,
        )
        self._requests = _Requests()
        self._handled = Counter(
            "tessera_follower_events", "Events that a follower handled.", ("follower",), registry=here
        )
        self._follower_seconds = Histogram(
            "tessera_follower_batch_seconds",
            "Seconds per batch of a follower.",
            ("follower",),
            buckets=_SECONDS,
            registry=here,
        )
        self._records = Counter(
            "tessera_intake_records", "Records answered, by answer.", ("topic", "code"), registry=here
        )
        self._letters = Counter(
            "tessera_intake_dead_letters", "Records that can never be taken in.", ("topic", "reason"), registry=here
        )
        self._waits = Counter(
            "tessera_intake_waits", "Times that a batch had to be tried again.", ("topic", "reason"), registry=here
        )
        self._passed_over = Counter(
            "tessera_follower_records_passed_over",
            "Records on topics of events that no relay wrote.",
            ("topic", "partition"),
            registry=here,
        )
        self._up = Gauge("tessera_up", "1 while the process runs.", registry=here)
        self._up.set(1)
        self.registry.register(self._requests)
        self.registry.register(_Sources(self._sources))

    def add_source(self, source: Source) -> None:
        """Have values of GAUGES read from this when somebody looks."""
        self._sources.append(source)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format. Sources may block: not for an event loop."""
        return generate_latest(self.registry)

    # What the engine, and whoever runs it, tells.

    def engine_used(self, seconds: float) -> None:
        """So much processor time of the event loop was an engine's."""
        self._engine_seconds.inc(seconds)

    def batch_committed(
        self, tickets: int, events: int, outcomes: Mapping[tuple[str, str], int], seconds: float
    ) -> None:
        """A batch is durable. ``outcomes`` counts (command type, code)."""
        self._batch_commands.observe(tickets)
        self._batch_events.observe(events)
        self._batch_seconds.observe(seconds)
        for (command_type, code), count in outcomes.items():
            accepted = code == "ok"
            self._commands.labels(command_type, "accepted" if accepted else "refused").inc(count)
            if not accepted:
                self._refusals.labels(command_type, code).inc(count)

    def batch_overtaken(self, tickets: int) -> None:
        """Another process appended before a batch that was decided ahead."""
        self._batches_overtaken.inc()

    def batch_misjudged(self, tickets: int) -> None:
        """A guess was wrong about a batch that was decided without a look."""
        self._batches_misjudged.inc()

    def batch_failed(self, tickets: int, error: Exception) -> None:
        """A batch was rolled back, or its fate is unknown."""
        self._batches_failed.labels(type(error).__name__).inc()

    # What the edge tells.

    def request_served(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._requests.count(route, method, status, seconds)

    def command_answered_with(self, code: str) -> None:
        """A problem left: a refusal, or one of the edge's own."""
        # Looking a labelled child up costs more than counting. Codes are few: each is written down somewhere.
        if (child := self._problem_children.get(code)) is None:
            child = self._problem_children[code] = self._problems.labels(code)
        child.inc()

    # What hints tell.

    def hint_given(self, code: str) -> None:
        """A claim was answered with a hint."""
        self._hints.labels(code).inc()

    def hint_store_failed(self) -> None:
        """Redis did not answer in time, or not at all; it is left alone for a while."""
        self._hint_failures.inc()

    def code_refused(self, reason: str) -> None:
        """Somebody tried a code that does nothing here: mistyped, guessed, foreign, used, void."""
        self._codes_refused.labels(reason).inc()

    # What the intake tells.

    def records_answered(self, topic: str, code: str, count: int) -> None:
        """So many records were answered with this code."""
        self._records.labels(topic, code).inc(count)

    def letter_written(self, topic: str, reason: str) -> None:
        """One record can never be taken in: it becomes a dead letter."""
        self._letters.labels(topic, reason).inc()

    def batch_waits(self, topic: str, reason: str) -> None:
        """A batch has to be tried again: a store, the queue or Kafka does not take it now."""
        self._waits.labels(topic, reason).inc()

    # What followers tell.

    def batch_followed(self, follower: str, events: int, seconds: float) -> None:
        """A follower handled a batch."""
        self._handled.labels(follower).inc(events)
        self._follower_seconds.labels(follower).observe(seconds)

    def record_passed_over(self, topic: str, partition: int) -> None:
        """A follower met a record on a topic of events that no relay wrote."""
        self._passed_over.labels(topic, str(partition)).inc()


class _Served:
    """Requests of one route with one status: how many, and how many took how long (beyond the last bound, too)."""

    __slots__ = ("in_bucket", "seconds")

    def __init__(self) -> None:
        self.in_bucket = [0] * (len(_SECONDS) + 1)
        self.seconds = 0.0


class _Requests(Collector):
    """Counts requests, on the event loop's thread alone: a lock for each would cost more than the counting."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, str, int], _Served] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One more."""
        key = (route, method, status)
        served = self._served.get(key)
        if served is None:
            served = self._served[key] = _Served()
        served.in_bucket[bisect_left(_SECONDS, seconds)] += 1
        served.seconds += seconds

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "tessera_http_requests", "Requests answered.", labels=("route", "method", "status")
        )
        times: dict[tuple[str, str], _Served] = {}
        for (route, method, status), served in list(self._served.items()):
            requests.add_metric((route, method, str(status)), sum(served.in_bucket))
            total = times.setdefault((route, method), _Served())
            total.in_bucket = [one + other for one, other in zip(total.in_bucket, served.in_bucket, strict=True)]
            total.seconds += served.seconds
        seconds = HistogramMetricFamily(
            "tessera_http_request_seconds", "Seconds per request.", labels=("route", "method")
        )
        for labels, total in times.items():
            reached = zip(_BOUNDS, accumulate(total.in_bucket), strict=True)
            seconds.add_metric(labels, list(reached), total.seconds)
        return [requests, seconds]

    def describe(self) -> Iterable[Metric]:
        return []


class _Sources(Collector):
    """Turns what sources say into metrics; one that fails is left out instead of taking the others along."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources

    def collect(self) -> Iterable[GaugeMetricFamily]:
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in GAUGES.items()}
        failed = GaugeMetricFamily("tessera_metric_sources_failed", "Sources that could not be read just now.")
        failures = 0
        for source in self._sources:
            try:
                for sample in source():
                    families[sample.name].add_metric([value for _, value in sample.labels], sample.value)
            except Exception:  # noqa: BLE001 - a store that is down must not hide the other metrics; it is counted.
                failures += 1
        failed.add_metric([], failures)
        return [*families.values(), failed]

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return []
