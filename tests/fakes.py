"""Hand-written stand-ins for what the write side needs of the world; each passes the same tests as the real thing."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock

from command.ports import (
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


@dataclass(frozen=True)
class _State:
    """Everything stored at one instant. Never changed: a commit replaces it, so a reader keeps what it began with."""

    events: tuple[Recorded, ...] = ()
    streams: Mapping[str, tuple[Recorded, ...]] = field(default_factory=dict)
    answers: Mapping[CommandKey, LoggedAnswer] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)

    @property
    def last_offset(self) -> int:
        return len(self.events)


class InMemoryEventLog:
    """One shard's log in memory, with the lock, the order and the errors of the real one.

    ``clock`` gives the "database's" time. :meth:`lose_next_commit` plays a connection that dies at commit.
    """

    def __init__(
        self,
        *,
        shard: int = 0,
        epoch: str = "e1",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        lock_timeout_seconds: float = 5.0,
    ) -> None:
        self._shard = shard
        self._epoch = epoch
        self._clock = clock
        self._lock_timeout_seconds = lock_timeout_seconds
        self._append_lock = Lock()
        self._state = _State()
        self._lost_commit_landed: bool | None = None

    @property
    def shard(self) -> int:
        """Which shard."""
        return self._shard

    @property
    def epoch(self) -> str:
        """Which history."""
        return self._epoch

    def lose_next_commit(self, *, landed: bool) -> None:
        """Let the next commit raise StoreUnavailable, with its effect stored (``landed``) or not."""
        self._lost_commit_landed = landed

    @contextmanager
    def appending(self) -> Iterator["_Transaction"]:
        """Take the append lock; commit when the block ends, roll back when it raises."""
        if not self._append_lock.acquire(timeout=self._lock_timeout_seconds):
            raise StoreUnavailable("the append lock is held by somebody else")
        try:
            transaction = _Transaction(self._state, self._clock())
            yield transaction
            self._commit(transaction)
        finally:
            self._append_lock.release()

    @contextmanager
    def reading(self) -> Iterator[ReadView]:
        """A view of this instant, without the lock."""
        yield _View(self._state, self._clock())

    def glancing(self) -> Glance:
        """A view that sees what is stored at the moment of each look."""
        return _Glance(lambda: _View(self._state, self._clock()))

    def prepared(self, batch: Batch) -> "_Prepared":
        """A batch that is stored when somebody waits for it."""
        return _Prepared(self, batch)

    def append_after(self, head: int, batch: Batch, *, epoch: str | None = None) -> Sequence[int]:
        """Store a batch if the log still ends at ``head``."""
        with self.appending() as transaction:
            if transaction.last_offset != head or epoch not in {None, self._epoch}:
                raise HeadMoved(f"the log is at {transaction.last_offset}, not at {head}")
            return transaction.append(batch)

    def now(self) -> datetime:
        """What the "database's" clock shows."""
        return self._clock()

    def _commit(self, transaction: "_Transaction") -> None:
        landed, self._lost_commit_landed = self._lost_commit_landed, None
        if landed is not False:
            self._state = transaction.state
            for effect in transaction.effects:
                effect()
        if landed is not None:
            raise StoreUnavailable("the connection was lost at commit")


class _Prepared:
    """A batch on its way."""

    def __init__(self, log: InMemoryEventLog, batch: Batch) -> None:
        self._log = log
        self._batch = batch
        self._sent: tuple[int, str | None] | None = None

    def send_after(self, head: int, *, epoch: str | None = None, patient: bool = True) -> bool:
        self._sent = head, epoch
        return True

    def fileno(self) -> int | None:
        return None

    def offsets(self) -> Sequence[int]:
        assert self._sent is not None
        (head, epoch), self._sent = self._sent, None
        return self._log.append_after(head, self._batch, epoch=epoch)


class _View:
    """Reads of one state."""

    def __init__(self, state: _State, now: datetime) -> None:
        self.state = state
        last_recorded_at = state.events[-1].metadata.recorded_at if state.events else now
        self.store_now = max(now, last_recorded_at)
        self.time_runs = now > last_recorded_at or not state.events

    @property
    def last_offset(self) -> int:
        return self.state.last_offset

    def events_after(
        self, offset: int, limit: int, concerning: Callable[[str], bool] | None = None
    ) -> Sequence[Recorded]:
        found = self.state.events[offset : offset + limit]
        return [event for event in found if concerning is None or concerning(event.stream)]

    def answers(self, keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
        return {key: answer for key in keys if (answer := self.state.answers.get(key)) is not None}

    def counts(self, keys: Collection[str]) -> Mapping[str, int]:
        return {key: count for key in keys if (count := self.state.counts.get(key)) is not None}

    def histories(
        self, streams: Collection[str], *, schema_hashes: Mapping[str, str] | None = None, until: datetime | None = None
    ) -> Mapping[str, StreamHistory]:
        hashes = {} if schema_hashes is None or until is not None else schema_hashes
        found: dict[str, StreamHistory] = {}
        for stream in streams:
            events = self.state.streams.get(stream, ())
            snapshot = self.state.snapshots.get(stream)
            if snapshot is not None and snapshot.schema_hash != hashes.get(parse_stream(stream).kind):
                snapshot = None
            if snapshot is not None:
                events = tuple(event for event in events if event.version > snapshot.version)
            if until is not None:
                events = tuple(event for event in events if event.metadata.occurred_at <= until)
            if snapshot is not None or events:
                found[stream] = StreamHistory(snapshot, events)
        return found

    def look(self, wanted: Wanted) -> Seen:
        histories = self.histories(wanted.streams, schema_hashes=wanted.schema_hashes)
        return Seen(news_of(histories, wanted.known), self.answers(wanted.answers), self.counts(wanted.counts))


def news_of(histories: Mapping[str, StreamHistory], known: Mapping[str, int] | None) -> Mapping[str, StreamHistory]:
    """What came after the versions that are known; streams without news are absent."""
    if known is None:
        return histories
    news: dict[str, StreamHistory] = {}
    for stream, history in histories.items():
        version = known.get(stream, 0)
        snapshot = history.snapshot if history.snapshot and history.snapshot.version > version else None
        events = [event for event in history.events if event.version > version]
        if snapshot is not None or events:
            news[stream] = StreamHistory(snapshot, events)
    return news


class _Glance:
    """A view of whatever is stored by now."""

    def __init__(self, look: Callable[[], _View]) -> None:
        self._look = look
        self._latest = look()

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

    def send(self, wanted: Wanted) -> "SentLook":
        return SentLook(lambda: self.look(wanted))

    def _again(self) -> _View:
        self._latest = self._look()
        return self._latest


class SentLook:
    """A look on its way: ``seen`` says what it brought, to whoever waits for it."""

    def __init__(self, seen: Callable[[], Seen]) -> None:
        self.seen = seen

    def fileno(self) -> int | None:
        return None


class _Transaction(_View):
    """A view that can also append; what it appended is visible to itself at once.

    ``effects`` is what else happens if it commits: rows of other tables, which nobody looks at before that.
    """

    def __init__(self, state: _State, now: datetime) -> None:
        super().__init__(state, now)
        self.effects: list[Callable[[], None]] = []

    def append(self, batch: Batch) -> Sequence[int]:
        before = self.state
        if taken := batch.new_counts & before.counts.keys():
            raise StreamConflict(f"counters {taken} are there already")
        streams = dict(before.streams)
        recorded = [_record(new, before.last_offset + nth, streams) for nth, new in enumerate(batch.events, start=1)]
        offsets = [event.offset for event in recorded]
        last_offset = offsets[-1] if offsets else before.last_offset
        answers = dict(before.answers)
        for answer, index in zip(batch.answers, batch.answer_events, strict=True):
            if answer.key in answers:
                raise StreamConflict(f"command {answer.key} is already answered")
            answers[answer.key] = answer._replace(offset=offsets[index] if index >= 0 else last_offset)
        self.state = _State(
            events=(*before.events, *recorded),
            streams=streams,
            answers=answers,
            counts={**before.counts, **batch.counts},
            snapshots={**before.snapshots, **{snapshot.stream: snapshot for snapshot in batch.snapshots}},
        )
        return offsets


def _record(new: NewEvent, offset: int, streams: dict[str, tuple[Recorded, ...]]) -> Recorded:
    earlier = streams.get(new.stream, ())
    if new.version != len(earlier) + 1:
        raise StreamConflict(f"{new.stream} is at version {len(earlier)}, so {new.version} cannot follow")
    recorded = Recorded(offset, new.stream, new.version, new.event, new.metadata)
    streams[new.stream] = (*earlier, recorded)
    return recorded


def _is_an_event_log(log: InMemoryEventLog) -> EventLog:
    """Lets the type checker prove that the fake fits the port."""
    return log
