"""Followers as processes: the production followers and targets over a Redis and a ClickHouse that are simulated.

The two stores keep what the real ones promise: a bucket is written as it was seen or not at all, one bucket after the
other; checkpoints and lanes move from where they were seen; rows of the same event replace each other.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast

from command.ports import StoreUnavailable
from contracts.envelope import Recorded
from contracts.position import Position
from contracts.read_models import NEVER_READY, bucket_key
from infra.clickhouse.connection import FactsDamaged
from infra.clickhouse.facts import Checksum as FactsChecksum
from infra.clickhouse.facts import FactsCheckpoint, FactsStore
from infra.kafka.lanes import lanes_of
from infra.projections.facts_target import FactsTarget
from infra.projections.lane_follower import LaneFollower
from infra.projections.ports import Busy, Coordination, FollowerStatus, Halt, Mark, ParkedEvent, Witness, mark_of
from infra.projections.redis_target import RedisTarget
from infra.projections.runner import UNAVAILABLE, Follower, FollowerLimits
from infra.projections.service import topics_of
from infra.redis.connection import RedisUnavailable
from infra.redis.models import CheckpointLost, Control, ModelStore, Seen, decode, encode
from infra.redis.models import Checksum as ModelChecksum
from projections.catalog import READ_MODELS
from projections.facts import TABLES, Row
from projections.model import Document, Entry, Place, ReadModel
from tests.simulation.bus import LANES, PARTITIONS, Bus, Member
from tests.simulation.processes import Process
from tests.simulation.store import SimulatedLog

if TYPE_CHECKING:
    from tests.simulation.world import World

FollowerKind = Literal["models", "facts"]


# One event in this many cannot be digested, for a while: until whoever reads it is mended.
ONE_IS_INDIGESTIBLE_IN: Final = 150


class Indigestible(ValueError):
    """A defect of a read model that nobody has mended yet."""


class Parked(NamedTuple):
    """A parked event, by its place in the log; whether an operator wants it tried again."""

    offset: int
    is_requeued: bool = False


class Bucket:
    """One hash: documents by place, and a stamp that changes with every write (0: never written)."""

    __slots__ = ("documents", "stamp")

    def __init__(self) -> None:
        self.stamp = 0
        self.documents: dict[Place, bytes] = {}


class ModelControl:
    """What the control hash of one read model says."""

    __slots__ = ("active", "checkpoints", "lanes", "ready_at")

    def __init__(self) -> None:
        self.active: int | None = None
        self.ready_at = 0
        self.checkpoints: dict[int, Position] = {}
        self.lanes: dict[int, dict[str, Position]] = {}


class FactTables:
    """One database of ClickHouse."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[tuple[str, int], Row]] = {name: {} for name in TABLES}  # By event and row.
        self.checkpoint: FactsCheckpoint | None = None
        self.noted: tuple[int, Position, str] | None = None
        self.lanes: dict[tuple[int, str], dict[str, int]] = defaultdict(dict)  # By version and epoch.


