"""The simulated world: a store, processes, clients and a clock; its scheduler lets one of them act at a time."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TextIO

from command.engine import EngineSettings
from command.ports import CommandKey, NewEvent
from contracts.events import OrderNoted
from contracts.identity import Realm
from query.verify.raw import Violation
from tests.saga_fakes import SagaTables
from tests.simulation.bus import Bus, Relay
from tests.simulation.chance import Chance, Trace
from tests.simulation.checks import LogChecks
from tests.simulation.clients import Asked, Clients, Request
from tests.simulation.processes import QUIET, ROUGH, EngineProcess, Odds, Process
from tests.simulation.read_side import FollowerKind, FollowerProcess, Parked, ReadStores
from tests.simulation.restores import Operator, Restores
from tests.simulation.saga_processes import SagaProcess
from tests.simulation.store import OnItsWay, Store
from tests.simulation.workload import POISON, Shop

START: Final = datetime(2030, 1, 1, 9, tzinfo=UTC)
# Two owners whose names run together when somebody forgets to escape them.
REALMS: Final = (Realm("acme", "shop:1"), Realm("acme:shop", "1"))
NESTED_MAX: Final = 2  # Processes that are stopped in the middle of something at the same time.
STEPS_WHILE_STOPPED_MAX: Final = 4
STEPS_WHILE_STOPPED_LONG_MAX: Final = 60
FOLLOWERS: Final[tuple[FollowerKind, ...]] = ("models", "models", "facts", "facts")
SAGA_PROCESSES: Final = ("ear", "ear", "voice", "voice", "clock")
DRAIN_ROUNDS_MAX: Final = 1_000
STEPS_PER_COMMAND_MAX: Final = 40  # More: nothing gets on any more.
VIOLATIONS_MAX: Final = 20


Worker = EngineProcess | SagaProcess | FollowerProcess | Operator | Relay


class SimulationFailed(AssertionError):
    """Something that must hold does not. The message says with which seed, what, and what happened before."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated. ``commands``: different ones, however often each is sent. ``quiet_times``: of checks."""

    seed: int
    commands: int = 1_000
    engines: int = 2
    quiet_times: int = 2
    odds: Odds = ROUGH

    @property
    def over_kafka(self) -> bool:
        """Whether followers read lanes instead of the store: every other seed."""
        return self.seed % 2 == 1

    @property
    def sagas_hear_lanes(self) -> bool:
        """Whether sagas do, too: every fourth seed."""
        return self.seed % 4 == 3

    @property
    def restores(self) -> bool:
        """Whether the store goes back to earlier states: three of eight seeds, of every kind."""
        return self.seed % 8 in {3, 4, 5}

    @property
    def parks(self) -> bool:
        """Whether read models have a defect, so that events are parked until it is mended: half of the seeds."""
        return self.seed % 8 in {1, 2, 4, 7}


@dataclass(frozen=True, slots=True)
class Result:
    """What was simulated, and how to see that it was the same."""

    seed: int
    digest: str
    commands: int  # That clients sent.
    decided: int  # Those and what sagas and timers sent: different commands with an answer.
    sendings: int
    events: int
    steps: int
    happened: Counter[str]
    codes: Counter[str]


