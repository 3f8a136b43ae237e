"""I7: the state folded from all events equals what a snapshot holds, byte for byte."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from command.ports import ReadView
from command.states import Entry, SnapshotFormats, fold
from command.unit_of_work import Kind
from contracts.identity import parse_stream
from query.verify.raw import Violation


def check_snapshots(
    view: ReadView, kinds: Mapping[str, Kind[Any]], stored: Iterable[tuple[str, int, str, bytes]]
) -> Iterator[Violation]:
    """Fold each snapshot's stream from its beginning to the snapshot's version and compare the bytes.

    Snapshots of another schema than today's are left out: nobody reads them.
    """
    formats = SnapshotFormats()
    for stream, version, schema_hash, state in stored:
        kind = kinds.get(parse_stream(stream).kind)
        if kind is None or formats.of(kind).schema_hash != schema_hash:
            continue
        replayed = _replay(view, stream, version, kind, formats)
        if replayed.version != version:
            yield Violation("I7", f"{stream}@{version}", f"a snapshot beyond the stream's end at {replayed.version}")
        elif formats.of(kind).write(stream, replayed).state != state:
            yield Violation("I7", f"{stream}@{version}", "the snapshot differs from the replayed state")


def _replay(view: ReadView, stream: str, version: int, kind: Kind[Any], formats: SnapshotFormats) -> Entry:
    history = view.histories([stream]).get(stream)
    if history is None:
        return Entry(kind, kind.initial, 0)
    events = [recorded for recorded in history.events if recorded.version <= version]
    return fold(kind, type(history)(None, events), formats)
