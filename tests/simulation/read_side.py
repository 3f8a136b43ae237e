"""Followers as processes: the production followers and targets over a Redis and a ClickHouse that are simulated.

The two stores keep what the real ones promise: a bucket is written as it was seen or not at all, one bucket after the
other; checkpoints and lanes move from where they were seen; rows of the same event replace each other.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal, cast

from command.ports import StoreUnavailable
from contracts.envelope import Recorded
from contracts.position import Position
from contracts.read_models import bucket_key
from infra.clickhouse.facts import FactsCheckpoint, FactsStore
from infra.kafka.lanes import lanes_of
from infra.projections.facts_target import FactsTarget
from infra.projections.lane_follower import LaneFollower
from infra.projections.ports import Busy, Coordination, FollowerStatus, ParkedEvent, mark_of
from infra.projections.redis_target import RedisTarget
from infra.projections.runner import UNAVAILABLE, Follower, FollowerLimits
from infra.projections.service import topics_of
from infra.redis.connection import RedisUnavailable
from infra.redis.models import CheckpointLost, Control, ModelStore, Seen, decode, encode
from projections.catalog import READ_MODELS
from projections.facts import Row
from projections.model import Entry, Place, ReadModel
from tests.simulation.bus import LANES, PARTITIONS, Bus, Member
from tests.simulation.processes import Process
from tests.simulation.store import SimulatedLog

if TYPE_CHECKING:
    from tests.simulation.world import World

FollowerKind = Literal["models", "facts"]
VERSION: Final = 1


class Bucket:
    """One hash: documents by place, and a stamp that changes with every write (0: never written)."""

    __slots__ = ("documents", "stamp")

    def __init__(self) -> None:
        self.stamp = 0
        self.documents: dict[Place, bytes] = {}


class ReadStores:
    """Redis and ClickHouse: what outlives every follower."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.checkpoints: dict[str, Position] = {}
        self.lanes: dict[str, dict[str, Position]] = defaultdict(dict)
        self.ready_at: dict[str, int] = {}
        self.rows: dict[tuple[str, str, int], Row] = {}  # By table, event and number of the row.
        self.facts: FactsCheckpoint | None = None
        self.facts_lanes: dict[str, int] = {}
        self.holders: dict[str, list[tuple[Process, bool]]] = defaultdict(list)  # Who, and whether alone.


