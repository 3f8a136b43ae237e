"""The only wiring: from settings to running parts, one builder for each kind of process.

Everything is a context manager: parts start in the order in which they are entered and stop in the reverse one, so
that whoever uses something is gone before what it uses.
"""

import asyncio
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

from command.engine import Engine, EngineObserver, EngineSettings, EngineStopped
from command.handlers import HANDLERS
from command.handlers.crossing import handlers_at
from command.handlers.sharing import sharing_among
from command.ports import CommandKey, LoggedAnswer
from contracts.identity import Realm
from contracts.position import Position
from infra import memory
from infra.postgres import api_keys, code_keys, dead_letters, distributions, positions
from infra.postgres.connections import DEFAULT_TIMEOUTS, transaction, translated
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresEventLog
from infra.settings import Settings
from infra.shards.router import Router
from infra.telemetry.logs import configure_logs
from infra.telemetry.metrics import Metrics, Sample
from infra.telemetry.tracing import Tracing, make_provider

if TYPE_CHECKING:
    from infra.http.app import Application, HttpParts, Lifespan
    from infra.http.commands import CheckoutOutcomes, FirstStep, StartsDistributions
    from infra.http.health import Check
    from infra.http.hints import ClaimHints
    from infra.leases.books import Store as LeaseStore
    from infra.postgres.distributions import Job
    from infra.projections.ports import FollowerStatus
    from infra.redis.hints import RedisHints
    from query.ports import Distributions, Histories, ReadModels, Reports

# Threads for what blocks: dry runs, key look-ups, histories, metrics. Each holds at most one connection.
BLOCKING_THREADS: Final = 8
EDGE_CONNECTIONS_MAX: Final = 4
REDIS_CONNECTIONS_MAX: Final = 64
REDIS_TIMEOUT_SECONDS: Final = 5.0
ENGINE_STOP_SECONDS: Final = 30.0
# Requests under way get this long to be answered once the process is asked to stop.
GRACEFUL_SECONDS: Final = 10
BACKLOG: Final = 4_096
HALTED: Final = "tessera_follower_halted"
LAG: Final = "tessera_follower_lag_events"
SAGAS: Final = "tessera_sagas"
DISTRIBUTIONS: Final = "tessera_distributions"
DISTRIBUTION_ROWS_LEFT: Final = "tessera_distribution_rows_left"
DEAD_LETTERS: Final = "tessera_dead_letters"
LEASES_OUT: Final = "tessera_budget_leases_out"
LEASE_OVERDUE: Final = "tessera_budget_lease_overdue_seconds"
HOLDER_AWAY: Final = "tessera_budget_holder_away"
WORKER_STOP_SECONDS: Final = 20.0
WORKER_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True)
class WriteSide:
    """An engine that runs, and the log it appends to."""

    log: PostgresEventLog
    engine: Engine


@contextmanager
def write_side(settings: Settings, observer: EngineObserver | None = None) -> Iterator[WriteSide]:
    """The log and its engine; on the way out what is queued is finished first."""
    log = PostgresEventLog(settings.postgres_dsn, shard=settings.shard)
    limits = EngineSettings(
        batch_commands_max=settings.batch_commands_max,
        queue_commands_max=settings.queue_commands_max,
        lock_ttl_seconds=settings.lock_ttl_seconds,
    )
    handlers = sharing_among(settings.shard, settings.stores, HANDLERS)
    handlers = handlers_at(settings.shard, settings.placement, handlers) if settings.is_placed else handlers
    engine = Engine(log, handlers, limits, observer)
    with ExitStack() as stack:
        stack.callback(log.close)
        engine.start()
        stack.callback(engine.stop, ENGINE_STOP_SECONDS)
        yield WriteSide(log, engine)


@contextmanager
def router_beside(settings: Settings, own: WriteSide) -> Iterator[Router | None]:
    """Where tenants are placed on several shards: the engines of all of them as one, the own one among them."""
    with sides_beside(settings, own) as sides:
        yield _router(settings, sides) if settings.is_placed else None


@contextmanager
def sides_beside(
    settings: Settings, own: WriteSide, observer: EngineObserver | None = None
) -> Iterator[Mapping[int, WriteSide]]:
    """The write side of every shard, the own one among them; that one only where nobody is placed."""
    with ExitStack() as stack:
        sides = {settings.shard: own}
        for shard in settings.stores if settings.is_placed else ():
            if shard != settings.shard:
                sides[shard] = stack.enter_context(write_side(settings.at_shard(shard), observer))
        yield dict(sorted(sides.items()))