class ReadStores:
    """Redis and ClickHouse: what outlives every follower."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.models: dict[str, ModelControl] = defaultdict(ModelControl)
        self.mark: Mark | None = None
        self.facts = FactTables()
        self.shadow: FactTables | None = None
        self.holders: dict[str, list[tuple[Process, bool]]] = defaultdict(list)  # Who, and whether alone.


class SimulatedModels:
    """One read model in Redis, as :class:`infra.redis.models.ModelStore` has it, seen by one process."""

    def __init__(self, stores: ReadStores, model: ReadModel, process: Process) -> None:
        self.model = model
        self._stores = stores
        self._process = process

    @property
    def _at(self) -> ModelControl:
        return self._stores.models[self.model.name]

    def control(self) -> Control:
        """Where its versions stand."""
        self._exchange()
        at = self._at
        lanes = {version: dict(lanes) for version, lanes in at.lanes.items() if lanes}
        return Control(at.active, at.ready_at, dict(at.checkpoints), lanes)

    def begin(self, version: int, start: Position, *, ready_at: int | None = None) -> None:
        """Make a version, empty. Two that begin at once are kept apart by the projection's lock."""
        self._exchange()
        self._forget(version)
        at = self._at
        at.checkpoints[version] = start
        if ready_at is not None:
            at.active, at.ready_at = version, ready_at

    def withdraw(self) -> None:
        """Nobody reads what belongs to a history that was given up."""
        self._exchange()
        self._at.ready_at = NEVER_READY

    def load(self, version: int, places: Collection[Place], begun: Collection[Place] = ()) -> Seen:
        """What is stored at these places."""
        self._exchange()
        seen = Seen()
        for key, inside in self._by_bucket(version, places).items():
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
        for key, inside in self._by_bucket(version, entries).items():
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
        self._require(version, seen)
        self._at.checkpoints[version] = position
        for lane in lanes:
            self._at.lanes.get(version, {}).pop(lane, None)

    def begin_lanes(self, version: int, seen: Position, lanes: Collection[str]) -> None:
        """Begin lanes at the checkpoint."""
        self._require(version, seen)
        own = self._at.lanes.setdefault(version, {})
        for lane in lanes:
            own.setdefault(lane, seen)

    def move_lanes(
        self, version: int, moves: Mapping[str, tuple[Position, Position]], lanes: Collection[str]
    ) -> Position:
        """Move lanes from where they were seen, all or none, and the checkpoint to the last of all lanes."""
        self._exchange()
        at = self._at.lanes.get(version, {})
        if any(at.get(lane) != seen for lane, (seen, _) in moves.items()):
            raise CheckpointLost(f"{self.model.name} is elsewhere in a lane")
        at.update((lane, position) for lane, (_, position) in moves.items())
        last = min((at[lane] for lane in lanes), key=lambda position: position.offset)
        self._at.checkpoints[version] = last
        return last

    def activate(self, version: int, seen: Position) -> None:
        """Let readers use this version."""
        self._require(version, seen)
        self._at.active, self._at.ready_at = version, seen.offset

    def drop(self, version: int) -> int:
        """Delete a version that nobody reads."""
        self._exchange()
        assert version != self._at.active
        return self._forget(version)

    def checksum(self, version: int) -> ModelChecksum:
        """How many documents there are: what is in them is looked at when it is quiet."""
        self._exchange()
        prefix = bucket_prefix(self.model.name, version)
        held = sum(len(each.documents) for key, each in self._stores.buckets.items() if key.startswith(prefix))
        return ModelChecksum(held, "")

    def _require(self, version: int, seen: Position) -> None:
        self._exchange()
        if self._at.checkpoints.get(version) != seen:
            raise CheckpointLost(f"{self.model.name} v{version} is elsewhere")

    def _forget(self, version: int) -> int:
        self._at.checkpoints.pop(version, None)
        self._at.lanes.pop(version, None)
        prefix = bucket_prefix(self.model.name, version)
        gone = [key for key in self._stores.buckets if key.startswith(prefix)]
        for key in gone:
            del self._stores.buckets[key]
        return len(gone)

    def _exchange(self) -> None:
        self._process.misfortune("Redis")
        if self._process.world.chance.happens(self._process.world.odds.cut_off):
            raise RedisUnavailable("the connection was lost")

    def _by_bucket(self, version: int, places: Collection[Place]) -> dict[str, list[Place]]:
        buckets: dict[str, list[Place]] = {}
        for place in sorted(places, key=lambda place: (place.realm, place.key or "", place.field)):
            buckets.setdefault(bucket_key(self.model.name, version, place.realm, place.key), []).append(place)
        return buckets


class SimulatedWitness:
    """Beside the read models in Redis, as :class:`infra.projections.witness.RedisWitness`."""

    def __init__(self, stores: ReadStores, process: Process) -> None:
        self._stores = stores
        self._process = process

    def last(self) -> Mark | None:
        """What was noted last."""
        self._process.misfortune("the witness")
        return self._stores.mark

    def note(self, mark: Mark) -> None:
        """Remember this."""
        self._process.misfortune("the witness's note")
        self._stores.mark = mark


