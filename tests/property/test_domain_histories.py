"""Random histories of commands: the books balance at every event, states fold and freeze, and timers never decide."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from command.domain.budget import Budget
from command.domain.checkout import CHECKOUT, Checkout
from command.domain.coupon import COUPON, Coupon
from command.domain.ids import coupon_id
from command.domain.orders import ORDER
from command.domain.settlement import Settlement
from command.domain.template import TEMPLATE, Template
from command.handlers import KINDS
from command.unit_of_work import NotYet
from contracts.commands import (
    CancelOrder,
    CancelTemplateReservation,
    ClaimCoupon,
    CloseTemplate,
    Command,
    ConfirmTemplateReservation,
    EndCouponLock,
    EndOrderLock,
    ExpireCoupon,
    LockCoupon,
    PauseTemplate,
    RedeemCoupon,
    ReleaseCoupon,
    ReleaseForOrder,
    ReopenOrder,
    ReserveTemplateStock,
    ResumeTemplate,
    RevokeCoupon,
)
from contracts.events import BudgetCommitted, CheckoutReady, CouponClaimed, CouponLocked, CouponRedeemed
from contracts.orders import RefundLine
from contracts.refusals import Refusal
from contracts.terms import FixedValidity, ValidityAfterClaim
from tests.builders import (
    REALM,
    budget,
    claim,
    credit,
    hold,
    line,
    money_back,
    off,
    pay,
    percent,
    place,
    redeem,
    template,
)
from tests.gwt import NOON, World

USERS = ("alice", "bob")
TEMPLATES = ("t1", "t2")
ORDERS = ("o1", "o2", "o3")
FIRST, SECOND = coupon_id(REALM, "t1", "alice", 1), coupon_id(REALM, "t2", "alice", 1)
COUPONS = (FIRST, SECOND, coupon_id(REALM, "t1", "bob", 1), coupon_id(REALM, "t1", "alice", 2))
STOCK = 4
LIMIT = 2
BUDGET_MINOR = 2500


@dataclass(frozen=True)
class HoldLatest:
    """What a saga asks that heard everything: a hold of the order's latest attempt."""

    order_id: str

    def command(self, world: World) -> Command:
        return hold(self.order_id, max(world.state(ORDER, self.order_id).attempt, 1))


Step = float | Command | HoldLatest

users, templates, orders, coupons = (st.sampled_from(names) for names in (USERS, TEMPLATES, ORDERS, COUPONS))
reservations = st.sampled_from(["r1", "r2"])
refund_ids = st.builds("{}-{}".format, st.sampled_from(["x", "y", "z"]), orders)

checkout_steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(HoldLatest, orders),
    st.builds(lambda order_id: redeem(f"p-{order_id}", order_id), orders),
    st.builds(lambda refund_id: credit(refund_id, refund_id[2:]), refund_ids),
)
rarer_steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(lambda order_id: redeem(None, order_id), orders),
    st.builds(hold, orders, st.integers(1, 2)),
    st.builds(ReleaseForOrder, order_id=orders, cause=st.sampled_from(["payment_failed", "order_cancelled"])),
    st.builds(CancelOrder, order_id=orders),
    st.builds(ReopenOrder, order_id=orders),
    st.builds(LockCoupon, coupon_id=coupons, order_id=st.just("ext"), lock_seconds=st.sampled_from([60, 900])),
    st.builds(RedeemCoupon, coupon_id=coupons, order_id=st.just("ext")),
    st.builds(ReleaseCoupon, coupon_id=coupons, order_id=st.just("ext")),
    st.builds(RevokeCoupon, coupon_id=coupons, reason=st.just("fraud")),
    st.builds(claim, users, templates),
    st.builds(PauseTemplate, template_id=templates),
    st.builds(ResumeTemplate, template_id=templates),
    st.builds(
        ReserveTemplateStock,
        template_id=templates,
        reservation_id=reservations,
        user_id=users,
        quantity=st.integers(1, 2),
    ),
    st.builds(ConfirmTemplateReservation, template_id=templates, reservation_id=reservations),
    st.builds(CancelTemplateReservation, template_id=templates, reservation_id=reservations),
)
waits = st.sampled_from([1.0, 60.0, 450.0, 900.0, 3600.0])
histories = st.lists(st.one_of(checkout_steps, checkout_steps, rarer_steps, waits), min_size=20, max_size=40)
policies = st.sampled_from(["refuse", "honour"])
validities = st.sampled_from(
    [
        ValidityAfterClaim(duration_seconds=1200),
        ValidityAfterClaim(duration_seconds=86_400),
        FixedValidity(valid_from=NOON + timedelta(minutes=1), valid_until=NOON + timedelta(hours=2)),
    ]
)
wishes = st.lists(st.sampled_from([(FIRST,), (SECOND,), (FIRST, SECOND), ()]), min_size=3, max_size=3)
baskets = st.sampled_from([(line("a", 5000), line("b", 1000)), (line("a", 700, 3),), (line("a", 1000),)])
refunded = st.one_of(
    st.integers(0, 6000).map(lambda amount: {"amount_minor": amount}),
    st.sampled_from([{"lines": (RefundLine(line_id="a"),)}, {"lines": (RefundLine(line_id="a", quantity=1),)}]),
)