class SimulatedModels:
    """One read model in Redis, as :class:`infra.redis.models.ModelStore` has it, seen by one process."""

    def __init__(self, stores: ReadStores, model: ReadModel, process: Process) -> None:
        self.model = model
        self._stores = stores
        self._process = process

    def control(self) -> Control:
        """Where its one version stands."""
        self._exchange()
        name, stores = self.model.name, self._stores
        if name not in stores.checkpoints:
            return Control(None)
        lanes = {VERSION: dict(stores.lanes[name])} if stores.lanes[name] else {}
        return Control(VERSION, stores.ready_at.get(name, 0), {VERSION: stores.checkpoints[name]}, lanes)

    def begin(self, version: int, start: Position, *, ready_at: int | None = None) -> None:
        """Make it, empty. Two that begin at once are kept apart by the projection's lock."""
        assert version == VERSION
        self._stores.checkpoints[self.model.name] = start
        self._stores.ready_at[self.model.name] = ready_at or 0

    def load(self, version: int, places: Collection[Place], begun: Collection[Place] = ()) -> Seen:
        """What is stored at these places."""
        self._exchange()
        seen = Seen()
        for key, inside in self._by_bucket(places).items():
            if begun and all(place in begun for place in inside):
                continue
            bucket = self._stores.buckets.get(key, Bucket())
            seen.stamps[key] = b"%d" % bucket.stamp
            found = {place: decode(bucket.documents[place]) for place in inside if place in bucket.documents}
            seen.entries.update(found)
        return seen

    def write(self, version: int, offset: int, entries: Mapping[Place, Entry], seen: Seen) -> bool:
        """Bucket by bucket; whoever dies in between leaves the rest as it was."""
        written = True
        for key, inside in self._by_bucket(entries).items():
            self._exchange()
            bucket = self._stores.buckets.setdefault(key, Bucket())
            stamp = seen.stamps.get(key)
            unwritten = bucket.documents.keys().isdisjoint(inside)
            is_as_seen = unwritten if stamp is None else stamp == b"%d" % bucket.stamp
            if not is_as_seen:
                written = False
                continue
            bucket.documents.update((place, encode(entries[place])) for place in inside)
            bucket.stamp += 1
        return written

    def advance(self, version: int, seen: Position, position: Position, lanes: Collection[str] = ()) -> None:
        """Move the checkpoint from where it was seen; lanes are left behind."""
        self._exchange()
        name = self.model.name
        if self._stores.checkpoints.get(name) != seen:
            raise CheckpointLost(f"{name} is elsewhere")
        self._stores.checkpoints[name] = position
        for lane in lanes:
            self._stores.lanes[name].pop(lane, None)

    def begin_lanes(self, version: int, seen: Position, lanes: Collection[str]) -> None:
        """Begin lanes at the checkpoint."""
        self._exchange()
        if self._stores.checkpoints.get(self.model.name) != seen:
            raise CheckpointLost(f"{self.model.name} is elsewhere")
        for lane in lanes:
            self._stores.lanes[self.model.name].setdefault(lane, seen)

    def move_lanes(
        self, version: int, moves: Mapping[str, tuple[Position, Position]], lanes: Collection[str]
    ) -> Position:
        """Move lanes from where they were seen, all or none, and the checkpoint to the last of all lanes."""
        self._exchange()
        name, at = self.model.name, self._stores.lanes[self.model.name]
        if any(at.get(lane) != seen for lane, (seen, _) in moves.items()):
            raise CheckpointLost(f"{name} is elsewhere in a lane")
        at.update((lane, position) for lane, (_, position) in moves.items())
        last = min((at[lane] for lane in lanes), key=lambda position: position.offset)
        self._stores.checkpoints[name] = last
        return last

    def withdraw(self) -> None:
        """There is one history only."""

    def _exchange(self) -> None:
        self._process.misfortune("Redis")
        if self._process.world.chance.happens(self._process.world.odds.cut_off):
            raise RedisUnavailable("the connection was lost")

    def _by_bucket(self, places: Collection[Place]) -> dict[str, list[Place]]:
        buckets: dict[str, list[Place]] = {}
        for place in sorted(places, key=lambda place: (place.realm, place.key or "", place.field)):
            buckets.setdefault(bucket_key(self.model.name, VERSION, place.realm, place.key), []).append(place)
        return buckets


class SimulatedFacts:
    """The facts in ClickHouse, as :class:`infra.clickhouse.facts.FactsStore` has them, seen by one process."""

    def __init__(self, stores: ReadStores, process: Process) -> None:
        self._stores = stores
        self._process = process

    def checkpoint(self) -> FactsCheckpoint | None:
        """Where they stand."""
        self._process.misfortune("ClickHouse")
        return self._stores.facts

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """A row of the same event and number takes the other's place."""
        self._process.misfortune("an insert")
        for row in rows:
            self._stores.rows[table, row[2], row[3]] = row

    def save(self, checkpoint: FactsCheckpoint) -> None:
        """The later one wins."""
        self._process.misfortune("the checkpoint of the facts")
        stands = self._stores.facts
        if stands is None or checkpoint.position.offset >= stands.position.offset:
            self._stores.facts = checkpoint

    def lanes(self, version: int, epoch: str) -> dict[str, int]:
        """Where they stand in each lane."""
        return dict(self._stores.facts_lanes)

    def save_lanes(self, version: int, epoch: str, lanes: Mapping[str, int]) -> None:
        """The highest wins."""
        self._process.misfortune("the lanes of the facts")
        for lane, offset in lanes.items():
            self._stores.facts_lanes[lane] = max(offset, self._stores.facts_lanes.get(lane, 0))


