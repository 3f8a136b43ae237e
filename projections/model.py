"""What a read model is: where an event belongs, how it changes a document, and why doing it twice is harmless."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from contracts.envelope import Recorded
from contracts.identity import Realm
from contracts.read_models import INSTANT_FORMAT

FIRST_VERSION = 1

Document = dict[str, Any]


class Place(NamedTuple):
    """One document: a field of one bucket. ``key`` is None for the bucket of the whole realm."""

    realm: Realm
    key: str | None
    field: str


class Entry(NamedTuple):
    """A document, the offset of its first event, and the last version applied of every stream that it hears.

    Streams are abbreviated to ``kind/key``: the bucket already names the realm.
    """

    first: int
    seen: dict[str, int]
    document: Document


@dataclass(frozen=True, slots=True)
class ReadModel:
    """Documents folded from streams of some kinds. ``fold`` returns a new document and leaves the old one alone.

    ``listed``: the bucket also lists its fields by age. ``partial``: kinds of streams of which a bucket may see only
    some events (a refund that named its order only later), so that a missing version proves nothing.
    """

    name: str
    kinds: frozenset[str]
    route: Callable[[Recorded], Sequence[Place]]
    fold: Callable[[Document | None, Recorded], Document]
    listed: bool = False
    partial: frozenset[str] = frozenset()


class GapInStream(Exception):
    """A version is missing between what a document has seen and what came next: something was skipped."""

    def __init__(self, model: str, recorded: Recorded, expected: int) -> None:
        super().__init__(
            f"{model}: stream {recorded.stream!r} continues with version {recorded.version} at offset "
            f"{recorded.offset}, but version {expected} was never applied"
        )
        self.stream = recorded.stream


def apply_once(
    model: ReadModel, entry: Entry | None, recorded: Recorded, given_up: Collection[int] = ()
) -> Entry | None:
    """The entry after this event, or None when the entry has it already.

    ``given_up``: versions of its stream that an operator took out for good; they leave no gap.

    Raises GapInStream, and whatever ``fold`` raises for an event that it cannot digest.
    """
    stream = f"{recorded.name.kind}/{recorded.name.key}"
    seen = {} if entry is None else entry.seen
    last = seen.get(stream, FIRST_VERSION - 1)
    if recorded.version <= last:
        return None
    expected = last + 1
    while expected in given_up and expected < recorded.version:
        expected += 1
    if recorded.version != expected and recorded.name.kind not in model.partial:
        raise GapInStream(model.name, recorded, expected)
    document = model.fold(None if entry is None else entry.document, recorded)
    first = recorded.offset if entry is None else min(entry.first, recorded.offset)
    return Entry(first, {**seen, stream: recorded.version}, document)


def require(document: Document | None, recorded: Recorded) -> Document:
    """The document that this event changes. Raises ValueError when the event has nothing to change."""
    if document is None:
        raise ValueError(f"{recorded.event.type} is the first event of {recorded.stream!r}: there is nothing to change")
    return document


def instant(moment: datetime) -> str:
    """How documents write an instant: ``2026-01-31T12:00:00.000000Z``."""
    return moment.strftime(INSTANT_FORMAT)


def changed(document: Document, recorded: Recorded, changes: Mapping[str, Any]) -> Document:
    """A copy with these fields set and the time of the change noted."""
    return {**document, **changes, "updated_at": instant(recorded.metadata.occurred_at)}
