"""What the API asks of the event store, or of several as if they were one."""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from command.engine import Engine, EngineStopped
from command.ports import CommandKey, LoggedAnswer
from contracts.identity import Realm
from contracts.position import Position
from infra.bootstrap.parked import parked_samples
from infra.bootstrap.stores import WriteSide, router_over, sides_beside
from infra.postgres import api_keys, code_keys, distributions, positions
from infra.postgres.connections import DEFAULT_TIMEOUTS, translated
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresEventLog
from infra.settings import Settings
from infra.shards.router import Router
from infra.telemetry.metrics import Metrics, Sample, Source

if TYPE_CHECKING:
    from psycopg import Connection, Cursor
    from psycopg_pool import ConnectionPool

    from infra.entry.first_steps import FirstStep
    from infra.http.commands import CheckoutOutcomes, StartsDistributions
    from infra.http.dry_runs import DryRun
    from infra.http.health import Check
    from infra.postgres.distributions import Job
    from query.ports import Distributions, Histories


EDGE_CONNECTIONS_MAX: Final = 4
LAG: Final = "tessera_follower_lag_events"
SAGAS: Final = "tessera_sagas"
DISTRIBUTIONS: Final = "tessera_distributions"
DISTRIBUTION_ROWS_LEFT: Final = "tessera_distribution_rows_left"


@dataclass(frozen=True)
class StoresAtEdge:
    """What the edge asks of the event store, or of several as if they were one."""

    engine: Engine | Router
    engines: Sequence[Engine]  # Behind it, one for each store; they are run by the event loop of the edge.
    dry_run: "DryRun"
    first_step: "FirstStep"
    outcomes: "CheckoutOutcomes"
    histories: "Histories"
    distributions: "Distributions"
    start_distribution: "StartsDistributions"
    log_of: Callable[[Realm, str], PostgresEventLog]
    answers: Callable[[Collection[CommandKey]], Mapping[CommandKey, LoggedAnswer]]
    log_positions: Mapping[int, Callable[[], Awaitable[Position]]]
    checks: Mapping[str, "Check"]


@contextmanager
def stores_at_edge(settings: Settings, own: WriteSide, blocking: Executor, metrics: Metrics) -> Iterator[StoresAtEdge]:
    with sides_beside(settings, own, metrics, on_loop=True) as sides, ExitStack() as stack:
        edges = {
            shard: stack.enter_context(_one_store(settings.at_shard(shard), side, blocking))
            for shard, side in sides.items()
        }
        yield _placed_stores(settings, sides, edges) if settings.is_placed else edges[settings.shard]


