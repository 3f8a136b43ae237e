"""Sagas, projections, distributions, leases, the intake and the relay as processes."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Final

from command.engine import EngineObserver
from infra import memory
from infra.bootstrap.parked import parked_of
from infra.bootstrap.processes import (
    WORKER_STOP_SECONDS,
    asked_to_stop,
    make_tracing,
    metrics_served,
    once_kafka_is_there,
)
from infra.bootstrap.stores import router_beside, write_side
from infra.postgres.log import PostgresEventLog
from infra.settings import Settings
from infra.telemetry.logs import configure_logs_by
from infra.telemetry.metrics import Metrics, Sample

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from infra.intake.service import IntakeService
    from infra.kafka.consumer import LaneConsumer
    from infra.leases.books import Store as LeaseStore
    from infra.projections.ports import FollowerStatus
    from infra.relay.relay import RelayStatus


INTAKE_HELD: Final = "tessera_intake_partitions_held"
INTAKE_LAG: Final = "tessera_intake_lag_records"
LAG: Final = "tessera_follower_lag_events"
HALTED: Final = "tessera_follower_halted"
LEASES_OUT: Final = "tessera_budget_leases_out"
LEASE_OVERDUE: Final = "tessera_budget_lease_overdue_seconds"
HOLDER_AWAY: Final = "tessera_budget_holder_away"
RELAY_STATE: Final = "tessera_relay_state"
WORKER_POLL_SECONDS: Final = 0.1


class WorkerHalted(Exception):
    """A worker cannot go on without help; the message says why."""


def run_sagas(settings: Settings) -> None:
    """Run sagas, outbox, timers and housekeeping until SIGTERM or SIGINT. Raises WorkerHalted."""
    from infra.postgres.housekeeping import Housekeeper
    from infra.sagas.settings import SagaSettings
    from infra.sagas.worker import SagaWorker

    configure_logs_by(settings)
    metrics = Metrics()
    with (
        asked_to_stop() as stop,
        write_side(settings, metrics) as side,
        router_beside(settings, side) as router,
        metrics_served(settings, metrics),
    ):
        bounds = SagaSettings(facts_max=settings.follower_batch_max, poll_seconds=settings.follower_poll_ms / 1_000)
        lanes = _lanes_of_sagas(settings, stop) if settings.follower_feed == "kafka" else None
        worker = SagaWorker(
            settings.postgres_dsn,
            side.log,
            side.engine,
            bounds,
            router=router,
            lanes=lanes,
            on_stranger=metrics.record_passed_over,
        )
        housekeeper = Housekeeper(settings.postgres_dsn, keep_days=settings.command_log_days)
        metrics.add_source(lambda: [Sample(HALTED, (("follower", "sagas"),), 1.0 if worker.halted else 0.0)])
        metrics.add_source(lambda: parked_of(settings))
        worker.start()
        housekeeper.start()
        memory.settle()
        try:
            while not stop.is_set():
                time.sleep(WORKER_POLL_SECONDS)  # Not a wait on `stop`: its own signal handler could deadlock with it.
        finally:
            halted = worker.halted
            housekeeper.stop()
            worker.stop(WORKER_STOP_SECONDS)
    if halted is not None:
        raise WorkerHalted(halted)


def _lanes_of_sagas(settings: Settings, stop: threading.Event) -> "LaneConsumer":
    """A member of the group that hears for this shard's sagas.

    Raises WorkerHalted and WrongPartitions; KafkaUnavailable when Kafka does not come up.
    """
    from infra.kafka.admin import TopicsMissing, require_topics
    from infra.kafka.consumer import LaneConsumer
    from infra.sagas.lane_runner import TOPICS
    from infra.sagas.ports import FOLLOWER

    try:
        once_kafka_is_there(lambda: require_topics(settings, TOPICS), stop)
    except TopicsMissing as error:
        raise WorkerHalted(str(error)) from error
    return LaneConsumer(settings, f"{FOLLOWER}-{settings.shard}", TOPICS)


def run_distributions(settings: Settings) -> None:
    """Carry distributions out until SIGTERM or SIGINT. What is under way then is finished by the next one."""
    from infra.distributions.runner import DistributionRunner

    configure_logs_by(settings)
    metrics = Metrics()
    with asked_to_stop() as stop, write_side(settings, metrics) as side, metrics_served(settings, metrics):
        runner = DistributionRunner(settings.postgres_dsn, side.log, side.engine)
        runner.start()
        memory.settle()
        try:
            while not stop.is_set():
                time.sleep(WORKER_POLL_SECONDS)
        finally:
            runner.stop(WORKER_STOP_SECONDS)


def run_leases(settings: Settings) -> None:
    """Keep the leases of budgets that live on this shard until SIGTERM or SIGINT. Several such processes may run."""
    from infra.leases.keeper import KeeperSettings, LeaseKeeper, keeper_loop

    configure_logs_by(settings)
    metrics = Metrics()
    bounds = KeeperSettings(term_seconds=settings.lease_term_seconds)
    with asked_to_stop() as stop, lease_books(settings, metrics) as sides, metrics_served(settings, metrics):
        keeper = LeaseKeeper(*sides, bounds)
        loop = keeper_loop(keeper, bounds)
        metrics.add_source(lambda: [Sample(HOLDER_AWAY, (("holder", name),), 1.0) for name in keeper.away])
        metrics.add_source(lambda: _lease_samples(settings))
        loop.start()
        try:
            while not stop.is_set():
                time.sleep(WORKER_POLL_SECONDS)
        finally:
            loop.stop(WORKER_STOP_SECONDS)


def run_intake(settings: Settings) -> None:
    """Take commands and facts in from Kafka until SIGTERM or SIGINT. Several such processes share the partitions.

    Raises NoKafka, KafkaUnavailable, TopicsMissing and RoutedTopicsMissing.
    """
    from infra.intake.service import IntakeService
    from infra.kafka.client import connection
    from infra.sagas.first_step import first_step, first_step_at
    from infra.telemetry.traced import TracedQueue

    configure_logs_by(settings)
    metrics, tracing = Metrics(), make_tracing(settings, "tessera-intake")
    service = IntakeService(settings, connection(settings), tracing, metrics)
    step = first_step_at(settings.placement) if settings.is_placed else first_step
    metrics.add_source(lambda: intake_samples(service))
    with ExitStack() as stack:
        stack.enter_context(closing(tracing))
        stop = stack.enter_context(asked_to_stop())
        once_kafka_is_there(service.require_topics, stop)
        side = stack.enter_context(write_side(settings, metrics))
        router = stack.enter_context(router_beside(settings, side))
        stack.enter_context(metrics_served(settings, metrics))
        memory.settle()
        asyncio.run(service.run(TracedQueue(router or side.engine, tracing), step, stop))


def intake_samples(service: "IntakeService") -> list[Sample]:
    """What a running intake has not finished, and which partitions wait for an operator."""
    return [
        *(Sample(INTAKE_LAG, _partition(at), records) for at, records in service.lag()),
        *(Sample(INTAKE_HELD, _partition(at), 1.0) for at in service.held()),
    ]


def _partition(at: "TopicPartition") -> tuple[tuple[str, str], ...]:
    return (("topic", at.topic), ("partition", str(at.partition)))


@contextmanager
def lease_books(
    settings: Settings, observer: EngineObserver | None = None
) -> Iterator[tuple["LeaseStore", dict[str, "LeaseStore"]]]:
    """This shard's side of leased budgets, and each other shard's by its number, every one with an engine that runs."""
    from infra.leases.books import Store
    from infra.shards.distinct import require_distinct_stores

    require_distinct_stores(settings.stores)
    with ExitStack() as stack:
        stores = {}
        for shard in settings.stores:
            at_shard = settings.at_shard(shard)
            side = stack.enter_context(write_side(at_shard, observer if shard == settings.shard else None))
            stores[str(shard)] = Store(at_shard.postgres_dsn, side.log, side.engine)
            stack.callback(stores[str(shard)].close)
        yield stores.pop(str(settings.shard)), stores


def _lease_samples(settings: Settings) -> list[Sample]:
    """What home has lent, by holder: whoever does not settle after a lease's end shows by its age."""
    from infra.leases.books import Store, accounts

    log = PostgresEventLog(settings.postgres_dsn, shard=settings.shard)
    home = Store(settings.postgres_dsn, log)
    with closing(home), closing(log):
        found = accounts(home, {})
    holders = sorted({account.holder for account in found})
    out = {holder: [it for it in found if it.holder == holder and it.reserved_minor] for holder in holders}
    return [
        *(Sample(LEASES_OUT, (("holder", holder),), len(leases)) for holder, leases in out.items()),
        *(
            Sample(LEASE_OVERDUE, (("holder", holder),), max((it.overdue_seconds for it in leases), default=0.0))
            for holder, leases in out.items()
        ),
    ]


