"""Cycle after cycle: something dies under load, everything comes back, and nothing that was acknowledged is missing."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, TypeVar

import psycopg

from infra import operations
from infra.postgres import positions
from infra.postgres.connections import connect
from tests.audit import Acknowledged, audit
from tests.chaos.faults import Fault
from tests.chaos.load import Load, journal_at
from tests.chaos.shop import Shop
from tests.chaos.stack import REALM, Stack

SERVED_SECONDS_MAX: Final = 90.0
CAUGHT_UP_SECONDS_MAX: Final = 120.0
QUIET_SECONDS_MAX: Final = 120.0
LOOK_SECONDS: Final = 0.05
IN_FLIGHT_MIN: Final = 4
ANSWERS_BEFORE: Final = 30
FINDINGS_SHOWN_MAX: Final = 30
Say = Callable[[str], None]
T = TypeVar("T")


class Violation(Exception):
    """Something that was promised does not hold; the message says what, and after which fault."""


@dataclass(frozen=True)
class Cycle:
    """What was done and how it went. Seconds count from a kill, and from the end of a fault that lasts."""

    number: int
    kind: str
    victim: str
    in_flight: int
    lasted_seconds: float
    served_seconds: float
    caught_up_seconds: float
    last: str  # The follower that came last.


@dataclass
class Summary:
    """Everything that a run knows in the end."""

    seed: int
    kafka: bool = False
    callers: int = 0
    seconds: float = 0.0
    loads: list[float] = field(default_factory=list)  # The machine's load average at every check.
    cycles: list[Cycle] = field(default_factory=list)
    acknowledged: int = 0
    audited: int = 0
    events: int = 0
    checks: int = 0
    troubles: dict[str, int] = field(default_factory=dict)
    unasked: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


class Followers:
    """How far each follower has come, asked past the proxies; what is away has come nowhere."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._open = ExitStack()
        self._service: Any = None
        self._connection: Any = None

    def close(self) -> None:
        """Give back what is open."""
        with suppress(Exception):
            self._open.close()
        self._open, self._service = ExitStack(), None

    def offsets(self) -> dict[str, int]:
        """Follower → offset; empty when a store is away."""
        try:
            if self._service is None:
                settings = self._stack.settings
                self._service = self._open.enter_context(operations.projections(settings))
                self._connection = self._open.enter_context(
                    connect(settings.postgres_dsn, name="chaos", autocommit=True)
                )
            found = {state.name: state.offset or 0 for state in self._service.states()}
            with self._connection.cursor() as cursor:
                known = {each.follower: each.offset for each in positions.every(cursor)}
            return found | {operations.SAGAS: known.get(operations.SAGAS, 0)}
        except Exception:  # noqa: BLE001 - whatever is away now is asked again, over new connections.
            self.close()
            return {}


class Run:
    """One stack under load, and what is done to it."""

    def __init__(self, stack: Stack, load: Load, shop: Shop, summary: Summary, say: Say) -> None:
        self._stack = stack
        self._load = load
        self._shop = shop
        self._summary = summary
        self._say = say
        self._followers = Followers(stack)
        self._audited_until = 0

    def close(self) -> None:
        """Give connections back."""
        self._followers.close()

    def open(self) -> None:
        """Open a shop of its own, and let customers in."""
        self._load.perform(self._shop.open)
        self._load.go_on()

    def cycle(self, fault: Fault) -> Cycle:
        """One fault under load, until everybody serves again and every follower has what was acknowledged meanwhile."""
        load = self._load
        with load.pressed():
            load.wait_for_more(ANSWERS_BEFORE)
            load.wait_in_flight(IN_FLIGHT_MIN)
            in_flight, began = load.in_flight(), monotonic()
            fault.happen(self._stack)
            over = monotonic()
            since = began if fault.kind == "kill" else over
            served_at = load.wait_served(over, fault.server, SERVED_SECONDS_MAX)
        caught_up_at, last = self._wait_caught_up(load.offset)
        number = len(self._summary.cycles) + 1
        cycle = Cycle(
            number, fault.kind, fault.victim, in_flight, over - began, served_at - since, caught_up_at - since, last
        )
        self._summary.cycles.append(cycle)
        return cycle

    def check(self) -> None:
        """Let everybody finish, and hold every promise against the stores. Raises Violation."""
        self._timed("everybody answered", self._load.drain)
        self._summary.acknowledged += len(told := self._load.take_told())
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
        self._audited_until = head
        self._summary.loads.append(os.getloadavg()[0])
        self._summary.checks += 1
        self._summary.audited += len(told)

    def _timed(self, what: str, work: Callable[[], T]) -> T:
        began = monotonic()
        done = work()
        self._say(f"{what} after {monotonic() - began:.1f} s")
        return done

    def note_the_rest(self) -> None:
        """What only the end of a stack tells."""
        self._summary.events += self._audited_until
        for what, times in self._load.troubles.items():
            self._summary.troubles[what] = self._summary.troubles.get(what, 0) + times
        self._summary.unasked += self._stack.unasked

    def _wait_caught_up(self, offset: int) -> tuple[float, str]:
        """When every follower has come to an offset, and which was the last. Raises Violation when one does not."""
        deadline, last = monotonic() + CAUGHT_UP_SECONDS_MAX, ""
        while True:
            found = self._followers.offsets()
            if found and min(found.values()) >= offset:
                return monotonic(), last
            last = min(found, key=lambda name: found[name], default="a store")
            if monotonic() > deadline:
                behind = {name: at for name, at in found.items() if at < offset}
                raise Violation(f"after {CAUGHT_UP_SECONDS_MAX:.0f} s these have not come to {offset}: {behind}")
            sleep(LOOK_SECONDS)

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

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._stack.settings.postgres_dsn) as connection:
            return connection.execute(query.encode()).fetchall()


_GIFTS: Final = """
    SELECT count(*), count(DISTINCT data -> 'about' ->> 'user_id') FROM events
    WHERE type = 'coupon.claimed.v1' AND starts_with(data -> 'about' ->> 'template_id', 'gift-')
"""

_LOCKS: Final = "SELECT DISTINCT key FROM timers WHERE kind = 'order_lock_end'"

_UNFINISHED: Final = """
    SELECT key, step FROM sagas
    WHERE step IN ('awaiting_order', 'holding', 'redeeming', 'releasing', 'refunding') ORDER BY key
"""


@contextmanager
def running(
    folder: Path, seed: int, summary: Summary, *, kafka: bool = False, callers: int = 16, say: Say = lambda _text: None
) -> Iterator[tuple[Stack, Run]]:
    """A stack under load. Raises Unanswered, Violation; what was acknowledged is in ``acknowledged.jsonl``."""
    with ExitStack() as exit_stack:
        stack = exit_stack.enter_context(Stack(folder, kafka=kafka))
        journal = exit_stack.enter_context(closing(journal_at(folder)))
        shop = Shop()
        load = Load(stack.servers, stack.token, REALM, shop.visit, journal, seed, callers, stack.callers_kafka)
        exit_stack.enter_context(load.running())
        run = exit_stack.enter_context(closing(Run(stack, load, shop, summary, say)))
        yield stack, run
        run.note_the_rest()
