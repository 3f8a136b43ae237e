"""Statements that a connection prepares by itself, beside those of the driver."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from command.ports import Seen, Wanted
from infra import fiber
from infra.postgres.arrays import BIGINT_OID
from infra.postgres.connections import BoundedConnection, Statement, connect
from infra.postgres.log import PostgresEventLog
from infra.postgres.migrations import migrate

HALF = Statement(b"half", "SELECT $1 / 2", (BIGINT_OID,))
DRIVERS_THRESHOLD = 6  # From then on the driver has prepared a statement of its own.


@pytest.fixture
def connection(postgres_dsn: str) -> Iterator[BoundedConnection]:
    with connect(postgres_dsn, name="test", autocommit=True) as opened:
        yield opened


def half(connection: BoundedConnection, number: int) -> int:
    return int.from_bytes(connection.ask(HALF, (number.to_bytes(8),)).get_value(0, 0) or b"")


def test_a_statement_is_answered_again_after_the_driver_had_the_server_forget_all_of_them(
    connection: BoundedConnection,
) -> None:
    assert half(connection, 42) == 21
    for _ in range(DRIVERS_THRESHOLD):
        connection.execute("SELECT 1")
    connection.execute("BEGIN")
    connection.execute("ROLLBACK")  # The driver deallocates, in case that something was dropped.
    assert half(connection, 14) == 7


def test_a_statement_that_was_lost_unnoticed_fails_once_and_is_prepared_again(connection: BoundedConnection) -> None:
    assert half(connection, 42) == 21
    connection.pgconn.exec_(b"DEALLOCATE ALL")
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        half(connection, 14)
    assert half(connection, 14) == 7


def test_a_statement_that_fails_says_why_and_works_the_next_time(connection: BoundedConnection) -> None:
    wrong = Statement(b"wrong", "SELECT $1 / 0", (BIGINT_OID,))
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.ask(wrong, ((1).to_bytes(8),))
    assert half(connection, 2) == 1


def test_a_statement_on_a_lost_connection_is_an_operational_error(connection: BoundedConnection) -> None:
    connection.close()
    with pytest.raises(psycopg.OperationalError):
        half(connection, 2)


async def test_whoever_is_cancelled_while_it_waits_leaves_no_answer_to_the_next(postgres_dsn: str) -> None:
    """A look that took too long: the log opens another connection for the next one."""
    log = PostgresEventLog(postgres_dsn)
    migrate(postgres_dsn)
    try:
        await fiber.run(lambda: log.glancing().look(Wanted()))
        with psycopg.connect(postgres_dsn) as somebody:
            somebody.execute("LOCK TABLE stored_events IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await fiber.run(lambda: log.glancing().look(Wanted()))
        assert await fiber.run(lambda: log.glancing().look(Wanted())) == Seen({}, {}, {})
    finally:
        log.close()