class SimulatedFacts:
    """The facts in ClickHouse, as :class:`infra.clickhouse.facts.FactsStore` has them, seen by one process."""

    def __init__(self, stores: ReadStores, process: Process, *, shadow: bool = False) -> None:
        self._stores = stores
        self._process = process
        self._is_shadow = shadow

    @property
    def _tables(self) -> FactTables:
        if not self._is_shadow:
            return self._stores.facts
        if self._stores.shadow is None:
            raise FactsDamaged("the shadow was dropped")
        return self._stores.shadow

    def checkpoint(self) -> FactsCheckpoint | None:
        """Where they stand."""
        self._process.misfortune("ClickHouse")
        tables = self._tables
        if tables.checkpoint is None or tables.noted is None:
            return tables.checkpoint
        _, noted, mark = tables.noted
        return replace(tables.checkpoint, noted=noted, mark=mark)

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """A row of the same event and number takes the other's place."""
        self._process.misfortune("an insert")
        self._tables.rows[table].update(((row[2], row[3]), row) for row in rows)

    def save(self, checkpoint: FactsCheckpoint) -> None:
        """The later one wins."""
        self._process.misfortune("the checkpoint of the facts")
        tables, stands = self._tables, self._tables.checkpoint
        if stands is None or _serial(checkpoint) >= _serial(stands):
            tables.checkpoint = checkpoint

    def note(self, version: int, position: Position, mark: str) -> None:
        """The last of all wins."""
        self._process.misfortune("the note of the facts")
        tables, news = self._tables, (version, position, mark)
        if tables.noted is None or (version, position.offset) >= (tables.noted[0], tables.noted[1].offset):
            tables.noted = news

    def lanes(self, version: int, epoch: str) -> dict[str, int]:
        """Where they stand in each lane."""
        return dict(self._tables.lanes[version, epoch])

    def save_lanes(self, version: int, epoch: str, lanes: Mapping[str, int]) -> None:
        """The highest wins."""
        self._process.misfortune("the lanes of the facts")
        own = self._tables.lanes[version, epoch]
        for lane, offset in lanes.items():
            own[lane] = max(offset, own.get(lane, 0))

    def checksums(self, upto: int) -> dict[str, FactsChecksum]:
        """How many rows there are: what is in them is looked at when it is quiet."""
        return {name: FactsChecksum(len(rows), "") for name, rows in self._tables.rows.items()}

    def restore(self) -> None:
        """No table is ever dropped."""

    def begin_shadow(self) -> "SimulatedFacts":
        """A fresh database beside this one."""
        self._process.misfortune("making a database")
        self._stores.shadow = FactTables()
        return SimulatedFacts(self._stores, self._process, shadow=True)

    def switch_to_shadow(self) -> None:
        """Exchange tables, one after the other."""
        for name in TABLES:
            self._process.misfortune("an exchange of tables")
            live, shadow = self._stores.facts, self._stores.shadow
            if shadow is None:
                raise FactsDamaged("the shadow was dropped")
            live.rows[name], shadow.rows[name] = shadow.rows[name], live.rows[name]


def models_of(world: "World") -> Mapping[str, ReadModel]:
    """The read models, as the processes of a world have them: with a defect, as long as it is not mended."""
    return {name: _with_a_defect(model, world) for name, model in READ_MODELS.items()}


def _with_a_defect(model: ReadModel, world: "World") -> ReadModel:
    def fold(document: Document | None, recorded: Recorded) -> Document:
        if world.has_defect and int(recorded.metadata.event_id[:8], 16) % ONE_IS_INDIGESTIBLE_IN == 0:
            raise Indigestible(model.name)
        return model.fold(document, recorded)

    return replace(model, fold=fold)


def bucket_prefix(model: str, version: int) -> str:
    """What the keys of all buckets of one version begin with."""
    return f"{model}:v{version}:"


def _serial(checkpoint: FactsCheckpoint) -> tuple[int, int]:
    return checkpoint.version, checkpoint.position.offset


