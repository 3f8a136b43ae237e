"""What the write side needs of a store: one append path that hands out a consistent view while nobody else writes."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import repeat
from typing import Any, Literal, NamedTuple, Protocol

from contracts.envelope import CommandEnvelope, Metadata, Recorded
from contracts.events import Event
from contracts.events.series import EventSeries
from contracts.identity import Realm


class CommandKey(NamedTuple):
    """What a command id is unique within."""

    realm: Realm
    command_id: str


class LoggedAnswer(NamedTuple):
    """One row of the command log: what was asked (as a digest) and what was answered, for good."""

    key: CommandKey
    command_type: str
    content_hash: str
    status: Literal["accepted", "refused"]
    code: str
    detail: str
    data: Mapping[str, Any]
    offset: int = 0  # Where the effect is; filled in by the store when it appends.


class NewEvent(NamedTuple):
    """An event about to be stored at an exact version of its stream."""

    stream: str
    version: int
    event: Event
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class NewSeries:
    """The first events of many new streams, as columns: none of them is an object before somebody asks.

    ``causes``: the command of each event; none when all are one command's, whose metadata they have.
    """

    streams: Sequence[str]
    events: EventSeries
    event_ids: Sequence[str]
    metadata: Metadata  # Of all of them, but for the event's own id and what its cause says.
    causes: Sequence[CommandEnvelope] = ()

    def __len__(self) -> int:
        return len(self.streams)

    def __iter__(self) -> Iterator[NewEvent]:
        about, times = self.metadata[1:], (self.metadata.occurred_at, self.metadata.recorded_at)
        abouts = [(*times, *cause.described()) for cause in self.causes] or repeat(about, len(self))
        for stream, event, event_id, each in zip(self.streams, self.events, self.event_ids, abouts, strict=True):
            yield NewEvent(stream, 1, event, Metadata(event_id, *each))


class NewEvents(Collection[NewEvent]):
    """Events about to be stored, in order; those of a series count one by one."""

    __slots__ = ("_inside_series", "parts")

    def __init__(self) -> None:
        self.parts: list[NewEvent | NewSeries] = []
        self._inside_series = 0

    def append(self, part: NewEvent | NewSeries) -> None:
        """One more, or a series of them."""
        self.parts.append(part)
        if isinstance(part, NewSeries):
            self._inside_series += len(part) - 1

    def __len__(self) -> int:
        return len(self.parts) + self._inside_series

    def __iter__(self) -> Iterator[NewEvent]:
        for part in self.parts:
            if isinstance(part, NewSeries):
                yield from part
            else:
                yield part

    def __contains__(self, event: object) -> bool:
        return any(event == each for each in self)


def parts_of(events: Collection[NewEvent]) -> Collection[NewEvent | NewSeries]:
    """Events with their series in one piece."""
    return events.parts if isinstance(events, NewEvents) else events


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stream's state at a version; useless (fold again) when ``schema_hash`` is not today's."""

    stream: str
    version: int
    schema_hash: str
    state: bytes


@dataclass(frozen=True, slots=True)
class StreamHistory:
    """How to rebuild one stream's state: the latest snapshot, if any, and the events after it."""

    snapshot: Snapshot | None
    events: Sequence[Recorded]


@dataclass(slots=True)
class Batch:
    """Everything that one transaction stores together."""

    events: Collection[NewEvent] = ()
    answers: list[LoggedAnswer] = field(default_factory=list)  # `offset` is ignored.
    answer_events: list[int] = field(default_factory=list)  # Per answer: index of its last event here, or -1.
    counts: dict[str, int] = field(default_factory=dict)  # Guard key -> new absolute value.
    new_counts: Set[str] = frozenset()  # Those of them that must not be there yet.
    snapshots: list[Snapshot] = field(default_factory=list)


class StoreUnavailable(Exception):
    """The store cannot be reached or did not answer in time. Whether a commit landed is then unknown: ask the log."""


class StreamConflict(Exception):
    """Somebody else stored a version or an answer that this batch wanted: what it was decided on was stale."""


class HeadMoved(Exception):
    """Somebody appended after the offset that a batch was decided on. Nothing of it was stored: decide it again."""


class Wanted(NamedTuple):
    """What a look is to bring: histories of streams (``schema_hashes`` as in ReadView.histories), answers, counters.

    ``known``: up to which version the asker knows a stream (absent: not at all). Only what came after it is brought.
    """

    streams: Collection[str] = ()
    schema_hashes: Mapping[str, str] | None = None
    answers: Collection[CommandKey] = ()
    counts: Collection[str] = ()
    known: Mapping[str, int] | None = None


class Seen(NamedTuple):
    """What a look brought; what is not stored is absent."""

    histories: Mapping[str, StreamHistory]
    answers: Mapping[CommandKey, LoggedAnswer]
    counts: Mapping[str, int]


