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

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, Self

from contracts.envelope import Recorded
from contracts.position import Position
from contracts.registry import UnknownEventType
from contracts.topics import Topic, topic_of
from infra.kafka.messages import Record, UnreadableMessage, Watermark, decode
from infra.kafka.partition import partition_of

logger = logging.getLogger(__name__)

STRETCHES_MAX: Final = 4  # Of the log, remembered while holes are filled.


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


def lane_of(kind: str, stream: str, partitions: int) -> Lane:
    """Where a stream's events are published; ``kind`` is the stream's own."""
    return Lane(topic_of(kind).name, partition_of(stream, partitions))


def lanes_of(topics: Iterable[Topic], partitions: int) -> tuple[Lane, ...]:
    """All lanes of some topics."""
    return tuple(Lane(topic.name, partition) for topic in topics for partition in range(partitions))


Stranger = Callable[[str, int], None]  # Told of a record that no relay wrote: topic, partition.


def ignore_strangers(_topic: str, _partition: int) -> None:
    """Tell nobody."""


def read_lane(
    records: Iterable[Record], *, shard: int, epoch: str, on_stranger: Stranger = ignore_strangers
) -> list[Heard]:
    """What a lane's records say to a follower of this shard, in this epoch.

    Others' are left out: another shard's events are no business of its followers, and events of another epoch belong to
    a history that was given up (whatever of them is still true is in the log, and is read from there). So is what does
    not say where in the log it is: no relay wrote that. Had it stood for an event, the next record's ``previous`` shows
    the hole. What says where it is and cannot be read stops whoever has not heard it.
    """
    heard = []
    for record in records:
        try:
            told = decode(record)
        except (UnknownEventType, UnreadableMessage) as error:
            if (found := _place_of(record)) is None:
                on_stranger(record.topic, record.partition)
                about = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
                logger.log(logging.ERROR, "record_passed_over", extra={**about, "reason": str(error)})
            elif (found[0].shard, found[0].epoch) == (shard, epoch):
                heard.append(Heard(found[0].offset, found[1], trouble=error))
            continue
        if (told.position.shard, told.position.epoch) == (shard, epoch):
            event = None if isinstance(told, Watermark) else told.recorded
            heard.append(Heard(told.position.offset, told.previous, event))
    return heard


def _place_of(record: Record) -> tuple[Position, int] | None:
    """Where in the log a record that cannot be read says that it is."""
    headers = dict(record.headers)
    try:
        return Position.parse(headers["position"].decode()), int(headers["previous"])
    except (AttributeError, KeyError, ValueError):  # A header may have no value at all.
        return None


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


class RecentLog:
    """A log that remembers what it read last: lanes that miss the same stretch are filled from one reading of it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stretches: deque[tuple[int, Sequence[Recorded]]] = deque(maxlen=STRETCHES_MAX)

    def read(self, after: int, limit: int) -> Sequence[Recorded]:
        """Up to ``limit`` events after an offset; fewer when the rest was not read yet. Raises as the log does."""
        for start, events in self._stretches:
            if start <= after < events[-1].offset:
                return [each for each in events if each.offset > after][:limit]
        if events := self._log.read(after, limit):
            self._stretches.append((after, events))
        return events

    def forget(self) -> None:
        """Read anew from now on."""
        self._stretches.clear()


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
