"""Parked events: what a follower gave up on, and what waits behind it in the same stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from contracts.envelope import Recorded

BEHIND = "waits behind an earlier parked event of its stream"
REASON_LENGTH_MAX = 2_000
DETAIL_LENGTH_MAX = 8_000


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """One event that a follower has not applied. ``attempts`` is 0 for one that only waits behind another.

    ``detail`` is the end of the traceback. ``is_dropped``: an operator gave it up; the follower is about to pass it.
    """

    follower: str
    stream: str
    version: int
    offset: int
    reason: str
    attempts: int
    parked_at: datetime
    requeued_at: datetime | None
    event_type: str = ""
    detail: str = ""
    first_failed_at: datetime | None = None
    last_failed_at: datetime | None = None
    is_dropped: bool = False


@dataclass(frozen=True, slots=True)
class DroppedEvent:
    """One event that an operator took from a follower for good. ``failure``: why it was parked."""

    follower: str
    stream: str
    version: int
    offset: int
    event_type: str
    failure: str
    attempts: int
    dropped_at: datetime
    dropped_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class ParkedCount:
    """What one follower has parked: all events, those of them that failed themselves, and since when the oldest."""

    follower: str
    events: int
    failed: int
    oldest_seconds: float


def park(
    cursor: psycopg.Cursor[Any], follower: str, recorded: Recorded, *, reason: str, attempts: int, detail: str = ""
) -> None:
    """Park an event that still fails after bounded retries; parked again, it keeps the latest reason."""
    values = {
        "type": recorded.event.type,
        "detail": _storable(detail, DETAIL_LENGTH_MAX),
        "follower": follower,
        "stream": recorded.stream,
        "version": recorded.version,
        "offset": recorded.offset,
        "reason": _storable(reason, REASON_LENGTH_MAX),
        "attempts": attempts,
    }
    cursor.execute(_PARK, values)


def park_behind(cursor: psycopg.Cursor[Any], follower: str, events: Sequence[Recorded]) -> None:
    """Park later events of streams that have a parked one, untried, so that their order is kept."""
    if events:
        streams, versions = [event.stream for event in events], [event.version for event in events]
        offsets, types = [event.offset for event in events], [event.event.type for event in events]
        cursor.execute(_PARK_BEHIND, (follower, BEHIND, streams, versions, offsets, types))


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
    """Ask the follower to try a stream's parked events (or all its streams') again; returns how many events.

    Asked twice it is the same request: the follower applies an event once, whoever asks and however often.
    """
    cursor.execute(_REQUEUE, {"follower": follower, "stream": stream})
    return cursor.rowcount


def requeued(cursor: psycopg.Cursor[Any], follower: str, limit: int) -> list[ParkedEvent]:
    """What an operator wants tried again, in the order of the log.

    The follower applies a stream's events in this order, removes those that succeed, and parks the first that fails
    again with :func:`park`, which withdraws the request for the rest of its stream.
    """
    cursor.execute(_REQUEUED, (follower, limit))
    return [ParkedEvent(*row) for row in cursor]


def drop(cursor: psycopg.Cursor[Any], follower: str, stream: str, *, actor: str, reason: str) -> list[ParkedEvent]:
    """Give up a stream's events that failed (not those behind them); returns them.

    The follower itself passes over them, in order, and then takes in what waited behind. Dropped again, the first
    word stays.
    """
    values = {"follower": follower, "stream": stream, "actor": actor, "reason": _storable(reason, REASON_LENGTH_MAX)}
    cursor.execute(_DROP, values)
    requeue(cursor, follower, stream)
    return [event for event in find(cursor, follower=follower, stream=stream, limit=DROPS_MAX) if event.is_dropped]


def dropped(cursor: psycopg.Cursor[Any], *, follower: str | None = None, limit: int) -> list[DroppedEvent]:
    """The events that were given up and passed, the latest of them, in the order of the log."""
    cursor.execute(_DROPPED, {"follower": follower, "limit": limit})
    return [DroppedEvent(*row) for row in cursor]


def followers(cursor: psycopg.Cursor[Any]) -> list[str]:
    """Who has parked something, or had something dropped."""
    cursor.execute("SELECT follower FROM parked_events UNION SELECT follower FROM dropped_events ORDER BY 1")
    return [follower for (follower,) in cursor]


def dropped_versions(cursor: psycopg.Cursor[Any], follower: str) -> dict[str, frozenset[int]]:
    """By stream the versions that operators took from this follower for good."""
    cursor.execute("SELECT stream, array_agg(version) FROM dropped_events WHERE follower = %s GROUP BY 1", (follower,))
    return {stream: frozenset(versions) for stream, versions in cursor}


def forget(cursor: psycopg.Cursor[Any], follower: str) -> None:
    """Forget everything parked or dropped under a name: what it stands for is gone."""
    cursor.execute("DELETE FROM parked_events WHERE follower = %s", (follower,))
    cursor.execute("DELETE FROM dropped_events WHERE follower = %s", (follower,))


def remove(cursor: psycopg.Cursor[Any], follower: str, places: Sequence[tuple[str, int]]) -> None:
    """Forget parked events that have been applied, by stream and version."""
    if places:
        streams, versions = zip(*places, strict=True)
        cursor.execute(_REMOVE, (list(streams), list(versions), follower))


def count(cursor: psycopg.Cursor[Any]) -> dict[str, int]:
    """How many events each follower has parked."""
    cursor.execute("SELECT follower, count(*) FROM parked_events GROUP BY follower")
    return dict(cursor.fetchall())


def counts(cursor: psycopg.Cursor[Any]) -> list[ParkedCount]:
    """The same with what metrics tell of it, by follower."""
    cursor.execute(_COUNTS)
    return [ParkedCount(follower, events, failed, float(seconds)) for follower, events, failed, seconds in cursor]


def _storable(text: str, length_max: int) -> str:
    return text.replace("\x00", "\\x00")[:length_max]


DROPS_MAX = 10_000

_COLUMNS = """
    follower, stream, version, log_offset, reason, attempts, parked_at, requeued_at, event_type, detail,
    first_failed_at, last_failed_at,
    EXISTS (
        SELECT FROM dropped_events AS d
        WHERE d.follower = parked_events.follower AND d.stream = parked_events.stream
        AND d.version = parked_events.version
    )
