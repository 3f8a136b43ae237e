"""What an event costs after it is stored: projections into Redis and ClickHouse, for the capacity model."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any, Final

from benchmarks.bench import Bench, Figure, Outcome, Side, Target
from benchmarks.http_servers import child
from benchmarks.parts import HOT_CLIENTS, engines
from benchmarks.processor import Meter, micros_each
from benchmarks.verification import verify
from infra import operations
from infra.bootstrap import stores
from infra.embedded.clickhouse import EmbeddedClickHouse
from infra.embedded.engine import Engine
from infra.embedded.redis import EmbeddedRedis
from infra.processes import free_port, wait_until
from infra.settings import Settings

CAUGHT_UP_SECONDS: Final = 600.0


def run(bench: Bench) -> Outcome:
    """Claims are stored first; then the projections start from nothing, and catch up with all of them."""
    with ExitStack() as stack:
        folder = bench.postgres.folder
        dsn = stack.enter_context(bench.postgres.database())
        with engines(bench, dsn) as ours:
            ours.prepare("claims_hot", HOT_CLIENTS)
            bench.say("storing claims")
            ours.closed("claims_hot", HOT_CLIENTS, 4 * bench.effort.seconds)
        bench.say("starting Redis and ClickHouse")
        redis, clickhouse = (stack.enter_context(running(kind(folder))) for kind in (EmbeddedRedis, EmbeddedClickHouse))
        settings = Settings.load(
            postgres_dsn=dsn,
            redis_url=redis.address,
            clickhouse_url=clickhouse.address,
            follower_metrics_port=free_port(),
            log_level="warning",
        )
        stores.migrate(settings)
        assert redis.child is not None
        assert clickhouse.child is not None
        servers = {"Redis": redis.child.pid, "ClickHouse": clickhouse.child.pid, "PostgreSQL": bench.postgres.pid}
        figure = catch_up(bench, settings, servers)
        side = Side("events projected into Redis and ClickHouse", "events/s", [figure])
        outcome = Outcome(figure.value, side.values, [side])
        micros: dict[str, float] = figure.details["micros_each"]
        outcome.notes.append(", ".join(f"{name} {value:.0f} µs" for name, value in micros.items()) + " per event")
        return verify(bench, outcome, dsn)


def catch_up(bench: Bench, settings: Settings, servers: dict[str, int], name: str = "projections") -> Figure:
    """Run the projections' worker from its start until all is projected; its own processor time goes by ``name``."""
    assert settings.follower_metrics_port is not None
    argv = ["infra.cli", "worker", "projections"]
    meter, started = Meter(servers), perf_counter()
    with child(argv, settings.follower_metrics_port, bench.postgres.folder, settings.to_env()) as pid:
        bench.say("catching up")
        if not wait_until(lambda: _caught_up(settings), timeout_seconds=CAUGHT_UP_SECONDS, every_seconds=0.2):
            raise TimeoutError(f"the projections were not done within {CAUGHT_UP_SECONDS:.0f} s")
        seconds = perf_counter() - started
        own = Meter({name: pid}, since_birth=True)
        used = own.used() | meter.used()
    events = max(each.offset or 0 for each in _projections(settings))
    return Figure(events / seconds, {"events": events, "micros_each": micros_each(used, events)})


def _caught_up(settings: Settings) -> bool:
    projections = _projections(settings)
    return bool(projections) and all(each.lag == 0 for each in projections)


def _projections(settings: Settings) -> list[operations.FollowerStanding]:
    return [each for each in operations.follower_standings(settings) if each.name != operations.SAGAS]


@contextmanager
def running(engine: Engine) -> Iterator[Any]:
    """An engine, as long as the block."""
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


TARGET = Target(
    key="followers",
    title="events/s projected into Redis and ClickHouse, from nothing",
    how="`tessera worker projections` catches up with a log of claims; processor time per event by process, for the "
    "capacity model (start-up included)",
    run=run,
    unit="",
    by_default=False,
)
