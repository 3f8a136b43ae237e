"""States by stream: folded from histories (from a snapshot on, where there is one) and kept between batches."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter

from command.ports import Snapshot, StreamHistory
from command.unit_of_work import Kind
from contracts.envelope import Recorded
from contracts.events.series import EventSeries


class Entry(NamedTuple):
    """One stream's state at a version (0: nothing stored yet) and the version of its last snapshot."""

    kind: Kind[Any]
    state: Any
    version: int
    snapshot_version: int = 0


class Begun(NamedTuple):
    """New streams with nothing but their first event; one for all that began together, remembered as long as any.

    So nothing of the commands that asked for them is in it: those would outlive their answers by hours.
    ``by_each``: each was begun by a command of its own, and may well be asked for next.
    """

    kind: Kind[Any]
    streams: Sequence[str]
    events: EventSeries
    by_each: bool

    def entry(self, stream: str) -> Entry:
        """The state of one, now that somebody asks."""
        event = self.events[self.streams.index(stream)]
        return Entry(self.kind, self.kind.evolve(self.kind.initial, event), 1)


class SnapshotFormat:
    """Writes and reads the states of one kind as JSON, under a hash of the state's schema."""

    def __init__(self, state: type[Any]) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(state)
        schema = repr(self._adapter.json_schema(mode="serialization"))
        self.schema_hash = hashlib.sha256(schema.encode()).hexdigest()[:16]

    def write(self, stream: str, entry: Entry) -> Snapshot:
        """The snapshot of an entry."""
        return Snapshot(stream, entry.version, self.schema_hash, self._adapter.dump_json(entry.state))

    def read(self, snapshot: Snapshot) -> Any:
        """The state that a snapshot holds."""
        return self._adapter.validate_json(snapshot.state)


# A schema takes a while to work out: each kind's once per process. There are some twenty kinds.
_formats: Final[dict[type[Any], SnapshotFormat]] = {}


class SnapshotFormats:
    """The snapshot format of every kind."""

    def of(self, kind: Kind[Any]) -> SnapshotFormat:
        """The format of a kind's states."""
        if (known := _formats.get(kind.state)) is None:
            known = _formats[kind.state] = SnapshotFormat(kind.state)
        return known

    def hashes(self, kinds: Iterable[Kind[Any]]) -> dict[str, str]:
        """Kind name -> today's schema hash."""
        return {kind.name: self.of(kind).schema_hash for kind in kinds}


def fold(
    kind: Kind[Any], history: StreamHistory | None, formats: SnapshotFormats, before: Entry | None = None
) -> Entry:
    """Rebuild a stream's state, or go on from an earlier one. A snapshot of another schema the store leaves out."""
    entry = before or Entry(kind, kind.initial, 0)
    if history is None:
        return entry
    _, state, version, snapshot_version = entry
    if history.snapshot is not None:
        state = formats.of(kind).read(history.snapshot)
        version = snapshot_version = history.snapshot.version
    for recorded in history.events:
        state = kind.evolve(state, recorded.event)
        version = recorded.version
    return Entry(kind, state, version, snapshot_version)


class StateCache:
    """The latest states of the most recently used streams. Not thread-safe: the committer's own.

    Those of streams that just began are worked out when they are asked for first: most are not, before they have to go.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries: OrderedDict[str, Entry | Begun] = OrderedDict()
        self._entries_max = entries_max

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, stream: str) -> bool:
        return stream in self._entries

    def get(self, stream: str) -> Entry | None:
        """The state, if it is known."""
        if (known := self._entries.get(stream)) is None:
            return None
        if isinstance(known, Begun):
            known = self._entries[stream] = known.entry(stream)
        self._entries.move_to_end(stream)
        return known

    def put_all(self, entries: Mapping[str, Entry] | Mapping[str, Begun]) -> None:
        """Remember states, forgetting the least recently used ones beyond the bound."""
        for stream, entry in entries.items():
            self._entries[stream] = entry
            self._entries.move_to_end(stream)
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def drop_all(self, streams: Iterable[str]) -> None:
        """Forget the states of these streams."""
        for stream in streams:
            self._entries.pop(stream, None)

    def follow(self, recorded: Recorded) -> None:
        """Take in an event that another process appended. A gap drops the state: it is folded anew when needed."""
        entry = self.get(recorded.stream)
        if entry is None or recorded.version <= entry.version:
            return
        if recorded.version == entry.version + 1:
            state = entry.kind.evolve(entry.state, recorded.event)
            self._entries[recorded.stream] = Entry(entry.kind, state, recorded.version, entry.snapshot_version)
        else:
            del self._entries[recorded.stream]

    def clear(self) -> None:
        """Forget everything; states are rebuilt from events."""
        self._entries.clear()
