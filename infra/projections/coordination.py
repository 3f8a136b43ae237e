"""What projection followers share through PostgreSQL: one writer at a time, parked events, counts, and how they are."""

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from threading import RLock
from typing import Any, Final, Literal, LiteralString

import psycopg
from psycopg.rows import tuple_row

from contracts.envelope import Recorded
from infra.postgres import dead_letters, positions
from infra.postgres.connections import DEFAULT_TIMEOUTS, BoundedConnection, Timeouts, connect, translated
from infra.projections.ports import Busy, Coordination, FollowerStatus, ParkedEvent, event_mark

# Any number, the same in every version; the two-part locks of other components have another first part.
LOCK_CLASS: Final = 7_305_462


class PostgresCoordination:
    """One connection, one follower's thread. Implements :class:`infra.projections.ports.Coordination`.

    The lock is the session's: it is gone with the connection. A writer that lost it without noticing does no harm:
    buckets are written only as they were seen, checkpoints are compared before they move, and fact rows replace
    themselves.
    """

    def __init__(
        self, dsn: str, *, timeouts: Timeouts = DEFAULT_TIMEOUTS, hold_wait_seconds: float | None = None
    ) -> None:
        self._dsn = dsn
        self._timeouts = timeouts if hold_wait_seconds is None else replace(timeouts, lock_seconds=hold_wait_seconds)
        self._connection: BoundedConnection | None = None
        self._turn = RLock()

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Be the only one who writes this projection. Raises Busy after a bounded wait."""
        return self._holding(name, "")

    def share(self, name: str) -> AbstractContextManager[None]:
        """Write some of its lanes, as others may meanwhile. Raises Busy after a bounded wait for whoever holds it."""
        return self._holding(name, "_shared")

    @contextmanager
    def _holding(self, name: str, kind: Literal["", "_shared"]) -> Iterator[None]:
        key = zlib.crc32(name.encode()) - (1 << 31)
        with self._turn:
            self._lock(name, key, kind)
            try:
                yield
            finally:
                self._unlock(key, kind)

    def count(self, after: int, upto: int) -> int:
        """How many events the log has in ``(after, upto]``, counted by the store itself."""
        with self._cursor() as cursor:
            cursor.execute(_COUNT, (after, upto))
            row = cursor.fetchone()
        assert row is not None
        return int(row[0])

    def mark_at(self, offset: int) -> str | None:
        """Which event stands at an offset; None when none does."""
        with self._cursor() as cursor:
            cursor.execute(_MARK, (offset,))
            row = cursor.fetchone()
        return None if row is None else event_mark(row[0], datetime.fromisoformat(row[1]))

    def parked_streams(self, follower: str) -> frozenset[str]:
        """Streams of which something is parked."""
        with self._cursor() as cursor:
            return dead_letters.parked_streams(cursor, follower)

    def parked_count(self, followers: Sequence[str]) -> int:
        """How many events these followers have parked."""
        with self._cursor() as cursor:
            counts = dead_letters.count(cursor)
        return sum(counts.get(follower, 0) for follower in followers)

    def park(self, follower: str, recorded: Recorded, *, reason: str, attempts: int, detail: str) -> None:
        """Park an event that failed; ``detail`` says where."""
        with self._cursor() as cursor:
            dead_letters.park(cursor, follower, recorded, reason=reason, attempts=attempts, detail=detail)

    def park_behind(self, follower: str, events: Sequence[Recorded]) -> None:
        """Park events that follow a parked one."""
        with self._cursor() as cursor:
            dead_letters.park_behind(cursor, follower, events)

    def dropped_versions(self, follower: str) -> Mapping[str, Collection[int]]:
        """By stream the versions that operators gave up for this follower."""
        with self._cursor() as cursor:
            return dead_letters.dropped_versions(cursor, follower)

    def requeued_streams(self, follower: str, limit: int) -> Sequence[str]:
        """The first of the streams that an operator wants tried again."""
        with self._cursor() as cursor:
            cursor.execute(_REQUEUED_STREAMS, (follower, limit))
            return [stream for (stream,) in cursor]

    def parked(self, follower: str, stream: str, limit: int) -> Sequence[ParkedEvent]:
        """What is parked of one stream, in order."""
        with self._cursor() as cursor:
            found = dead_letters.find(cursor, follower=follower, stream=stream, limit=limit)
        return [ParkedEvent(each.stream, each.version, each.offset, each.is_dropped) for each in found]

    def remove(self, follower: str, events: Sequence[ParkedEvent]) -> None:
        """Forget what was applied after all."""
        with self._cursor() as cursor:
            dead_letters.remove(cursor, follower, [(each.stream, each.version) for each in events])

    def forget(self, follower: str) -> None:
        """Forget everything parked under a name (its version is gone)."""
        with self._cursor() as cursor:
            dead_letters.forget(cursor, follower)

    def report(self, status: FollowerStatus, epoch: str) -> None:
        """Let other processes see where a follower is, by ``follower_positions``."""
        if epoch:
            with self._cursor() as cursor:
                positions.reset(cursor, status.name, epoch, status.offset)

    def close(self) -> None:
        """Give back the connection, and with it whatever is held."""
        with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(psycopg.Error):
                    connection.close()

    @contextmanager
    def _cursor(self) -> Iterator[psycopg.Cursor[Any]]:
        with self._turn, translated():
            if self._connection is None or self._connection.closed:
                self._connection = connect(self._dsn, self._timeouts, name="projections", autocommit=True)
            try:
                with self._connection.cursor(row_factory=tuple_row) as cursor:
                    yield cursor
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self.close()
                raise

    def _lock(self, name: str, key: int, kind: Literal["", "_shared"]) -> None:
        with self._cursor() as cursor:
            try:
                cursor.execute(_LOCK[kind], (LOCK_CLASS, key))
            except psycopg.errors.LockNotAvailable as error:
                raise Busy(f"somebody else works on {name}") from error

    def _unlock(self, key: int, kind: Literal["", "_shared"]) -> None:
        if self._connection is None or self._connection.closed:
            return
        try:
            self._connection.execute(_UNLOCK[kind], (LOCK_CLASS, key))
        except psycopg.Error:
            self.close()  # The server unlocks when the session ends.


def _is_coordination(given: PostgresCoordination) -> Coordination:
    """Lets the type checker prove that the adapter fits the port."""
    return given


_LOCK: Final[Mapping[str, LiteralString]] = {
    "": "SELECT pg_advisory_lock(%s, %s)",
    "_shared": "SELECT pg_advisory_lock_shared(%s, %s)",
}
_UNLOCK: Final[Mapping[str, LiteralString]] = {
    "": "SELECT pg_advisory_unlock(%s, %s)",
    "_shared": "SELECT pg_advisory_unlock_shared(%s, %s)",
}

_COUNT = "SELECT count(*) FROM stored_events WHERE notification_id > %s AND notification_id <= %s"

_MARK = """
    SELECT body ->> 'id', body ->> 'rec'
    FROM (SELECT convert_from(state, 'UTF8')::jsonb AS body FROM stored_events WHERE notification_id = %s) AS e
"""

_REQUEUED_STREAMS = """
    SELECT stream FROM parked_events WHERE follower = %s AND requeued_at IS NOT NULL
    GROUP BY stream ORDER BY min(log_offset) LIMIT %s
"""
