"""Dry runs that share a look: they say what the engine would, of one instant, and read only what is new."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from command.decider import HandlerFailed, StreamClosed
from command.dry_runs import LOOKS_MAX, STREAMS_MAX, BetterAlone, DryRuns
from command.engine import Engine
from command.handlers import HANDLERS
from command.handlers.handler import Handler
from command.ports import Glance, Look, Seen, StoreUnavailable, Wanted
from command.unit_of_work import UnitOfWork
from contracts.commands import Command, LockCoupon, PauseTemplate, QuoteOrder
from contracts.envelope import Answer, CommandEnvelope
from contracts.registry import UnknownEventType
from tests.builders import REALM, VECTOR, budget, claim, coupon_of, template
from tests.fakes import InMemoryEventLog
from tests.gwt import NOON
from tests.unit.test_engine import BARREL, Pour, asks
from tests.unit.test_engine import HANDLERS as POURING


class Watched(InMemoryEventLog):
    """A log that remembers what was looked for and how many events that brought, and does ``meanwhile`` after it."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: NOON)
        self.looks: list[Wanted] = []
        self.brought: list[int] = []
        self.meanwhile: list[Callable[[], object]] = []
        self.unreadable = ""

    def glancing(self) -> Any:
        return _Watching(super().glancing(), self)


class _Watching:
    def __init__(self, glance: Glance, log: Watched) -> None:
        self._glance = glance
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._glance, name)

    def look(self, wanted: Wanted) -> Seen:
        if self._log.unreadable in wanted.streams:
            raise UnknownEventType("tea.brewed.v9")
        seen = self._glance.look(wanted)
        self._log.looks.append(wanted)
        self._log.brought.append(sum(len(history.events) for history in seen.histories.values()))
        if self._log.meanwhile:
            self._log.meanwhile.pop(0)()
        return seen

    def send(self, wanted: Wanted) -> Look:
        return self._glance.send(wanted)


class Shop:
    """An engine, and dry runs beside it on the same log."""

    def __init__(self) -> None:
        self.log = Watched()
        self.engine = Engine(self.log, HANDLERS)
        self.engine.start()
        self.dry_runs = self.engine.dry_runs_over(self.log)
        self._asked = 0

    def does(self, *commands: Command) -> None:
        for command in commands:
            answer = self.engine.execute(self._envelope(command))
            assert answer.accepted, (command, answer)

    def foresees(self, *commands: Command) -> list[Answer]:
        """What dry runs say together, which is what a dry run by itself says."""
        envelopes = [self._envelope(command) for command in commands]
        told = [answered(outcome) for outcome in self.dry_runs.answers(envelopes)]
        assert told == [self.engine.dry_run(envelope) for envelope in envelopes]
        return told

    def _envelope(self, command: Command) -> CommandEnvelope:
        self._asked += 1
        return CommandEnvelope(REALM, f"c{self._asked}", command, "tester", "corr")


def answered(outcome: Answer | Exception) -> Answer:
    assert isinstance(outcome, Answer), outcome
    return outcome


def quote(*coupons: str, user_id: str = "alice") -> QuoteOrder:
    return QuoteOrder(user_id=user_id, currency="GBP", lines=VECTOR, coupon_ids=coupons)


