"""What sagas need of a store: each step of the ear, the voice or the clock is one call that happens as a whole."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from command.ports import StreamHistory
from contracts.envelope import Recorded
from infra.kafka.lanes import Lane
from infra.kafka.messages import Record
from infra.postgres.dead_letters import ParkedEvent
from infra.postgres.outbox import PendingCommand
from infra.sagas.hearing import Hearing
from sagas.timers import DueTimer

T = TypeVar("T")

FOLLOWER: Final = "sagas"  # The ear's name, wherever followers have names.


class Retry(NamedTuple):
    """How long what got no answer waits: at most, and the first time; every further time twice as long."""

    seconds_max: float
    seconds_first: float


@dataclass(frozen=True, slots=True)
class Owed:
    """A pending command in its place in the outbox, and how often it was sent without an answer."""

    id: int
    attempts: int
    command: PendingCommand


class Found(NamedTuple, Generic[T]):
    """What one look into the tables found, and in which history: what becomes of it counts in that one only."""

    epoch: str
    items: Sequence[T]


class Move(NamedTuple):
    """A position on its way: it happens only if nobody moved that position from ``expected`` meanwhile."""

    follower: str
    expected: int
    offset: int


class Place(NamedTuple):
    """Where an ear begins: up to where it heard the log, and the streams that wait behind a parked fact."""

    offset: int
    parked: frozenset[str]


class LanePlaces(NamedTuple):
    """Where an ear begins that hears lanes: each lane's own offset, and the streams that wait behind a parked fact."""

    offsets: Mapping[str, int]
    parked: frozenset[str]


class SagaStore(Protocol):
    """One part's view of the store, for its thread alone. All of it raises StoreUnavailable; nothing happens partly."""

    # The ear.

    @property
    def epoch(self) -> str:
        """Which history the store's offsets belong to."""
        ...

    def place(self) -> Place:
        """Where the ear stands. Raises EpochChanged."""
        ...

    def lanes(self, names: Collection[str]) -> LanePlaces:
        """Where the ear stands in each of all its lanes, by their positions' names. Raises EpochChanged.

        One that has no position yet, or an older one than the ear itself, gets the ear's own: so far all was heard.
        """
        ...

    def raise_to_lanes(self, names: Collection[str]) -> int:
        """Move the ear's own position to where all of its lanes have come by now; returns where it is."""
        ...

    def count(self, after: int, upto: int) -> int:
        """How many events the log has in ``(after, upto]``, counted by the store itself."""
        ...

    def histories(self, streams: Collection[str]) -> Mapping[str, StreamHistory]:
        """What sagas remember; absent streams are absent."""
        ...

    def keep(
        self,
        hearing: Hearing,
        moves: Sequence[Move],
        *,
        done: Sequence[ParkedEvent] = (),
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Store all that a hearing amounts to, move on, and forget the parked events that are ``done``.

        Raises PositionMoved, EpochChanged and StreamConflict; nothing is stored then, nor when ``before_commit``
        raises. After StoreUnavailable it may have been.
        """
        ...

    def parked(self, stream: str, limit: int) -> Sequence[ParkedEvent]:
        """What is parked of one stream, in the order of the log."""
        ...

    def requeued(self, limit: int) -> Sequence[ParkedEvent]:
        """What an operator wants tried again, in the order of the log."""
        ...

    # The voice.

    def next_commands(self, limit: int, *, letters: bool = False) -> Found[Owed]:
        """The first pending command of each saga that is not waiting for its retry, oldest first.

        ``letters``: those between shards instead, whose shard may be away without hindering what stays here.
        Only the first: a saga's commands reach the engine in their order, whatever fails in between.
        """
        ...

    def settle_commands(
        self,
        epoch: str,
        *,
        accepted: Collection[int],
        refused: Mapping[int, tuple[str, str]],
        unanswered: Mapping[int, str],
        retry: Retry,
    ) -> None:
        """Note what became of commands, by their places in the outbox of an epoch; nothing when it is over.

        A restored outbox gives the same places to others, and what was answered before is to be asked again. Accepted
        ones are forgotten; refused ones (code, detail) are kept for an operator, never sent again; those without an
        answer (why) are tried again later, ever less often.
        """
        ...

    # The clock.

    def due_timers(self, limit: int, realms_max: int) -> Found[DueTimer]:
        """Timers whose time has come in their realm, at most ``limit``, shared among the realms that have any.

        A realm on a business clock is judged by what that clock shows, all others by the store's.
        """
        ...

    def settle_timers(
        self, epoch: str, *, fired: Sequence[DueTimer], unanswered: Sequence[tuple[DueTimer, str]], retry: Retry
    ) -> None:
        """Forget timers that fired, unless they were set anew meanwhile; the others (why) are tried again later.

        Nothing when the epoch in which they were found is over: they are due again.
        """
        ...

    def close(self) -> None:
        """Give connections back; the next call opens others."""
        ...


class FactFeed(Protocol):
    """The log, as an ear reads it. Raises StoreUnavailable, UnknownEventType and UnreadableEvent."""

    def read(self, after: int, limit: int) -> Sequence[Recorded]:
        """Up to ``limit`` events after an offset."""
        ...

    def read_on(self, after: int, limit: int, unheeded: Collection[str]) -> tuple[Sequence[Recorded], int]:
        """The same without events of these types, and up to where that was."""
        ...


class LaneSource(Protocol):
    """One member of a consumer group, see :class:`infra.kafka.consumer.LaneConsumer`. Raises KafkaUnavailable."""

    @property
    def partitions(self) -> int:
        """How many there are of each topic."""
        ...

    def poll(self, limit: int, timeout_seconds: float) -> Mapping[Lane, Sequence[Record]]:
        """What came since; waits when there is nothing."""
        ...

    def assigned(self) -> Collection[Lane]:
        """The lanes that are this member's now, as far as it knows."""
        ...

    def done(self) -> None:
        """What was polled has taken effect."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...
