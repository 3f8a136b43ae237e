"""One batch of decisions: a command sees what earlier ones of its batch decided; a refused one leaves no trace."""

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

from command.domain.clock import CLOCK
from command.ports import (
    CommandKey,
    Glance,
    LoggedAnswer,
    Look,
    NewEvent,
    NewEvents,
    NewSeries,
    ReadView,
    Snapshot,
    StreamHistory,
    Wanted,
)
from command.states import Begun, Entry, SnapshotFormats, StateCache, fold
from command.unit_of_work import Kind
from contracts.envelope import CommandEnvelope, Metadata
from contracts.events import Event
from contracts.events.series import EventSeries
from contracts.identity import REALMS_REMEMBERED_MAX, Realm, are_plain, escape, stream_id

S = TypeVar("S")
Merge = Callable[[Event, Event], Event | None]

CLOCK_KEY = "main"


class Target(NamedTuple):
    """A stream together with what kind it is."""

    stream: str
    kind: Kind[Any]


class BatchView:
    """The states and counters that one batch reads and changes, fetched from the store when they are not known.

    ``earlier`` is a batch that is being stored while this one is decided: what it decided counts as stored.
    ``assumed_now`` serves until the first look has brought the store's time: for guessing what to look for.
    """

    def __init__(
        self,
        view: ReadView,
        cache: StateCache | None,
        formats: SnapshotFormats,
        *,
        glance: Glance | None = None,
        earlier: "BatchView | None" = None,
        assumed_now: datetime | None = None,
        until: datetime | None = None,
    ) -> None:
        self._view = view
        self._glance = glance  # The view, if it is one that can be waited for.
        self._cache = cache
        self._formats = formats
        self._earlier = earlier
        self._not_before = None if earlier is None else earlier.store_now
        self._assumed_now = assumed_now
        self._store_now: datetime | None = None
        self._until = until
        self.entries: dict[str, Entry] = {}
        self.loaded: dict[str, Entry] = {}  # As they were before this batch; what it created is absent.
        self.begun: dict[str, Begun] = {}  # Streams of one event, whose states nobody has asked for.
        self.begun_by_each: dict[str, Begun] = {}  # Those of them that commands of their own began.
        self.counts: dict[str, int] = {}
        self._changed_counts: set[str] = set()
        self._absent_counts: set[str] = set()  # Those that the store was asked for and does not have, or was not asked.
        self._guessed_counts: set[str] = set()  # It was not asked for these.
        self.events = NewEvents()
        self._latest: dict[str, int] = {}  # Of streams whose events may be merged: which part the latest one is.

    @property
    def store_now(self) -> datetime:
        """The store's time, one for the whole batch and never earlier than that of the batch before."""
        if self._store_now is None:
            if self._assumed_now is not None:
                return self._assumed_now
            now = self._view.store_now
            self._store_now = now if self._not_before is None else max(now, self._not_before)
        return self._store_now

    @property
    def time_runs(self) -> bool:
        """Whether the store's clock shows this time: nothing that is stored, or is being stored, is later."""
        return self._view.time_runs and self.store_now <= self._view.store_now

    def look(
        self, targets: Iterable[Target], answers: Iterable[CommandKey], counts: Iterable[str]
    ) -> Generator[Look, None, Mapping[CommandKey, LoggedAnswer]]:
        """Fetch all that is not known yet of states and counters, and the logged answers, in one round trip.

        At a glance it yields the look, and is to be resumed once there is news of it (or to wait for that).
        """
        missing = self.unknown(targets)
        missing_counts = self._unknown_counts(counts)
        wanted = Wanted(list(missing), self._hashes(missing), list(answers), missing_counts)
        if self._glance is None:
            seen = self._view.look(wanted)
        else:
            look = self._glance.send(wanted)
            yield look
            seen = look.seen()
        self._take_in(missing, seen.histories)
        self._take_in_counts(missing_counts, seen.counts)
        self._assumed_now = None
        return seen.answers

    @property
    def is_ahead(self) -> bool:
        """Whether others may append while it is decided."""
        return self._glance is not None

    def assume(self, now: datetime) -> None:
        """In place of a look: the time."""
        self._store_now = now if self._not_before is None else max(now, self._not_before)

    def guess_absent(self, counts: Iterable[str]) -> None:
        """In place of a look: that the store has none of these counters."""
        missing = self._unknown_counts(counts)
        self._take_in_counts(missing, {})
        self._guessed_counts.update(missing)

    @property
    def shows_wrong_guesses(self) -> bool:
        """Whether its append fails if a counter is there that was guessed not to be: it makes each of them."""
        return self._guessed_counts <= self._changed_counts

    def conclude(self) -> None:
        """All is decided: let go of the batch before, which lets go of the one before it."""
        self._earlier = None

    def prefetch(self, targets: Iterable[Target]) -> None:
        """Load every state that is not known, in one query."""
        if missing := self.unknown(targets):
            hashes = self._hashes(missing)
            self._take_in(missing, self._view.histories(list(missing), schema_hashes=hashes, until=self._until))

    def unknown(self, targets: Iterable[Target]) -> dict[str, Kind[Any]]:
        """The streams whose states are nowhere in memory; those of the others become this batch's."""
        entries = self.entries
        missing: dict[str, Kind[Any]] = {}
        for stream, kind in targets:
            if stream in entries:
                continue
            before = self._before(stream)
            if before is not None:
                self.loaded[stream] = before
            if (begun := self.begun.get(stream)) is not None:  # By this very batch.
                entries[stream] = begun.entry(stream)
            elif before is not None:
                entries[stream] = before
            else:
                missing[stream] = kind
        return missing

    def _before(self, stream: str) -> Entry | None:
        """The state of a stream before this batch, if it is anywhere in memory."""
        entry = None if self._earlier is None else self._earlier.entries.get(stream)
        if entry is None and self._cache is not None:
            entry = self._cache.get(stream)
        if entry is None and self._earlier is not None and (begun := self._earlier.begun.get(stream)) is not None:
            entry = begun.entry(stream)
        return entry

    def _take_in_counts(self, missing: Sequence[str], found: Mapping[str, int]) -> None:
        self.counts.update(dict.fromkeys(missing, 0))
        self.counts.update(found)
        self._absent_counts.update(missing)
        self._absent_counts.difference_update(found)

    def _take_in(self, missing: Mapping[str, Kind[Any]], histories: Mapping[str, StreamHistory]) -> None:
        for stream, kind in missing.items():
            self.entries[stream] = self.loaded[stream] = fold(kind, histories.get(stream), self._formats)

    def _hashes(self, kinds: Mapping[str, Kind[Any]]) -> dict[str, str]:
        return self._formats.hashes(kinds.values())

    def entry(self, target: Target) -> Entry:
        """The state of one stream."""
        if (entry := self.entries.get(target.stream)) is None:
            self.prefetch((target,))
            entry = self.entries[target.stream]
        return entry

    def _unknown_counts(self, keys: Iterable[str]) -> list[str]:
        known, earlier = self.counts, self._earlier
        missing: dict[str, None] = {}
        for key in keys:
            if key in known:
                continue
            if earlier is not None and key in earlier.counts:
                known[key] = earlier.counts[key]
            else:
                missing[key] = None
        return list(missing)

    def count(self, key: str) -> int:
        """The value of one counter."""
        if (value := self.counts.get(key)) is None:
            if self._unknown_counts((key,)):
                self._take_in_counts((key,), self._view.counts((key,)))
            value = self.counts[key]
        return value

    def now_of(self, realm: Realm) -> datetime:
        """The realm's business time: its own clock if it has one, else the store's."""
        shows: datetime | None = self.entry(clock_of(realm)).state.shows
        return self.store_now if shows is None else shows

    def keep(
        self,
        entries: Mapping[str, Entry],
        begun: Mapping[str, Begun],
        counts: Mapping[str, int],
        events: Sequence[NewEvent | NewSeries],
    ) -> None:
        """Take over what one accepted command decided, or a rush of them."""
        self.entries.update(entries)
        if begun:
            self._keep_begun(begun)
        if counts:
            self.counts.update(counts)
            self._changed_counts.update(counts)
        for event in events:
            if isinstance(event, NewSeries) or (merge := entries[event.stream].kind.merge) is None:
                self.events.append(event)
            else:
                self._keep_or_merge(event, merge)

    def _keep_begun(self, begun: Mapping[str, Begun]) -> None:
        self.begun.update(begun)
        self.begun_by_each.update({stream: each for stream, each in begun.items() if each.by_each})
        for stream in begun.keys() & self.entries.keys():  # Somebody had looked before there was anything.
            self.entries[stream] = begun[stream].entry(stream)

    def _keep_or_merge(self, event: NewEvent, merge: Merge) -> None:
        """Append an event, or make it part of the latest one of its stream in this batch."""
        stream = event.stream
        if (place := self._latest.get(stream)) is not None:
            before = self.events.parts[place]
            assert isinstance(before, NewEvent)  # No series is merged with anything.
            both = None
            if before.metadata.occurred_at == event.metadata.occurred_at:
                both = merge(before.event, event.event)
            if both is not None:
                self.events.parts[place] = NewEvent(stream, before.version, both, before.metadata)
                kind, state, version, snapshot_version = self.entries[stream]
                self.entries[stream] = Entry(kind, state, version - 1, snapshot_version)
                return
            event = NewEvent(stream, before.version + 1, event.event, event.metadata)
        self._latest[stream] = len(self.events.parts)
        self.events.append(event)

    def changed_counts(self) -> dict[str, int]:
        """The counters to store."""
        return {key: self.counts[key] for key in self._changed_counts}

    def new_counts(self) -> set[str]:
        """Those of them that are not stored yet, as far as was seen or guessed: stored as new ones, or not at all."""
        return self._changed_counts & self._absent_counts

    def due_snapshots(self, every: int) -> list[Snapshot]:
        """Snapshots of the streams that grew by ``every`` events since their last one; marks them as taken."""
        snapshots = []
        for part in self.events.parts:
            if isinstance(part, NewSeries):  # Too young.
                continue
            kind, state, version, snapshot_version = entry = self.entries[part.stream]
            grown = version - snapshot_version
            if grown >= every and grown >= kind.size(state):
                snapshots.append(self._formats.of(kind).write(part.stream, entry))
                self.entries[part.stream] = Entry(kind, state, version, version)
        return snapshots