def lock(coupon_id: str, order_id: str = "elsewhere") -> LockCoupon:
    return LockCoupon(coupon_id=coupon_id, order_id=order_id, discount_minor=1_000)


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A template with a budget, and a coupon each of alice and bob."""
    shop = Shop()
    shop.does(budget(), *template(budget_ids=("b1",), stock=3, claims_per_user_max=1), claim("alice"), claim("bob"))
    yield shop
    shop.engine.stop()


def test_a_quote_says_what_the_engine_would_and_goes_with_what_happens(shop: Shop) -> None:
    alice = coupon_of("alice")
    assert shop.foresees(quote(alice))[0].data["discount_minor"] == 1_000
    shop.does(lock(alice))
    (locked,) = shop.foresees(quote(alice))
    assert (locked.data["discount_minor"], len(locked.data["unusable"])) == (0, 1)


def test_commands_of_all_kinds_are_foreseen_together(shop: Shop) -> None:
    shop.foresees(quote(coupon_of("bob"), user_id="bob"))
    told = shop.foresees(claim("alice"), claim("carol"), PauseTemplate(template_id="t1"), lock("unknown"))
    assert [answer.code for answer in told] == ["user_limit_reached", "ok", "ok", "unknown_coupon"]
    shop.does(claim("dave"))
    (told_now,) = shop.foresees(claim("carol"))
    assert told_now.code == "template_exhausted"


def test_what_was_needed_before_is_looked_for_in_one_look_and_only_what_is_new_is_read(shop: Shop) -> None:
    alice, bob = quote(coupon_of("alice")), quote(coupon_of("bob"), user_id="bob")
    shop.foresees(alice, bob)
    shop.log.looks.clear()
    shop.log.brought.clear()
    shop.foresees(alice, bob)
    assert (len(shop.log.looks), shop.log.brought) == (1, [0])
    shop.does(lock(coupon_of("bob")))
    shop.foresees(bob, alice)
    assert (len(shop.log.looks), shop.log.brought) == (2, [0, 1])


def test_a_coupon_that_nobody_asked_about_before_takes_a_second_look_and_no_more(shop: Shop) -> None:
    shop.foresees(quote(coupon_of("alice")))
    shop.log.looks.clear()
    shop.foresees(quote(coupon_of("bob"), user_id="bob"))
    assert len(shop.log.looks) == 2  # The coupon; then all that it leads to.


def test_what_is_said_is_of_one_instant_whatever_happens_between_two_looks(shop: Shop) -> None:
    """The first look shows a coupon that can be used; it cannot any more when its template is seen."""
    alice = coupon_of("alice")
    shop.log.meanwhile.append(lambda: shop.does(lock(alice)))
    (told,) = shop.foresees(quote(alice))
    assert len(shop.log.looks) > 1
    assert told.data["discount_minor"] == 0


def test_after_a_restore_nothing_is_remembered(shop: Shop) -> None:
    before = shop.log._state
    alice = coupon_of("alice")
    shop.does(lock(alice))
    assert shop.foresees(quote(alice))[0].data["discount_minor"] == 0
    shop.log._state, shop.log._epoch = before, "restored"
    envelope = shop._envelope(quote(alice))
    (told,) = map(answered, shop.dry_runs.answers([envelope]))
    assert (told.data["discount_minor"], told.position.epoch) == (1_000, "restored")


def test_who_cannot_be_read_for_fails_alone(shop: Shop) -> None:
    shop.log.unreadable = f"{REALM.key}/coupon/{coupon_of('bob')}"
    asked = [quote(coupon_of("alice")), quote(coupon_of("bob"), user_id="bob"), claim("carol")]
    fine, closed, claimed = shop.dry_runs.answers([shop._envelope(each) for each in asked])
    assert [answered(each).status for each in (fine, claimed)] == ["accepted", "accepted"]
    assert isinstance(closed, StreamClosed)


def test_a_defect_is_one_command_s_own() -> None:
    dry_runs = DryRuns(InMemoryEventLog(), POURING, lock_ttl_seconds=900)
    for _ in range(2):
        fine, broken = dry_runs.answers([asks("1"), asks("2", breaks=True)])
        assert answered(fine).data == {"glass": 1}
        assert isinstance(broken, HandlerFailed)


def test_a_store_that_is_away_is_told_to_all(shop: Shop) -> None:
    def fail() -> None:
        raise StoreUnavailable("the connection was lost")

    shop.log.meanwhile.append(fail)
    with pytest.raises(StoreUnavailable, match="lost"):
        shop.foresees(claim("carol"), claim("dave"))


def drink(uow: UnitOfWork, command: Pour) -> dict[str, Any]:
    """From as many barrels as the command says, one after the other, or all at once."""
    how, number = command.barrel.split("-")
    keys = [f"b{n}" for n in range(int(number))]
    for together in [keys] if how == "together" else [[key] for key in keys]:
        uow.load_all(BARREL, together)
    return {"barrels": len(keys)}


def test_what_takes_many_looks_or_many_streams_is_better_alone_and_holds_up_nobody() -> None:
    log = Watched()
    dry_runs = DryRuns(log, {Pour: Handler(drink, lambda _: [])}, lock_ttl_seconds=900)
    wanted = [f"apart-{LOOKS_MAX - 1}", f"apart-{4 * LOOKS_MAX}", f"together-{STREAMS_MAX}", "together-3"]
    few, deep, wide, fine = dry_runs.answers([asks(each, barrel=each) for each in wanted])
    assert [answered(each).data["barrels"] for each in (few, fine)] == [LOOKS_MAX - 1, 3]
    assert [type(each) for each in (deep, wide)] == [BetterAlone, BetterAlone]
    assert len(log.looks) == LOOKS_MAX
    assert max(len(look.streams) for look in log.looks) < STREAMS_MAX


def test_time_that_passes_is_seen_though_nothing_was_stored(shop: Shop) -> None:
    told: list[Sequence[Answer]] = [shop.foresees(claim("carol"))]
    shop.log._clock = lambda: NOON + timedelta(days=2)
    told.append(shop.foresees(claim("carol")))
    assert [answer.code for (answer,) in told] == ["ok", "ended"]
