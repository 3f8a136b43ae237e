"""The event log on PostgreSQL keeps the promises of every event log."""

from collections.abc import Iterator

import pytest

from infra.postgres.connections import Timeouts
from infra.postgres.log import PostgresEventLog
from tests.contract.event_log import EventLogContract


class TestPostgresEventLog(EventLogContract):
    """All of the contract, on a real server."""

    @pytest.fixture
    def log(self, postgres_dsn: str) -> Iterator[PostgresEventLog]:
        """A log in a fresh database, whose lock nobody waits for long."""
        log = PostgresEventLog(postgres_dsn, timeouts=Timeouts(lock_seconds=1.0))
        yield log
        log.close()
