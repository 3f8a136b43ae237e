"""A store with an open shop, and engines over it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from command.engine import Engine, EngineSettings
from command.handlers import HANDLERS
from infra.postgres.connections import Timeouts
from infra.postgres.log import PostgresEventLog
from tests.faults.shop import open_shop

# For what is waited for in vain: short, in the order in which the limits have to be.
IMPATIENT = Timeouts(connect_seconds=2, lock_seconds=0.4, statement_seconds=0.8, answer_seconds=1.2)


@contextmanager
def engine_on(
    dsn: str, *, timeouts: Timeouts | None = None, settings: EngineSettings | None = None, **options: Any
) -> Iterator[Engine]:
    """A running engine; other handlers or an observer as options."""
    log = PostgresEventLog(dsn, timeouts=timeouts or Timeouts())
    engine = Engine(log, options.pop("handlers", HANDLERS), settings, **options)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
        log.close()


@pytest.fixture
def shop(postgres_dsn: str) -> str:
    """The DSN of a store with an open shop."""
    with engine_on(postgres_dsn) as engine:
        open_shop(engine)
    return postgres_dsn