def _router(settings: Settings, sides: Mapping[int, WriteSide]) -> Router:
    # Of a shard that is away nobody needs to know the epoch: it is only shown with refusals that no shard gives.
    home = Position(settings.shard, sides[settings.shard].log.epoch, 0)
    positions = {shard: home if shard == settings.shard else Position(shard, "", 0) for shard in sides}
    return Router({shard: side.engine for shard, side in sides.items()}, positions, settings.placement)


@contextmanager
def running_engine(settings: Settings) -> Iterator[Engine]:
    """An engine for a process that is no server: imports, repairs."""
    with write_side(settings) as side:
        yield side.engine


# HTTP.


def serve(settings: Settings, *, shared_port: bool = False) -> None:
    """Serve the API until SIGTERM or SIGINT: stop accepting, answer what is under way, drain the engine, close.

    ``shared_port``: as one of several processes, whose metrics have a port of their own where one is set.
    """
    configure_logs(level=settings.log_level.upper(), human=settings.log_format == "console")
    with ExitStack() as stack:
        app = stack.enter_context(http_application(settings))
        if shared_port:
            stack.enter_context(_metrics_served(settings, app.metrics))
        memory.settle()
        run_server(app, settings.http_host, settings.http_port, shared_port=shared_port)


def run_server(app: "Application", host: str, port: int, *, shared_port: bool = False) -> None:
    """Serve an application until SIGTERM or SIGINT."""
    import uvicorn

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # Nothing here asks who the peer is, so nobody needs to be believed about it.
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    # uvicorn stops in good order and then repeats the signal, which would end us before our own parts have stopped.
    with _asked_to_stop(), ExitStack() as stack:
        sockets = [stack.enter_context(_shared_socket(host, port))] if shared_port else None
        uvicorn.Server(config).run(sockets)