@st.composite
def setups(draw: st.DrawFn) -> list[Command]:
    """A shop in which everything was told already but nothing is decided: coupons, orders, payments and refunds."""
    usual: dict[str, Any] = {
        "stock": STOCK,
        "claims_per_user_max": LIMIT,
        "budget_ids": ("b1",),
        "on_late_payment": draw(policies),
        "validity": draw(validities),
        "claimed_stay_valid": draw(st.booleans()),
        "on_full_refund": draw(st.sampled_from(["return", "keep"])),
    }
    when_short = draw(st.sampled_from(["grant_remainder", "refuse"]))
    told: list[Command] = [budget(limit_minor=BUDGET_MINOR, when_short=when_short)]
    told += template("t1", discount=off(1000), **usual)
    told += template("t2", discount=percent(draw(st.sampled_from([2500, 10_000]))), **usual)
    told += [claim("alice", "t1"), claim("alice", "t2"), claim("bob", "t1")]
    for order_id, wished in zip(ORDERS, draw(wishes), strict=True):
        told += [place(*wished, order_id=order_id, lines=draw(baskets)), pay(f"p-{order_id}", order_id)]
        told += [money_back(f"{part}-{order_id}", order_id=order_id, **draw(refunded)) for part in "xyz"]
    return told


def start(setup: list[Command]) -> World:
    world = World()
    for command in setup:
        world.send(command)
    return world


def answer(world: World, step: Command | HoldLatest) -> tuple[str, dict[str, Any]]:
    try:
        return "ok", world.send(step.command(world) if isinstance(step, HoldLatest) else step)
    except Refusal as refusal:
        return refusal.code, {}
    except NotYet:
        return "not yet", {}


def states(world: World, of: type[Any]) -> dict[str, Any]:
    return {key: state for (_, key), state in world.states.items() if isinstance(state, of)}


def assert_books_balance(world: World) -> None:
    """I1, I9, I11 and I12 of the specification, from the states that the log folds to."""
    held_coupons: Counter[str] = Counter()
    for key, it in states(world, Template).items():
        assert it.claimed + it.reserved <= STOCK  # I1
        owned = Counter(c.about.user_id for c in states(world, Coupon).values() if c.about.template_id == key)
        assert all(count <= LIMIT for count in owned.values())  # I1
        assert it.claimed == sum(owned.values())  # I11: every issued coupon is one coupon with one status.
        assert it.reserved == sum(reservation.quantity for _, reservation in it.reservations)
    honoured = any(event.honoured for event in world.events(BudgetCommitted))
    for it in states(world, Budget).values():
        assert honoured or it.available_minor("") >= 0  # I12
        for totals in it.periods.values():
            assert totals.reserved_minor == sum(held.amount_minor for _, held in it.holds)
            assert 0 <= totals.credited_minor <= totals.committed_minor  # I9
    for key, checkout in states(world, Checkout).items():
        for coupon_key in checkout.coupon_ids:
            status = world.state(COUPON, coupon_key)
            if checkout.status == "held":
                assert (status.status, status.order_id) == ("locked", key)
                held_coupons[coupon_key] += 1
    assert all(count == 1 for count in held_coupons.values())
    for it in states(world, Settlement).values():
        assert 0 <= it.reversed_minor <= it.recorded_minor  # I9
    locked = sum(event.discount_minor for event in world.events(CouponLocked))
    redeemed = sum(event.discount_minor for event in world.events(CouponRedeemed) if not event.honoured)
    assert redeemed <= locked  # I9


