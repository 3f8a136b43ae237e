"""Parked events changed by several at once: operators and followers wait for one another in turn, never crosswise."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from infra.postgres import dead_letters
from infra.postgres.connections import transaction
from infra.processes import wait_until
from tests.contract.event_log import CLOCK, at, recorded

FOLLOWER = "wallet"
EVENTS = recorded([1, 2, 3], at(1), at(2), at(3))

Change = Callable[["psycopg.Cursor[Any]"], object]


@pytest.fixture
def parked_dsn(postgres_dsn: str) -> str:
    """Three events to be tried again, which lie in the table the other way round than in the log."""
    with transaction(postgres_dsn, name="test") as cursor:
        for event in reversed(EVENTS):
            dead_letters.park(cursor, FOLLOWER, event, reason="poison", attempts=1)
        cursor.execute("UPDATE parked_events SET requeued_at = now()")
    return postgres_dsn


def test_an_operator_who_asks_while_the_follower_parks_again_is_not_in_its_way(parked_dsn: str) -> None:
    """Somebody holds the event in the middle until both wait, the operator first."""
    changes: list[Change] = [
        lambda cursor: dead_letters.requeue(cursor, FOLLOWER),
        lambda cursor: dead_letters.park(cursor, FOLLOWER, EVENTS[0], reason="still poison", attempts=1),
    ]
    with ThreadPoolExecutor(len(changes)) as threads:
        asked = []
        with psycopg.connect(parked_dsn) as holder:
            holder.execute("SELECT FROM parked_events WHERE stream = %s AND version = 2 FOR UPDATE", (CLOCK,))
            for change in changes:
                asked.append(threads.submit(carry_out, parked_dsn, change))
                assert wait_until(lambda: waiting(parked_dsn) == len(asked), timeout_seconds=20)
        for each in asked:
            each.result(20)  # Crosswise, PostgreSQL would have ended one of them.


def carry_out(dsn: str, change: Change) -> None:
    with transaction(dsn, name="test") as cursor:
        change(cursor)


def waiting(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    assert row is not None
    return int(row[0])
