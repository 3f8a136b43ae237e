"""A worker that stops in the middle of an exchange keeps nothing locked for good."""

from contextlib import suppress

import psycopg

from command.ports import StoreUnavailable
from infra.postgres.connections import Timeouts
from infra.processes import wait_until
from infra.sagas.session import Session

_TAKE = "INSERT INTO follower_positions (follower, epoch, log_offset) VALUES ('lane', 'e', 1) ON CONFLICT DO NOTHING"

_TAKEN = """
    SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE application_name = 'tessera stopped' AND relation = 'follower_positions'::regclass
"""


def _has_taken(other: Session) -> bool:
    with other.looking() as cursor:
        return cursor.execute(_TAKEN).fetchone() is not None


def test_a_worker_that_stopped_between_two_questions_of_an_exchange_makes_way(postgres_dsn: str) -> None:
    stopped = Session(postgres_dsn, name="stopped", timeouts=Timeouts(statement_seconds=2.0, answer_seconds=2.0))
    other = Session(postgres_dsn, name="other", timeouts=Timeouts(lock_seconds=10.0))
    rows = []
    with (
        suppress(StoreUnavailable, psycopg.Error),  # The server ends its session; when it wakes up, it hears of it.
        stopped.transaction() as cursor,
        cursor.connection.pipeline(),
    ):
        cursor.execute(_TAKE)
        assert wait_until(lambda: _has_taken(other), timeout_seconds=10.0)  # And the exchange is not over.
        with other.transaction() as waiting:
            waiting.execute(_TAKE)
            rows.append(waiting.rowcount)
    assert rows == [1], "the other one waited in vain"
    stopped.close()
    other.close()