class SimulatedCoordination:
    """The projection's lock, the store's own count, and what is parked: what followers have in PostgreSQL."""

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
        """Streams of which something is parked."""
        self._process.misfortune("a look at what is parked")
        return frozenset(stream for label, stream, _ in self._parked if label == follower)

    def parked_count(self, followers: Sequence[str]) -> int:
        """How many events these have parked."""
        return sum(label in followers for label, _, _ in self._parked)

    def park(self, follower: str, recorded: Recorded, *, reason: str, attempts: int, detail: str) -> None:
        """Park what failed; what is parked behind it is not tried any more until somebody asks for it."""
        self._process.misfortune("parking")
        if not reason.startswith(Indigestible.__name__):
            self._process.world.violation(
                "I6", f"{recorded.stream}@{recorded.version}", f"parked by {follower}: {reason}"
            )
        self._process.world.happened["parked"] += 1
        for (label, stream, version), event in list(self._parked.items()):
            if (label, stream) == (follower, recorded.stream) and version > recorded.version:
                self._parked[label, stream, version] = event._replace(is_requeued=False)
        self._parked[follower, recorded.stream, recorded.version] = Parked(recorded.offset)

    def park_behind(self, follower: str, events: Sequence[Recorded]) -> None:
        """Park what follows in the same streams."""
        self._process.misfortune("parking behind")
        for event in events:
            self._process.world.happened["parked behind"] += 1
            self._parked.setdefault((follower, event.stream, event.version), Parked(event.offset))

    def dropped_versions(self, follower: str) -> Mapping[str, Collection[int]]:
        """None: nobody gives anything up."""
        return {}

    def requeued_streams(self, follower: str, limit: int) -> Sequence[str]:
        """What an operator wants tried again."""
        self._process.misfortune("a look at what is requeued")
        wanted = [(event.offset, key[1]) for key, event in self._parked.items() if key[0] == follower]
        requeued = {key[1] for key, event in self._parked.items() if key[0] == follower and event.is_requeued}
        return [stream for stream in dict.fromkeys(stream for _, stream in sorted(wanted)) if stream in requeued][
            :limit
        ]

    def parked(self, follower: str, stream: str, limit: int) -> Sequence[ParkedEvent]:
        """What is parked of one stream, in order."""
        rows = [
            ParkedEvent(name, version, event.offset)
            for (label, name, version), event in self._parked.items()
            if (label, name) == (follower, stream)
        ]
        return sorted(rows, key=lambda row: row.offset)[:limit]

    def remove(self, follower: str, events: Sequence[ParkedEvent]) -> None:
        """Forget what was applied after all."""
        self._process.misfortune("forgetting what was parked")
        for event in events:
            self._parked.pop((follower, event.stream, event.version), None)

    def forget(self, follower: str) -> None:
        """Forget all that is parked under a name."""
        for key in [key for key in self._parked if key[0] == follower]:
            del self._parked[key]

    @property
    def _parked(self) -> dict[tuple[str, str, int], Parked]:
        return self._process.world.parked

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
        with self._log.reading():
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
            models = [cast(ModelStore, SimulatedModels(stores, model, self)) for model in models_of(world).values()]
            targets = [
                RedisTarget(
                    each,
                    coordination,
                    shard=0,
                    lanes=() if bus is None else lanes_of(topics_of(each.model), PARTITIONS),
                )
                for each in models
            ]
            witness: Witness = SimulatedWitness(stores, self)
        else:
            facts = cast(FactsStore, SimulatedFacts(stores, self))
            witness = target = FactsTarget(facts, coordination, shard=0, lanes=() if bus is None else LANES)
            targets = [target]
        feed = LogFeed(SimulatedLog(world.store, self))
        self.member = None if bus is None else Member(self, bus, kind)
        if self.member is None:
            self._follower = Follower(kind, feed, targets, coordination, limits, witness=witness)
        else:
            self._follower = LaneFollower(kind, self.member, feed, targets, coordination, limits, witness=witness)

    def step(self) -> int:
        """One batch; how much it was. What makes a follower halt is a finding, unless the store was restored."""
        try:
            done = self._follower.step()
        except (*UNAVAILABLE, StoreUnavailable) as trouble:
            self.world.note(f"{self.name} {type(trouble).__name__}")
            return 1
        except Halt as halt:
            self.world.note(f"{self.name} halts")
            self._follower._halted.clear()  # As its service does, which runs it again a little later.
            if not self.world.restores.is_expected(halt):
                self.world.violation("I6", self.name, f"halted: {halt}")
            return 0
        except Exception as halt:  # noqa: BLE001 - whatever it is, somebody has to know of it.
            self.world.violation("I6", self.name, f"halted: {type(halt).__name__}: {halt}")
            return 0
        for _, reason in self._follower._halted.values():
            if not self.world.restores.is_expected(Halt(reason)):
                self.world.violation("I6", self.name, f"halted: {reason}")
        if done:
            self.world.note(f"{self.name} took in {done}")
        return done
