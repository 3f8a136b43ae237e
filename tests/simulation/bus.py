"""A simulated Kafka: lanes, a group whose members share them, a relay; it repeats, loses, holds back and hands over."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from command.ports import StoreUnavailable
from contracts.position import Position
from contracts.topics import EVENT_TOPICS
from infra.kafka.errors import KafkaUnavailable
from infra.kafka.lanes import Lane, lane_of, lanes_of
from infra.kafka.messages import Message, encode, encode_watermark, told
from infra.sagas.lane_runner import TOPICS as SAGA_TOPICS
from tests.simulation.processes import Process
from tests.simulation.store import SimulatedLog

if TYPE_CHECKING:
    from tests.simulation.world import World

PARTITIONS: Final = 2
LANES: Final = lanes_of(EVENT_TOPICS, PARTITIONS)
HEARD_BY: Final = {"models": LANES, "facts": LANES, "sagas": lanes_of(SAGA_TOPICS, PARTITIONS)}  # By group.


@dataclass(frozen=True, slots=True)
class Published:
    """One record as a client hands it over. ``offset`` is Kafka's own."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Bus:
    """What outlives every process: records by lane (None: lost, or its retention is over) and groups' offsets."""

    def __init__(self) -> None:
        self.lanes: dict[Lane, list[Published | None]] = {lane: [] for lane in LANES}
        self.relayed = 0  # The relay's checkpoint: an offset of the log, and the last event of each lane.
        self.last_of_lane: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self.groups = {name: Group(lanes) for name, lanes in HEARD_BY.items()}

    def publish(self, lane: Lane, message: Message, *, lost: bool) -> None:
        """Append a record, or what is left of one."""
        records = self.lanes[lane]
        record = Published(lane.topic, lane.partition, len(records), message.key, message.value, message.headers)
        records.append(None if lost else record)


class Group:
    """A consumer group: which member has which lane, and where the next one begins to read."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = lanes
        self.committed: dict[Lane, int] = defaultdict(int)
        self.members: list[Member] = []
        self.generation = 0

    def rebalance(self) -> None:
        """Share the lanes among the members anew. Each hears of it when it polls next."""
        self.generation += 1

    def lanes_of(self, member: "Member") -> list[Lane]:
        """A member's share in this generation."""
        place, members = self.members.index(member), len(self.members)
        return [lane for number, lane in enumerate(self.lanes) if (number + self.generation) % members == place]


class Member:
    """One member: what followers and sagas take for a source of lanes. Between polls it believes in its share."""

    partitions = PARTITIONS

    def __init__(self, process: Process, bus: Bus, group: str) -> None:
        self._process = process
        self._bus = bus
        self.group = bus.groups[group]
        self.group.members.append(self)
        self.group.rebalance()
        self._generation = -1
        self._mine: list[Lane] = []
        self._next: dict[Lane, int] = {}
        self._in_hand: dict[Lane, int] = {}

    def poll(self, limit: int, timeout_seconds: float) -> Mapping[Lane, Sequence[Published]]:
        """What came since, of some lanes. After a rebalance it begins where the group had committed."""
        world = self._process.world
        if world.chance.happens(world.odds.cut_off):
            raise KafkaUnavailable("the broker is out of reach")
        if self._generation != self.group.generation:
            self._generation = self.group.generation
            self._mine = self.group.lanes_of(self)
            self._next = {lane: self.group.committed[lane] for lane in self._mine}
        found: dict[Lane, Sequence[Published]] = {}
        for lane in self._mine:
            if not world.calm and world.chance.happens(0.3):
                continue  # It comes later.
            there = self._bus.lanes[lane][self._next[lane] : self._next[lane] + limit]
            if there:
                self._next[lane] += len(there)
                found[lane] = [record for record in there if record is not None]
        self._in_hand = dict(self._next)
        return {lane: records for lane, records in found.items() if records}

    def assigned(self) -> Collection[Lane]:
        """Its lanes, as far as it knows."""
        return self._mine

    def done(self) -> None:
        """Commit what was polled, now and then, if the lanes are still its own."""
        if self._generation == self.group.generation and not self._process.world.chance.happens(0.2):
            self.group.committed.update(self._in_hand)

    def close(self) -> None:
        """Leave the group, or be taken out of it: it died."""
        if self in self.group.members:
            self.group.members.remove(self)
            self.group.rebalance()


class Relay(Process):
    """Publishes the log, each event to its lane, chained; moves its checkpoint when all is published."""

    def __init__(self, world: "World", name: str, bus: Bus) -> None:
        super().__init__(world, name)
        self._bus = bus
        self._log = SimulatedLog(world.store, self)

    def step(self) -> int:
        """One batch; a crash before its end has the next relay publish it again."""
        chance, bus = self.world.chance, self._bus
        store, begun = self.world.store, bus.relayed
        try:
            with self._log.reading() as view:
                events = view.events_after(begun, chance.one_of((5, 50, 500)))
                start = store.starts
        except StoreUnavailable:
            return 1
        last = dict(bus.last_of_lane)
        for event in events:
            lane = lane_of(event.name.kind, event.stream, PARTITIONS)
            message = encode(told(event), shard=0, epoch=self._log.epoch, previous=last[lane])
            bus.publish(lane, message, lost=not self.world.calm and chance.happens(0.02))
            last[lane] = event.offset
            if chance.happens(0.01):
                self.misfortune("the next record")
        if not events:
            return 0
        self.misfortune("the watermarks")
        if self.world.calm or chance.happens(0.3):
            end = Position(0, self._log.epoch, events[-1].offset)
            for lane in LANES:
                bus.publish(lane, encode_watermark(end, previous=last[lane]), lost=False)
        self.misfortune("the relay's checkpoint")
        if store.starts == start and bus.relayed == begun:  # It is a row of the store, moved from where it was.
            bus.last_of_lane, bus.relayed = last, events[-1].offset
        return len(events)

    def watermark(self) -> None:
        """What an idle relay does: say in every lane that it is complete."""
        end = Position(0, self.world.store.epoch, self._bus.relayed)
        for lane in LANES:
            self._bus.publish(lane, encode_watermark(end, previous=self._bus.last_of_lane[lane]), lost=False)
