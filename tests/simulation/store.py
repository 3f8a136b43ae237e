"""A simulated event store: one shared, durable part, and a handle per process whose every exchange may go wrong."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from threading import Lock
from typing import Literal, NamedTuple, Protocol, TypeVar

from command.ports import (
    AppendTransaction,
    Batch,
    CommandKey,
    EventLog,
    Glance,
    HeadMoved,
    LoggedAnswer,
    NewEvent,
    ReadView,
    Seen,
    Snapshot,
    StoreUnavailable,
    StreamConflict,
    StreamHistory,
    Wanted,
)
from contracts.envelope import Recorded
from contracts.identity import parse_stream
from tests.fakes import SentLook, news_of

V = TypeVar("V")

CommitFate = Literal["stored", "answer_lost", "refused"]


class Exchange(StrEnum):
    """Where a process talks to the store: it may be stopped, killed or cut off right before."""

    LOOK = "look"
    LOCK = "lock"
    APPEND = "append"
    COMMIT = "commit"
    APPEND_AFTER = "append_after"
    ANSWER = "answer"


class Unwritable(Exception):
    """An event that no store can take: a defect of whoever decided it, and of nobody else in its batch."""


class Backup(NamedTuple):
    """How far a store was when it was backed up: all that is needed, for whatever comes later is added, not changed."""

    committed: int
    last_offset: int
    burnt: int


class Faults(Protocol):
    """What may go wrong for one process."""

    def before(self, exchange: Exchange) -> None:
        """Called before each exchange: may let others run, raise StoreUnavailable, or kill the process."""
        ...

    def commit(self) -> CommitFate:
        """What becomes of the commit that is about to happen."""
        ...

    def after_commit(self) -> None:
        """Called when a commit is durable and its answer on the way: the process may die of it."""
        ...


class NoFaults:
    """Everything works."""

    def before(self, exchange: Exchange) -> None:
        """Go on."""

    def commit(self) -> CommitFate:
        """It is stored."""
        return "stored"

    def after_commit(self) -> None:
        """Go on."""


class Store:
    """What outlives every process. All that is stored is kept by commit, so that a reader keeps what it began with.

    A batch is written in place under a commit number that nobody else sees before it is committed; undoing takes it
    away again and leaves a gap in the offsets, as a real sequence does.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        epoch: str = "e1",
        is_unwritable: Callable[[NewEvent], bool] = lambda _event: False,
    ) -> None:
        self.clock = clock
        self.is_unwritable = is_unwritable
        self.epoch = epoch
        self.starts = 1  # Of the server: each breaks all connections.
        self.lock = Lock()
        self.holder: _Holding | None = None  # Whoever has the append lock.
        self.committed = 0
        self.events: list[Recorded] = []
        self.offsets: list[int] = []
        self.last_offset = 0  # Of what is committed.
        self.streams: dict[str, list[Recorded]] = {}
        self.answers: dict[CommandKey, tuple[int, LoggedAnswer]] = {}
        self.counts: dict[str, list[tuple[int, int]]] = {}
        self.snapshots: dict[str, list[tuple[int, Snapshot]]] = {}
        self.on_commit: list[Callable[[Sequence[Recorded]], None]] = []
        self._burnt = 0  # The last offset ever given, committed or not.
        self._undo: list[Callable[[], object]] = []

    def expel(self) -> None:
        """End the transaction of whoever holds the lock: what a server does when a client is silent for too long."""
        if self.holder is not None:
            self.holder.end()

    def back_up(self) -> Backup:
        """What is committed by now. The sequence of offsets is no part of any transaction."""
        return Backup(self.committed, self.last_offset, self._burnt)

    def restore(self, backup: Backup) -> dict[CommandKey, LoggedAnswer]:
        """Put a backup in the place of what is there; returns the answers that are lost. Offsets are given out again.

        The server is stopped for it: transactions end, and every connection breaks.
        """
        self.expel()
        self.starts += 1
        kept = bisect_right(self.offsets, backup.last_offset)
        for event in reversed(self.events[kept:]):
            self.streams[event.stream].pop()
        del self.events[kept:], self.offsets[kept:]
        lost = {key: logged for key, (commit, logged) in self.answers.items() if commit > backup.committed}
        for key in lost:
            del self.answers[key]
        _forget_after(backup.committed, self.counts)
        _forget_after(backup.committed, self.snapshots)
        self.committed, self.last_offset, self._burnt = backup
        return lost

    def write(self, batch: Batch, last_offset: int) -> list[int]:
        """Write a batch under the commit to come. Raises StreamConflict or Unwritable: then all is to be undone."""
        commit = self.committed + 1
        if taken := batch.new_counts & self.counts.keys():
            raise StreamConflict(f"counters {taken} are there already")
        offsets = [self._write_event(new) for new in batch.events]
        end = offsets[-1] if offsets else last_offset
        for answer, index in zip(batch.answers, batch.answer_events, strict=True):
            if answer.key in self.answers:
                raise StreamConflict(f"command {answer.key} is already answered")
            offset = offsets[index] if index >= 0 else end
            self.answers[answer.key] = (commit, answer._replace(offset=offset))
            self._undo.append(lambda key=answer.key: self.answers.pop(key))  # type: ignore[misc]
        for key, value in batch.counts.items():
            self._put(self.counts, key, (commit, value))
        for snapshot in batch.snapshots:
            self._put(self.snapshots, snapshot.stream, (commit, snapshot))
        return offsets

    def commit(self, effects: Sequence[Callable[[], None]] = ()) -> None:
        """Make what was written visible, together with what is written beside the log."""
        self._undo.clear()
        for effect in effects:
            effect()
        self.committed += 1
        begun = bisect_right(self.offsets, self.last_offset)
        if news := self.events[begun:]:
            self.last_offset = news[-1].offset
            for listener in self.on_commit:
                listener(news)

    def undo(self) -> None:
        """Take away what was written and not committed."""
        while self._undo:
            self._undo.pop()()

    def _write_event(self, new: NewEvent) -> int:
        if self.is_unwritable(new):
            raise Unwritable(f"{new.event.type} cannot be written")
        earlier = self.streams.setdefault(new.stream, [])
        if new.version != len(earlier) + 1:
            raise StreamConflict(f"{new.stream} is at version {len(earlier)}, so {new.version} cannot follow")
        self._burnt += 1
        recorded = Recorded(self._burnt, new.stream, new.version, new.event, new.metadata)
        for kept in (earlier, self.events):
            kept.append(recorded)
            self._undo.append(kept.pop)
        self.offsets.append(recorded.offset)
        self._undo.append(self.offsets.pop)
        return recorded.offset

    def _put(self, table: dict[str, list[V]], key: str, value: V) -> None:
        versions = table.setdefault(key, [])
        versions.append(value)

        def undo() -> None:
            versions.pop()
            if not versions:
                del table[key]

        self._undo.append(undo)


