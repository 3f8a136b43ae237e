"""Event stores and their engines: of this shard, or of all of them as one."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import repeat
from typing import TYPE_CHECKING, Final

from command.engine import Engine, EngineObserver, EngineSettings
from command.handlers import HANDLERS
from command.handlers.crossing import handlers_at
from command.handlers.sharing import sharing_among
from contracts.identity import Realm
from contracts.position import Position
from infra import fiber
from infra.fiber import FiberBell
from infra.postgres import api_keys
from infra.postgres.connections import transaction
from infra.postgres.log import PostgresEventLog
from infra.settings import Settings
from infra.shards.distinct import require_distinct_stores
from infra.shards.router import NotPlaceable, Router

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

logger = logging.getLogger(__name__)

ENGINE_STOP_SECONDS: Final = 30.0
CANCEL_SECONDS: Final = 1.0
CANCELS_MAX: Final = 20
# In a rush those who were just answered ask again as soon as the loop has read them, which takes it its time.
GATHER_ON_LOOP_SECONDS: Final = 0.008


@dataclass(frozen=True)
class WriteSide:
    """An engine, and the log it appends to."""

    log: PostgresEventLog
    engine: Engine


@contextmanager
def write_side(
    settings: Settings, observer: EngineObserver | None = None, *, on_loop: bool = False
) -> Iterator[WriteSide]:
    """The log and its engine, which runs; on the way out what is queued is finished first.

    ``on_loop``: the engine has no thread of its own, and does not run before :func:`running_on_loop` has it run.
    """
    log = PostgresEventLog(settings.postgres_dsn, shard=settings.shard)
    limits = EngineSettings(
        batch_commands_max=settings.batch_commands_max,
        queue_commands_max=settings.queue_commands_max,
        lock_ttl_seconds=settings.lock_ttl_seconds,
    )
    if on_loop:
        limits = replace(limits, gather_seconds=GATHER_ON_LOOP_SECONDS)
    handlers = sharing_among(settings.shard, settings.stores, HANDLERS)
    handlers = handlers_at(settings.shard, settings.placement, handlers) if settings.is_placed else handlers
    engine = Engine(log, handlers, limits, observer, pause=fiber.pause, bell=FiberBell() if on_loop else None)
    with ExitStack() as stack:
        stack.callback(log.close)
        if not on_loop:
            engine.start()
        stack.callback(engine.stop, ENGINE_STOP_SECONDS)
        yield WriteSide(log, engine)


@asynccontextmanager
async def running_on_loop(
    engines: Collection[Engine], used: Callable[[float], None] = lambda _seconds: None
) -> AsyncIterator[None]:
    """Run engines on this event loop, beside those who ask them; on the way out what is queued is finished first.

    ``used`` is told how much of the loop's processor time was theirs, in seconds.
    """
    running = [asyncio.create_task(fiber.run(engine.run, used), name="committer") for engine in engines]
    for task in running:
        task.add_done_callback(_tell_of_its_end)
    try:
        yield
    finally:
        for engine in engines:
            engine.ask_to_stop()
        await _end_of(running)
        for engine in engines:
            engine.stop(0)  # Whoever still waits is told while the loop is there to carry it.


async def _end_of(running: Collection["asyncio.Task[None]"]) -> None:
    late = set(running)
    for patience in (ENGINE_STOP_SECONDS, *repeat(CANCEL_SECONDS, CANCELS_MAX)):
        if not late:
            return
        _, late = await asyncio.wait(late, timeout=patience)
        for task in late:  # More than once: a driver may make another error of it, after which an engine tries again.
            task.cancel()


def _tell_of_its_end(task: "asyncio.Task[None]") -> None:
    """An engine ends when it is asked to. Else the readiness check says that it does not run, and this says why."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("engine_ended", exc_info=error)


@contextmanager
def router_beside(settings: Settings, own: WriteSide) -> Iterator[Router | None]:
    """Where tenants are placed on several shards: the engines of all of them as one, the own one among them."""
    with sides_beside(settings, own) as sides:
        yield router_over(settings, sides) if settings.is_placed else None


@contextmanager
def sides_beside(
    settings: Settings, own: WriteSide, observer: EngineObserver | None = None, *, on_loop: bool = False
) -> Iterator[Mapping[int, WriteSide]]:
    """The write side of every shard, the own one among them; that one only where nobody is placed.

    ``on_loop``: as with :func:`write_side`. Raises SettingsError when two of them are one and the same database.
    """
    require_distinct_stores(settings.known_stores)
    with ExitStack() as stack:
        sides = {settings.shard: own}
        for shard in settings.known_stores:
            if shard != settings.shard:
                sides[shard] = stack.enter_context(write_side(settings.at_shard(shard), observer, on_loop=on_loop))
        yield dict(sorted(sides.items()))