def _shared_socket(host: str, port: int) -> socket.socket:
    """One of several sockets on one port: the kernel gives each new connection to one of them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    return listener


@dataclass(frozen=True)
class ReadSide:
    """What the API reads from, and how to ask whether it is there."""

    models: "ReadModels"
    reports: "Reports"
    checks: Mapping[str, "Check"]
    close: Callable[[], Awaitable[None]] | None = None  # Runs in the event loop, when it ends.


@contextmanager
def http_application(
    settings: Settings, *, tracing: Tracing | None = None, read_side: ReadSide | None = None
) -> Iterator["Application"]:
    """The application with everything behind it running."""
    from infra.http.app import create_app

    with ExitStack() as stack:
        tracing = tracing or make_tracing(settings, "tessera-api")
        stack.callback(tracing.close)
        reads = read_side or stack.enter_context(make_read_side(settings))
        yield create_app(_http_parts(settings, tracing, reads, stack))


def _http_parts(settings: Settings, tracing: Tracing, reads: ReadSide, stack: ExitStack) -> "HttpParts":
    from infra.codes.ring import CodeRing
    from infra.http.access import KeyRing
    from infra.http.app import HttpParts
    from infra.http.codes import CodeParts
    from infra.http.commands import CommandLimits
    from infra.http.health import Readiness
    from infra.http.reads import PlacedPositions, Positions, ReadLimits
    from infra.redis.hints import RedisHints
    from infra.telemetry.traced import TracedQueue

    metrics = Metrics()
    own = stack.enter_context(write_side(settings, metrics))
    blocking = stack.enter_context(ThreadPoolExecutor(BLOCKING_THREADS, "blocking"))
    stores = stack.enter_context(_stores_at_edge(settings, own, blocking, metrics))
    metrics.add_source(lambda: [Sample("tessera_engine_queue_commands", (), stores.engine.queue_length)])
    lookups = stack.enter_context(StoreLookups(settings))
    # Threads of its own: no slow report may keep callers out.
    door = stack.enter_context(ThreadPoolExecutor(EDGE_CONNECTIONS_MAX, "door"))
    metrics.add_source(lookups.samples)
    shared_hints = RedisHints.at(settings.redis_url) if settings.claim_hint_ms else None
    hints = _claim_hints(settings, stores.answers, blocking, shared_hints, metrics) if shared_hints else None
    shown: Positions = {"models": reads.models.position, "facts": reads.reports.position}
    positions: dict[int, Positions] = {
        shard: {**(shown if shard == settings.shard else {}), "log": log_position}
        for shard, log_position in stores.log_positions.items()
    }
    return HttpParts(
        queue=TracedQueue(stores.engine, tracing),
        first_step=stores.first_step,
        dry_run=stores.engine.dry_run,
        outcomes=stores.outcomes,
        keys=KeyRing(lookups.find_key, blocking=door),
        models=reads.models,
        reports=reads.reports,
        histories=stores.histories,
        distributions=stores.distributions,
        start_distribution=stores.start_distribution,
        codes=CodeParts(
            CodeRing(lookups.code_secrets, door), stores.log_of, lookups.present_code_key, blocking, metrics
        ),
        positions=positions[settings.shard],
        placed_positions=PlacedPositions(settings.placement, positions) if settings.is_placed else None,
        lifespan=_closing(reads.close, shared_hints.close if shared_hints else None),
        readiness=Readiness({**stores.checks, **reads.checks}),
        metrics=metrics,
        blocking=blocking,
        tracing=tracing,
        command_limits=CommandLimits(settings.http_body_bytes_max, settings.order_wait_ms),
        read_limits=ReadLimits(settings.min_position_wait_ms),
        hints=hints,
    )


@dataclass(frozen=True)
class StoresAtEdge:
    """What the edge asks of the event store, or of several as if they were one."""

    engine: Engine | Router
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
def _stores_at_edge(settings: Settings, own: WriteSide, blocking: Executor, metrics: Metrics) -> Iterator[StoresAtEdge]:
    with sides_beside(settings, own, metrics) as sides, ExitStack() as stack:
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
    from infra.http.histories import LogHistories
    from infra.http.outcomes import CheckoutWatch
    from infra.sagas.first_step import first_step

    histories = LogHistories(side.log, blocking)

    async def store_answers() -> None:
        await histories.position()

    async def engine_runs() -> None:
        if not side.engine.is_running:
            raise EngineStopped("the committer does not run")

    def answers(keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
        with side.log.reading() as view:
            return view.answers(keys)

    with closing(StoreFeed(settings.postgres_dsn, shard=settings.shard)) as feed, ExitStack() as stack:
        watch = CheckoutWatch(feed, side.log)
        watch.start()
        stack.callback(watch.stop)
        yield StoresAtEdge(
            engine=side.engine,
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
    from infra.http.placed import PlacedCheckouts, PlacedDistributions, PlacedHistories, logged_answers
    from infra.sagas.first_step import first_step_at

    placement, router = settings.placement, _router(settings, sides)
    logs = {shard: side.log for shard, side in sides.items()}
    # Through the router: it knows which distributions cannot be placed.
    starts = {shard: Starting(dsn, router.dry_run, router.execute).start for shard, dsn in settings.stores.items()}
    distributions = PlacedDistributions(placement, {shard: edge.distributions for shard, edge in edges.items()}, starts)
    return StoresAtEdge(
        engine=router,
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


def _claim_hints(
    settings: Settings,
    look: Callable[[Collection[CommandKey]], Mapping[CommandKey, LoggedAnswer]],
    blocking: Executor,
    shared: "RedisHints",
    metrics: Metrics,
) -> "ClaimHints":
    from infra.http.hints import ClaimHints

    async def logged(keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
        return await asyncio.get_running_loop().run_in_executor(blocking, look, keys)

    return ClaimHints(settings.claim_hint_ms / 1_000, logged, shared, metrics)


@contextmanager
def make_read_side(settings: Settings) -> Iterator[ReadSide]:
    """Readers of Redis and ClickHouse. They connect at first use, in whichever event loop that is."""
    import redis.asyncio

    from query.readers.models import RedisReadModels
    from query.readers.reports import ClickHouseReports

    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=REDIS_CONNECTIONS_MAX,
        timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
    )
    models, reports = (
        RedisReadModels(redis.asyncio.Redis(connection_pool=pool)),
        ClickHouseReports(settings.clickhouse_url),
    )

    async def models_answer() -> None:
        await models.position()

    async def facts_answer() -> None:
        await reports.position()

    try:
        yield ReadSide(models, reports, {"read_models": models_answer, "facts": facts_answer}, pool.disconnect)
    finally:
        reports.close()


class StoreLookups:
    """What the API asks of PostgreSQL beside the log, on a few connections of its own.

    The door must not wait behind the decisions, nor the decisions behind whoever watches.
    """

    def __init__(self, settings: Settings) -> None:
        from psycopg_pool import ConnectionPool

        from infra.postgres.connections import BoundedConnection, parameters

        self._pool = ConnectionPool(
            kwargs=parameters(settings.postgres_dsn, DEFAULT_TIMEOUTS, name="edge"),
            connection_class=BoundedConnection,
            min_size=1,
            max_size=EDGE_CONNECTIONS_MAX,
            timeout=DEFAULT_TIMEOUTS.connect_seconds,
            open=False,
        )

    def __enter__(self) -> Self:
        self._pool.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def find_key(self, prefix: str) -> api_keys.ApiKey | None:
        """The key with this prefix. Raises StoreUnavailable."""
        with translated(), self._pool.connection() as connection, connection.cursor() as cursor:
            return api_keys.find(cursor, prefix)

    def code_secrets(self, realm: Realm) -> dict[str, bytes]:
        """The secrets that a realm's codes are sealed with, by key id, the latest first. Raises StoreUnavailable."""
        with translated(), self._pool.connection() as connection, connection.cursor() as cursor:
            return {key.key_id: key.secret for key in code_keys.every(cursor, realm) if key.secret is not None}

    def present_code_key(self, realm: Realm) -> str:
        """The key that new codes are sealed with; a realm's first one is made here. Raises StoreUnavailable."""
        with translated(), self._pool.connection() as connection, connection.cursor() as cursor:
            return code_keys.present(cursor, realm)

    def samples(self) -> list[Sample]:
        """How far followers are behind, where sagas stand, what is parked. Raises StoreUnavailable."""
        with translated(), self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT coalesce(max(notification_id), 0) FROM stored_events")
            (head,) = cursor.fetchone() or (0,)
            followers = positions.every(cursor)
            steps = cursor.execute("SELECT step, count(*) FROM sagas GROUP BY step").fetchall()
            parked = dead_letters.count(cursor)
            jobs = distributions.open_jobs(cursor)
        return [
            *(Sample(LAG, (("follower", each.follower),), max(0, head - each.offset)) for each in followers),
            *(Sample(SAGAS, (("step", step),), count) for step, count in steps),
            *(Sample(DEAD_LETTERS, (("source", source),), count) for source, count in parked.items()),
            *_distribution_samples(jobs),
        ]


