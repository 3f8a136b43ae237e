"""One batch of decisions: a command sees what earlier ones of its batch decided; a refused one leaves no trace."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, TypeVar

from command.domain.clock import CLOCK
from command.ports import NewEvent, ReadView, Snapshot
from command.states import Entry, SnapshotFormats, StateCache, fold
from command.unit_of_work import Kind
from contracts.envelope import CommandEnvelope, Metadata
from contracts.events import Event
from contracts.identity import Realm, stream_id

S = TypeVar("S")

CLOCK_KEY = "main"


@dataclass(frozen=True, slots=True)
class Target:
    """A stream together with what kind it is."""

    stream: str
    kind: Kind[Any]


class BatchView:
    """The states and counters that one batch reads and changes, fetched from the store when they are not cached."""

    def __init__(
        self, view: ReadView, cache: StateCache | None, formats: SnapshotFormats, *, until: datetime | None = None
    ) -> None:
        self._view = view
        self._cache = cache
        self._formats = formats
        self._until = until
        self.entries: dict[str, Entry] = {}
        self.counts: dict[str, int] = {}
        self._changed_counts: set[str] = set()
        self.events: list[NewEvent] = []
        self.store_now = view.store_now

    def prefetch(self, targets: Iterable[Target]) -> None:
        """Load every state that is neither here nor cached, in one query."""
        missing: dict[str, Kind[Any]] = {}
        for target in targets:
            if target.stream in self.entries:
                continue
            if self._cache is not None and (entry := self._cache.get(target.stream)) is not None:
                self.entries[target.stream] = entry
            else:
                missing[target.stream] = target.kind
        if not missing:
            return
        hashes = self._formats.hashes(missing.values())
        histories = self._view.histories(list(missing), schema_hashes=hashes, until=self._until)
        for stream, kind in missing.items():
            self.entries[stream] = fold(kind, histories.get(stream), self._formats)

    def entry(self, target: Target) -> Entry:
        """The state of one stream."""
        if (entry := self.entries.get(target.stream)) is None:
            self.prefetch((target,))
            entry = self.entries[target.stream]
        return entry

    def prefetch_counts(self, keys: Iterable[str]) -> None:
        """Load every counter that is not here, in one query."""
        missing = [key for key in dict.fromkeys(keys) if key not in self.counts]
        if missing:
            found = self._view.counts(missing)
            self.counts.update((key, found.get(key, 0)) for key in missing)

    def count(self, key: str) -> int:
        """The value of one counter."""
        if key not in self.counts:
            self.prefetch_counts((key,))
        return self.counts[key]

    def now_of(self, realm: Realm) -> datetime:
        """The realm's business time: its own clock if it has one, else the store's."""
        clock = self.entry(Target(stream_id(realm, CLOCK.name, CLOCK_KEY), CLOCK)).state
        shows: datetime | None = clock.shows
        return self.store_now if shows is None else shows

    def keep(self, entries: Mapping[str, Entry], counts: Mapping[str, int], events: Sequence[NewEvent]) -> None:
        """Take over what one accepted command decided."""
        self.entries.update(entries)
        self.counts.update(counts)
        self._changed_counts.update(counts)
        self.events.extend(events)

    def changed_counts(self) -> dict[str, int]:
        """The counters to store."""
        return {key: self.counts[key] for key in self._changed_counts}

    def due_snapshots(self, every: int) -> list[Snapshot]:
        """Snapshots of the streams that grew by ``every`` events since their last one; marks them as taken."""
        snapshots = []
        for stream in dict.fromkeys(event.stream for event in self.events):
            entry = self.entries[stream]
            if entry.version - entry.snapshot_version >= every:
                snapshots.append(self._formats.of(entry.kind).write(stream, entry))
                self.entries[stream] = Entry(entry.kind, entry.state, entry.version, entry.version)
        return snapshots


class Decision:
    """One command's unit of work: an overlay on the batch that is kept only when the handler returns."""

    def __init__(
        self, batch: BatchView, envelope: CommandEnvelope, *, lock_ttl_seconds: int, at: datetime | None
    ) -> None:
        self._batch = batch
        self._envelope = envelope
        self._lock_ttl_seconds = lock_ttl_seconds
        self._now = at or batch.now_of(envelope.realm)
        self._entries: dict[str, Entry] = {}
        self._counts: dict[str, int] = {}
        self._events: list[NewEvent] = []

    @property
    def realm(self) -> Realm:
        return self._envelope.realm

    @property
    def command_id(self) -> str:
        return self._envelope.command_id

    @property
    def recorded(self) -> int:
        """How many events it would add."""
        return len(self._events)

    @property
    def now(self) -> datetime:
        return self._now

    @property
    def lock_ttl_seconds(self) -> int:
        return self._lock_ttl_seconds

    def load(self, kind: Kind[S], key: str) -> S:
        state: S = self._entry(self._target(kind, key)).state
        return state

    def load_all(self, kind: Kind[S], keys: Sequence[str]) -> list[S]:
        self._batch.prefetch([self._target(kind, key) for key in keys])
        return [self.load(kind, key) for key in keys]

    def record(self, kind: Kind[S], key: str, events: Sequence[Event]) -> S:
        target = self._target(kind, key)
        state: S = self._append(target, self._entry(target), events)
        return state

    def create(self, kind: Kind[S], key: str, events: Sequence[Event]) -> S:
        target = self._target(kind, key)
        known = self._entries.get(target.stream) or self._batch.entries.get(target.stream)
        state: S = self._append(target, known or Entry(kind, kind.initial, 0), events)
        return state

    def count(self, key: str) -> int:
        full = self._count_key(key)
        return self._counts[full] if full in self._counts else self._batch.count(full)

    def add(self, key: str, by: int) -> None:
        self._counts[self._count_key(key)] = self.count(key) + by

    def keep(self) -> None:
        """Make it part of the batch."""
        self._batch.keep(self._entries, self._counts, self._events)

    def count_keys(self, keys: Iterable[str]) -> list[str]:
        """The realm's own full names of counters, for prefetching."""
        return [self._count_key(key) for key in keys]

    def _target(self, kind: Kind[Any], key: str) -> Target:
        return Target(stream_id(self._envelope.realm, kind.name, key), kind)

    def _entry(self, target: Target) -> Entry:
        return self._entries.get(target.stream) or self._batch.entry(target)

    def _append(self, target: Target, entry: Entry, events: Sequence[Event]) -> Any:
        state, version = entry.state, entry.version
        for event in events:
            version += 1
            state = entry.kind.evolve(state, event)
            self._events.append(NewEvent(target.stream, version, event, self._metadata()))
        self._entries[target.stream] = Entry(entry.kind, state, version, entry.snapshot_version)
        return state

    def _metadata(self) -> Metadata:
        envelope = self._envelope
        return Metadata(
            event_id=event_id_of(envelope, len(self._events)),
            occurred_at=self._now,
            recorded_at=self._batch.store_now,
            actor=envelope.actor,
            command_id=envelope.command_id,
            correlation_id=envelope.correlation_id,
            causation_id=envelope.causation_id,
            traceparent=envelope.traceparent,
        )

    def _count_key(self, key: str) -> str:
        return f"{self._envelope.realm.key}/{key}"


def targets_of(realm: Realm, touched: Iterable[tuple[Kind[Any], str]]) -> list[Target]:
    """The streams that a handler's ``touches`` names, in a realm."""
    return [Target(stream_id(realm, kind.name, key), kind) for kind, key in touched]


def event_id_of(envelope: CommandEnvelope, index: int) -> str:
    """The id of a command's n-th event: derived, so that the same command makes the same ids wherever it is decided."""
    seed = f"{envelope.realm.key}\n{envelope.command_id}\n{index}"
    return blake2b(seed.encode(), digest_size=16).hexdigest()