class World:
    """Everything there is. One call of :meth:`run` is one simulation."""

    def __init__(self, plan: Plan, trace_file: TextIO | None = None) -> None:
        self.plan = plan
        self.chance = Chance(plan.seed)
        self.trace = Trace(trace_file)
        self.odds = plan.odds
        self.calm = False
        self.happened: Counter[str] = Counter()
        self._now = START
        self._skew = timedelta()
        self._nested = 0
        self._steps = 0
        self._watermark_at = 0
        self._generations: Counter[str] = Counter()
        self._violations: list[Violation] = []
        self.store = Store(self.clock, is_unwritable=_is_poison)
        shops = [
            Shop(realm, self.chance, self.clock, business_clock=bool(number)) for number, realm in enumerate(REALMS)
        ]
        self.clients = Clients(self, shops)
        self.restores = Restores(self)
        self.checks = LogChecks(self)
        self.engines = [self._new_engine(f"engine{number}") for number in range(plan.engines)]
        self.orphans: list[OnItsWay] = []  # What engines had sent before they were killed.
        self.saga_tables = SagaTables()
        self.parked: dict[tuple[str, str, int], Parked] = {}  # By projection and version, stream, and its version.
        self.bus = Bus() if plan.over_kafka else None
        self.sagas = [self._new_saga_process(kind, place) for place, kind in enumerate(SAGA_PROCESSES)]
        self.read_stores = ReadStores()
        self.relay = None if self.bus is None else self._new_relay(self.bus)
        self.followers = [self._new_follower(kind, place) for place, kind in enumerate(FOLLOWERS)]
        self.operator = self._new_operator()

    def run(self) -> Result:
        """Simulate. Raises SimulationFailed."""
        for nth in range(1, self.plan.quiet_times + 1):
            while self.clients.sent < self.plan.commands * nth // self.plan.quiet_times:
                self.step()
                if self._violations:
                    raise SimulationFailed(self._report())
            self._be_quiet()
        self._end_of_time()
        self._be_quiet(at_the_end=True)
        return Result(
            self.plan.seed,
            self.trace.digest,
            self.clients.sent,
            len(self.store.answers),
            self.clients.sendings,
            len(self.store.events),
            self._steps,
            self.happened,
            Counter(told.code for told in self.clients.told.values()),
        )

    @property
    def has_defect(self) -> bool:
        """Whether some events cannot be digested now."""
        return self.plan.parks and not self.calm

    def clock(self) -> datetime:
        """The database machine's clock: it may be set back, and nobody may notice."""
        return self._now + self._skew

    def seconds(self) -> float:
        """What the machines' stopwatches show: nobody sets those back."""
        return (self._now - START).total_seconds()

    # The scheduler.

    def step(self) -> None:
        """Let somebody who is not stopped do something."""
        self._steps += 1
        if self._steps > STEPS_PER_COMMAND_MAX * (self.plan.commands + 100):
            self.violation("I2", "the world", "nothing gets on any more")
            raise SimulationFailed(self._report())
        self.restores.look()
        if self.orphans and self.chance.happens(0.3):
            self.orphans.pop(0).land()
        self._now += timedelta(microseconds=self.chance.between(50, 40_000))
        roll = self.chance.random.random()
        if roll < 0.12:
            self._clients_send()
        elif roll < 0.13:
            self._clock_jumps()
        elif roll < 0.134:
            victims = [*self.engines, *self.sagas, *self.followers]
            self.replace(self.chance.one_of(victims), why="killed between two steps")
        elif roll < 0.36:
            self._somebody_works(self.sagas)
        elif roll < 0.60:
            self._somebody_reads()
        else:
            self._somebody_works(self.engines)

    def others_run(self, stopped: Process) -> None:
        """A process is stopped in the middle of something, for a moment or for long, while others go on."""
        if self.calm or self._nested >= NESTED_MAX:
            return
        self._nested += 1
        try:
            long = self.chance.happens(self.odds.stopped_for_long)
            self.happened["stopped for long" if long else "stopped"] += 1
            most = STEPS_WHILE_STOPPED_LONG_MAX if long else STEPS_WHILE_STOPPED_MAX
            for _ in range(self.chance.between(1, most)):
                self.step()
            if long and self.store.holder is not None and self.chance.happens(self.odds.expelled):
                self.note("the store expels whoever holds the append lock")
                self.happened["expelled"] += 1
                self.store.expel()
                for _ in range(self.chance.between(1, most)):
                    self.step()
        finally:
            self._nested -= 1

    def replace(self, process: Process, why: str = "killed") -> None:
        """A process dies where it stands, and another one takes its place. Its callers' connections break."""
        process.dead = True
        self.happened[why] += 1
        if isinstance(process, SagaProcess | FollowerProcess) and process.member is not None:
            process.member.close()
        if isinstance(process, EngineProcess):
            place = next(at for at, each in enumerate(self.engines) if each is process)
            self.clients.lost(process.waiting.values())
            if process.log.on_its_way is not None:  # The server has it, whether or not its sender lives.
                self.orphans.append(process.log.on_its_way)
            self.engines[place] = self._new_engine(f"engine{place}")
        elif isinstance(process, SagaProcess):
            place = next(at for at, each in enumerate(self.sagas) if each is process)
            self.sagas[place] = self._new_saga_process(process.kind, place)
        elif isinstance(process, FollowerProcess):
            place = next(at for at, each in enumerate(self.followers) if each is process)
            self.followers[place] = self._new_follower(process.kind, place)
        elif isinstance(process, Operator):
            self.operator = self._new_operator()
        elif isinstance(process, Relay) and self.bus is not None:
            self.relay = self._new_relay(self.bus)
        self.note(f"{process.name} {why}")

    def forget_what_is_lost(self, lost: Collection[CommandKey]) -> None:
        """After a restore: whoever was told what is on record no more was told nothing; all is looked at anew."""
        self.clients.learn_of_a_restore(lost)
        self.checks = LogChecks(self)
        self._watermark_at = -1
        self._skew = timedelta()

    def answers_come(self, waiting: Process, steps_max: int) -> None:
        """Somebody waits for an engine's answers: engines work, maybe long enough."""
        if self.calm:
            while any(engine.finish() for engine in self.engines):
                pass
        elif self._nested < NESTED_MAX:
            self._nested += 1
            for _ in range(self.chance.between(0, steps_max)):
                self._somebody_works(self.engines)
            self._nested -= 1

    def note(self, line: str) -> None:
        """Into the trace."""
        self.trace.note(line)

    def violation(self, invariant: str, subject: str, detail: str) -> None:
        """Something does not hold."""
        self.note(f"VIOLATION {invariant} {subject}: {detail}")
        self._violations.append(Violation(invariant, subject, detail))

    # What happens in a step.

    def _clients_send(self) -> None:
        chance, clients = self.chance, self.clients
        roll = chance.random.random()
        if roll < 0.3 and clients.to_retry:
            requests = clients.retries(chance.between(1, 20))
        elif roll < 0.36:
            requests = clients.impatient()
        else:
            requests = clients.new_requests(chance.one_of((1, 2, 4, 8, 8, 16, 40)))
        if chance.happens(0.1):
            chance.random.shuffle(requests)  # They came over different connections.
        self._send(requests)

    def _send(self, requests: list[Request]) -> None:
        if not requests:
            return
        engine = self.chance.one_of(self.engines)
        taken = engine.submit([each for request in requests for each in _with_step(request)])
        self.note(f"{len(requests)} to {engine.name}{'' if taken else ', which is busy'}")
        if not taken:
            self.happened["busy"] += 1
            self.clients.lost(requests)

    def _clock_jumps(self) -> None:
        # Not after a restore that nobody told: an event could get the time of the one that had its offset before.
        if self.chance.happens(0.3) and self.restores.is_told:
            self._skew = timedelta(seconds=self.chance.between(-3_600, 0))
            self.happened["clock set back"] += 1
        else:
            self._now += timedelta(seconds=self.chance.one_of((1, 10, 60, 400, 1_000)))
        self.note(f"the clock shows {self.clock():%H:%M:%S.%f}")

    def _somebody_works(self, workers: Sequence[Worker]) -> None:
        able = [worker for worker in workers if not worker.running]
        if able:
            worker = self.chance.one_of(able)
            worker.run(worker.step)

    def _somebody_reads(self) -> None:
        """The relay publishes, a follower takes in, or the followers' group is shared anew."""
        if self.bus is not None and self.chance.happens(0.04):
            self.bus.groups[self.chance.one_of(list(self.bus.groups))].rebalance()
            self.happened["rebalanced"] += 1
        elif self.parked and self.chance.happens(0.05):
            self._requeue()
            self.happened["requeued"] += 1
        elif self.restores.to_rebuild and self.chance.happens(0.3):
            self._somebody_works([self.operator])
        elif self.relay is not None and self.chance.happens(0.3):
            self._somebody_works([self.relay])
        else:
            self._somebody_works(self.followers)

    def _new_relay(self, bus: Bus) -> Relay:
        self._generations["relay"] += 1
        return Relay(self, f"relay.{self._generations['relay']}", bus)

    def _new_operator(self) -> Operator:
        self._generations["operator"] += 1
        return Operator(self, f"operator.{self._generations['operator']}")

    def _new_follower(self, kind: FollowerKind, place: int) -> FollowerProcess:
        name = f"{kind}{place}"
        self._generations[name] += 1
        return FollowerProcess(self, f"{name}.{self._generations[name]}", kind, self.read_stores, self.bus)

    def _new_saga_process(self, kind: str, place: int) -> SagaProcess:
        name = f"{kind}{place}"
        self._generations[name] += 1
        bus = self.bus if self.plan.sagas_hear_lanes else None
        return SagaProcess(self, f"{name}.{self._generations[name]}", kind, self.saga_tables, bus)

    def _new_engine(self, name: str) -> EngineProcess:
        self._generations[name] += 1
        # Small bounds, so that a short history crosses them.
        settings = EngineSettings(
            batch_commands_max=self.chance.one_of((2, 10, 40, 500)),
            batch_events_max=self.chance.one_of((5, 60, 10_000)),
            queue_commands_max=120,
            cached_streams_max=self.chance.one_of((4, 60, 5_000)),
            snapshot_every_events=self.chance.one_of((2, 10, 50)),
            lock_ttl_seconds=900,
            ahead_from=self.chance.one_of((1, 1, 20, 10_000)),
        )
        return EngineProcess(self, f"{name}.{self._generations[name]}", settings)

    # Quiet: no more faults, everybody finishes, and everything is looked at.

    def _be_quiet(self, *, at_the_end: bool = False) -> None:
        self.calm, self.odds, self._skew = True, QUIET, timedelta()
        while self.orphans:
            self.orphans.pop(0).land()
        if not self._comes_to_rest(self._finish_something) or not self._comes_to_rest(self._followers_catch_up):
            self.violation("I2", "the world", f"it does not come to rest in {DRAIN_ROUNDS_MAX} rounds")
        self.note(f"quiet at {self.store.last_offset}")
        self._violations += self.checks.look(at_the_end=at_the_end)
        if self._violations:
            raise SimulationFailed(self._report())
        self.calm, self.odds = False, self.plan.odds

    def _comes_to_rest(self, finish_something: Callable[[], bool]) -> bool:
        return any(not finish_something() for _ in range(DRAIN_ROUNDS_MAX))

    def _followers_catch_up(self) -> bool:
        relayed = self._relay_catches_up() or bool(self.operator.step())
        worked = [bool(follower.step()) for follower in self.followers]
        return relayed or any(worked) or self._requeue()

    def _requeue(self) -> bool:
        """What an operator does when a defect is mended, or is believed to be; whether that is news.

        What versions have parked that nobody uses any more stays where it is.
        """
        news = [key for key, event in self.parked.items() if not event.is_requeued]
        for key in news:
            self.parked[key] = self.parked[key]._replace(is_requeued=True)
        return bool(news)

    def _relay_catches_up(self) -> bool:
        if self.relay is None or self.relay.step():
            return self.relay is not None
        if self._watermark_at == self.store.last_offset:
            return False
        self.relay.watermark()
        self._watermark_at = self.store.last_offset
        return True

    def _finish_something(self) -> bool:
        if self.clients.to_retry:
            self._send(self.clients.retries(20))
        worked = [engine.finish() for engine in self.engines]
        worked += [self._relay_catches_up()] if self.plan.sagas_hear_lanes else []
        worked += [bool(process.step()) for process in self.sagas]
        if any(worked) or self.clients.to_retry:
            return True
        if self._something_waits_to_be_tried_again():
            self._now += timedelta(minutes=1)
            return True
        return False

    def _something_waits_to_be_tried_again(self) -> bool:
        tables, now = self.saga_tables, self.clock()
        return any(debt.refused is None for debt in tables.outbox.values()) or any(
            alarm.retry_at is not None and alarm.timer.due_at <= tables.clocks.get(alarm.timer.realm, now)
            for alarm in tables.timers.values()
        )

    def _end_of_time(self) -> None:
        """Everything that ends has ended: locks, coupons, templates. Timers have to see to it."""
        self._now += timedelta(days=40)
        self._skew = timedelta()
        self._send([request for request in map(self.clients.last_request, self.clients.shops) if request])

    def _report(self) -> str:
        found = "\n".join(
            f"  {each.invariant} {each.subject}: {each.detail}" for each in self._violations[:VIOLATIONS_MAX]
        )
        more = len(self._violations) - VIOLATIONS_MAX
        rest = f"\n  and {more} more" if more > 0 else ""
        return (
            f"seed {self.plan.seed} after {self.clients.sent} commands: {len(self._violations)} violations\n"
            f"{found}{rest}\n"
            f"trace {self.trace.digest} ({self.trace.lines} lines)"
        )


def _with_step(request: Request) -> list[Request | Asked]:
    return [request] if request.step is None else [request, Asked(request.step, request.era)]


def _is_poison(new: NewEvent) -> bool:
    return isinstance(new.event, OrderNoted) and new.event.status == POISON
