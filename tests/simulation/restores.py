"""Restores: the store goes back to an earlier state in the middle of a day, told or not, and an operator rebuilds."""

from collections import deque
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, cast

from command.ports import StoreUnavailable
from infra.clickhouse.facts import FactsStore
from infra.kafka.lanes import Lane
from infra.projections.ports import Coordination, Halt
from infra.projections.rebuild import Rebuildable, RebuildableFacts, RebuildableModel, RebuildRefused, rebuild
from infra.projections.runner import UNAVAILABLE
from infra.redis.models import CheckpointLost, ModelStore
from projections.catalog import READ_MODELS
from tests.saga_fakes import SagaTables
from tests.simulation.processes import Process
from tests.simulation.read_side import (
    LogFeed,
    Parked,
    SimulatedCoordination,
    SimulatedFacts,
    SimulatedModels,
    models_of,
)
from tests.simulation.store import Backup, SimulatedLog

if TYPE_CHECKING:
    from tests.simulation.world import World

FACTS: Final = "facts"
EVERYTHING: Final = (*READ_MODELS, FACTS)
NOT_TOLD: Final = "nobody said so"  # How a follower names what it noticed by itself.


@dataclass(frozen=True, slots=True)
class Saved:
    """All that lies in the one database at one instant: the log, the sagas' tables, the relay's checkpoint."""

    store: Backup
    tables: SagaTables
    parked: dict[tuple[str, str, int], Parked]
    relayed: int
    last_of_lane: dict[Lane, int]


class Restores:
    """When the store is backed up and restored, and what is still to be done about it.

    Told is how it should be: whoever kept running breaks with the server, and meets another epoch. One that nobody
    tells is of a store whose engines and sagas were stopped; an operator tells it once a follower says that it noticed.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self._saved: Saved | None = None
        self._when: deque[int] = deque()  # Turns of backing up and restoring, by how many commands were sent.
        self.count = 0
        self.is_told = True
        self.to_rebuild: deque[str] = deque()
        if world.plan.restores:
            most = world.plan.commands
            self._when.extend(sorted(world.chance.between(most // 20, most) for _ in range(4)))

    def look(self) -> None:
        """Back up or restore, when it is time."""
        if not self._when or self._world.clients.sent < self._when[0] or not self.is_told:
            return
        self._when.popleft()
        if self._saved is None:
            self._back_up()
        else:
            self._restore(self._saved)
            self._saved = None

    def is_expected(self, halt: Halt) -> bool:
        """Whether a follower has reason to halt. One that noticed what nobody told has an operator tell it."""
        if NOT_TOLD in str(halt) and not self.is_told:
            if self._world.store.holder is not None:
                return True  # Telling takes the append lock: somebody says it again when that is free.
            self.tell()
        return bool(self.to_rebuild)

    def tell(self) -> None:
        """What ``tessera restored`` does, and what is then typed."""
        world = self._world
        self.is_told = True
        world.store.epoch = f"e{self.count + 1}"
        positions = world.saga_tables.positions
        for follower, (_, offset) in positions.items():
            assert offset <= world.store.last_offset, f"{follower} is restored to {offset}, behind the end of its log"
            positions[follower] = (world.store.epoch, offset)
        self.to_rebuild = deque(EVERYTHING)
        world.note(f"told of the restore: {world.store.epoch}")

    def _back_up(self) -> None:
        world = self._world
        bus = world.bus
        relayed, lanes = (0, {}) if bus is None else (bus.relayed, dict(bus.last_of_lane))
        self._saved = Saved(world.store.back_up(), deepcopy(world.saga_tables), dict(world.parked), relayed, lanes)
        world.note(f"backed up at {world.store.last_offset}")

    def _restore(self, saved: Saved) -> None:
        world = self._world
        # It has to be told over Kafka, which would bring records of the same epoch that are true no more, and while
        # something is rebuilt, which has no witness yet; and when events stay that were parked since, but not what says
        # that they are parked: a follower finds that out no sooner than it meets the next event of their stream.
        told = world.bus is not None or bool(self.to_rebuild) or world.chance.happens(0.5)
        told = told or saved.parked.keys() != world.parked.keys()
        if not told:
            for process in (*world.engines, *world.sagas):
                world.replace(process, why="stopped for a restore")
        lost = world.store.restore(saved.store)
        for each in fields(SagaTables):
            setattr(world.saga_tables, each.name, getattr(saved.tables, each.name))
        world.parked.clear()
        world.parked.update(saved.parked)
        if world.bus is not None:
            world.bus.relayed, world.bus.last_of_lane = saved.relayed, saved.last_of_lane
        self.count += 1
        self.is_told = False
        world.note(f"restored to {world.store.last_offset}: {len(lost)} answers are lost")
        world.happened["restored" if told else "restored untold"] += 1
        if told:
            self.tell()
        world.forget_what_is_lost(lost)


class Operator(Process):
    """Has everything rebuilt that lies outside of the restored store, one after the other."""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        self._coordination: Coordination = SimulatedCoordination(world.read_stores, self)
        self._feed = LogFeed(SimulatedLog(world.store, self))

    def step(self) -> int:
        """One rebuild, if one is due; what comes between has it begun again."""
        due, count = self.world.restores.to_rebuild, self.world.restores.count
        if not due:
            return 0
        name = due[0]
        try:
            report = rebuild(self._what(name), self._feed, self._coordination)
        except (*UNAVAILABLE, StoreUnavailable, RebuildRefused, CheckpointLost) as trouble:
            self.world.note(f"{self.name} {name} {type(trouble).__name__}")
            return 1
        self.world.note(f"{self.name} rebuilt {name} as {report.to_version}")
        self.world.happened["rebuilt"] += 1
        if self.world.restores.count == count:  # Otherwise it is of a history that was given up meanwhile.
            due.popleft()
        return 1

    def _what(self, name: str) -> Rebuildable:
        stores = self.world.read_stores
        if name == FACTS:
            facts = cast(FactsStore, SimulatedFacts(stores, self))
            return RebuildableFacts(facts, self._coordination, shard=0, lock="facts")
        model = cast(ModelStore, SimulatedModels(stores, models_of(self.world)[name], self))
        return RebuildableModel(model, self._coordination, shard=0, lock="models")