def run_projections(settings: Settings) -> None:
    """Keep read models and facts up with the log until SIGTERM or SIGINT. Raises WorkerHalted."""
    from infra.projections.runner import FollowerLimits
    from infra.projections.service import ProjectionService
    from infra.telemetry.traced import TracedTarget

    configure_logs_by(settings)
    metrics, tracing = Metrics(), make_tracing(settings, "tessera-projections")
    limits = FollowerLimits(
        batch_events_max=settings.follower_batch_max, poll_seconds=settings.follower_poll_ms / 1_000
    )
    service = ProjectionService(
        postgres_dsn=settings.postgres_dsn,
        redis_url=settings.redis_url,
        clickhouse_url=settings.facts_url,
        shard=settings.shard,
        limits=limits,
        on_batch=metrics.batch_followed,
        watched=(lambda target: TracedTarget(target, tracing)) if tracing.enabled else (lambda target: target),
        kafka=settings if settings.follower_feed == "kafka" else None,
        on_stranger=metrics.record_passed_over,
    )
    metrics.add_source(lambda: [_halted(status) for status in service.statuses()])
    metrics.add_source(lambda: parked_of(settings))
    with closing(tracing), service, asked_to_stop() as stop, metrics_served(settings, metrics):
        if not service.run(stop):
            raise WorkerHalted("a follower was halted when the worker stopped; its log says why")