class SimulatedCoordination:
    """The projection's lock and the store's own count; nothing is ever parked here."""

    def __init__(self, stores: ReadStores, process: Process) -> None:
        self._stores = stores
        self._process = process

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Alone."""
        with self._locked(name, alone=True):
            yield

    @contextmanager
    def share(self, name: str) -> Iterator[None]:
        """With others who share it."""
        with self._locked(name, alone=False):
            yield

    @contextmanager
    def _locked(self, name: str, *, alone: bool) -> Iterator[None]:
        holders = self._stores.holders[name]
        holders[:] = [holder for holder in holders if not holder[0].dead]  # The server unlocks for the dead.
        if holders and (alone or any(is_alone for _, is_alone in holders)):
            raise Busy(f"somebody else works on {name}")
        mine = (self._process, alone)
        holders.append(mine)
        try:
            yield
        finally:
            if mine in holders:
                holders.remove(mine)

    def count(self, after: int, upto: int) -> int:
        """How many events there are."""
        offsets = self._process.world.store.offsets
        return bisect_right(offsets, upto) - bisect_right(offsets, after)

    def mark_at(self, offset: int) -> str | None:
        """Which event is there."""
        store = self._process.world.store
        at = bisect_right(store.offsets, offset) - 1
        return mark_of(store.events[at]) if at >= 0 and store.offsets[at] == offset else None

    def parked_streams(self, follower: str) -> frozenset[str]:
        """None."""
        return frozenset()

    def parked_count(self, followers: Sequence[str]) -> int:
        """None."""
        return 0

    def park(self, follower: str, recorded: Recorded, *, reason: str, attempts: int, detail: str) -> None:
        """What commands wrote, followers can read."""
        self._process.world.violation("I6", f"{recorded.stream}@{recorded.version}", f"parked by {follower}: {reason}")

    def park_behind(self, follower: str, events: Sequence[Recorded]) -> None:
        """Never."""

    def dropped_versions(self, follower: str) -> Mapping[str, Collection[int]]:
        """None."""
        return {}

    def requeued_streams(self, follower: str, limit: int) -> Sequence[str]:
        """None."""
        return ()

    def parked(self, follower: str, stream: str, limit: int) -> Sequence[ParkedEvent]:
        """None."""
        return ()

    def remove(self, follower: str, events: Sequence[ParkedEvent]) -> None:
        """Nothing."""

    def forget(self, follower: str) -> None:
        """Nothing."""

    def report(self, status: FollowerStatus, epoch: str) -> None:
        """Nobody reads it."""


class LogFeed:
    """The log, as followers read it."""

    def __init__(self, log: SimulatedLog) -> None:
        self._log = log

    def read(self, after: int, limit: int) -> Sequence[Recorded]:
        """Up to so many events after an offset."""
        with self._log.reading() as view:
            return view.events_after(after, limit)

    def wait(self, timeout_seconds: float) -> bool:
        """The scheduler says when."""
        return False

    def head(self) -> int:
        """The last event."""
        with self._log.reading() as view:
            return view.last_offset

    def epoch(self) -> str:
        """Which history."""
        return self._log.epoch


class FollowerProcess(Process):
    """Keeps the read models or the facts up, from the store or from lanes that it shares with others."""

    def __init__(self, world: "World", name: str, kind: FollowerKind, stores: ReadStores, bus: Bus | None) -> None:
        super().__init__(world, name)
        self.kind = kind
        coordination: Coordination = SimulatedCoordination(stores, self)
        # No time counts: it tends to everything at each step.
        limits = FollowerLimits(batch_events_max=world.chance.one_of((3, 40, 500)), tend_seconds=0.0)
        targets: list[RedisTarget | FactsTarget]
        if kind == "models":
            models = [cast(ModelStore, SimulatedModels(stores, model, self)) for model in READ_MODELS.values()]
            targets = [
                RedisTarget(
                    each,
                    coordination,
                    shard=0,
                    lanes=() if bus is None else lanes_of(topics_of(each.model), PARTITIONS),
                )
                for each in models
            ]
        else:
            facts = cast(FactsStore, SimulatedFacts(stores, self))
            targets = [FactsTarget(facts, coordination, shard=0, lanes=() if bus is None else LANES)]
        feed = LogFeed(SimulatedLog(world.store, self))
        self.member = None if bus is None else Member(self, bus, kind)
        if self.member is None:
            self._follower = Follower(kind, feed, targets, coordination, limits)
        else:
            self._follower = LaneFollower(kind, self.member, feed, targets, coordination, limits)

    def step(self) -> int:
        """One batch; how much it was. What makes a follower halt is a finding."""
        try:
            done = self._follower.step()
        except (*UNAVAILABLE, StoreUnavailable) as trouble:
            self.world.note(f"{self.name} {type(trouble).__name__}")
            return 1
        except Exception as halt:  # noqa: BLE001 - whatever it is, somebody has to know of it.
            self.world.violation("I6", self.name, f"halted: {type(halt).__name__}: {halt}")
            return 0
        if done:
            self.world.note(f"{self.name} took in {done}")
        return done