@contextmanager
def _one_store(settings: Settings, side: WriteSide, blocking: Executor) -> Iterator[StoresAtEdge]:
    """One shard, as an edge needs it that has no other."""
    from infra.distributions.starting import Starting
    from infra.http.distributions import StoredDistributions
    from infra.http.dry_runs import DryRunsOfStore
    from infra.http.histories import LogHistories
    from infra.http.outcomes import CheckoutWatch
    from infra.sagas.first_step import first_step

    histories = LogHistories(side.log, blocking)

    async def store_answers() -> None:
        await histories.position()

    async def engine_runs() -> None:
        if not side.engine.is_running:
            raise EngineStopped("the engine does not run")

    def answers(keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
        with side.log.reading() as view:
            return view.answers(keys)

    with closing(StoreFeed(settings.postgres_dsn, shard=settings.shard)) as feed, ExitStack() as stack:
        watch = CheckoutWatch(feed, side.log)
        watch.start()
        stack.callback(watch.stop)
        # A log of its own: a look of the engine's must not be waited for, nor one of these by the engine.
        beside = stack.enter_context(closing(PostgresEventLog(settings.postgres_dsn, shard=settings.shard)))
        yield StoresAtEdge(
            engine=side.engine,
            engines=[side.engine],
            dry_run=DryRunsOfStore(side.engine.dry_runs_over(beside), side.engine.dry_run, blocking),
            first_step=first_step,  # Every coupon of an order lies in this store.
            outcomes=watch,
            histories=histories,
            distributions=StoredDistributions(settings.postgres_dsn, blocking),
            start_distribution=Starting(settings.postgres_dsn, side.engine.dry_run, side.engine.execute).start,
            log_of=lambda _realm, _key: side.log,
            answers=answers,
            log_positions={settings.shard: histories.position},
            checks={"store": store_answers, "engine": engine_runs},
        )


def _placed_stores(
    settings: Settings, sides: Mapping[int, WriteSide], edges: Mapping[int, StoresAtEdge]
) -> StoresAtEdge:
    """Several shards as one: each question goes to the one where its answer lies."""
    from infra.distributions.starting import Starting
    from infra.http.dry_runs import PlacedDryRuns
    from infra.http.placed import PlacedCheckouts, PlacedDistributions, PlacedHistories, logged_answers
    from infra.sagas.first_step import first_step_at

    placement, router = settings.placement, router_over(settings, sides)
    logs = {shard: side.log for shard, side in sides.items()}
    # Through the router: it knows which distributions cannot be placed.
    starts = {shard: Starting(dsn, router.dry_run, router.execute).start for shard, dsn in settings.stores.items()}
    distributions = PlacedDistributions(placement, {shard: edge.distributions for shard, edge in edges.items()}, starts)
    return StoresAtEdge(
        engine=router,
        engines=[side.engine for side in sides.values()],
        dry_run=PlacedDryRuns(router, {shard: edge.dry_run for shard, edge in edges.items()}),
        first_step=first_step_at(placement),
        outcomes=PlacedCheckouts(placement, {shard: edge.outcomes for shard, edge in edges.items()}),
        histories=PlacedHistories(placement, {shard: edge.histories for shard, edge in edges.items()}),
        distributions=distributions,
        start_distribution=distributions.start,
        log_of=lambda realm, key: logs[placement.shard_of(realm, key)],
        answers=lambda keys: logged_answers(placement, logs, keys),
        log_positions={shard: position for edge in edges.values() for shard, position in edge.log_positions.items()},
        checks={f"{name}_{shard}": check for shard, edge in edges.items() for name, check in edge.checks.items()},
    )


class StoreLookups:
    """What the API asks of PostgreSQL beside the logs, on a few connections of its own to each store.

    The door must not wait behind the decisions, nor the decisions behind whoever watches.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools = {shard: _pool(dsn) for shard, dsn in settings.known_stores.items()}

    def __enter__(self) -> Self:
        for pool in self._pools.values():
            pool.open()
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.close()

    def find_key(self, prefix: str) -> api_keys.ApiKey | None:
        """The key with this prefix: keys are in the store of the process's own shard. Raises StoreUnavailable."""
        with self._asked(self._settings.shard) as cursor:
            return api_keys.find(cursor, prefix)

    def code_secrets(self, realm: Realm) -> dict[str, bytes]:
        """The secrets that a realm's codes are sealed with, by key id, the latest first. Raises StoreUnavailable."""
        with self._asked(self._home_of(realm)) as cursor:
            return {key.key_id: key.secret for key in code_keys.every(cursor, realm) if key.secret is not None}

    def code_key_ids(self, realm: Realm) -> list[str]:
        """Every key that a realm's codes were ever sealed with, the latest first. Raises StoreUnavailable."""
        with self._asked(self._home_of(realm)) as cursor:
            return [key.key_id for key in code_keys.every(cursor, realm)]

    def present_code_key(self, realm: Realm) -> str:
        """The key that new codes are sealed with; a realm's first one is made here. Raises StoreUnavailable."""
        with self._asked(self._home_of(realm)) as cursor:
            return code_keys.present(cursor, realm)

    @property
    def sources(self) -> list[Source]:
        """Of each store one that tells how far followers are behind, where sagas stand and what is parked there."""
        return [partial(self._samples, shard) for shard in self._pools]

    def _home_of(self, realm: Realm) -> int:
        # A realm that is spread has no codes: any of its shards will do to say so.
        settings = self._settings
        return settings.placement.shards_of(realm)[0] if settings.is_placed else settings.shard

    @contextmanager
    def _asked(self, shard: int) -> Iterator["Cursor[Any]"]:
        with translated(), self._pools[shard].connection() as connection, connection.cursor() as cursor:
            yield cursor

    def _samples(self, shard: int) -> list[Sample]:
        with self._asked(shard) as cursor:
            cursor.execute("SELECT coalesce(max(notification_id), 0) FROM stored_events")
            (head,) = cursor.fetchone() or (0,)
            followers = positions.every(cursor)
            steps = cursor.execute("SELECT step, count(*) FROM sagas GROUP BY step").fetchall()
            parked = parked_samples(cursor, shard)
            jobs = distributions.open_jobs(cursor)
        here = ("shard", str(shard))
        return [
            *(Sample(LAG, (here, ("follower", each.follower)), max(0, head - each.offset)) for each in followers),
            *(Sample(SAGAS, (here, ("step", step)), count) for step, count in steps),
            *parked,
            *_distribution_samples(here, jobs),
        ]


def _pool(dsn: str) -> "ConnectionPool[Connection[Any]]":
    from psycopg_pool import ConnectionPool

    from infra.postgres.connections import BoundedConnection, parameters

    return ConnectionPool(
        kwargs=parameters(dsn, DEFAULT_TIMEOUTS, name="edge"),
        connection_class=BoundedConnection,
        min_size=1,
        max_size=EDGE_CONNECTIONS_MAX,
        timeout=DEFAULT_TIMEOUTS.connect_seconds,
        open=False,
    )


def _distribution_samples(here: tuple[str, str], jobs: Sequence["Job"]) -> list[Sample]:
    """Distributions that are not over, by status, and how many of their rows are still to be decided."""
    by_status = Counter(job.status for job in jobs if not job.is_over)
    left = sum(job.users + 1 - job.next_row for job in jobs if job.status in {"running", "paused"})
    samples = [Sample(DISTRIBUTIONS, (here, ("status", status)), count) for status, count in by_status.items()]
    return [*samples, Sample(DISTRIBUTION_ROWS_LEFT, (here,), left)]
