"""What a follower needs: a feed of the log, a place to coordinate with others, and a target for the effect."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from contracts.envelope import Recorded
from contracts.position import Position
from infra.kafka.lanes import Lane, Progress

State = Literal["starting", "following", "retrying", "halted", "stopped"]


class Halt(Exception):
    """A follower must not go on: going on would lose, skip or falsify something. The message says what to do."""


class OtherEpoch(Halt):
    """The store was restored: the target's offsets belong to another history."""

    def __init__(self, name: str, own: str, store: str) -> None:
        super().__init__(
            f"{name} stands in epoch {own}, the store is in epoch {store}: the store was restored to an earlier state. "
            f"Run `tessera projections rebuild {name}`"
        )


class LogWentBack(Halt):
    """The log does not hold what this follower took in: it was restored, and nobody said so."""

    def __init__(self, name: str, offset: int, head: int) -> None:
        what = f"the log ends at {head}" if head < offset else "the log has another event there"
        super().__init__(
            f"{name} stands at offset {offset}, but {what}: the store was restored to an earlier state and nobody said "
            f"so. Run `tessera restored`, then `tessera projections rebuild all`"
        )


class EventsSkipped(Halt):
    """The log holds more (or fewer) events than were handed over: a follower that went on would have a hole."""

    def __init__(self, name: str, after: int, upto: int, handled: int, counted: int) -> None:
        super().__init__(
            f"{name} was handed {handled} events after offset {after} up to {upto}, but the log has {counted} there"
        )


class Busy(Exception):
    """Somebody else works on the same projection right now; try again."""


class Mark(NamedTuple):
    """Which event stands at a position."""

    position: Position
    event: str


def event_mark(event_id: str, recorded_at: datetime) -> str:
    """What tells an event from whatever has its offset after a restore. Ids are derived: the time is what is new."""
    return f"{event_id} {recorded_at.isoformat()}"


def mark_of(recorded: Recorded) -> str:
    """The same of an event that was read."""
    return event_mark(recorded.metadata.event_id, recorded.metadata.recorded_at)


class StoreNeeded(Exception):
    """A target is not there, or not whole yet: it has to be caught up from the store before it may follow lanes."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has to be caught up from the store first")


Mine = Callable[[str], bool]  # Whether a stream is among those that this process follows.


def every_stream(_stream: str) -> bool:
    """Of a follower that has the whole log to itself."""
    return True


class ParkedEvent(NamedTuple):
    """One event that was not applied, by its place in the log and in its stream."""

    stream: str
    version: int
    offset: int
    is_dropped: bool = False  # An operator gave it up: it is passed over, not tried.


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """How a follower is, for metrics and operators; offsets are positions in the log, ``lag`` is in events of it."""

    name: str
    state: State
    offset: int
    head: int
    handled: int
    parked: int
    last_error: str | None
    updated_at: datetime
    targets: dict[str, int] = field(default_factory=dict)  # Per target its offset.
    halted: dict[str, str] = field(default_factory=dict)  # Per halted target the reason.

    @property
    def lag(self) -> int:
        """How far it is behind the head of the log."""
        return max(0, self.head - self.offset)


class Feed(Protocol):
    """The log in batches. Raises StoreUnavailable."""

    def read(self, after: int, limit: int) -> Sequence[Recorded]:
        """Up to ``limit`` events after an offset. Raises UnknownEventType when the very next one is not known."""
        ...

    def wait(self, timeout_seconds: float) -> bool:
        """Return early when something was appended."""
        ...

    def head(self) -> int:
        """The offset of the last event."""
        ...

    def epoch(self) -> str:
        """Which history this is."""
        ...


class Coordination(Protocol):
    """What followers of all processes share beside the log. Raises StoreUnavailable."""

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Be the only one who writes this projection. Raises Busy after a bounded wait."""
        ...

    def share(self, name: str) -> AbstractContextManager[None]:
        """Write some lanes of this projection; others may write others. Raises Busy while somebody holds it."""
        ...

    def count(self, after: int, upto: int) -> int:
        """How many events the log has in ``(after, upto]``, counted by the store itself."""
        ...

    def mark_at(self, offset: int) -> str | None:
        """Which event stands at an offset, as :func:`event_mark` says it; None when none does."""
        ...

    def parked_streams(self, follower: str) -> frozenset[str]:
        """Streams of which something is parked."""
        ...

    def parked_count(self, followers: Sequence[str]) -> int:
        """How many events these followers have parked."""
        ...

    def park(self, follower: str, recorded: Recorded, *, reason: str, attempts: int, detail: str) -> None:
        """Park an event that failed; ``detail`` says where."""
        ...

    def park_behind(self, follower: str, events: Sequence[Recorded]) -> None:
        """Park events that follow a parked one."""
        ...

    def dropped_versions(self, follower: str) -> Mapping[str, Collection[int]]:
        """By stream the versions that operators gave up for this follower."""
        ...

    def requeued_streams(self, follower: str, limit: int) -> Sequence[str]:
        """The first of the streams that an operator wants tried again."""
        ...

    def parked(self, follower: str, stream: str, limit: int) -> Sequence[ParkedEvent]:
        """What is parked of one stream, in order."""
        ...

    def remove(self, follower: str, events: Sequence[ParkedEvent]) -> None:
        """Forget what was applied after all."""
        ...

    def forget(self, follower: str) -> None:
        """Forget everything parked under a name (its version is gone)."""
        ...

    def report(self, status: FollowerStatus, epoch: str) -> None:
        """Let other processes see how a follower is."""
        ...


class Witness(Protocol):
    """Keeps, beside a follower's effect, the last event that was handed over: an offset alone says nothing of it."""

    def last(self) -> Mark | None:
        """What was noted last; None when nothing was. Raises as the store of the effect does."""
        ...

    def note(self, mark: Mark) -> None:
        """Remember this from now on. Called before the events up to there are handed over."""
        ...


class Target(Protocol):
    """Something that an ordered log of events is folded into, with its own position."""

    @property
    def name(self) -> str:
        """What operators call it."""
        ...

    @property
    def label(self) -> str:
        """Name and version, as parked events are filed under."""
        ...

    @property
    def position(self) -> Position:
        """Where it stands, as last loaded or applied."""
        ...

    def load(self, epoch: str, head: int) -> None:
        """Look where it stands; begin it when it is not there. Raises OtherEpoch."""
        ...

    def apply(self, events: Sequence[Recorded]) -> None:
        """Take in a batch, all of it or (when it raises) none that counts. Events before its position are ignored."""
        ...

    @property
    def progress(self) -> Progress:
        """Where it stands in each of its lanes, as last loaded or applied."""
        ...

    def load_lanes(self, epoch: str, mine: Collection[Lane]) -> None:
        """Look where it stands in its lanes, of which some are ``mine`` to follow now. Raises StoreNeeded, OtherEpoch.

        What is parked is looked up again when one of those is elsewhere than this process left it.
        """
        ...

    def apply_lanes(self, events: Sequence[Recorded], moves: Mapping[Lane, int]) -> None:
        """Take in what is new in some lanes (no event before their progress), and move them on, all or none."""
        ...

    def replay_parked(self, feed: Feed, mine: Mine = every_stream) -> int:
        """Try again what an operator asked for; returns how many events were applied."""
        ...