class SimulatedLog:
    """One process's handle on the store: an event log like any other, when nothing goes wrong."""

    def __init__(
        self, store: Store, faults: Faults | None = None, *, shard: int = 0, lock_timeout_seconds: float = 0.0
    ) -> None:
        self._store = store
        self._faults = faults or NoFaults()
        self._shard = shard
        self._epoch = store.epoch
        self._start = store.starts
        self._lock_timeout_seconds = lock_timeout_seconds
        self.on_its_way: OnItsWay | None = None  # Sent, and its answer not read yet.

    @property
    def shard(self) -> int:
        """Which shard."""
        return self._shard

    @property
    def epoch(self) -> str:
        """Which history, as this handle heard of it last."""
        return self._epoch

    @contextmanager
    def appending(self) -> Iterator["_Transaction"]:
        """Take the append lock; commit when the block ends, roll back when it raises."""
        self._exchange(Exchange.LOCK)
        store = self._store
        if not store.lock.acquire(timeout=self._lock_timeout_seconds):
            raise StoreUnavailable("the append lock is held by somebody else")
        holding = _Holding(store)
        try:
            self._notice_restore()
            transaction = _Transaction(store, self._faults, holding)
            yield transaction
            self._faults.before(Exchange.COMMIT)
            self._commit(holding, transaction.effects)
        except BaseException:
            holding.end()
            raise
        self._faults.after_commit()

    @contextmanager
    def reading(self) -> Iterator[ReadView]:
        """A view of this instant, without the lock."""
        self._exchange(Exchange.LOOK)
        self._notice_restore()
        yield _View(self._store, self._store.committed)

    def glancing(self) -> Glance:
        """A view that sees what is stored at the moment of each look."""
        return _Glance(self._look)

    def prepared(self, batch: Batch) -> "OnItsWay":
        """A batch that the server stores some time between its sending and the end of the waiting for it."""
        return OnItsWay(self, batch)

    def append_after(self, head: int, batch: Batch, epoch: str) -> Sequence[int]:
        """What the server does about it: nobody can come between, and its sender need not live."""
        store = self._store
        if not store.lock.acquire(timeout=self._lock_timeout_seconds):
            raise StoreUnavailable("the append lock is held by somebody else")
        holding = _Holding(store)
        try:
            if store.last_offset != head or epoch != store.epoch:
                raise HeadMoved(f"the log is at {store.last_offset}, not at {head}")
            offsets = store.write(batch, head)
            self._commit(holding)
        except BaseException:
            holding.end()
            raise
        return offsets

    def _exchange(self, exchange: Exchange) -> None:
        """Raises StoreUnavailable on a connection that broke, once."""
        self._faults.before(exchange)
        if self._start != self._store.starts:
            self._start = self._store.starts
            raise StoreUnavailable("the server was stopped, and the connection with it")

    def _notice_restore(self) -> None:
        """Raises StoreUnavailable, once: whatever was remembered of the store is void."""
        if self._epoch != self._store.epoch:
            self._epoch = self._store.epoch
            raise StoreUnavailable("the epoch changed: the store was restored")

    def _look(self) -> "_View":
        self._exchange(Exchange.LOOK)
        self._notice_restore()
        return _View(self._store, self._store.committed)

    def now(self) -> datetime:
        """What the database's clock shows."""
        return self._store.clock()

    def _commit(self, holding: "_Holding", effects: Sequence[Callable[[], None]] = ()) -> None:
        holding.require()
        match self._faults.commit():
            case "stored":
                self._store.commit(effects)
                holding.end()
            case "answer_lost":
                self._store.commit(effects)
                raise StoreUnavailable("the connection was lost at commit")
            case "refused":
                raise StoreUnavailable("the connection was lost at commit")


