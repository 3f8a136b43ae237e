"""The sagas' ear, voice and clock as processes: the production code of infra/sagas on a store and engines that fail."""

from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, cast

from command.ports import StoreUnavailable, StreamConflict
from command.tickets import Busy
from contracts.envelope import Answer, CommandEnvelope
from infra.kafka.errors import KafkaUnavailable
from infra.postgres.positions import EpochChanged, PositionMoved
from infra.sagas.checkpoints import At
from infra.sagas.dispatcher import Dispatcher
from infra.sagas.lane_runner import LaneRunner
from infra.sagas.runner import SagaRunner
from infra.sagas.settings import SagaSettings
from infra.sagas.timer_service import TimerService
from tests.fakes import InMemoryEventLog
from tests.saga_fakes import InMemoryFeed, InMemorySagaStore, SagaTables
from tests.simulation.bus import Bus, Member
from tests.simulation.clients import Asked
from tests.simulation.processes import Process
from tests.simulation.store import SimulatedLog

if TYPE_CHECKING:
    from tests.simulation.world import World

# After these a part is called again, as the worker's loop does it; after the last one a little later.
TRY_AGAIN: Final = (StoreUnavailable, KafkaUnavailable, StreamConflict, PositionMoved, Busy, EpochChanged)
SUBMITTED: Final = frozenset({At.COMMANDS_SUBMITTED, At.TIMERS_SUBMITTED})
PATIENCE_STEPS: Final = 12  # So many steps of others an answer is waited for.


class SagaProcess(Process):
    """Hears, sends or fires; each in a process of its own, of which there may be several.

    ``bus``: ears hear its lanes, which they share, instead of the log itself.
    """

    def __init__(self, world: "World", name: str, kind: str, tables: SagaTables, bus: Bus | None) -> None:
        super().__init__(world, name)
        self.kind = kind
        log = cast(InMemoryEventLog, SimulatedLog(world.store, self))
        store = InMemorySagaStore(log)
        store.tables = tables
        # No waiting by the wall clock: whether an answer comes in time is the scheduler's to say.
        settings = SagaSettings(
            facts_max=world.chance.one_of((3, 40, 1_000)),
            memories_max=world.chance.one_of((2, 50, 1_000)),
            commands_max=world.chance.one_of((2, 50)),
            timers_max=world.chance.one_of((2, 100)),  # What fits into an engine's queue.
            answer_wait_seconds=0.0,
        )
        engines = Engines(self)
        self.member = Member(self, bus, "sagas") if kind == "ear" and bus is not None else None
        self._part: SagaRunner | LaneRunner | Dispatcher | TimerService
        if self.member is not None:
            feed = InMemoryFeed(log)
            self._part = LaneRunner(self.member, 0, store, feed, settings, checkpoint=self._checkpoint)
        elif kind == "ear":
            self._part = SagaRunner(store, InMemoryFeed(log), settings, checkpoint=self._checkpoint)
        elif kind == "voice":
            self._part = Dispatcher(store, engines, settings, checkpoint=self._checkpoint)
        else:
            self._part = TimerService(store, engines, settings, checkpoint=self._checkpoint)

    def step(self) -> int:
        """One turn; how much there was to do."""
        try:
            done = self._part.run_once()
        except TRY_AGAIN as trouble:
            self.world.note(f"{self.name} {type(trouble).__name__}")
            return 1
        if done:
            self.world.note(f"{self.name} did {done}")
        return done

    def _checkpoint(self, at: At) -> None:
        self.misfortune(at)
        if at in SUBMITTED:
            self.world.answers_come(self, PATIENCE_STEPS)
            self.die_if_killed()


class Engines:
    """What a saga's process calls an engine: any of those that run, by a connection that may break."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def submit_many(self, envelopes: Iterable[CommandEnvelope]) -> list[Future[Answer]]:
        """Queue commands, kept in order. Raises Busy."""
        world = self._process.world
        asked = [Asked(envelope, world.restores.count) for envelope in envelopes]
        engine = world.chance.one_of(world.engines)
        if not engine.submit(asked):
            raise Busy("the simulated engine is busy")
        world.note(f"{self._process.name} sends {len(asked)} to {engine.name}")
        return [each.future for each in asked]
