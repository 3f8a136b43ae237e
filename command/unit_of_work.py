"""What a handler sees while it decides: states by stream, counters, and a place to record what it decided."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from contracts.events import Event
from contracts.events.series import EventSeries
from contracts.identity import Realm

S = TypeVar("S")

# The guard counter that says whether anything was ever recorded in a realm.
HISTORY: Final = "history"


def _small(_state: object) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Kind(Generic[S]):
    """A kind of stream: its name in stream ids, the state of an empty one, and how an event changes it.

    ``evolve`` never raises and ignores events that it does not know. States are frozen dataclasses that pydantic
    can write and read as JSON (snapshots).

    ``merge`` makes one event of two that follow each other in a stream within one batch, or refuses with None. Both
    ways must lead to the same state: ``evolve(evolve(s, a), b) == evolve(s, merge(a, b))``. ``size`` tells how many
    parts a state has that grows: a snapshot of a large one is taken less often, so that it costs each event the same.
    """

    name: str
    state: type[S]
    initial: S
    evolve: Callable[[S, Event], S]
    merge: Callable[[Event, Event], Event | None] | None = None
    size: Callable[[S], int] = _small


class NotYet(Exception):
    """A handler cannot decide now and may later. Nothing of the command is stored: retry with the same command id."""


class UnitOfWork(Protocol):
    """One command's view. What it records is kept only when the handler returns."""

    @property
    def realm(self) -> Realm:
        """Whose command it is."""
        ...

    @property
    def command_id(self) -> str:
        """The command's id: what derived ids are made from."""
        ...

    @property
    def command_ids(self) -> Sequence[str]:
        """The ids of all commands of a rush, in their order; of a single command its own."""
        ...

    @property
    def now(self) -> datetime:
        """The realm's business time, never earlier than any event of the realm."""
        ...

    @property
    def lock_ttl_seconds(self) -> int:
        """How long a hold lasts when nobody says otherwise."""
        ...

    def load(self, kind: Kind[S], key: str) -> S:
        """The state of one stream, including what this command (and earlier ones of its batch) recorded."""
        ...

    def load_all(self, kind: Kind[S], keys: Sequence[str]) -> list[S]:
        """Several states in one round trip, in the order of the keys."""
        ...

    def record(self, kind: Kind[S], key: str, events: Sequence[Event]) -> S:
        """Append decided events to a stream; returns its new state."""
        ...

    def create(self, kind: Kind[S], key: str, events: Sequence[Event]) -> S:
        """Like record, for a stream that cannot exist yet because its key is new: nothing is loaded."""
        ...

    def create_each(self, kind: Kind[S], keys: Sequence[str], events: EventSeries) -> None:
        """Begin thousands of streams whose keys are new, with one event each: no state is made before somebody asks."""
        ...

    def create_by_each(self, kind: Kind[S], keys: Sequence[str], events: EventSeries) -> None:
        """Begin a stream with one event for each command of a rush, in their order."""
        ...

    def count(self, key: str) -> int:
        """A guard counter of this realm (how many coupons of a template a user has claimed …)."""
        ...

    def counts(self, keys: Collection[str]) -> list[int]:
        """Thousands of guard counters, in the order of the keys."""
        ...

    def add(self, key: str, by: int) -> None:
        """Change a guard counter; it is stored with the events."""
        ...

    def add_one_each(self, keys: Sequence[str]) -> None:
        """Add one to thousands of guard counters; a key that is named twice counts twice."""
        ...