@given(setups(), histories)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_books_balance_after_every_command(setup: list[Command], history: list[Step]) -> None:
    world = start(setup)
    for step in history:
        if isinstance(step, float):
            world.wait(step)
        else:
            before = len(world.log)
            code, _ = answer(world, step)
            assert code == "ok" or len(world.log) == before
        assert_books_balance(world)


@given(setups(), histories)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_command_asked_again_at_once_under_another_id_changes_nothing_or_is_refused(
    setup: list[Command], history: list[Step]
) -> None:
    world = start(setup)
    for step in history:
        if isinstance(step, float):
            world.wait(step)
            continue
        code, _ = answer(world, step)
        if code == "ok" and not isinstance(step, ClaimCoupon):  # A claim has no key but its command id.
            recorded = len(world.log)
            answer(world, step)
            assert len(world.log) == recorded


@given(setups(), histories)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_folding_the_log_again_or_from_a_snapshot_gives_the_same_states(
    setup: list[Command], history: list[Step]
) -> None:
    world = start(setup)
    for step in history:
        if isinstance(step, float):
            world.wait(step)
        else:
            answer(world, step)
    for (name, key), state in world.states.items():
        kind = KINDS[name]
        adapter = TypeAdapter(kind.state)
        events = world.stream(kind, key)
        for cut in {0, len(events) // 2, len(events)}:
            folded = kind.initial
            for event in events[:cut]:
                folded = kind.evolve(folded, event)
            thawed = adapter.validate_json(adapter.dump_json(folded))
            for event in events[cut:]:
                thawed = kind.evolve(thawed, event)
            assert adapter.dump_json(thawed) == adapter.dump_json(state)


def fire_timers(world: World) -> None:
    """What the timer service does: everything that is due, at once. What is early comes again another time."""
    for key, checkout in states(world, Checkout).items():
        if checkout.lock_has_ended(world.now):
            world.send(EndOrderLock(order_id=key, lock_until=checkout.lock_until))
    for key, coupon in states(world, Coupon).items():
        if coupon.external and coupon.lock_has_ended(world.now):
            world.send(EndCouponLock(coupon_id=key, order_id=str(coupon.order_id), lock_until=coupon.lock_until))
        if coupon.status != "none":
            with suppress(NotYet):
                world.send(ExpireCoupon(coupon_id=key))
    for key in TEMPLATES:
        with suppress(NotYet):
            world.send(CloseTemplate(template_id=key))


@given(setups(), histories)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_timers_never_decide(setup: list[Command], history: list[Step]) -> None:
    """Whether timers fire at once or never, everybody gets the same answers and the same promises."""
    prompt, never = start(setup), start(setup)
    for step in history:
        if isinstance(step, float):
            prompt.wait(step)
            never.wait(step)
            fire_timers(prompt)
        else:
            one, other = answer(prompt, step), answer(never, step)
            assert one == other
    fire_timers(prompt)
    fire_timers(never)
    assert prompt.events(CheckoutReady) == never.events(CheckoutReady)
    assert prompt.events(CouponRedeemed) == never.events(CouponRedeemed)
    assert {key: state.status for key, state in states(prompt, Coupon).items()} == {
        key: state.status for key, state in states(never, Coupon).items()
    }
    assert used_minor(prompt) == used_minor(never)


def used_minor(world: World) -> dict[str, int]:
    return {key: it.limit_minor - it.available_minor("") for key, it in states(world, Budget).items()}


@given(setups(), histories, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_folding_never_raises_and_ignores_what_belongs_elsewhere(
    setup: list[Command], history: list[Step], shuffle: Any
) -> None:
    world = start(setup)
    for step in history:
        if not isinstance(step, float):
            answer(world, step)
    events = [entry.event for entry in world.log]
    shuffle.shuffle(events)
    for kind in KINDS.values():
        state = kind.initial
        for event in events:
            state = kind.evolve(state, event)
    claimed = world.events(CouponClaimed)[0]
    assert TEMPLATE.evolve(TEMPLATE.initial, claimed) is TEMPLATE.initial
    assert CHECKOUT.evolve(CHECKOUT.initial, claimed) is CHECKOUT.initial