class OnItsWay:
    """A batch on its way: the server has it, and has stored it or not. Lost only when the server stops."""

    def __init__(self, log: SimulatedLog, batch: Batch) -> None:
        self._log = log
        self._batch = batch
        self._head, self._epoch, self._start = 0, "", 0
        self._outcome: Sequence[int] | Exception | None = None

    def send_after(self, head: int, *, epoch: str | None = None, patient: bool = True) -> bool:
        log = self._log
        log._exchange(Exchange.APPEND_AFTER)
        self._head, self._epoch, self._start = head, epoch or log.epoch, log._store.starts
        log.on_its_way = self
        return True

    def land(self) -> bool:
        """Let the server get on with it; whether it had anything left to do. Whoever holds the lock is waited for."""
        store = self._log._store
        if self._outcome is not None or store.holder is not None:
            return False
        self._settle()
        return True

    def fileno(self) -> int | None:
        return None

    def offsets(self) -> Sequence[int]:
        log = self._log
        try:
            log._exchange(Exchange.ANSWER)
            if self._outcome is None:
                self._settle()
        finally:
            log.on_its_way = None
        if isinstance(self._outcome, Exception):
            raise self._outcome
        log._faults.after_commit()
        assert self._outcome is not None
        return self._outcome

    def _settle(self) -> None:
        if self._start != self._log._store.starts:
            self._outcome = StoreUnavailable("the server was stopped, and what it was sent is lost")
            return
        try:
            self._outcome = self._log.append_after(self._head, self._batch, self._epoch)
        except Exception as failure:  # noqa: BLE001 - told to whoever waits for it, if anybody lives who does.
            self._outcome = failure