def run_relay(settings: Settings) -> None:
    """Publish the log to Kafka until SIGTERM or SIGINT. Raises NoKafka, WorkerHalted once it ends."""
    from infra.postgres.feed import StoreFeed
    from infra.relay.checkpoint import RELAY, Checkpoint
    from infra.relay.publisher import KafkaPublisher
    from infra.relay.relay import Relay, RelayLimits

    configure_logs_by(settings)
    metrics, tracing = Metrics(), make_tracing(settings, "tessera-relay")
    limits = RelayLimits(batch_events_max=settings.follower_batch_max, poll_seconds=settings.follower_poll_ms / 1_000)
    relay = Relay(
        StoreFeed(settings.postgres_dsn, shard=settings.shard),
        Checkpoint(settings.postgres_dsn, settings.shard, lead_seconds=limits.lead_seconds),
        KafkaPublisher(settings),
        shard=settings.shard,
        limits=limits,
        on_batch=metrics.batch_followed,
        traced=lambda batch: tracing.following_traces("publish", batch.traces, batch.events),
    )
    metrics.add_source(lambda: _relay_samples(RELAY, str(settings.shard), relay.status()))
    with closing(tracing), asked_to_stop() as stop, metrics_served(settings, metrics):
        thread = threading.Thread(target=relay.run, args=(stop,), name=RELAY)
        thread.start()
        memory.settle()
        while not stop.is_set() and thread.is_alive():
            time.sleep(WORKER_POLL_SECONDS)
        halted = relay.status().last_error if relay.status().state == "halted" else None
        if not stop.is_set():
            halted = f"the relay broke off; the traceback is in its log. Start it again. Last seen: {relay.status()}"
        thread.join(WORKER_STOP_SECONDS)
    if halted is not None:
        raise WorkerHalted(halted)


def _relay_samples(follower: str, shard: str, status: "RelayStatus") -> list[Sample]:
    """One that stands by says nothing of the lag: it does not look at the checkpoint."""
    samples = [
        Sample(HALTED, (("follower", follower),), float(status.state == "halted")),
        Sample(RELAY_STATE, (("shard", shard), ("state", status.state)), 1.0),
    ]
    if status.state != "standby":
        samples.append(Sample(LAG, (("shard", shard), ("follower", follower)), status.lag))
    return samples


def _halted(status: "FollowerStatus") -> Sample:
    is_halted = status.state == "halted" or bool(status.halted)
    return Sample(HALTED, (("follower", status.name),), 1.0 if is_halted else 0.0)
