"""What the tests of imports on a real event store share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from command.engine import Engine
from command.handlers import HANDLERS
from infra.imports import pace
from infra.postgres.log import PostgresEventLog
from tests.unit.imports.samples import Shop, open_shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A corner shop of one's own."""
    return open_shop(tmp_path)


@pytest.fixture(autouse=True)
def _no_saga_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody keeps step with these imports: they need not wait to find out."""
    monkeypatch.setattr(pace, "STANDSTILL_SECONDS", 0.0)


@pytest.fixture
def engine(postgres_dsn: str) -> Iterator[Engine]:
    """An engine on a fresh store."""
    engine = Engine(PostgresEventLog(postgres_dsn), HANDLERS)
    engine.start()
    yield engine
    engine.stop()
