"""Cycle after cycle: something dies under load, everything comes back, and nothing that was acknowledged is missing."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, TypeVar

import psycopg

from infra import operations
from tests.audit import Acknowledged, audit
from tests.chaos.faults import Concerned, Fault, concerned, hits_the_same
from tests.chaos.load import Load, journal_at
from tests.chaos.shop import Shop
from tests.chaos.stack import REALM, Stack
from tests.chaos.watch import FACTS, MODELS, RELAY, SAGAS, Watch

AT_WORK_SECONDS_MAX: Final = 240.0
# Of what comes back at all: how soon it should is another question, which the figures answer.
SERVED_SECONDS_MAX: Final = 240.0
CAUGHT_UP_SECONDS_MAX: Final = 300.0
BEHIND_SECONDS_MAX: Final = 45.0  # Nothing more is broken while a follower is so late.
QUIET_SECONDS_MAX: Final = 240.0
LOOK_SECONDS: Final = 0.05
IN_FLIGHT_MIN: Final = 4
PROBE_USERS: Final = 3
FINDINGS_SHOWN_MAX: Final = 30
Say = Callable[[str], None]
T = TypeVar("T")


class Violation(Exception):
    """Something that was promised does not hold; the message says what, and after which fault."""


@dataclass
class Cycle:
    """What was done and how it went. Seconds count from a kill, and from the end of a fault that lasts."""

    kind: str
    victim: str
    in_flight: int
    lasted_seconds: float
    answered_seconds: float = 0.0  # Until anybody had answered what was sent afterwards.
    served_seconds: float = 0.0  # Until whoever suffered had answered and digested what was sent afterwards.
    caught_up_seconds: float = 0.0  # Until every follower had come there.
    others: list[str] = field(default_factory=list)  # What else failed meanwhile.


@dataclass
class Summary:
    """What a round was: some faults and the check of everything after them."""

    seed: int
    kafka: bool = False
    callers: int = 0
    at_once: int = 1
    forked: bool = False
    seconds: float = 0.0
    load: float = 0.0  # The machine's load average at the check.
    cycles: list[Cycle] = field(default_factory=list)
    audited: int = 0
    events: int = 0
    troubles: dict[str, int] = field(default_factory=dict)
    unasked: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


@dataclass
class _Open:
    """A cycle whose followers are still on their way to an offset."""

    cycle: Cycle
    since: float
    offset: int


class Run:
    """One stack under load, and what is done to it."""

    def __init__(self, stack: Stack, load: Load, shop: Shop, watch: Watch, say: Say) -> None:
        self._stack = stack
        self._load = load
        self._shop = shop
        self._watch = watch
        self._say = say
        self._audited_until = 0
        self._probes = 0
        self._changed = threading.Condition()
        self._failing: list[Cycle] = []
        self._behind: list[_Open] = []
        self.stopping = threading.Event()  # Set: nothing new is broken, and the round ends with its check.

    def open(self) -> None:
        """Open a shop of its own, and let customers in."""
        self._load.perform(self._shop.open)
        self._load.go_on()

    def faults(self, faults: Iterable[Fault], at_once: int, done: Callable[[Cycle], None]) -> None:
        """Fault after fault, several of them side by side; ``done`` is told of each. Raises Violation, Unanswered."""
        remaining = iter(faults)

        def lane() -> None:
            try:
                while not self.stopping.is_set():
                    with self._changed:
                        fault = next(remaining, None)
                    if fault is None:
                        return
                    done(self.cycle(fault))
            except BaseException:
                self.stopping.set()
                raise

        with ThreadPoolExecutor(at_once, "lane") as pool:
            for each in [pool.submit(lane) for _ in range(at_once)]:
                each.result()

    def cycle(self, fault: Fault) -> Cycle:
        """One fault under load, until whoever suffered serves again; the others catch up meanwhile."""
        self._wait_for_the_last()
        if (service := self._stack.services.get(fault.victim)) and not service.wait_at_work(AT_WORK_SECONDS_MAX):
            raise Violation(f"{fault.victim} does not come up: {service.unasked}")
        load = self._load
        with self._underway(Cycle(fault.kind, fault.victim, 0, 0.0)) as cycle:
            with load.pressed():
                load.wait_in_flight(IN_FLIGHT_MIN)
                cycle.in_flight, began = load.in_flight(), monotonic()
                fault.happen(self._stack)
            over = monotonic()
            since = began if fault.kind == "kill" else over
            answered_at = self._load.wait_served(over, None, SERVED_SECONDS_MAX)
            served_at, offset = self._served(concerned(fault.victim, self._stack), over)
            cycle.lasted_seconds, cycle.answered_seconds = over - began, answered_at - since
            cycle.served_seconds = served_at - since
        with self._changed:
            self._behind.append(_Open(cycle, since, offset))
        return cycle

    @contextmanager
    def _underway(self, cycle: Cycle) -> Iterator[Cycle]:
        """Once nobody else does anything to its victim, and noting what fails beside it."""

        def is_free() -> bool:
            return not any(hits_the_same(each.victim, cycle.victim) for each in self._failing)

        with self._changed:
            if not self._changed.wait_for(is_free, SERVED_SECONDS_MAX):
                raise Violation(f"nothing could be done to {cycle.victim} for {SERVED_SECONDS_MAX:.0f} s")
            cycle.others = [f"{each.kind} {each.victim}" for each in self._failing]
            for each in self._failing:
                each.others.append(f"{cycle.kind} {cycle.victim}")
            self._failing.append(cycle)
        try:
            yield cycle
        finally:
            with self._changed:
                self._failing.remove(cycle)
                self._changed.notify_all()

    def _served(self, who: Concerned, since: float) -> tuple[float, int]:
        """When those concerned had answered and digested something that was sent after an instant; and its offset."""
        served = [self._load.wait_served(since, server, SERVED_SECONDS_MAX) for server in who.servers or (None,)]
        offset = self._load.offset
        if who.reads:
            served += [self._wait_reads(server) for server in who.servers]
        if who.gives:
            served.append(self._wait_given())
        digested = self._watch.wait(offset, who.followers, SERVED_SECONDS_MAX)
        if digested is None:
            raise Violation(
                f"after {SERVED_SECONDS_MAX:.0f} s one of {', '.join(who.followers)} has not come to {offset}: "
                f"{self._watch.offsets()}"
            )
        return max(*served, digested), offset

    def _wait_reads(self, server: str) -> float:
        deadline = monotonic() + SERVED_SECONDS_MAX
        while not self._stack.is_ready(server):
            if monotonic() > deadline:
                raise Violation(f"{server} does not say that it is ready, for {SERVED_SECONDS_MAX:.0f} s")
            sleep(LOOK_SECONDS)
        return monotonic()

    def _wait_given(self) -> float:
        """Until a distribution that is begun now has been carried out."""
        with self._changed:
            self._probes += 1
            name = f"probe-{self._shop.season}-{self._probes}"
        self._load.perform(lambda say: self._shop.give(say, name, PROBE_USERS))
        deadline = monotonic() + SERVED_SECONDS_MAX
        while not self._is_given(f"d{name}"):
            if monotonic() > deadline:
                raise Violation(f"distribution d{name} is not carried out within {SERVED_SECONDS_MAX:.0f} s")
            sleep(LOOK_SECONDS)
        return monotonic()

    def _is_given(self, distribution: str) -> bool:
        try:
            return self._rows(_GIVEN, distribution) != []
        except psycopg.OperationalError:  # Something else happens to the database meanwhile.
            return False

    def _wait_for_the_last(self) -> None:
        """Unless followers are too late, at once. Raises Violation when one does not catch up at all."""
        while not self.stopping.is_set() and self._oldest_seconds() > BEHIND_SECONDS_MAX:
            sleep(LOOK_SECONDS)

    def _oldest_seconds(self) -> float:
        """How long ago that was which a follower has still not caught up with. Raises Violation."""
        with self._changed:
            for each in list(self._behind):
                if (at := self._watch.reached(each.offset, self._watch.followers)) is not None:
                    each.cycle.caught_up_seconds = max(at - each.since, each.cycle.served_seconds)
                    self._behind.remove(each)
            oldest = max((monotonic() - each.since for each in self._behind), default=0.0)
            if oldest > CAUGHT_UP_SECONDS_MAX:
                raise Violation(
                    f"after {oldest:.0f} s a follower has not come to {self._behind[0].offset}: {self._watch.offsets()}"
                )
            return oldest

    def check(self, summary: Summary) -> None:
        """Let everybody finish, and hold every promise against the stores. Raises Violation."""
        self._timed("everybody answered", self._load.drain)
        self._timed("everybody caught up", self._wait_caught_up)
        told = self._load.take_told()
        findings = self._timed("gifts given", lambda: list(self._gifts_missing()))
        findings += self._timed("no order held", lambda: list(self._locks_left()))
        settings = self._stack.settings
        with closing(operations.Quiet(settings)) as quiet:
            try:
                head = self._timed("at rest", lambda: quiet.wait(QUIET_SECONDS_MAX))
            except operations.NotQuiet as busy:
                raise Violation(f"it does not come to rest: {busy}") from busy
        findings += self._timed("audited", lambda: self._audit(settings.postgres_dsn, told))
        report = self._timed("verified", lambda: operations.verify(settings))
        findings += [f"{each.invariant} {each.subject}: {each.detail}" for each in report.violations]
        findings += [f"{store} was not compared: it did not stand still" for store in report.not_compared]
        findings += self._unfinished()
        if findings:
            more = f"\n… and {len(findings) - FINDINGS_SHOWN_MAX} more" if len(findings) > FINDINGS_SHOWN_MAX else ""
            raise Violation("\n".join(findings[:FINDINGS_SHOWN_MAX]) + more)
        summary.load, summary.audited, summary.events = os.getloadavg()[0], len(told), head - self._audited_until
        summary.troubles, summary.unasked = dict(self._load.troubles), self._stack.unasked
        self._load.troubles.clear()
        self._audited_until = head

    def _wait_caught_up(self) -> None:
        while self._oldest_seconds():
            sleep(LOOK_SECONDS)

    def _timed(self, what: str, work: Callable[[], T]) -> T:
        began = monotonic()
        done = work()
        self._say(f"{what} after {monotonic() - began:.1f} s")
        return done

    def _gifts_missing(self) -> Iterator[str]:
        """Every user of every list has one coupon, and nobody two; their worker gets its time."""
        wanted, (given, users) = self._shop.gifts, (0, 0)
        deadline = monotonic() + QUIET_SECONDS_MAX
        while given < wanted and monotonic() < deadline:
            given, users = self._row(_GIFTS)
            sleep(LOOK_SECONDS)
        if (given, users) != (wanted, wanted):
            yield f"{wanted} gifts were to be given; given: {given}, to {users} users"

    def _audit(self, dsn: str, told: Sequence[Acknowledged]) -> list[str]:
        """Look up every acknowledgement. Only for those that were told again, late, the old part of the log is read."""
        new = [each for each in told if each.offset > self._audited_until]
        late = [each for each in told if each.offset <= self._audited_until]
        return [*audit(dsn, new, after=self._audited_until), *(audit(dsn, late) if late else ())]

    def _locks_left(self) -> Iterator[str]:
        """Orders that nobody paid: their locks end by themselves, and until then the log does not stand still."""
        left: list[tuple[Any, ...]] = []
        deadline = monotonic() + QUIET_SECONDS_MAX
        while (left := self._rows(_LOCKS)) and monotonic() < deadline:
            sleep(LOOK_SECONDS)
        for (key,) in left:
            yield f"the lock of order {key} does not end"

    def _unfinished(self) -> Iterator[str]:
        """Orders that wait for a command of ours, once everything is at rest."""
        for key, step in self._rows(_UNFINISHED):
            yield f"the saga of order {key} stands at {step} for good"

    def _row(self, query: str) -> tuple[Any, ...]:
        return self._rows(query)[0]

    def _rows(self, query: str, *parameters: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._stack.settings.postgres_dsn) as connection:
            return connection.execute(query.encode(), parameters).fetchall()


_GIFTS: Final = """
    SELECT count(*), count(DISTINCT data -> 'about' ->> 'user_id') FROM events
    WHERE type = 'coupon.claimed.v1' AND starts_with(data -> 'about' ->> 'template_id', 'gift-')
