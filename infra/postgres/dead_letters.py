"""Parked events: what a follower gave up on, and what waits behind it in the same stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from contracts.envelope import Recorded

BEHIND = "waits behind an earlier parked event of its stream"
REASON_LENGTH_MAX = 2_000


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """One event that a follower has not applied. ``attempts`` is 0 for one that only waits behind another."""

    follower: str
    stream: str
    version: int
    offset: int
    reason: str
    attempts: int
    parked_at: datetime
    requeued_at: datetime | None


def park(cursor: psycopg.Cursor[Any], follower: str, recorded: Recorded, *, reason: str, attempts: int) -> None:
    """Park an event that still fails after bounded retries; parked again, it keeps the latest reason."""
    values = {
        "follower": follower,
        "stream": recorded.stream,
        "version": recorded.version,
        "offset": recorded.offset,
        "reason": _storable(reason),
        "attempts": attempts,
    }
    cursor.execute(_PARK, values)


def park_behind(cursor: psycopg.Cursor[Any], follower: str, events: Sequence[Recorded]) -> None:
    """Park later events of streams that have a parked one, untried, so that their order is kept."""
    if events:
        streams, versions = [event.stream for event in events], [event.version for event in events]
        cursor.execute(_PARK_BEHIND, (follower, BEHIND, streams, versions, [event.offset for event in events]))


def parked_streams(cursor: psycopg.Cursor[Any], follower: str) -> frozenset[str]:
    """The streams whose events this follower has to park."""
    cursor.execute("SELECT DISTINCT stream FROM parked_events WHERE follower = %s", (follower,))
    return frozenset(stream for (stream,) in cursor)


def find(
    cursor: psycopg.Cursor[Any], *, follower: str | None = None, stream: str | None = None, limit: int
) -> list[ParkedEvent]:
    """Parked events in the order of the log, of one follower or stream when named."""
    cursor.execute(_FIND, {"follower": follower, "stream": stream, "limit": limit})
    return [ParkedEvent(*row) for row in cursor]


def requeue(cursor: psycopg.Cursor[Any], follower: str, stream: str | None = None) -> int:
    """Ask the follower to try a stream's parked events (or all its streams') again; returns how many events."""
    cursor.execute(_REQUEUE, {"follower": follower, "stream": stream})
    return cursor.rowcount


def requeued(cursor: psycopg.Cursor[Any], follower: str, limit: int) -> list[ParkedEvent]:
    """What an operator wants tried again, in the order of the log.

    The follower applies a stream's events in this order, removes those that succeed, and parks the first that fails
    again with :func:`park`, which withdraws the request for the rest of its stream.
    """
    cursor.execute(_REQUEUED, (follower, limit))
    return [ParkedEvent(*row) for row in cursor]


def remove(cursor: psycopg.Cursor[Any], parked: Sequence[ParkedEvent]) -> None:
    """Forget parked events that have been applied."""
    if parked:
        columns = zip(*((event.follower, event.stream, event.version) for event in parked), strict=True)
        cursor.execute(_REMOVE, [list(column) for column in columns])


def count(cursor: psycopg.Cursor[Any]) -> dict[str, int]:
    """How many events each follower has parked."""
    cursor.execute("SELECT follower, count(*) FROM parked_events GROUP BY follower")
    return dict(cursor.fetchall())


def _storable(reason: str) -> str:
    return reason.replace("\x00", "\\x00")[:REASON_LENGTH_MAX]


_COLUMNS = "follower, stream, version, log_offset, reason, attempts, parked_at, requeued_at"

_PARK = """
    WITH withdrawn AS (
        UPDATE parked_events SET requeued_at = NULL
        WHERE follower = %(follower)s AND stream = %(stream)s AND version > %(version)s AND requeued_at IS NOT NULL
    )
    INSERT INTO parked_events (follower, stream, version, log_offset, reason, attempts)
    VALUES (%(follower)s, %(stream)s, %(version)s, %(offset)s, %(reason)s, %(attempts)s)
    ON CONFLICT (follower, stream, version) DO UPDATE
    SET reason = excluded.reason, attempts = parked_events.attempts + excluded.attempts, requeued_at = NULL
"""

_PARK_BEHIND = """
    INSERT INTO parked_events (follower, stream, version, log_offset, reason, attempts)
    SELECT %s, stream, version, log_offset, %s, 0
    FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS new (stream, version, log_offset)
    ON CONFLICT (follower, stream, version) DO NOTHING
"""

_FIND = f"""
    SELECT {_COLUMNS} FROM parked_events
    WHERE (%(follower)s::text IS NULL OR follower = %(follower)s)
    AND (%(stream)s::text IS NULL OR stream = %(stream)s)
    ORDER BY follower, log_offset LIMIT %(limit)s
"""

_REQUEUE = """
    UPDATE parked_events SET requeued_at = clock_timestamp()
    WHERE follower = %(follower)s AND (%(stream)s::text IS NULL OR stream = %(stream)s)
"""

_REQUEUED = f"""
    SELECT {_COLUMNS} FROM parked_events
    WHERE follower = %s AND requeued_at IS NOT NULL ORDER BY log_offset LIMIT %s
"""

_REMOVE = """
    DELETE FROM parked_events USING unnest(%s::text[], %s::text[], %s::bigint[]) AS gone (follower, stream, version)
    WHERE parked_events.follower = gone.follower AND parked_events.stream = gone.stream
    AND parked_events.version = gone.version
"""
