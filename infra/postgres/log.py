"""The event log on PostgreSQL: one append path per shard, under one lock, with everything it stores in one transaction.

Threads and processes: a :class:`PostgresEventLog` may be shared by the threads of one process; their appends take
turns in the process before they take turns in the database. It must be made in the process that uses it: after a fork
the child makes its own (using the parent's is refused). Connections open at first use, and again after a failure.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import Any, NamedTuple

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresDatastore
from psycopg.rows import TupleRow, dict_row, tuple_row

from command.ports import (
    Batch,
    CommandKey,
    EventLog,
    LoggedAnswer,
    NewEvent,
    Snapshot,
    StoreUnavailable,
    StreamConflict,
    StreamHistory,
)
from contracts.envelope import Recorded
from contracts.registry import EVENTS, EventRegistry
from infra.postgres import command_log
from infra.postgres.connections import (
    BY_KEY,
    DEFAULT_TIMEOUTS,
    BoundedConnection,
    Timeouts,
    connect,
    transaction,
    translated,
)
from infra.postgres.epoch import ensure_epoch
from infra.postgres.mapper import EventMapper
from infra.postgres.recorder import ShardRecorder, SnapshotRecorder, datastore


@dataclass(frozen=True, slots=True)
class _Store:
    """What the log needs of the library, opened once."""

    datastore: PostgresDatastore
    events: ShardRecorder
    snapshots: SnapshotRecorder
    mapper: EventMapper


class _Head(NamedTuple):
    """Where the log stands at the instant of a view."""

    now: datetime
    last_offset: int
    epoch: str | None


class PostgresEventLog:
    """One shard's log in one database. Implements :class:`command.ports.EventLog`."""

    def __init__(
        self, dsn: str, *, shard: int = 0, timeouts: Timeouts = DEFAULT_TIMEOUTS, registry: EventRegistry = EVENTS
    ) -> None:
        self._dsn = dsn
        self._shard = shard
        self._timeouts = timeouts
        self._registry = registry
        self._pid = os.getpid()
        self._turn = Lock()  # Whose turn it is to append, among this process's threads.
        self._opening = Lock()
        self._store: _Store | None = None
        self._epoch: str | None = None
        self._connection: BoundedConnection | None = None

    @property
    def shard(self) -> int:
        """Which shard."""
        return self._shard

    @property
    def epoch(self) -> str:
        """Which history, as last seen. Raises StoreUnavailable when it was never seen and cannot be."""
        if self._epoch is None:
            self._opened()
        assert self._epoch is not None
        return self._epoch

    @contextmanager
    def appending(self) -> Iterator["PostgresAppend"]:
        """Take the append lock; commit when the block ends, roll back when it raises.

        Raises StoreUnavailable when the store is out of reach, the lock is not to be had in time, the epoch changed
        since the last look (whatever was cached is void), or the fate of the commit is unknown.
        """
        if not self._turn.acquire(timeout=self._timeouts.lock_seconds):
            raise StoreUnavailable("another thread of this process is still appending")
        try:
            with translated():
                append = self._begin()
                try:
                    yield append
                except BaseException:
                    self._roll_back()
                    raise
                self._commit()
        finally:
            self._turn.release()

    @contextmanager
    def reading(self) -> Iterator["PostgresView"]:
        """A view of one instant (repeatable read), on a pooled connection, without the append lock.

        Never open one inside another or inside ``appending``: a thread that holds a connection must not wait for a
        second one. Raises StoreUnavailable.
        """
        store = self._opened()
        with translated(), store.datastore.pool.connection(timeout=self._timeouts.connect_seconds) as connection:
            with connection.pipeline():
                cursor = connection.cursor(row_factory=tuple_row)
                cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                head = connection.cursor(row_factory=tuple_row).execute(_SELECT_HEAD, (self._shard,))
            yield PostgresView(cursor, store, self._checked(head))

    def close(self) -> None:
        """Give back the connections. The log may be used again; it then opens new ones."""
        with self._turn, self._opening:
            self._discard()
            if self._store is not None:
                self._store.datastore.close()
                self._store = None

    def _begin(self) -> "PostgresAppend":
        store = self._opened()
        reused = self._connection is not None
        try:
            return self._lock_and_look(store)
        except psycopg.OperationalError:
            # A connection that idled may have died with a restarted server. Nothing was sent yet, so one more try is
            # safe; a fresh connection that fails, or a lock that is held, is what it is.
            if self._connection is None or not (reused and self._connection.closed):
                self._roll_back()
                raise
            self._discard()
            return self._lock_and_look(store)
        except BaseException:
            self._roll_back()
            raise

    def _lock_and_look(self, store: _Store) -> "PostgresAppend":
        """One round trip: begin, lock, and (in a statement of its own, so that it sees what others committed) look."""
        if self._connection is None:
            self._connection = connect(self._dsn, self._timeouts, name="append", settings=BY_KEY)
            self._connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            store.events.register_types(self._connection)
        with self._connection.pipeline():
            cursor = self._connection.cursor()
            for statement in store.events.lock_table_statements:
                cursor.execute(statement)
            head = self._connection.cursor().execute(_SELECT_HEAD, (self._shard,))
        return PostgresAppend(cursor, store, self._checked(head))

    def _commit(self) -> None:
        assert self._connection is not None
        try:
            self._connection.commit()
        except psycopg.Error as error:
            self._discard()
            raise StoreUnavailable(f"whether the batch was committed is unknown: {error}") from error

    def _roll_back(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.rollback()
        except psycopg.Error:
            self._discard()  # The server rolls back what it never heard the end of.

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _checked(self, cursor: psycopg.Cursor[TupleRow]) -> _Head:
        row = cursor.fetchone()
        assert row is not None
        head = _Head(row[0].astimezone(UTC), row[1], row[2])
        if head.epoch != self._epoch:
            before, self._epoch = self._epoch, head.epoch
            raise StoreUnavailable(
                f"the epoch of shard {self._shard} changed from {before} to {head.epoch}: "
                "the store was restored; whatever was cached of it is void"
            )
        return head

    def _opened(self) -> _Store:
        if os.getpid() != self._pid:
            raise RuntimeError("this log was made before a fork; a process makes its own")
        with self._opening:
            if self._store is None:
                with translated():
                    self._store = self._open()
            return self._store

    def _open(self) -> _Store:
        with transaction(self._dsn, self._timeouts, name="open") as cursor:
            cursor.execute(
                "SELECT to_regtype('stored_event_text') IS NOT NULL AND to_regclass('store_epoch') IS NOT NULL"
            )
            if cursor.fetchone() != (True,):
                raise StoreUnavailable("there is no event store in this database yet: run `tessera migrate`")
            epoch = ensure_epoch(cursor, self._shard)
        store = datastore(self._dsn, self._timeouts, name="read")
        opened = _Store(store, ShardRecorder(store, self._shard), SnapshotRecorder(store), EventMapper(self._registry))
        self._epoch = self._epoch or epoch
        return opened


class PostgresView:
    """What one transaction sees. Implements :class:`command.ports.ReadView`; not for use after its block ended.

    Each look raises StoreUnavailable by itself: whoever looks must not take a lost store for a defect of its own.
    """

    def __init__(self, cursor: psycopg.Cursor[TupleRow], store: _Store, head: _Head) -> None:
        self._cursor = cursor
        self._store = store
        self._head = head

    @property
    def store_now(self) -> datetime:
        """The later of the database's clock and the last recorded event's time."""
        return self._head.now

    @property
    def last_offset(self) -> int:
        """The offset of the last event in the log, 0 when it is empty."""
        return self._head.last_offset

    @translated()
    def events_after(self, offset: int, limit: int) -> Sequence[Recorded]:
        """The log after an offset, in order. Raises UnknownEventType, UnreadableEvent."""
        return [
            self._store.mapper.to_domain_event(row)
            for row in self._store.events.select_log(self._cursor, offset, limit)
        ]

    @translated()
    def answers(self, keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
        """The logged answers among these ids."""
        return command_log.find(self._cursor, keys) if keys else {}

    @translated()
    def counts(self, keys: Collection[str]) -> Mapping[str, int]:
        """The guard counters among these keys; absent ones are zero."""
        if not keys:
            return {}
        self._cursor.execute(_SELECT_COUNTS, (list(keys),))
        return dict(self._cursor.fetchall())

    @translated()
    def histories(
        self, streams: Collection[str], *, schema_hashes: Mapping[str, str] | None = None, until: datetime | None = None
    ) -> Mapping[str, StreamHistory]:
        """What is stored of these streams; absent ones are absent. Raises UnknownEventType, UnreadableEvent.

        Snapshots are used for the kinds named in ``schema_hashes`` only, and never with ``until``.
        """
        if not streams:
            return {}
        known = {} if schema_hashes is None or until is not None else schema_hashes
        hashes = [known.get(_kind(stream), "") for stream in streams]
        snapshots = self._snapshots(streams, hashes) if known else {}
        events: dict[str, list[Recorded]] = {}
        for row in self._store.events.select_streams(self._cursor, streams, hashes):
            recorded = self._store.mapper.to_domain_event(row)
            if until is None or recorded.metadata.occurred_at <= until:
                events.setdefault(recorded.stream, []).append(recorded)
        return {
            stream: StreamHistory(snapshots.get(stream), events.get(stream, ()))
            for stream in snapshots.keys() | events.keys()
        }

    def _snapshots(self, streams: Collection[str], hashes: Collection[str]) -> dict[str, Snapshot]:
        rows = self._store.snapshots.select_all(self._cursor, streams, hashes)
        return {
            str(row.originator_id): Snapshot(
                str(row.originator_id), row.originator_version, row.topic, bytes(row.state)
            )
            for row in rows
        }


class PostgresAppend(PostgresView):
    """A view under the append lock that can also append. Implements :class:`command.ports.AppendTransaction`."""

    @property
    def cursor(self) -> psycopg.Cursor[TupleRow]:
        """For rows that belong to the same transaction: outbox, timers, follower positions. Never commit with it."""
        return self._cursor

    def append(self, batch: Batch) -> Sequence[int]:
        """Store the batch in one round trip; returns the events' offsets.

        Raises StreamConflict when a version or a command id is taken already, or a version would leave a gap. The
        transaction is then void: let the exception end the block.
        """
        if len(batch.answers) != len(batch.answer_events):
            raise ValueError("every answer needs the index of its last event, or -1")
        stored = [self._store.mapper.to_stored_event(event) for event in batch.events]
        firsts = _first_versions(batch.events)
        connection = self._cursor.connection
        with _conflicts(), connection.pipeline():
            gap = connection.cursor().execute(_SELECT_GAP, (list(firsts), list(firsts.values())))
            inserted = connection.cursor(row_factory=dict_row)
            if stored:
                self._store.events.insert_all(inserted, stored)
            self._store_rest(batch, connection.cursor(row_factory=dict_row))
        if (row := gap.fetchone()) is not None:
            raise StreamConflict(f"{row[0]} has no version {row[1] - 1}, so {row[1]} cannot follow")
        offsets = self._store.events.fetch_offsets(inserted, stored) if stored else ()
        if offsets:
            _require_contiguous(offsets)
            self._head = self._head._replace(last_offset=offsets[-1])
        return offsets

    def _store_rest(self, batch: Batch, cursor: psycopg.Cursor[dict[str, Any]]) -> None:
        if batch.answers:
            command_log.insert(cursor, batch, self._head.now, self._head.last_offset)
        if batch.counts:
            cursor.execute(_UPSERT_COUNTS, (list(batch.counts), list(batch.counts.values())))
        if batch.snapshots:
            rows = [StoredEvent(s.stream, s.version, s.schema_hash, s.state) for s in batch.snapshots]
            self._store.snapshots.replace_all(cursor, rows)


@contextmanager
def _conflicts() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UniqueViolation as error:
        raise StreamConflict(error.diag.message_detail or str(error)) from error


def _first_versions(events: Sequence[NewEvent]) -> dict[str, int]:
    """Per stream its first version in the batch; the others must follow without a gap."""
    firsts: dict[str, int] = {}
    next_versions: dict[str, int] = {}
    for event in events:
        if event.version != next_versions.setdefault(event.stream, event.version):
            raise StreamConflict(f"{event.stream}: the batch has version {event.version} out of turn")
        firsts.setdefault(event.stream, event.version)
        next_versions[event.stream] = event.version + 1
    return firsts


def _require_contiguous(offsets: Sequence[int]) -> None:
    # The command log counts its offsets back from the last one. Under the lock nobody else draws from the sequence.
    if offsets[-1] - offsets[0] + 1 != len(offsets):
        raise StoreUnavailable("offsets were given out to somebody who does not hold the append lock")


def _kind(stream: str) -> str:
    return stream.split("/", 3)[2]


def _is_an_event_log(log: PostgresEventLog) -> EventLog:
    """Lets the type checker prove that the adapter fits the port."""
    return log


_SELECT_HEAD = """
    SELECT greatest(clock_timestamp(), (convert_from(last.state, 'UTF8')::jsonb ->> 'rec')::timestamptz),
           coalesce(last.notification_id, 0),
           (SELECT epoch FROM store_epoch WHERE shard = %s)
    FROM (VALUES (1)) AS always
    LEFT JOIN (SELECT notification_id, state FROM stored_events ORDER BY notification_id DESC LIMIT 1) AS last ON true
"""

_SELECT_GAP = """
    SELECT stream, version FROM unnest(%s::text[], %s::bigint[]) AS first (stream, version)
    WHERE version <> 1
    AND NOT EXISTS (SELECT FROM stored_events WHERE originator_id = stream AND originator_version = version - 1)
    LIMIT 1
"""

_SELECT_COUNTS = "SELECT key, value FROM guard_counts WHERE key = ANY(%s)"

_UPSERT_COUNTS = """
    INSERT INTO guard_counts (key, value) SELECT * FROM unnest(%b::text[], %b::bigint[])
    ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""