class Decision:
    """One command's unit of work: an overlay on the batch that is kept only when the handler returns.

    Or that of a ``rush``, whose first command is the ``envelope``.
    """

    __slots__ = (
        "_about", "_batch", "_begun", "_counts", "_entries", "_envelope", "_events", "_inside_series",
        "_lock_ttl_seconds", "_now", "_prefix", "_rush", "_seed",
    )  # fmt: skip

    def __init__(
        self,
        batch: BatchView,
        envelope: CommandEnvelope,
        *,
        lock_ttl_seconds: int,
        at: datetime | None = None,
        rush: Sequence[CommandEnvelope] = (),
    ) -> None:
        self._batch = batch
        self._envelope = envelope
        self._lock_ttl_seconds = lock_ttl_seconds
        self._now = at  # The realm's, once somebody asks.
        self._prefix = envelope.realm.key + "/"
        self._seed = ""  # Of the ids of its events, once it is described.
        self._entries: dict[str, Entry] = {}
        self._begun: dict[str, Begun] = {}
        self._counts: dict[str, int] = {}
        self._events: list[NewEvent | NewSeries] = []
        self._inside_series = 0  # Events beyond the first of each series.
        self._about: tuple[Any, ...] | None = None
        self._rush = rush

    @property
    def realm(self) -> Realm:
        return self._envelope.realm

    @property
    def command_id(self) -> str:
        return self._envelope.command_id

    @property
    def command_ids(self) -> list[str]:
        return [each.command_id for each in self._rush or (self._envelope,)]

    @property
    def recorded(self) -> int:
        """How many events it would add."""
        return len(self._events) + self._inside_series

    @property
    def now(self) -> datetime:
        if self._now is None:
            self._now = self._batch.now_of(self._envelope.realm)
        return self._now

    @property
    def lock_ttl_seconds(self) -> int:
        return self._lock_ttl_seconds

    def load(self, kind: Kind[S], key: str) -> S:
        state: S = self._entry(self._stream(kind, key), kind).state
        return state

    def load_all(self, kind: Kind[S], keys: Sequence[str]) -> list[S]:
        self._batch.prefetch([Target(self._stream(kind, key), kind) for key in keys])
        return [self.load(kind, key) for key in keys]

    def record(self, kind: Kind[S], key: str, events: Sequence[Event]) -> S:
        stream = self._stream(kind, key)
        state: S = self._append(stream, self._entry(stream, kind), events)
        return state

    def create(self, kind: Kind[S], key: str, events: Sequence[Event]) -> S:
        stream = self._stream(kind, key)
        known = self._entries.get(stream) or self._batch.entries.get(stream)
        state: S = self._append(stream, known or Entry(kind, kind.initial, 0), events)
        return state

    def create_each(self, kind: Kind[S], keys: Sequence[str], events: EventSeries) -> None:
        if keys:
            seed, first = _event_seed(self._envelope), self.recorded
            self._begin(kind, keys, events, [_event_id(seed, first + index) for index in range(len(keys))])

    def create_by_each(self, kind: Kind[S], keys: Sequence[str], events: EventSeries) -> None:
        index = self.recorded  # What was recorded so far is each command's own, or has become one with others'.
        event_ids = [event_id_of(envelope, index) for envelope in self._rush]
        self._begin(kind, keys, events, event_ids, self._rush)

    def _begin(
        self,
        kind: Kind[Any],
        keys: Sequence[str],
        events: EventSeries,
        event_ids: Sequence[str],
        causes: Sequence[CommandEnvelope] = (),
    ) -> None:
        start = f"{self._prefix}{kind.name}/"
        streams = [start + key for key in (keys if are_plain(keys) else map(escape, keys))]
        series = NewSeries(streams, events, event_ids, Metadata("", *(self._about or self._describe())), causes)
        self._events.append(series)
        self._inside_series += len(series) - 1
        self._begun.update(dict.fromkeys(streams, Begun(kind, streams, events, bool(causes))))

    def count(self, key: str) -> int:
        full = self._prefix + key
        value = self._counts.get(full)
        return self._batch.count(full) if value is None else value

    def counts(self, keys: Collection[str]) -> list[int]:
        full = [self._prefix + key for key in keys]
        if not self._counts.keys().isdisjoint(full):
            return [self.count(key) for key in keys]
        known = self._batch.counts
        return [known[key] if key in known else self._batch.count(key) for key in full]

    def add(self, key: str, by: int) -> None:
        self._counts[self._prefix + key] = self.count(key) + by

    def add_one_each(self, keys: Sequence[str]) -> None:
        if len(set(keys)) < len(keys):
            for key in keys:
                self.add(key, 1)
        else:
            after = [count + 1 for count in self.counts(keys)]
            self._counts.update(zip([self._prefix + key for key in keys], after, strict=True))

    def keep(self) -> None:
        """Make it part of the batch."""
        self._batch.keep(self._entries, self._begun, self._counts, self._events)

    def count_keys(self, keys: Iterable[str]) -> list[str]:
        """The realm's own full names of counters, for prefetching."""
        return [self._prefix + key for key in keys]

    def _stream(self, kind: Kind[Any], key: str) -> str:
        return f"{self._prefix}{kind.name}/{escape(key)}"

    def _entry(self, stream: str, kind: Kind[Any]) -> Entry:
        known = self._entries.get(stream)
        if known is None and (begun := self._begun.get(stream)) is not None:
            known = begun.entry(stream)
        return known or self._batch.entries.get(stream) or self._batch.entry(Target(stream, kind))

    def _append(self, stream: str, entry: Entry, events: Sequence[Event]) -> Any:
        kind, state, version, snapshot_version = entry
        about = self._about or self._describe()
        for event in events:
            version += 1
            state = kind.evolve(state, event)
            event_id = _event_id(self._seed, len(self._events) + self._inside_series)
            self._events.append(NewEvent(stream, version, event, Metadata(event_id, *about)))
        self._entries[stream] = Entry(kind, state, version, snapshot_version)
        return state

    def _describe(self) -> tuple[Any, ...]:
        """What all events of one command have in common: their metadata, without the event's own id."""
        self._seed = _event_seed(self._envelope)
        self._about = (self.now, self._batch.store_now, *self._envelope.described())
        return self._about


@lru_cache(REALMS_REMEMBERED_MAX)
def clock_of(realm: Realm) -> Target:
    """The stream of a realm's own clock."""
    return Target(stream_id(realm, CLOCK.name, CLOCK_KEY), CLOCK)


def targets_of(realm: Realm, touched: Iterable[tuple[Kind[Any], str]]) -> list[Target]:
    """The streams that a handler's ``touches`` names, in a realm."""
    return [Target(stream_id(realm, kind.name, key), kind) for kind, key in touched]


def event_id_of(envelope: CommandEnvelope, index: int) -> str:
    """The id of a command's n-th event: derived, so that the same command makes the same ids wherever it is decided."""
    return _event_id(_event_seed(envelope), index)


def _event_seed(envelope: CommandEnvelope) -> str:
    return f"{envelope.realm.key}\n{envelope.command_id}\n"


def _event_id(seed: str, index: int) -> str:
    return blake2b(f"{seed}{index}".encode(), digest_size=16).hexdigest()