"""

# Whoever changes several rows takes them in the order of the log first. Operators who ask at the same time, and the
# follower that works off what they asked for, then wait for one another in turn, and never crosswise.
_PARK = """
    WITH taken AS MATERIALIZED (
        SELECT version FROM parked_events WHERE follower = %(follower)s AND stream = %(stream)s
        ORDER BY log_offset FOR UPDATE
    ), withdrawn AS (
        UPDATE parked_events SET requeued_at = NULL
        WHERE follower = %(follower)s AND stream = %(stream)s AND requeued_at IS NOT NULL
        AND version IN (SELECT version FROM taken WHERE version > %(version)s)
    )
    INSERT INTO parked_events (follower, stream, version, log_offset, reason, attempts, event_type, detail,
                               first_failed_at, last_failed_at)
    SELECT %(follower)s, %(stream)s, %(version)s, %(offset)s, %(reason)s, %(attempts)s, %(type)s, %(detail)s,
           clock_timestamp(), clock_timestamp()
    FROM (SELECT count(*) FROM taken) AS all_of_them
    ON CONFLICT (follower, stream, version) DO UPDATE
    SET reason = excluded.reason, attempts = parked_events.attempts + excluded.attempts, requeued_at = NULL,
        event_type = excluded.event_type, detail = excluded.detail, last_failed_at = excluded.last_failed_at,
        first_failed_at = coalesce(parked_events.first_failed_at, excluded.first_failed_at)
"""

_PARK_BEHIND = """
    INSERT INTO parked_events (follower, stream, version, log_offset, reason, attempts, event_type)
    SELECT %s, stream, version, log_offset, %s, 0, event_type
    FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::text[]) AS new (stream, version, log_offset, event_type)
    ON CONFLICT (follower, stream, version) DO NOTHING
"""

_FIND = f"""
    SELECT {_COLUMNS} FROM parked_events
    WHERE (%(follower)s::text IS NULL OR follower = %(follower)s)
    AND (%(stream)s::text IS NULL OR stream = %(stream)s)
    ORDER BY follower, log_offset LIMIT %(limit)s
"""

_REQUEUE = """
    WITH taken AS MATERIALIZED (
        SELECT stream, version FROM parked_events
        WHERE follower = %(follower)s AND (%(stream)s::text IS NULL OR stream = %(stream)s)
        ORDER BY log_offset FOR UPDATE
    )
    UPDATE parked_events SET requeued_at = coalesce(requeued_at, clock_timestamp()) FROM taken
    WHERE parked_events.follower = %(follower)s AND parked_events.stream = taken.stream
    AND parked_events.version = taken.version
"""

_DROP = """
    INSERT INTO dropped_events (follower, stream, version, log_offset, event_type, failure, attempts,
                                dropped_by, reason)
    SELECT follower, stream, version, log_offset, event_type, reason, attempts, %(actor)s, %(reason)s
    FROM parked_events WHERE follower = %(follower)s AND stream = %(stream)s AND attempts > 0
    ORDER BY log_offset
    ON CONFLICT (follower, stream, version) DO NOTHING
"""

_DROPPED = """
    SELECT * FROM (
        SELECT follower, stream, version, log_offset, event_type, failure, attempts, dropped_at, dropped_by, reason
        FROM dropped_events AS d
        WHERE (%(follower)s::text IS NULL OR follower = %(follower)s)
        AND NOT EXISTS (
            SELECT FROM parked_events AS p
            WHERE p.follower = d.follower AND p.stream = d.stream AND p.version = d.version
        )
        ORDER BY dropped_at DESC LIMIT %(limit)s
    ) AS latest ORDER BY follower, log_offset
"""

_COUNTS = """
    SELECT follower, count(*), count(*) FILTER (WHERE attempts > 0),
           greatest(0, extract(epoch FROM clock_timestamp() - min(parked_at)))
    FROM parked_events GROUP BY follower ORDER BY follower
"""

_REQUEUED = f"""
    SELECT {_COLUMNS} FROM parked_events
    WHERE follower = %s AND requeued_at IS NOT NULL ORDER BY log_offset LIMIT %s
"""

_REMOVE = """
    WITH taken AS MATERIALIZED (
        SELECT follower, stream, version FROM parked_events
        JOIN unnest(%s::text[], %s::bigint[]) AS gone (stream, version) USING (stream, version)
        WHERE follower = %s ORDER BY log_offset FOR UPDATE OF parked_events
    )
    DELETE FROM parked_events USING taken
    WHERE parked_events.follower = taken.follower AND parked_events.stream = taken.stream
    AND parked_events.version = taken.version
"""
