"""A store with an open shop, and engines over it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar

import psycopg
import pytest

from command.engine import Engine, EngineObserver, EngineSettings
from command.handlers import HANDLERS
from command.handlers.handler import Handlers
from infra.postgres.connections import Timeouts
from infra.postgres.log import PostgresEventLog
from infra.postgres.migrations import migrate
from infra.postgres.recorder import APPEND_LOCK_CLASS
from tests.faults.own_server import OwnServer
from tests.faults.shop import open_shop
from tests.loops import running_engine

kind_of_engine = ContextVar("kind_of_engine", default="thread")

# For what is waited for in vain: short, in the order in which the limits have to be.
IMPATIENT = Timeouts(connect_seconds=2, lock_seconds=0.4, statement_seconds=0.8, answer_seconds=1.2)

WAITING_FOR_THE_LOCK = f"""
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND classid = {APPEND_LOCK_CLASS} AND NOT granted AND datname = current_database()
"""


@contextmanager
def engine_on(
    dsn: str,
    *,
    timeouts: Timeouts | None = None,
    handlers: Handlers = HANDLERS,
    settings: EngineSettings | None = None,
    observer: EngineObserver | None = None,
) -> Iterator[Engine]:
    """A running engine, of the kind that is under test."""
    on_loop = kind_of_engine.get() == "loop"
    with (
        closing(PostgresEventLog(dsn, timeouts=timeouts or Timeouts())) as log,
        running_engine(log, handlers, settings, observer, on_loop=on_loop) as engine,
    ):
        yield engine


def fresh_shop(server: OwnServer, name: str) -> str:
    """A database with an open shop on that server."""
    with psycopg.connect(server.address, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    dsn = server.address.rpartition("/")[0] + f"/{name}"
    migrate(dsn)
    with engine_on(dsn) as engine:
        open_shop(engine)
    return dsn


@pytest.fixture(params=["thread", "loop"])
def either_kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """With engines that have threads of their own, and with engines that run on event loops."""
    before = kind_of_engine.set(request.param)
    yield
    kind_of_engine.reset(before)


@pytest.fixture
def shop(postgres_dsn: str) -> str:
    """The DSN of a store with an open shop."""
    with engine_on(postgres_dsn) as engine:
        open_shop(engine)
    return postgres_dsn
