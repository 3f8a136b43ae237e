"""Simulated processes: an engine that its scheduler drives turn by turn, and what may befall whoever uses the store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from command.engine import Engine, EngineSettings
from command.handlers import HANDLERS
from command.ports import StoreUnavailable
from command.tickets import Busy
from tests.simulation.clients import Asked, Request
from tests.simulation.store import CommitFate, Exchange, SimulatedLog

if TYPE_CHECKING:
    from tests.simulation.world import World


class Killed(BaseException):
    """A process ends in the middle of whatever it does."""


@dataclass(frozen=True, slots=True)
class Odds:
    """How often each misfortune happens, per exchange with the store."""

    killed: float = 0.006
    cut_off: float = 0.004
    answer_lost: float = 0.006
    refused: float = 0.004
    interrupted: float = 0.08  # Others go on while this process is stopped.
    stopped_for_long: float = 0.1  # Of those that are interrupted.
    expelled: float = 0.5  # Of those that are stopped for long and hold the append lock.


ROUGH: Final = Odds()
QUIET: Final = Odds(0, 0, 0, 0, 0, 0, 0)
TURNS_MAX: Final = 6  # Of an engine at once; a batch that meets no misfortune takes four.


class Process:
    """Something that runs, can be stopped anywhere in the middle, and can die. ``name`` tells its generation."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.running = False  # It is somewhere on the stack: stopped, as long as others run.
        self.dead = False

    def run(self, step: Callable[[], object]) -> None:
        """Run one step, which the process may not survive."""
        self.running = True
        try:
            step()
        except Killed:
            self.world.trace.note(f"{self.name} died")
        finally:
            self.running = False

    def die_if_killed(self) -> None:
        """A process that was killed while it was stopped never comes back from where it stood."""
        if self.dead:
            raise Killed

    # What the store asks: see tests.simulation.store.Faults.

    def before(self, exchange: Exchange) -> None:
        """Before each exchange with the store."""
        self.misfortune(exchange)
        if self.world.chance.happens(self.world.odds.cut_off):
            self.world.trace.note(f"{self.name} cut off before {exchange}")
            raise StoreUnavailable("the connection was lost")

    def commit(self) -> CommitFate:
        """The fate of a commit."""
        odds, roll = self.world.odds, self.world.chance.random.random()
        if roll < odds.answer_lost:
            fate: CommitFate = "answer_lost"
        elif roll < odds.answer_lost + odds.refused:
            fate = "refused"
        else:
            return "stored"
        self.world.trace.note(f"{self.name} commit {fate}")
        return fate

    def after_commit(self) -> None:
        """Its effect is stored, and nobody knows it yet."""
        self.misfortune("answer")

    def misfortune(self, where: str) -> None:
        """It may be killed here, or stopped while others go on."""
        world = self.world
        odds, roll = world.odds, world.chance.random.random()
        if roll < odds.killed:
            world.trace.note(f"{self.name} killed before {where}")
            world.replace(self)
        elif roll < odds.killed + odds.interrupted:
            world.trace.note(f"{self.name} stopped before {where}")
            world.others_run(self)
        self.die_if_killed()


class EngineProcess(Process):
    """A process that takes commands. A new generation remembers nothing."""

    def __init__(self, world: "World", name: str, settings: EngineSettings) -> None:
        super().__init__(world, name)
        self.log = SimulatedLog(world.store, self)
        self.engine = Engine(self.log, HANDLERS, settings, pause=self._pause, stopwatch=world.seconds)
        self.waiting: dict[int, Request | Asked] = {}  # By identity: whoever waits for an answer of this process.
        self.glanced = 0  # How many events of the log it was held against.

    def submit(self, requests: "Sequence[Request | Asked]") -> bool:
        """Queue commands, all or none."""
        try:
            self.engine.submit_to([(request.envelope, self._listener(request)) for request in requests])
        except Busy:
            return False
        self.waiting.update((id(request), request) for request in requests)
        return True

    def step(self) -> None:
        """Take some steps on the way of a batch, or let the server store the one that it was sent."""
        sent = self.log.on_its_way
        if sent is None or not self.world.chance.happens(0.4) or not sent.land():
            for _ in range(self.world.chance.between(1, TURNS_MAX)):
                if self.engine.turn() is not None:
                    break
        self.world.checks.glance(self)

    def finish(self) -> bool:
        """Work everything off; whether there was anything."""
        return self.engine.turn() is None or self.engine.turn() is None  # After a pause it waits for nobody any more.

    def _listener(self, request: Request | Asked) -> Callable[[object], None]:
        def hear(outcome: object) -> None:
            assert not self.dead, f"{self.name} is dead and answers"
            self.waiting.pop(id(request), None)
            self.world.clients.hear(request, outcome, self.name)

        return hear

    def _pause(self, _seconds: float) -> None:
        if not self.world.calm:
            self.world.others_run(self)
            self.die_if_killed()