"""

_GIVEN: Final = "SELECT 1 FROM distributions WHERE distribution_id = %s AND finished_at IS NOT NULL"

_LOCKS: Final = "SELECT DISTINCT key FROM timers WHERE kind = 'order_lock_end'"

_UNFINISHED: Final = """
    SELECT key, step FROM sagas
    WHERE step IN ('awaiting_order', 'holding', 'redeeming', 'releasing', 'refunding') ORDER BY key
"""


@contextmanager
def running(
    folder: Path,
    seed: int,
    *,
    kafka: bool = False,
    forked: bool = False,
    callers: int = 8,
    say: Say = lambda _text: None,
) -> Iterator[tuple[Stack, Run]]:
    """A stack under load. Raises Unanswered, Violation; what was acknowledged is in ``acknowledged.jsonl``."""
    with ExitStack() as exit_stack:
        stack = exit_stack.enter_context(Stack(folder, kafka=kafka, forked=forked))
        journal = exit_stack.enter_context(closing(journal_at(folder)))
        shop = Shop()
        load = Load(stack.servers, stack.token, REALM, shop.visit, journal, seed, callers, stack.callers_kafka)
        followers = (SAGAS, MODELS, FACTS, *((RELAY,) if kafka else ()))
        watch = exit_stack.enter_context(Watch(stack.settings, followers).running())
        exit_stack.enter_context(load.running())
        yield stack, Run(stack, load, shop, watch, say)
