"""What a follower makes of its lanes: what is new, what was missed and is read from the log, and how far it is. Pure.

A lane is one partition of one topic. What a shard published there is a chain: every record says where it is in the
shard's log, and where the record before it was (``previous``). A follower's progress in a lane is an offset of the log,
never one of Kafka's: every event of the shard up to it that belongs in this lane has taken effect.

::

    record.offset   <= progress    has taken effect (redelivered, or the relay repeated it): skipped
    record.previous <= progress    the next one: taken
    record.previous >  progress    a hole: (progress, previous] is read from the log first

So nothing that Kafka repeats, drops, forgets after its retention or hands over again can double or lose an effect. What
it withholds at the end of a lane shows with the next watermark.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from contracts.envelope import Recorded


class Lane(NamedTuple):
    """One partition of one topic; the topic's name comes without the installation's prefix."""

    topic: str
    partition: int

    @property
    def key(self) -> str:
        """Under what its progress is stored: ``coupon-event-topic/3``."""
        return f"{self.topic}/{self.partition}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """The inverse of :attr:`key`. Raises ValueError."""
        topic, _, partition = key.rpartition("/")
        return cls(topic, int(partition))


class Heard(NamedTuple):
    """One record of a lane, of our shard and of today's history.

    ``offset`` is the event's place in the log, or (``event`` is None: a watermark) up to where the lane is complete.
    ``trouble``: why it cannot be read; whoever has not heard it yet must not go on.
    """

    offset: int
    previous: int
    event: Recorded | None = None
    trouble: Exception | None = None


class Hole(NamedTuple):
    """Offsets of the log in ``(after, upto]`` of which a lane's events were not heard."""

    after: int
    upto: int


class Filled(NamedTuple):
    """The lane's events out of a hole, in order, up to an offset: the hole's end, or before it when it is large."""

    events: Sequence[Recorded]
    upto: int


class Sifted(NamedTuple):
    """What came of some records of a lane: events to take in, in order, and the lane's progress once they are stored.

    ``whole``: all records are dealt with. If not, store the effect and sift the same records again; with ``trouble``
    the next one cannot be read, and nothing after it may be taken in.
    """

    events: list[Recorded]
    progress: int
    whole: bool = True
    trouble: Exception | None = None


class AheadOfLog(Exception):
    """Kafka tells of events that the log does not have: it is another store's, or one restored behind our back."""

    def __init__(self, hole: Hole) -> None:
        super().__init__(
            f"Kafka has events up to offset {hole.upto}, but the log has none after {hole.after}: the store was "
            f"restored without a new epoch, or the topics belong to another store. Compare TESSERA_KAFKA_PREFIX "
            f"and TESSERA_POSTGRES_DSN with the relay's"
        )
        self.hole = hole


Fill = Callable[[Hole], Filled]


def sift(progress: int, records: Iterable[Heard], fill: Fill) -> Sifted:
    """Tell what is new among a lane's records, in the order in which they lie there."""
    events: list[Recorded] = []
    for record in records:
        if record.offset <= progress:
            continue
        if record.previous > progress:
            filled = fill(Hole(progress, record.previous))
            events += filled.events
            progress = filled.upto
            if progress < record.previous:
                return Sifted(events, progress, whole=False)
        if record.trouble is not None:
            return Sifted(events, progress, whole=False, trouble=record.trouble)
        if record.event is not None:
            events.append(record.event)
        progress = record.offset
    return Sifted(events, progress)


class Log(Protocol):
    """What holes are filled from."""

    def read(self, after: int, limit: int) -> Sequence[Recorded]:
        """Up to ``limit`` events after an offset, in order."""
        ...


def fill_from(log: Log, hole: Hole, belongs: Callable[[Recorded], bool], limit: int) -> Filled:
    """Read a hole from the log, or its first ``limit`` offsets; only events that ``belongs`` names are the lane's.

    Raises AheadOfLog, and what the log raises.
    """
    found = log.read(hole.after, limit)
    if not found:
        raise AheadOfLog(hole)
    reached = min(hole.upto, found[-1].offset)
    return Filled([each for each in found if each.offset <= reached and belongs(each)], reached)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a follower is in each of its lanes. A lane that has no word of its own begins at ``base``.

    ``base`` is the follower's ordinary position: every event up to it has taken effect, whatever its lane.
    """

    lanes: Collection[Lane]
    base: int = 0
    own: Mapping[Lane, int] = field(default_factory=dict)

    def of(self, lane: Lane) -> int:
        """One lane's progress."""
        return max(self.base, self.own.get(lane, self.base))

    def overall(self) -> int:
        """Up to where every event of all lanes has taken effect: what may be promised to readers."""
        return min((self.of(lane) for lane in self.lanes), default=self.base)

    def after(self, moves: Mapping[Lane, int]) -> Self:
        """The progress once these lanes moved on. Raises ValueError for one that would go back, or is not ours."""
        for lane, offset in moves.items():
            if lane not in self.lanes:
                raise ValueError(f"{lane.key} is not one of this follower's lanes")
            if offset < self.of(lane):
                raise ValueError(f"{lane.key} moves forwards: {offset} is before {self.of(lane)}")
        return type(self)(self.lanes, self.base, {**self.own, **moves})
