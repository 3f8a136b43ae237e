"""The API as a process."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from command.engine import Engine
from command.ports import CommandKey, LoggedAnswer
from infra import memory
from infra.bootstrap.edge import EDGE_CONNECTIONS_MAX, StoreLookups, stores_at_edge
from infra.bootstrap.processes import asked_to_stop, make_tracing, metrics_served
from infra.bootstrap.stores import running_on_loop, write_side
from infra.settings import Settings
from infra.telemetry.logs import configure_logs_by
from infra.telemetry.metrics import Metrics, Sample
from infra.telemetry.tracing import Tracing

if TYPE_CHECKING:
    import redis.asyncio

    from infra.http.app import Application, HttpParts, Lifespan
    from infra.http.health import Check
    from infra.http.hints import ClaimHints
    from infra.http.reads import Positions
    from infra.redis.hints import RedisHints
    from query.ports import ReadModels, Reports
    from query.readers.reports import ClickHouseReports


# Threads for what blocks: dry runs, key look-ups, histories, metrics. Each holds at most one connection.
BLOCKING_THREADS: Final = 8
REDIS_CONNECTIONS_MAX: Final = 64
REDIS_TIMEOUT_SECONDS: Final = 5.0
# Requests under way get this long to be answered once the process is asked to stop.
GRACEFUL_SECONDS: Final = 10
BACKLOG: Final = 4_096


def serve(settings: Settings, *, shared_port: bool = False) -> None:
    """Serve the API until SIGTERM or SIGINT: stop accepting, answer what is under way, drain the engine, close.

    ``shared_port``: as one of several processes, whose metrics have a port of their own where one is set.
    """
    configure_logs_by(settings)
    with ExitStack() as stack:
        app = stack.enter_context(http_application(settings))
        if shared_port:
            stack.enter_context(metrics_served(settings, app.metrics))
        memory.settle()
        run_server(app, settings.http_host, settings.http_port, shared_port=shared_port)


def run_server(app: "Application", host: str, port: int, *, shared_port: bool = False) -> None:
    """Serve an application until SIGTERM or SIGINT."""
    import uvicorn

    config = uvicorn.Config(app, lifespan="on", **server_options(host, port))
    # uvicorn stops in good order and then repeats the signal, which would end us before our own parts have stopped.
    with asked_to_stop(), ExitStack() as stack:
        sockets = [stack.enter_context(_shared_socket(host, port))] if shared_port else None
        uvicorn.Server(config).run(sockets)


def server_options(host: str, port: int) -> dict[str, Any]:
    """How uvicorn serves here, whatever it serves."""
    return {
        "host": host,
        "port": port,
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,  # Nothing here asks who the peer is, so nobody needs to be believed about it.
        "backlog": BACKLOG,
        "timeout_graceful_shutdown": GRACEFUL_SECONDS,
    }


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
    """What the API reads from, how far that is by shard, and how to ask whether it is there."""

    models: "ReadModels"
    reports: "Reports"
    positions: Mapping[int, "Positions"]
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
    from infra.http.reads import PlacedPositions, ReadLimits
    from infra.redis.hints import RedisHints
    from infra.telemetry.traced import TracedQueue

    metrics = Metrics()
    own = stack.enter_context(write_side(settings, metrics, on_loop=True))
    blocking = stack.enter_context(ThreadPoolExecutor(BLOCKING_THREADS, "blocking"))
    stores = stack.enter_context(stores_at_edge(settings, own, blocking, metrics))
    metrics.add_source(lambda: [Sample("tessera_engine_queue_commands", (), stores.engine.queue_length)])
    lookups = stack.enter_context(StoreLookups(settings))
    # Threads of its own: no slow report may keep callers out.
    door = stack.enter_context(ThreadPoolExecutor(EDGE_CONNECTIONS_MAX, "door"))
    for source in lookups.sources:
        metrics.add_source(source)
    shared_hints = RedisHints.at(settings.redis_url) if settings.claim_hint_ms else None
    hints = _claim_hints(settings, stores.answers, blocking, shared_hints, metrics) if shared_hints else None
    positions: dict[int, Positions] = {
        shard: {**reads.positions.get(shard, {}), "log": log_position}
        for shard, log_position in stores.log_positions.items()
    }
    return HttpParts(
        queue=TracedQueue(stores.engine, tracing),
        first_step=stores.first_step,
        dry_run=stores.dry_run,
        outcomes=stores.outcomes,
        keys=KeyRing(lookups.find_key, blocking=door),
        models=reads.models,
        reports=reads.reports,
        histories=stores.histories,
        distributions=stores.distributions,
        start_distribution=stores.start_distribution,
        codes=CodeParts(
            CodeRing(lookups.code_secrets, door),
            stores.log_of,
            lookups.present_code_key,
            blocking,
            metrics,
            lookups.code_key_ids,
        ),
        positions=positions[settings.shard],
        placed_positions=PlacedPositions(settings.placement, positions) if settings.is_placed else None,
        lifespan=_lifespan(stores.engines, metrics, reads.close, shared_hints.close if shared_hints else None),
        readiness=Readiness({**stores.checks, **reads.checks}),
        metrics=metrics,
        blocking=blocking,
        tracing=tracing,
        command_limits=CommandLimits(settings.http_body_bytes_max, settings.order_wait_ms),
        read_limits=ReadLimits(settings.min_position_wait_ms),
        hints=hints,
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
    """Readers of Redis and ClickHouse; where tenants are placed, of all shards as one. They connect at first use."""
    from query.readers.models import RedisReadModels
    from query.readers.placed import PlacedReadModels
    from query.readers.reports import ClickHouseReports

    client = _redis_client(settings)
    shards = settings.known_stores
    models = {shard: RedisReadModels(client, shard, wall_clock=lambda: datetime.now(UTC)) for shard in shards}
    facts = {shard: ClickHouseReports(settings.at_shard(shard).facts_url) for shard in shards}
    positions: dict[int, Positions] = {
        shard: {"models": models[shard].position, "facts": facts[shard].position} for shard in shards
    }
    placed = PlacedReadModels(settings.placement, models) if settings.is_placed else models[settings.shard]
    reports = ClickHouseReports(settings.all_facts_url) if settings.is_placed else facts[settings.shard]
    checks = _placed_checks(positions, reports) if settings.is_placed else _checks(positions[settings.shard])
    try:
        yield ReadSide(placed, reports, positions, checks, client.connection_pool.disconnect)
    finally:
        for each in (reports, *facts.values()):
            each.close()


def _redis_client(settings: Settings) -> "redis.asyncio.Redis":
    import redis.asyncio

    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=REDIS_CONNECTIONS_MAX,
        timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
    )
    return redis.asyncio.Redis(connection_pool=pool)


def _checks(positions: "Positions") -> dict[str, "Check"]:
    """Whether what is read from is there and whole: whoever cannot tell its position is not."""

    def told(position: Callable[[], Awaitable[object]]) -> "Check":
        async def check() -> None:
            await position()

        return check

    return {"read_models": told(positions["models"]), "facts": told(positions["facts"])}


def _placed_checks(positions: Mapping[int, "Positions"], reports: "ClickHouseReports") -> dict[str, "Check"]:
    """The same of each shard by its number, and whether the facts of all can be read as one."""
    of_each = {shard: _checks(shown) for shard, shown in positions.items()}
    named = {f"{name}_{shard}": check for shard, checks in of_each.items() for name, check in checks.items()}
    return {**named, "facts": _checks({"models": reports.position, "facts": reports.position})["facts"]}


def _lifespan(
    engines: Collection[Engine], metrics: Metrics, *closes: Callable[[], Awaitable[None]] | None
) -> "Lifespan":
    """What runs, and is closed, together with the event loop."""

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        try:
            async with running_on_loop(engines, metrics.engine_used):
                yield
        finally:
            for close in closes:
                if close is not None:
                    await close()

    return lifespan
