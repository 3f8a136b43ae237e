"""The event log on PostgreSQL: one append path per shard, under one lock, with everything it stores in one transaction.

Threads and processes: a :class:`PostgresEventLog` may be shared by the threads of one process; their appends take
turns in the process before they take turns in the database. It must be made in the process that uses it: after a fork
the child makes its own (using the parent's is refused). Connections open at first use, and again after a failure.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import cast

import psycopg
from eventsourcing.postgres import PostgresDatastore
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow, tuple_row

from command.ports import (
    Batch,
    CommandKey,
    EventLog,
    HeadMoved,
    LoggedAnswer,
    Seen,
    StoreUnavailable,
    StreamHistory,
    Wanted,
)
from contracts.envelope import Recorded
from contracts.registry import EVENTS, EventRegistry
from infra import fiber
from infra.postgres import command_log
from infra.postgres.batch_rows import BatchRows
from infra.postgres.connections import (
    APPENDING,
    DEFAULT_TIMEOUTS,
    GLANCING,
    BoundedConnection,
    Statement,
    Timeouts,
    connect,
    transaction,
    translated,
)
from infra.postgres.epoch import ensure_epoch
from infra.postgres.looks import NOT_LOOKED, SELECT_HEAD, Found, Head, found, question
from infra.postgres.mapper import EventMapper
from infra.postgres.recorder import ShardRecorder, abandon, datastore


@dataclass(frozen=True, slots=True)
class _Store:
    """What the log needs of the library, opened once."""

    datastore: PostgresDatastore
    events: ShardRecorder
    mapper: EventMapper


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
        self._glances: BoundedConnection | None = None

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
        if not fiber.acquire(self._turn, self._timeouts.lock_seconds):
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

    def prepared(self, batch: Batch) -> "PostgresPreparedAppend":
        """A batch, encoded: what is left to do is one exchange, with lock, condition, rows and commit.

        The server has everything it needs before it takes the lock: a process that stops anywhere holds up nobody.
        Raises StoreUnavailable, StreamConflict.
        """
        return PostgresPreparedAppend(self, BatchRows.of(batch, self._opened().mapper))

    def glancing(self) -> "PostgresGlance":
        """A view without a transaction, on a connection of its own; opened at the first look."""
        with translated():
            return PostgresGlance(self, self._opened())

    @contextmanager
    def reading(self) -> Iterator["PostgresView"]:
        """A view of one instant (repeatable read), on a pooled connection, without the append lock.

        Never open one inside another or inside ``appending``: a thread that holds a connection must not wait for a
        second one. Raises StoreUnavailable.
        """
        store, connection = self._opened(), None
        try:
            with translated(), store.datastore.pool.connection(timeout=self._timeouts.connect_seconds) as connection:
                with connection.pipeline():
                    cursor = connection.cursor(row_factory=tuple_row)
                    cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    head = connection.cursor(row_factory=tuple_row).execute(_SELECT_HEAD, (self._shard,))
                yield PostgresView(cursor, store, self._checked(_head(head.fetchone())), self._shard)
        except StoreUnavailable:
            if connection is None or connection.closed:
                self._leave(store)
            raise

    def close(self) -> None:
        """Give back the connections. The log may be used again; it then opens new ones.

        A batch that was sent and that nobody waits for is waited for no longer than an append may take.
        """
        is_ours = self._turn.acquire(timeout=self._timeouts.lock_seconds)
        with self._opening:
            self._discard()
            if self._glances is not None:  # Whoever looks ahead mends it by itself; nobody else closes it.
                self._glances.close()
                self._glances = None
            if self._store is not None:
                self._store.datastore.close()
                self._store = None
        if is_ours:
            self._turn.release()

    def _leave(self, store: _Store) -> None:
        """Let go of a pool in which a connection broke; the next look opens another one.

        The connections that idle in it broke with that one, and each would cost somebody a failure; a pool that finds
        its server away asks for it ever less often.
        """
        with self._opening:
            if self._store is store:
                self._store = None
                abandon(store.datastore)

    def _send_after(self, head: int, rows: BatchRows, epoch: str, *, patient: bool) -> BoundedConnection | None:
        """Take the turn, which ends with the offsets, or right away when nothing could be sent."""
        if not patient and self._connection is None:  # Opening one may take long.
            return None
        if not fiber.acquire(self._turn, self._timeouts.lock_seconds if patient else 0):
            if not patient:
                return None
            raise StoreUnavailable("another thread of this process is still appending")
        try:
            with self._append_translated():
                connection = self._connected()
                rows.send(connection, shard=self._shard, epoch=epoch, head=head)
                return connection
        except BaseException:
            self._turn.release()
            raise

    def _offsets(self, rows: BatchRows, connection: BoundedConnection) -> Sequence[int]:
        try:
            with self._append_translated():
                return rows.offsets(connection)
        finally:
            self._turn.release()

    @contextmanager
    def _append_translated(self) -> Iterator[None]:
        """A connection that answers told what went wrong: nothing was stored. One that broke leaves it unknown."""
        with translated():
            try:
                yield
            except psycopg.errors.SerializationFailure as error:
                raise HeadMoved(str(error)) from error
            except psycopg.Error:
                if self._connection is not None and self._connection.closed:
                    self._discard()
                raise

    def _glance(self) -> BoundedConnection:
        """The connection that looks ahead, opened when it is needed and again after it broke."""
        if self._glances is not None:
            with suppress(psycopg.Error):  # What went wrong then is nobody's business now.
                self._glances.drop_answer()
        if self._glances is None or self._glances.closed:
            self._glances = connect(self._dsn, self._timeouts, name="glance", autocommit=True, settings=GLANCING)
        return self._glances

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
        connection = self._connected()
        with connection.pipeline():
            cursor = connection.cursor(row_factory=tuple_row)
            cursor.execute("BEGIN")
            cursor.execute("SELECT take_append_lock(%s)", (self._shard,))
            head = connection.cursor(row_factory=tuple_row).execute(_SELECT_HEAD, (self._shard,))
        return PostgresAppend(cursor, store, self._checked(_head(head.fetchone())), self._shard)

    def _connected(self) -> BoundedConnection:
        """The connection that appends. Transactions are begun and ended in words, so that they fit into pipelines."""
        if self._connection is None:
            self._connection = connect(self._dsn, self._timeouts, name="append", autocommit=True, settings=APPENDING)
        return self._connection

    def _commit(self) -> None:
        assert self._connection is not None
        try:
            self._connection.execute("COMMIT")
        except psycopg.Error as error:
            self._discard()
            raise StoreUnavailable(f"whether the batch was committed is unknown: {error}") from error

    def _roll_back(self) -> None:
        if self._connection is None:
            return
        try:
            if self._connection.info.transaction_status != TransactionStatus.IDLE:
                self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self._discard()  # The server rolls back what it never heard the end of.

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _checked(self, head: Head) -> Head:
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
        # A fiber must not hold a lock that others on its thread may want while it waits.
        return self._store or fiber.blocking(self._opened_once)

    def _opened_once(self) -> _Store:
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
        opened = _Store(store, ShardRecorder(store, self._shard), EventMapper(self._registry))
        self._epoch = self._epoch or epoch
        return opened


class PostgresPreparedAppend:
    """A batch on its way. Implements :class:`command.ports.PreparedAppend`."""

    __slots__ = ("_connection", "_log", "_rows")

    def __init__(self, log: PostgresEventLog, rows: BatchRows) -> None:
        self._log = log
        self._rows = rows
        self._connection: BoundedConnection | None = None  # Once it was sent.

    def send_after(self, head: int, *, epoch: str | None = None, patient: bool = True) -> bool:
        """Send all of it, without waiting for what comes of it. Raises StoreUnavailable."""
        self._connection = self._log._send_after(head, self._rows, epoch or self._log.epoch, patient=patient)
        return self._connection is not None

    def fileno(self) -> int | None:
        """The connection's socket; none once it broke, which waiting for the offsets will tell."""
        assert self._connection is not None
        return _file_of(self._connection)

    def offsets(self) -> Sequence[int]:
        """Wait for the commit. Raises HeadMoved, StreamConflict, StoreUnavailable; the latter also in another epoch."""
        connection, self._connection = self._connection, None
        assert connection is not None
        return self._log._offsets(self._rows, connection)


