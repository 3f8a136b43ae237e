"""How many of each part a load needs, and which saturates first: measured costs in, nodes out.

A part serves operations at so many microseconds of one core each, as measured (``docs/measured.json``). A unit of it (a
process with one interpreter, or a node) has so many cores, of which we plan to use a share. The model knows no queues:
those are the simulation's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any, Final, Literal

from benchmarks.processor import EDGE, ENGINE

Operation = Literal["claim", "order", "event"]

# Above this, queues grow faster than load: a unit is planned to be busy for this share of the time.
HEADROOM: Final = 0.7


class NotMeasured(ValueError):
    """A figure that the model needs is not in the result; the message says which target gives it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of process or server. ``cores``: how many a unit can use at once; ``costs``: microseconds of one core.

    ``by_shard``: a unit belongs to a shard, so that more of them means more shards.
    """

    name: str
    unit: str
    cores: float
    costs: Mapping[Operation, float]
    by_shard: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """A second at the peak. ``hot_share``: the share of claims that the one hottest template gets."""

    name: str
    claims: float
    orders: float
    hot_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What operations are made of, in events and bytes."""

    events_per_claim: float
    events_per_order: float
    log_bytes_per_claim: float  # Write-ahead log, full pages included.
    log_bytes_per_order: float
    stored_bytes_per_event: float  # Tables with their indexes, command log and counters included.

    def rates(self, load: Load) -> dict[Operation, float]:
        """Operations a second."""
        events = load.claims * self.events_per_claim + load.orders * self.events_per_order
        return {"claim": load.claims, "order": load.orders, "event": events}


@dataclass(frozen=True, slots=True)
class Need:
    """What one part needs for a load."""

    part: Part
    cores_busy: float
    units: int
    utilisation: float  # Of those units.


def need(part: Part, rates: Mapping[Operation, float], headroom: float = HEADROOM) -> Need:
    """Units such that each is busy for at most ``headroom`` of the time; at least one."""
    busy = sum(rates[operation] * micros / 1e6 for operation, micros in part.costs.items())
    units = max(1, ceil(busy / (part.cores * headroom) - 1e-9))
    return Need(part, busy, units, busy / (units * part.cores))


def plan(parts: Sequence[Part], shape: Shape, load: Load) -> list[Need]:
    """Every part's need, in the parts' order."""
    return [need(part, shape.rates(load)) for part in parts]


def first_to_saturate(needs: Sequence[Need]) -> Need:
    """Of one unit of each part, the one that the load would fill first."""
    return max(needs, key=lambda each: each.cores_busy / each.part.cores)


def shards(needs: Sequence[Need]) -> int:
    """As many as the part that needs most of them."""
    return max((each.units for each in needs if each.part.by_shard), default=1)


def most_on_one_shard(parts: Sequence[Part], shape: Shape, operation: Operation = "claim") -> tuple[float, Part]:
    """How many of these operations a second one shard takes at ``HEADROOM``, and what limits it.

    It is what one hot template can get: a template lives on one shard.
    """
    one = Load("one", 1.0 if operation == "claim" else 0.0, 1.0 if operation == "order" else 0.0)
    rates = shape.rates(one)
    busiest = max(
        (need(part, rates) for part in parts if part.by_shard), key=lambda each: each.cores_busy / each.part.cores
    )
    return HEADROOM * busiest.part.cores / busiest.cores_busy, busiest.part


# From the benchmark's result.


def parts_of(result: Mapping[str, Any], *, postgres_cores: float = 8.0) -> list[Part]:
    """The parts as they are built, with their measured costs. Raises NotMeasured."""
    claim = _micros(result, "p15", 0)
    order = _micros(result, "p16", 0)
    event = _micros(result, "followers", 0)
    relayed = _micros(result, "kafka", 0)
    return [
        # Any number of API processes may serve a shard; what they decide, they store one after the other. So the edge
        # can be had by the dozen, and the engine, which takes turns with it on one thread, is a shard's only one.
        Part("API: edge", "process", 1.0, {"claim": claim[EDGE], "order": order[EDGE]}),
        Part("API: engine", "process", 1.0, {"claim": claim[ENGINE], "order": order[ENGINE]}, by_shard=True),
        Part("saga worker", "process", 1.0, {"order": order["sagas"]}, by_shard=True),
        Part(
            "PostgreSQL",
            f"node of {postgres_cores:.0f} cores",
            postgres_cores,
            # Followers and the relay read the log.
            {
                "claim": claim["PostgreSQL"],
                "order": order["PostgreSQL"],
                "event": event["PostgreSQL"] + relayed["PostgreSQL"],
            },
            by_shard=True,
        ),
        Part("projections", "process", 1.0, {"event": event["projections"]}, by_shard=True),
        Part("Redis", "node (one core serves)", 1.0, {"event": event["Redis"]}),
        Part("ClickHouse", "node of 8 cores", 8.0, {"event": event["ClickHouse"]}),
        Part("relay to Kafka", "process", 1.0, {"event": relayed["here"]}, by_shard=True),
        Part("Kafka", "broker of 8 cores", 8.0, {"event": relayed["Kafka"]}),
    ]


def shape_of(result: Mapping[str, Any]) -> Shape:
    """Events and bytes. Raises NotMeasured."""
    filled = _details(result, "p13")["filled"]["large"]
    return Shape(
        events_per_claim=float(_median_of(result, "p5", 0, lambda told: told["batches"][0]["events_per_command"])),
        events_per_order=float(_median_of(result, "p16", 0, lambda told: told["events_each"])),
        log_bytes_per_claim=float(_median_of(result, "p5", 0, lambda told: told["wal_bytes_each"])),
        log_bytes_per_order=float(_median_of(result, "p16", 0, lambda told: told["wal_bytes_each"])),
        stored_bytes_per_event=filled["sizes"]["database"] / filled["events"],
    )


def _details(result: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    try:
        details: Mapping[str, Any] = result["targets"][key]["details"]
    except KeyError:
        raise NotMeasured(f"run `python -m benchmarks --only {key}` and publish it: it is not measured yet") from None
    return details


def _median_of(result: Mapping[str, Any], key: str, side: int, read: Any) -> float:
    _details(result, key)
    try:
        return float(median(read(told) for told in result["targets"][key]["sides"][side]["rounds"]))
    except KeyError as missing:
        raise NotMeasured(f"the published result of {key} tells no {missing}: measure it again") from None


def _micros(result: Mapping[str, Any], key: str, side: int) -> dict[str, float]:
    """Microseconds per operation by process: the median of the rounds, each by itself."""
    _details(result, key)
    rounds = [told["micros_each"] for told in result["targets"][key]["sides"][side]["rounds"]]
    return {name: median(each[name] for each in rounds) for name in rounds[0]}