class ReadView(Protocol):
    """A consistent look at the store."""

    @property
    def store_now(self) -> datetime:
        """The later of the database's clock and the last recorded event's time."""
        ...

    @property
    def time_runs(self) -> bool:
        """Whether that is the clock's: set back, it stands still until the clock has caught up with what is stored."""
        ...

    @property
    def last_offset(self) -> int:
        """The offset of the last event in the log, 0 when it is empty."""
        ...

    def events_after(
        self, offset: int, limit: int, concerning: Callable[[str], bool] | None = None
    ) -> Sequence[Recorded]:
        """The log after an offset, in order; of ``limit`` events those whose streams concern the caller."""
        ...

    def answers(self, keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
        """The logged answers among these ids."""
        ...

    def histories(
        self, streams: Collection[str], *, schema_hashes: Mapping[str, str] | None = None, until: datetime | None = None
    ) -> Mapping[str, StreamHistory]:
        """What is stored of these streams; absent ones are absent.

        ``schema_hashes``: kind -> today's hash; a snapshot with another hash is not used. ``until``: only events
        that had occurred by then (business time), and no snapshots.
        """
        ...

    def counts(self, keys: Collection[str]) -> Mapping[str, int]:
        """The guard counters among these keys; absent ones are zero."""
        ...

    def look(self, wanted: Wanted) -> Seen:
        """Several of the above in one round trip."""
        ...


class Look(Protocol):
    """A look that was sent. For one thread at a time."""

    def fileno(self) -> int | None:
        """A file that can be read from once there is news of it; None when nothing has to be waited for."""
        ...

    def seen(self) -> Seen:
        """Wait for what it brought. Once; raises as :meth:`ReadView.look` does."""
        ...


class Glance(ReadView, Protocol):
    """A view without lock or transaction: every look sees what is stored at that moment.

    ``store_now``, ``time_runs`` and ``last_offset`` are those of the latest look.
    """

    def send(self, wanted: Wanted) -> Look:
        """Begin to look, and do not wait for what it brings. A look that nobody waited for is void from then on."""
        ...


class AppendTransaction(ReadView, Protocol):
    """A view taken under the append lock: nobody else appends until it ends."""

    def append(self, batch: Batch) -> Sequence[int]:
        """Store the batch; returns the events' offsets.

        Raises StreamConflict when a version is already taken, or a counter there that was taken for new.
        """
        ...


class PreparedAppend(Protocol):
    """A batch on its way into the log: sent once, then waited for. For one thread at a time."""

    def send_after(self, head: int, *, epoch: str | None = None, patient: bool = True) -> bool:
        """Have it stored, provided that ``head`` is still the log's last offset. Returns as soon as it is sent.

        ``epoch`` is the history that ``head`` belongs to (None: the one that was last seen). Who is not ``patient`` is
        told False, and nothing was sent, where somebody else in this process would have to be waited for.

        Takes the append lock, compares, stores and commits in one exchange, so that nobody ever waits for a process
        that stopped in between. From here on nobody else in this process can append until :meth:`offsets` was called.
        Raises StoreUnavailable: out of reach, or its fate is unknown; there are no offsets to wait for then.
        """
        ...

    def fileno(self) -> int | None:
        """A file that can be read from once there is news of what was sent; None when there is no such file."""
        ...

    def offsets(self) -> Sequence[int]:
        """Wait until it is stored; the events' offsets. Once.

        Raises HeadMoved or StreamConflict (nothing was stored), or StoreUnavailable (the commit's fate is unknown).
        """
        ...


class EventLog(Protocol):
    """One shard's log."""

    @property
    def shard(self) -> int:
        """Which shard."""
        ...

    @property
    def epoch(self) -> str:
        """Which history: changes when the store was restored to an earlier state."""
        ...

    def appending(self) -> AbstractContextManager[AppendTransaction]:
        """Take the append lock; commit when the block ends, roll back when it raises.

        Raises StoreUnavailable when the store is out of reach or the commit's fate is unknown.
        """
        ...

    def reading(self) -> AbstractContextManager[ReadView]:
        """A read-only view of one instant (repeatable read), without the lock."""
        ...

    def glancing(self) -> Glance:
        """A look at whatever is stored. For one thread at a time.

        What is decided on it holds only if nobody appended meanwhile, which :meth:`prepared` makes sure of.
        """
        ...

    def prepared(self, batch: Batch) -> "PreparedAppend":
        """A batch made ready to be sent, so that nothing but sending is left once it is known what it comes after.

        Raises StoreUnavailable, StreamConflict (its versions contradict each other), or what is wrong with an event
        that cannot be written.
        """
        ...