class _Holding:
    """The append lock in somebody's hands, until it ends or the server ends it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ended = False
        store.holder = self

    def require(self) -> None:
        """Raises StoreUnavailable when the server has ended this transaction meanwhile."""
        if self._ended:
            raise StoreUnavailable("the server ended the transaction of a process that kept the lock and was silent")

    def end(self) -> None:
        """Roll back what is not committed, and release the lock. Once."""
        if not self._ended:
            self._ended = True
            self._store.undo()
            self._store.holder = None
            self._store.lock.release()


class _View:
    """Reads of what one commit, and all before it, left."""

    def __init__(self, store: Store, commit: int) -> None:
        self._store = store
        self._commit = commit
        self._last_offset = store.last_offset
        self._start = store.starts
        now = store.clock()
        at = bisect_right(store.offsets, self._last_offset)
        self.store_now = max(now, store.events[at - 1].metadata.recorded_at) if at else now
        self.time_runs = not at or now > store.events[at - 1].metadata.recorded_at

    @property
    def last_offset(self) -> int:
        return self._last_offset

    def events_after(
        self, offset: int, limit: int, concerning: Callable[[str], bool] | None = None
    ) -> Sequence[Recorded]:
        store = self._connected
        first, last = bisect_right(store.offsets, offset), bisect_right(store.offsets, self._last_offset)
        found = store.events[first : min(first + limit, last)]
        return found if concerning is None else [event for event in found if concerning(event.stream)]

    def answers(self, keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
        answers = self._connected.answers
        found = ((key, answers.get(key)) for key in keys)
        return {key: each[1] for key, each in found if each is not None and each[0] <= self._commit}

    def counts(self, keys: Collection[str]) -> Mapping[str, int]:
        counts = self._connected.counts
        found = ((key, _latest(counts.get(key, ()), self._commit)) for key in keys)
        return {key: value for key, value in found if value is not None}

    def histories(
        self, streams: Collection[str], *, schema_hashes: Mapping[str, str] | None = None, until: datetime | None = None
    ) -> Mapping[str, StreamHistory]:
        hashes = {} if schema_hashes is None or until is not None else schema_hashes
        found = {stream: self._history(stream, hashes, until) for stream in streams}
        return {stream: history for stream, history in found.items() if history.snapshot or history.events}

    def look(self, wanted: Wanted) -> Seen:
        histories = self.histories(wanted.streams, schema_hashes=wanted.schema_hashes)
        return Seen(news_of(histories, wanted.known), self.answers(wanted.answers), self.counts(wanted.counts))

    @property
    def _connected(self) -> Store:
        if self._start != self._store.starts:
            raise StoreUnavailable("the server was stopped, and the connection with it")
        return self._store

    def _history(self, stream: str, hashes: Mapping[str, str], until: datetime | None) -> StreamHistory:
        events: Sequence[Recorded] = self._connected.streams.get(stream, ())
        if events and events[-1].offset > self._last_offset:
            events = [event for event in events if event.offset <= self._last_offset]
        snapshot = _latest(self._store.snapshots.get(stream, ()), self._commit) if hashes else None
        if snapshot is not None and snapshot.schema_hash != hashes.get(parse_stream(stream).kind):
            snapshot = None
        if until is not None:
            events = [event for event in events if event.metadata.occurred_at <= until]
        return StreamHistory(snapshot, list(events[snapshot.version if snapshot is not None else 0 :]))


class _Glance:
    """A view of whatever is stored by now."""

    def __init__(self, look: Callable[[], _View]) -> None:
        self._look = look
        self._seen: _View | None = None

    @property
    def store_now(self) -> datetime:
        return self._latest.store_now

    @property
    def time_runs(self) -> bool:
        return self._latest.time_runs

    @property
    def last_offset(self) -> int:
        return self._latest.last_offset

    def events_after(
        self, offset: int, limit: int, concerning: Callable[[str], bool] | None = None
    ) -> Sequence[Recorded]:
        return self._again().events_after(offset, limit, concerning)

    def answers(self, keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
        return self._again().answers(keys)

    def counts(self, keys: Collection[str]) -> Mapping[str, int]:
        return self._again().counts(keys)

    def histories(
        self, streams: Collection[str], *, schema_hashes: Mapping[str, str] | None = None, until: datetime | None = None
    ) -> Mapping[str, StreamHistory]:
        return self._again().histories(streams, schema_hashes=schema_hashes, until=until)

    def look(self, wanted: Wanted) -> Seen:
        return self._again().look(wanted)

    def send(self, wanted: Wanted) -> SentLook:
        """It is looked at once, and what is stored until somebody waits for it is not seen: the worst case."""
        view = self._again()
        return SentLook(lambda: view.look(wanted))

    @property
    def _latest(self) -> _View:
        return self._seen or self._again()

    def _again(self) -> _View:
        self._seen = self._look()
        return self._seen


class _Transaction(_View):
    """A view that can also append; what it appended is visible to itself at once.

    ``effects`` is what else happens if it commits: rows of other tables, which nobody looks at before that.
    """

    def __init__(self, store: Store, faults: Faults, holding: _Holding) -> None:
        super().__init__(store, store.committed)
        self.effects: list[Callable[[], None]] = []
        self._faults = faults
        self._holding = holding

    def look(self, wanted: Wanted) -> Seen:
        self._faults.before(Exchange.LOOK)
        self._holding.require()
        return super().look(wanted)

    def append(self, batch: Batch) -> Sequence[int]:
        self._faults.before(Exchange.APPEND)
        self._holding.require()
        offsets = self._store.write(batch, self._last_offset)
        self._commit = self._store.committed + 1
        self._last_offset = offsets[-1] if offsets else self._last_offset
        return offsets


def _forget_after(commit: int, table: dict[str, list[tuple[int, V]]]) -> None:
    for key, versions in list(table.items()):
        if versions[-1][0] > commit:
            table[key] = [each for each in versions if each[0] <= commit]
            if not table[key]:
                del table[key]


def _latest(versions: Sequence[tuple[int, V]], commit: int) -> V | None:
    return next((value for number, value in reversed(versions) if number <= commit), None)


def _is_an_event_log(log: SimulatedLog) -> EventLog:
    """Lets the type checker prove that the fake fits the port."""
    return log


def _is_a_transaction(transaction: _Transaction) -> AppendTransaction:
    return transaction


def real_clock() -> datetime:
    """For tests of the store alone."""
    return datetime.now(UTC)