def router_over(settings: Settings, sides: Mapping[int, WriteSide]) -> Router:
    # Of a shard that is away nobody needs to know the epoch: it is only shown with refusals that no shard gives.
    home = Position(settings.shard, sides[settings.shard].log.epoch, 0)
    positions = {shard: home if shard == settings.shard else Position(shard, "", 0) for shard in sides}
    return Router({shard: side.engine for shard, side in sides.items()}, positions, settings.placement)


@contextmanager
def running_engine(settings: Settings) -> Iterator[Engine | Router]:
    """What takes commands, for a process that is no server: imports, repairs. Each command is decided at its shard."""
    with write_side(settings) as side, router_beside(settings, side) as router:
        yield router or side.engine


def at_shard_of(settings: Settings, realm: Realm, key: str) -> Settings:
    """These settings as seen from the shard where something of a realm lies: a distribution, a batch of codes."""
    return settings.at_shard(settings.placement.shard_of(realm, key)) if settings.is_placed else settings


def at_home_of(settings: Settings, realm: Realm, what: str) -> Settings:
    """These settings as seen from the one shard of a realm. Raises NotPlaceable when it is spread over several.

    ``what``: what can be done only on one shard, for people: "imports".
    """
    if not settings.is_placed:
        return settings
    if settings.placement.slots_of(realm) is not None:
        raise NotPlaceable(f"{realm.key} is spread over several shards: {what} are only for tenants that live on one")
    return settings.at_shard(settings.placement.home_of(realm))


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
    """Bring the schemas of PostgreSQL and ClickHouse up to date; returns what was applied, by store.

    Where tenants are placed, of all shards, and then the database that reads the facts of all of them. Where a Kafka
    is set, the topics that are missing are made: all shards share them.
    """
    from infra.clickhouse import merged
    from infra.clickhouse import migrations as clickhouse
    from infra.clickhouse.connection import connect
    from infra.postgres import migrations as postgres

    applied: dict[str, list[str]] = {}
    for of_shard, at_shard in _shards_to_prepare(settings).items():
        applied[f"postgres{of_shard}"] = postgres.migrate(at_shard.postgres_dsn)
        clickhouse.create_database(at_shard.facts_url)
        with closing(connect(at_shard.facts_url)) as client:
            applied[f"clickhouse{of_shard}"] = clickhouse.migrate(client)
    if settings.is_placed:
        clickhouse.create_database(settings.all_facts_url)
        with closing(connect(settings.all_facts_url)) as client:
            applied["clickhouse of all shards"] = merged.migrate(client, facts_databases(settings))
    if settings.kafka_bootstrap is not None:
        from infra.kafka.admin import create_topics

        applied["kafka"] = create_topics(settings)
    return applied


def facts_databases(settings: Settings) -> list[str]:
    """The databases of all shards' facts."""
    from infra.clickhouse.connection import database_of

    return [database_of(settings.at_shard(shard).facts_url) for shard in settings.stores]


def _shards_to_prepare(settings: Settings) -> dict[str, Settings]:
    """How a shard's stores are spoken of -> its settings. The own shard comes first, and needs no name."""
    others = [shard for shard in settings.known_stores if shard != settings.shard]
    return {"": settings, **{f" of shard {shard}": settings.at_shard(shard) for shard in others}}


def pending_migrations(settings: Settings) -> dict[str, list[str]]:
    """What :func:`migrate` would apply, by store."""
    pending: dict[str, list[str]] = {}
    for of_shard, at_shard in _shards_to_prepare(settings).items():
        pending |= {f"{store}{of_shard}": names for store, names in pending_at_shard(at_shard).items()}
    return pending | pending_over_shards(settings)


def pending_at_shard(settings: Settings) -> dict[str, list[str]]:
    """What :func:`migrate` would apply to the stores of the own shard."""
    from infra.clickhouse import migrations as clickhouse
    from infra.postgres import migrations as postgres

    return {
        "postgres": postgres.pending(settings.postgres_dsn),
        "clickhouse": _pending_facts(settings.facts_url, clickhouse.pending),
    }


def pending_over_shards(settings: Settings) -> dict[str, list[str]]:
    """What :func:`migrate` would apply to the database that reads all shards' facts, where there is one."""
    from infra.clickhouse import merged

    if not settings.is_placed:
        return {}
    databases = facts_databases(settings)
    pending = _pending_facts(settings.all_facts_url, lambda client: merged.pending(client, databases))
    return {"clickhouse of all shards": pending}


def _pending_facts(url: str, pending_in: Callable[["Client"], list[str]]) -> list[str]:
    """Of a database that is not there yet: everything."""
    from infra.clickhouse import migrations as clickhouse
    from infra.clickhouse.connection import FactsDamaged, connect

    try:
        with closing(connect(url)) as client:
            return pending_in(client)
    except FactsDamaged:
        return [migration.name for migration in clickhouse.released()]