class PostgresView:
    """What one transaction sees. Implements :class:`command.ports.ReadView`; not for use after its block ended.

    Each look raises StoreUnavailable by itself: whoever looks must not take a lost store for a defect of its own.
    """

    def __init__(self, cursor: psycopg.Cursor[TupleRow], store: _Store, head: Head, shard: int) -> None:
        self._cursor = cursor
        self._store = store
        self._head = head
        self._shard = shard

    @property
    def store_now(self) -> datetime:
        """The later of the database's clock and the last recorded event's time."""
        return self._head.now

    @property
    def time_runs(self) -> bool:
        """Whether that is the clock's, and not that of an event which is later than it."""
        return self._head.time_runs

    @property
    def last_offset(self) -> int:
        """The offset of the last event in the log, 0 when it is empty."""
        return self._head.last_offset

    @translated()
    def events_after(
        self, offset: int, limit: int, concerning: Callable[[str], bool] | None = None
    ) -> Sequence[Recorded]:
        """The log after an offset, in order; of ``limit`` events those whose streams concern the caller.

        What concerns nobody is not even parsed. Raises UnknownEventType, UnreadableEvent.
        """
        rows = self._store.events.select_log(self._cursor, offset, limit)
        return [
            self._store.mapper.to_domain_event(row)
            for row in rows
            if concerning is None or concerning(cast(str, row.originator_id))
        ]

    @translated()
    def answers(self, keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
        """The logged answers among these ids."""
        return command_log.find(self._cursor, keys) if keys else {}

    def counts(self, keys: Collection[str]) -> Mapping[str, int]:
        """The guard counters among these keys; absent ones are zero."""
        return self.look(Wanted(counts=keys)).counts if keys else {}

    def histories(
        self, streams: Collection[str], *, schema_hashes: Mapping[str, str] | None = None, until: datetime | None = None
    ) -> Mapping[str, StreamHistory]:
        """What is stored of these streams; absent ones are absent. Raises UnknownEventType, UnreadableEvent.

        Snapshots are used for the kinds named in ``schema_hashes`` only, and never with ``until``.
        """
        if not streams:
            return {}
        if until is None:
            return self.look(Wanted(streams, schema_hashes)).histories
        stored = self.look(Wanted(streams)).histories
        occurred = {
            stream: [each for each in history.events if each.metadata.occurred_at <= until]
            for stream, history in stored.items()
        }
        return {stream: StreamHistory(None, events) for stream, events in occurred.items() if events}

    @translated()
    def look(self, wanted: Wanted) -> Seen:
        """Histories, answers and counters in one round trip. Raises as each of them does."""
        return self._seen(wanted, self._found(wanted, self._line.ask(*question(wanted, self._shard))))

    @property
    def _line(self) -> BoundedConnection:
        return cast(BoundedConnection, self._cursor.connection)

    def _found(self, wanted: Wanted, result: PGresult) -> Found:
        return found(result, wanted, self._store.mapper)

    def _seen(self, wanted: Wanted, found: Found) -> Seen:
        """Answers that there are are fetched now."""
        return Seen(found.histories, self.answers(wanted.answers) if found.is_answered else {}, found.counts)


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
        rows = BatchRows.of(batch, self._store.mapper)
        epoch = self._head.epoch
        assert epoch is not None
        offsets = rows.append(self._line, shard=self._shard, epoch=epoch, head=self._head.last_offset)
        if offsets:
            self._head = self._head._replace(last_offset=offsets[-1])
        return offsets


class PostgresGlance(PostgresView):
    """Looks at whatever is stored by now, without a transaction. Implements :class:`command.ports.Glance`."""

    def __init__(self, log: "PostgresEventLog", store: _Store) -> None:
        super().__init__(log._glance().cursor(row_factory=tuple_row), store, NOT_LOOKED, log.shard)
        self._log = log

    @property
    def store_now(self) -> datetime:
        """The later of the database's clock and the last recorded event's time, at the latest look."""
        if self._head is NOT_LOOKED:
            self.look(Wanted())
        return self._head.now

    @property
    def last_offset(self) -> int:
        """The offset of the last event in the log, at the latest look."""
        if self._head is NOT_LOOKED:
            self.look(Wanted())
        return self._head.last_offset

    def look(self, wanted: Wanted) -> Seen:
        """As every view, and what time it is besides."""
        return self.send(wanted).seen()

    @translated()
    def send(self, wanted: Wanted) -> "PostgresLook":
        """Begin to look, and do not wait for what it brings. Raises StoreUnavailable."""
        asked = question(wanted, self._shard)
        self._line.send(*asked)
        return PostgresLook(lambda: self._hear(wanted, asked.statement), self._line)

    @translated()
    def _hear(self, wanted: Wanted, statement: Statement) -> Seen:
        found = self._found(wanted, self._line.answer_to(statement))
        self._head = self._log._checked(found.head)
        return self._seen(wanted, found)


class PostgresLook:
    """A look on its way. Implements :class:`command.ports.Look`."""

    __slots__ = ("_connection", "seen")

    def __init__(self, seen: Callable[[], Seen], connection: BoundedConnection) -> None:
        self.seen = seen
        self._connection = connection

    def fileno(self) -> int | None:
        """The connection's socket; none once it broke, which waiting will tell."""
        return _file_of(self._connection)


def _file_of(connection: BoundedConnection) -> int | None:
    try:
        return connection.fileno()
    except psycopg.Error:
        return None


def _head(row: TupleRow | None) -> Head:
    assert row is not None
    now, time_runs, last_offset, epoch = row
    return Head(now.astimezone(UTC), time_runs, last_offset, epoch)


def _is_an_event_log(log: PostgresEventLog) -> EventLog:
    """Lets the type checker prove that the adapter fits the port."""
    return log


_SELECT_HEAD = SELECT_HEAD.format("%s")
