"""A store with an open shop, and engines over it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from command.engine import Engine, EngineSettings
from command.handlers import HANDLERS
from infra import fiber
from infra.fiber import FiberBell
from infra.postgres.connections import Timeouts
from infra.postgres.log import PostgresEventLog
from tests.faults.shop import open_shop
from tests.loops import on_a_loop

kind_of_engine = ContextVar("kind_of_engine", default="thread")

# For what is waited for in vain: short, in the order in which the limits have to be.
IMPATIENT = Timeouts(connect_seconds=2, lock_seconds=0.4, statement_seconds=0.8, answer_seconds=1.2)


@contextmanager
def engine_on(
    dsn: str, *, timeouts: Timeouts | None = None, settings: EngineSettings | None = None, **options: Any
) -> Iterator[Engine]:
    """A running engine, of the kind that is under test; other handlers or an observer as options."""
    log = PostgresEventLog(dsn, timeouts=timeouts or Timeouts())
    with ExitStack() as stack:
        stack.callback(log.close)
        if kind_of_engine.get() == "loop":
            options |= {"pause": fiber.pause, "bell": FiberBell()}
        engine = Engine(log, options.pop("handlers", HANDLERS), settings, **options)
        if kind_of_engine.get() == "loop":
            stack.callback(engine.stop)
            stack.enter_context(on_a_loop(engine))
        else:
            engine.start()
            stack.callback(engine.stop)
        yield engine


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