def _distribution_samples(jobs: Sequence["Job"]) -> list[Sample]:
    """Distributions that are not over, by status, and how many of their rows are still to be decided."""
    by_status = Counter(job.status for job in jobs if not job.is_over)
    left = sum(job.users + 1 - job.next_row for job in jobs if job.status in {"running", "paused"})
    samples = [Sample(DISTRIBUTIONS, (("status", status),), count) for status, count in by_status.items()]
    return [*samples, Sample(DISTRIBUTION_ROWS_LEFT, (), left)]


def _closing(*closes: Callable[[], Awaitable[None]] | None) -> "Lifespan":
    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for close in closes:
                if close is not None:
                    await close()

    return lifespan


def make_tracing(settings: Settings, service: str) -> Tracing:
    """Spans when there is somewhere to send them, ids in any case."""
    if settings.otlp_endpoint is None:
        return Tracing()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
    return Tracing(make_provider(service, exporter=exporter))


# Workers.


class WorkerHalted(Exception):
    """A worker cannot go on without help; the message says why."""


def run_sagas(settings: Settings) -> None:
    """Run sagas, outbox, timers and housekeeping until SIGTERM or SIGINT. Raises WorkerHalted."""
    from infra.postgres.housekeeping import Housekeeper
    from infra.sagas.settings import SagaSettings
    from infra.sagas.worker import SagaWorker

    configure_logs(level=settings.log_level.upper(), human=settings.log_format == "console")
    metrics = Metrics()
    with (
        _asked_to_stop() as stop,
        write_side(settings, metrics) as side,
        router_beside(settings, side) as router,
        _metrics_served(settings, metrics),
    ):
        bounds = SagaSettings(facts_max=settings.follower_batch_max, poll_seconds=settings.follower_poll_ms / 1_000)
        worker = SagaWorker(settings.postgres_dsn, side.log, side.engine, bounds, router=router)
        housekeeper = Housekeeper(settings.postgres_dsn, keep_days=settings.command_log_days)
        metrics.add_source(lambda: [Sample(HALTED, (("follower", "sagas"),), 1.0 if worker.halted else 0.0)])
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


