"""Who publishes a shard's log, and up to where it was published: one session of PostgreSQL holds both."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.rows import tuple_row

from infra.kafka.lanes import Lane
from infra.postgres import positions
from infra.postgres.connections import DEFAULT_TIMEOUTS, BoundedConnection, Timeouts, connect, translated
from infra.postgres.epoch import ensure_epoch, read_epoch
from infra.postgres.positions import EpochChanged

RELAY: Final = "relay"  # Its name among the followers.

# The first part of the lock; the second is the shard. Other components' locks have another first part.
LOCK_CLASS: Final = 7_305_464


class EventsMissed(Exception):
    """The log holds more (or fewer) events than were read from it: going on would leave a hole for good."""

    def __init__(self, after: int, upto: int, read: int, counted: int) -> None:
        super().__init__(
            f"the relay read {read} events after offset {after} up to {upto}, but the log has {counted} there: "
            f"nothing of it was published. Run `tessera verify`"
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """Up to where the log was published, in which epoch, and the last offset of each lane that has any."""

    epoch: str
    offset: int
    lanes: Mapping[Lane, int]


class Holder(NamedTuple):
    """The session that publishes: which backend of PostgreSQL serves it, from where it is connected, and since when."""

    backend_pid: int
    client: str
    since: datetime


class Checkpoint:
    """The lock of a shard's relay and what it protects, on one connection. Belongs to one thread.

    The lock is the session's, and the checkpoint moves in the same session: whoever lost the one cannot move the other.
    The server ends a session that is silent for ``lead_seconds``. So a process that was stopped, or whose machine is
    cut off, makes way for another; call :meth:`beat` more often than that.

    Every call raises StoreUnavailable when the store, or this session, is gone.
    """

    def __init__(self, dsn: str, shard: int, *, lead_seconds: float, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> None:
        self._dsn = dsn
        self._shard = shard
        self._timeouts = timeouts
        silence = f"{int(lead_seconds * 1_000)}ms"
        self._session = {"idle_session_timeout": silence, "idle_in_transaction_session_timeout": silence}
        self._connection: BoundedConnection | None = None

    def take(self) -> bool:
        """Become the one that publishes, unless another session is. Not to be called by whoever is."""
        row = self._ask("SELECT pg_try_advisory_lock(%s, %s)", (LOCK_CLASS, self._shard))
        return bool(row[0])

    def holder(self) -> Holder | None:
        """Who publishes instead; None when that is nobody (any more), or cannot be seen."""
        with translated(), self._cursor() as cursor:
            row = cursor.execute(_HOLDER, (LOCK_CLASS, self._shard)).fetchone()
        return None if row is None else Holder(*row)

    def load(self) -> Standing:
        """Up to where the log was published. Raises EpochChanged after a restore that nobody told."""
        with translated(), self._opened().transaction(), self._cursor() as cursor:
            epoch = ensure_epoch(cursor, self._shard)  # Whoever comes first opens the shard; that need not be a writer.
            offset = positions.read(cursor, RELAY, epoch)
            cursor.execute("SELECT topic, partition, log_offset FROM relay_lanes")
            return Standing(epoch, offset, {Lane(topic, partition): last for topic, partition, last in cursor})

    def beat(self) -> None:
        """Show that this process lives, and learn whether its session does."""
        self._ask("SELECT 1", ())

    def confirm(self, standing: Standing, upto: int, read: int) -> None:
        """Make sure, before anything is published, that these are the log's events in today's history.

        ``read``: how many events there were after the standing up to ``upto``. Raises EpochChanged, EventsMissed.
        """
        epoch, counted = self._ask(_EPOCH_AND_COUNT, (self._shard, standing.offset, upto))
        if epoch != standing.epoch:
            raise EpochChanged(RELAY, standing.epoch, str(epoch))
        if counted != read:
            raise EventsMissed(standing.offset, upto, read, counted)

    def move(self, standing: Standing, upto: int, lanes: Mapping[Lane, int]) -> Standing:
        """Everything up to an offset is published, and these are the new last offsets of lanes: all of it, or nothing.

        Raises EpochChanged, or PositionMoved when another relay moved the checkpoint meanwhile.
        """
        with translated(), self._opened().transaction(), self._cursor() as cursor:
            epoch = read_epoch(cursor, self._shard)
            if epoch != standing.epoch:
                raise EpochChanged(RELAY, standing.epoch, str(epoch))
            positions.advance(cursor, RELAY, epoch, expected=standing.offset, offset=upto)
            topics = [lane.topic for lane in lanes]
            partitions = [lane.partition for lane in lanes]
            cursor.execute(_MOVE_LANES, (topics, partitions, list(lanes.values())))
        return Standing(standing.epoch, upto, {**standing.lanes, **lanes})

    def release(self) -> None:
        """Let another relay publish: the lock goes with the session."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _ask(self, sql: str, parameters: tuple[Any, ...]) -> tuple[Any, ...]:
        with translated(), self._cursor() as cursor:
            row: tuple[Any, ...] | None = cursor.execute(sql, parameters).fetchone()
        assert row is not None
        return row

    def _cursor(self) -> psycopg.Cursor[Any]:
        return self._opened().cursor(row_factory=tuple_row)

    def _opened(self) -> BoundedConnection:
        # A session that was lost is never replaced here: the lock went with it, so `release` and `take` come first.
        if self._connection is None:
            self._connection = connect(self._dsn, self._timeouts, name=RELAY, autocommit=True, settings=self._session)
        return self._connection


_EPOCH_AND_COUNT = """
    SELECT (SELECT epoch FROM store_epoch WHERE shard = %s),
           (SELECT count(*) FROM stored_events WHERE notification_id > %s AND notification_id <= %s)
"""

# Parts of an advisory lock of two integers; a session's address shows only to its own role and to superusers.
_HOLDER = """
    SELECT a.pid, coalesce(host(a.client_addr) || ':' || a.client_port, 'a local socket'), a.backend_start
    FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %s AND l.objid = %s
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    LIMIT 1
"""

_MOVE_LANES = """
    INSERT INTO relay_lanes (topic, partition, log_offset)
    SELECT * FROM unnest(%s::text[], %s::integer[], %s::bigint[])
    ON CONFLICT (topic, partition) DO UPDATE SET log_offset = excluded.log_offset
"""
