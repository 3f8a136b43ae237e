"""Which records of Kafka an operator wants the intake to step over, should it be unable to take them apart."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg


@dataclass(frozen=True, slots=True)
class Skip:
    """Offsets ``first`` to ``last`` of one partition, both included."""

    topic: str
    partition: int
    first: int
    last: int
    reason: str
    asked_by: str
    asked_at: datetime | None = None


def ask(cursor: psycopg.Cursor[Any], skip: Skip) -> Skip:
    """Note the wish; returns what is on record. Of two that begin at one offset the farther counts."""
    cursor.execute(_ASK, (skip.topic, skip.partition, skip.first, skip.last, skip.reason, skip.asked_by))
    row = cursor.fetchone()
    assert row is not None
    return Skip(*row)


def find(cursor: psycopg.Cursor[Any], topic: str, partition: int, offset: int) -> Skip | None:
    """The wish that covers this record; None when nobody wants it stepped over."""
    cursor.execute(_FIND, (topic, partition, offset, offset))
    row = cursor.fetchone()
    return None if row is None else Skip(*row)


_COLUMNS = "topic, partition, first_offset, last_offset, reason, asked_by, asked_at"

_ASK = f"""
    INSERT INTO intake_skips AS known (topic, partition, first_offset, last_offset, reason, asked_by)
    VALUES (%s, %s, %s, %s, %s, %s)
    ON CONFLICT (topic, partition, first_offset)
    DO UPDATE SET last_offset = greatest(known.last_offset, excluded.last_offset)
    RETURNING {_COLUMNS}
"""

_FIND = f"""
    SELECT {_COLUMNS} FROM intake_skips
    WHERE topic = %s AND partition = %s AND first_offset <= %s AND last_offset >= %s
    ORDER BY last_offset DESC LIMIT 1
"""