def run_distributions(settings: Settings) -> None:
    """Carry distributions out until SIGTERM or SIGINT. What is under way then is finished by the next one."""
    from infra.distributions.runner import DistributionRunner

    configure_logs(level=settings.log_level.upper(), human=settings.log_format == "console")
    metrics = Metrics()
    with _asked_to_stop() as stop, write_side(settings, metrics) as side, _metrics_served(settings, metrics):
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
    from infra.leases.keeper import KeeperSettings, KeeperThread, LeaseKeeper

    configure_logs(level=settings.log_level.upper(), human=settings.log_format == "console")
    metrics = Metrics()
    bounds = KeeperSettings(term_seconds=settings.lease_term_seconds)
    with _asked_to_stop() as stop, lease_books(settings, metrics) as sides, _metrics_served(settings, metrics):
        keeper = LeaseKeeper(*sides, bounds)
        thread = KeeperThread(keeper, bounds)
        metrics.add_source(lambda: [Sample(HOLDER_AWAY, (("holder", name),), 1.0) for name in keeper.away])
        metrics.add_source(lambda: _lease_samples(settings))
        thread.start()
        try:
            while not stop.is_set():
                time.sleep(WORKER_POLL_SECONDS)
        finally:
            thread.stop(WORKER_STOP_SECONDS)


@contextmanager
def lease_books(
    settings: Settings, observer: EngineObserver | None = None
) -> Iterator[tuple["LeaseStore", dict[str, "LeaseStore"]]]:
    """This shard's side of leased budgets, and each other shard's by its number, every one with an engine that runs."""
    from infra.leases.books import Store, require_distinct_stores

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

    configure_logs(level=settings.log_level.upper(), human=settings.log_format == "console")
    metrics, tracing = Metrics(), make_tracing(settings, "tessera-projections")
    limits = FollowerLimits(
        batch_events_max=settings.follower_batch_max, poll_seconds=settings.follower_poll_ms / 1_000
    )
    service = ProjectionService(
        postgres_dsn=settings.postgres_dsn,
        redis_url=settings.redis_url,
        clickhouse_url=settings.clickhouse_url,
        shard=settings.shard,
        limits=limits,
        on_batch=metrics.batch_followed,
        watched=(lambda target: TracedTarget(target, tracing)) if tracing.enabled else (lambda target: target),
    )
    metrics.add_source(lambda: [_halted(status) for status in service.statuses()])
    with closing(tracing), service, _asked_to_stop() as stop, _metrics_served(settings, metrics):
        if not service.run(stop):
            raise WorkerHalted("a follower was halted when the worker stopped; its log says why")


def _halted(status: "FollowerStatus") -> Sample:
    is_halted = status.state == "halted" or bool(status.halted)
    return Sample(HALTED, (("follower", status.name),), 1.0 if is_halted else 0.0)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. Only for a main thread that never waits on it."""
    stop = threading.Event()
    former = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


@contextmanager
def _metrics_served(settings: Settings, metrics: Metrics) -> Iterator[None]:
    """Serve a worker's own metrics, where a port for them is set."""
    if settings.follower_metrics_port is None:
        yield
        return
    from prometheus_client import start_http_server

    server, thread = start_http_server(settings.follower_metrics_port, settings.http_host, metrics.registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(WORKER_STOP_SECONDS)


# Keys and schemas.


def create_key(
    settings: Settings,
    realm: Realm,
    *,
    role: str,
    scopes: Collection[str],
    label: str,
    expires_at: datetime | None = None,
) -> str:
    """Make an API key; the only time that anybody sees its secret. Raises StoreUnavailable."""
    with transaction(settings.postgres_dsn, name="keys") as cursor:
        return api_keys.create(cursor, realm, role=role, scopes=scopes, label=label, expires_at=expires_at)


def migrate(settings: Settings) -> dict[str, list[str]]:
    """Bring the schemas of PostgreSQL and ClickHouse up to date; returns what was applied, by store."""
    from infra.clickhouse import migrations as clickhouse
    from infra.postgres import migrations as postgres

    applied = {"postgres": postgres.migrate(settings.postgres_dsn)}
    for shard, dsn in settings.stores.items() if settings.is_placed else ():
        if shard != settings.shard:
            applied[f"postgres of shard {shard}"] = postgres.migrate(dsn)
    with _clickhouse(settings) as client:
        applied["clickhouse"] = clickhouse.migrate(client)
    return applied


def pending_migrations(settings: Settings) -> dict[str, list[str]]:
    """What :func:`migrate` would apply, by store."""
    from infra.clickhouse import migrations as clickhouse
    from infra.postgres import migrations as postgres

    pending = {"postgres": postgres.pending(settings.postgres_dsn)}
    with _clickhouse(settings) as client:
        pending["clickhouse"] = clickhouse.pending(client)
    return pending


@contextmanager
def _clickhouse(settings: Settings) -> Iterator[Any]:
    from infra.clickhouse.connection import connect

    client = connect(settings.clickhouse_url)
    try:
        yield client
    finally:
        client.close()
