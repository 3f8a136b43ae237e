"""Topics in memory that drop, repeat and withhold what they are told to, and members of a group that share them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from contracts.envelope import Recorded
from contracts.position import Position
from contracts.topics import EVENT_TOPICS
from infra.kafka.lanes import Lane, lane_of, lanes_of
from infra.kafka.messages import Message, encode, encode_watermark, told

PARTITIONS = 2
LANES = lanes_of(EVENT_TOPICS, PARTITIONS)


@dataclass(frozen=True)
class Record:
    """As a Kafka client hands it over."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass
class Chain:
    """What a relay makes of a log: each event's message in its lane, chained; and watermarks."""

    shard: int
    epoch: str
    partitions: int = PARTITIONS
    last: dict[Lane, int] = field(default_factory=dict)

    def lane(self, recorded: Recorded) -> Lane:
        return lane_of(recorded.name.kind, recorded.stream, self.partitions)

    def link(self, recorded: Recorded) -> tuple[Lane, Message]:
        lane = self.lane(recorded)
        message = encode(told(recorded), shard=self.shard, epoch=self.epoch, previous=self.last.get(lane, 0))
        self.last[lane] = recorded.offset
        return lane, message

    def watermark(self, lane: Lane, upto: int) -> tuple[Lane, Message]:
        return lane, encode_watermark(Position(self.shard, self.epoch, upto), previous=self.last.get(lane, 0))


class Topics:
    """Every lane's records, and where each group goes on reading."""

    def __init__(self, epoch: str, shard: int = 0) -> None:
        self.chain = Chain(shard, epoch)
        self.records: dict[Lane, list[Record]] = {lane: [] for lane in LANES}
        self.committed: dict[tuple[str, Lane], int] = {}  # By group.

    def publish(self, events: Iterable[Recorded], *, lost: Collection[int] = (), twice: Collection[int] = ()) -> None:
        """Events to their lanes; ``lost`` and ``twice`` are offsets of the log."""
        for recorded in events:
            lane, message = self.chain.link(recorded)
            for _ in range((recorded.offset not in lost) + (recorded.offset in twice)):
                self.put(lane, message)

    def watermark(self, upto: int) -> None:
        """To every lane."""
        for lane in LANES:
            self.put(*self.chain.watermark(lane, upto))

    def put(self, lane: Lane, message: Message) -> None:
        records = self.records[lane]
        records.append(Record(lane.topic, lane.partition, len(records), *message))


class Member:
    """One member of a group, with lanes that a test gives it and takes from it."""

    partitions = PARTITIONS

    def __init__(self, topics: Topics, lanes: Collection[Lane] = LANES, group: str = "redis") -> None:
        self._topics = topics
        self._group = group
        self._next: dict[Lane, int] = {}
        self.assign(lanes)

    def assign(self, lanes: Collection[Lane]) -> None:
        """Lanes that are new are read from where their group committed."""
        committed = self._topics.committed
        self._next = {lane: self._next.get(lane, committed.get((self._group, lane), 0)) for lane in lanes}

    def poll(self, limit: int, timeout_seconds: float) -> Mapping[Lane, Sequence[Record]]:
        found: dict[Lane, Sequence[Record]] = {}
        for lane in sorted(self._next):
            records = self._topics.records[lane][self._next[lane] :][: max(1, limit // len(self._next))]
            if records:
                found[lane] = records
                self._next[lane] += len(records)
        return found

    def assigned(self) -> Collection[Lane]:
        return frozenset(self._next)

    def done(self) -> None:
        self._topics.committed |= {(self._group, lane): upto for lane, upto in self._next.items()}
