"""One order, one decision: hold, redeem, release and refund over coupons, budgets and settlement, in every race."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from command.domain.budget import BUDGET, Budget, Totals
from command.domain.checkout import CHECKOUT
from command.domain.coupon import COUPON
from command.domain.settlement import SETTLEMENT
from contracts.commands import (
    CancelOrder,
    Command,
    EndOrderLock,
    ExpireCoupon,
    LockCoupon,
    PauseTemplate,
    QuoteOrder,
    ReleaseForOrder,
    ReopenOrder,
    RevokeCoupon,
    TerminateTemplate,
    TopUpBudget,
)
from contracts.events import (
    BudgetCommitted,
    BudgetCredited,
    BudgetReleased,
    BudgetReserved,
    BudgetThresholdReached,
    CheckoutCompleted,
    CheckoutCompletedUnredeemed,
    CheckoutReady,
    CheckoutRefunded,
    CheckoutRefused,
    CheckoutReleased,
    CouponExpired,
    CouponLocked,
    CouponRedeemed,
    CouponReleased,
    CouponReturned,
    Event,
    PaymentSucceeded,
)
from contracts.events.settlement import SettlementRecorded, SettlementReversed
from contracts.orders import RefundLine
from contracts.refusals import CurrencyMismatch, PaymentRequired, UnknownRefund
from contracts.terms import ValidityAfterClaim
from tests.builders import (
    DAY,
    budget,
    claim,
    coupon_of,
    credit,
    held,
    hold,
    money_back,
    off,
    paid,
    pay,
    percent,
    place,
    redeem,
    template,
)
from tests.gwt import LOCK_TTL_SECONDS, NOON, At, Given, Wait, When, given

MINE = coupon_of("alice")
OTHER = coupon_of("alice", "t2")
CANCEL = CancelOrder(order_id="o1")
REOPEN = ReopenOrder(order_id="o1")
ONE: list[Any] = [budget(), *template(budget_ids=("b1",)), claim()]
LAPSE = Wait(LOCK_TTL_SECONDS)
LOCK_END = NOON + timedelta(seconds=LOCK_TTL_SECONDS)
END_LOCK = EndOrderLock(order_id="o1", lock_until=LOCK_END)
HELD_EVENTS: list[type[Event]] = [CouponLocked, BudgetReserved, CheckoutReady]
REDEEMED_EVENTS: list[type[Event]] = [CouponRedeemed, BudgetCommitted, SettlementRecorded, CheckoutCompleted]
RELEASED_EVENTS: list[type[Event]] = [CouponReleased, BudgetReleased, CheckoutReleased]
AGAIN_EVENTS: list[type[Event]] = [
    CouponLocked,
    CouponRedeemed,
    BudgetReserved,
    BudgetCommitted,
    SettlementRecorded,
    CheckoutCompleted,
]


HONOURED_EVENTS: list[type[Event]] = [CouponRedeemed, BudgetCommitted, SettlementRecorded, CheckoutCompleted]


def release(cause: Any = "payment_failed", order_id: str = "o1") -> ReleaseForOrder:
    return ReleaseForOrder(order_id=order_id, cause=cause)


def refusals(outcome: When) -> list[tuple[str | None, str]]:
    """Who was refused and why, from the one fact that says so."""
    (event,) = [event for event in outcome.events if isinstance(event, CheckoutRefused | CheckoutCompletedUnredeemed)]
    return [(refusal.coupon_id, refusal.code) for refusal in event.refusals]


def money(world: Given, budget_id: str = "b1", period: str = "") -> Totals:
    return world.world.state(BUDGET, budget_id).periods[period]


def two(**changes: Any) -> list[Any]:
    """Alice holds a coupon of t1 and one of t2, both on budget b1."""
    return [
        *template("t1", budget_ids=("b1",), **changes),
        *template("t2", budget_ids=("b1",), **changes),
        claim(),
        claim(template_id="t2"),
    ]


# ---- Hold


def test_a_hold_locks_reserves_and_freezes_the_allocation() -> None:
    outcome = given([*ONE, place(MINE)]).when(hold())
    outcome.then(HELD_EVENTS).then_answered(status="held")
    ready = outcome.events[-1]
    assert isinstance(ready, CheckoutReady)
    assert (ready.total_minor, ready.discount_minor, ready.payable_minor) == (6000, 1000, 5000)
    assert [it.discount_minor for it in ready.lines] == [833, 167]
    assert ready.lock_until == LOCK_END


def test_an_order_without_coupons_is_held_and_completed_as_well() -> None:
    given([place()]).when(hold(), pay(), redeem()).then([CheckoutReady, PaymentSucceeded, CheckoutCompleted])


def test_asked_twice_it_holds_once() -> None:
    given([*ONE, *held(MINE)]).when(hold()).then_nothing()
    given([*ONE, *held(MINE), LAPSE]).when(hold()).then_nothing()


def test_a_hold_that_came_before_its_order_is_not_answered_but_asked_for_again() -> None:
    early = given()
    early.when(hold()).then_not_yet()
    early.and_given([*ONE, place(MINE)]).when(hold()).then(HELD_EVENTS)


def test_a_hold_of_a_reopening_that_a_restore_took_back_is_not_answered_but_asked_for_again() -> None:
    restored = given([*ONE, *held(MINE), CANCEL, release("order_cancelled")])
    restored.when(hold(attempt=2)).then_not_yet()
    restored.and_given([REOPEN]).when(hold(attempt=2)).then(HELD_EVENTS)


def test_every_reason_is_told_and_nothing_is_held_when_one_coupon_is_refused() -> None:
    past = [*ONE, *template("t2", minimum_spend_minor=6320), claim(template_id="t2"), claim("bob")]
    outcome = given([*past, place("nobodys", MINE, OTHER, coupon_of("bob"))]).when(hold())
    outcome.then([CheckoutRefused]).then_answered(status="refused")
    assert refusals(outcome) == [
        ("nobodys", "unknown_coupon"),
        (OTHER, "minimum_spend_not_reached"),
        (coupon_of("bob"), "not_owner"),
    ]
    assert outcome.world.state(COUPON, MINE).status == "claimed"


def test_a_guest_has_no_coupons() -> None:
    assert refusals(given([*ONE, place(MINE, user_id=None)]).when(hold())) == [(MINE, "not_owner")]


def test_an_order_in_another_currency_cannot_use_the_coupon() -> None:
    assert refusals(given([*ONE, place(MINE, currency="EUR")]).when(hold())) == [(MINE, "currency_mismatch")]


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ([Wait(30 * DAY)], "coupon_expired"),
        ([Wait(30 * DAY), ExpireCoupon(coupon_id=MINE)], "coupon_expired"),
        ([RevokeCoupon(coupon_id=MINE, reason="fraud")], "coupon_revoked"),
        (paid(MINE, order_id="before"), "already_redeemed"),
        (held(MINE, order_id="before"), "already_locked"),
    ],
    ids=["expired", "expiry recorded", "revoked", "redeemed", "locked"],
)
def test_a_coupon_that_is_not_free_is_refused(then: list[Any], code: str) -> None:
    assert refusals(given([*ONE, *then, place(MINE)]).when(hold())) == [(MINE, code)]


def test_of_two_orders_that_race_for_one_coupon_exactly_one_wins() -> None:
    outcome = given([*ONE, place(MINE, order_id="o1"), place(MINE, order_id="o2")]).when(hold("o2"), hold("o1"))
    assert [type(event) for event in outcome.events] == [*HELD_EVENTS, CheckoutRefused]
    assert refusals(outcome) == [(MINE, "already_locked")]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (PauseTemplate(template_id="t1"), "paused"),
        (TerminateTemplate(template_id="t1"), "ended"),
        (Wait(DAY), "ended"),
    ],
    ids=["paused", "terminated", "window over"],
)
def test_claimed_coupons_outlive_their_template_unless_its_terms_say_otherwise(end: Any, code: str) -> None:
    given([*ONE, end, place(MINE)]).when(hold()).then(HELD_EVENTS)
    strict = [*template(claimed_stay_valid=False), claim(), end, place(MINE)]
    assert refusals(given(strict).when(hold())) == [(MINE, code)]


def test_a_pause_after_the_hold_does_not_touch_it() -> None:
    strict = [*template(claimed_stay_valid=False), claim(), *held(MINE), PauseTemplate(template_id="t1"), pay()]
    given(strict).when(redeem()).then([CouponRedeemed, SettlementRecorded, CheckoutCompleted])


def test_the_next_order_releases_the_whole_order_whose_hold_had_ended() -> None:
    past = [budget(), *two(), *held(MINE, OTHER, order_id="stale"), LAPSE, place(MINE)]
    world = given(past)
    outcome = world.when(hold())
    stale: list[type[Event]] = [CouponReleased, BudgetReleased, *RELEASED_EVENTS]
    outcome.then([*stale, *HELD_EVENTS])
    released = outcome.events[4]
    assert isinstance(released, CheckoutReleased)
    assert (released.order_id, released.cause, released.released_at) == ("stale", "lock_ended", LOCK_END)
    assert money(world).reserved_minor == 1000


def test_a_coupon_whose_external_lock_ended_is_released_and_held() -> None:
    external = LockCoupon(coupon_id=MINE, order_id="x", lock_seconds=60)
    outcome = given([*ONE, external, Wait(60), place(MINE)]).when(hold())
    outcome.then([CouponReleased, *HELD_EVENTS])


# ---- Budgets


def test_a_budget_that_is_short_refuses() -> None:
    past = [budget(limit_minor=999), *template(budget_ids=("b1",)), claim(), place(MINE)]
    assert refusals(given(past).when(hold())) == [(MINE, "budget_exhausted")]


def test_a_budget_that_grants_its_remainder_grants_it_and_then_refuses() -> None:
    past = [budget(limit_minor=400, when_short="grant_remainder"), *two()]
    world = given([*past, *held(MINE)])
    assert world.world.events(CheckoutReady)[0].discount_minor == 400
    assert refusals(world.and_given(place(OTHER, order_id="o2")).when(hold("o2"))) == [(OTHER, "budget_exhausted")]


def test_coupons_on_one_budget_are_checked_together() -> None:
    past = [budget(limit_minor=1999), *two(), place(MINE, OTHER)]
    assert refusals(given(past).when(hold())) == [(OTHER, "budget_exhausted")]
    assert given(past).and_given(hold()).world.state(BUDGET, "b1").periods == {}


def test_every_budget_that_the_terms_name_pays_the_whole_discount() -> None:
    past = [budget("b1"), budget("b2"), *template(budget_ids=("b1", "b2")), claim()]
    world = given([*past, *paid(MINE)])
    assert (money(world, "b1").committed_minor, money(world, "b2").committed_minor) == (1000, 1000)


def test_a_recurring_budget_has_its_limit_anew_at_its_own_midnight() -> None:
    evening = datetime(2026, 3, 2, 22, 50, tzinfo=UTC)  # 23:50 in Berlin.
    daily = budget(limit_minor=1000, recurs="day", zone="Europe/Berlin")
    terms = template(budget_ids=("b1",), claims_per_user_max=None)
    past = [daily, *terms, claim(), claim(), *paid(MINE)]
    second = coupon_of(nth=2)
    world = given([*past, place(second, order_id="o2"), place(second, order_id="o3")], now=evening)
    assert refusals(world.when(hold("o2"))) == [(second, "budget_exhausted")]
    world.when(hold("o3"), after=600).then_answered(status="held")
    assert (money(world, period="2026-03-02").committed_minor, money(world, period="2026-03-03").reserved_minor) == (
        1000,
        1000,
    )


def test_money_of_a_hold_that_ended_is_free_without_waiting_for_the_timer() -> None:
    past = [budget(limit_minor=1000), *two(), *held(MINE, order_id="stale")]
    world = given([*past, place(OTHER)])
    assert refusals(world.when(hold())) == [(OTHER, "budget_exhausted")]
    world = given([*past, LAPSE, place(OTHER)])
    world.when(hold()).then([*RELEASED_EVENTS, CouponLocked, BudgetReserved, CheckoutReady])
    assert money(world).reserved_minor == 1000


def test_no_more_ended_holds_are_released_than_are_in_the_way() -> None:
    past = [budget(limit_minor=2000), *template(budget_ids=("b1",)), *(claim(user) for user in "abc")]
    stale = [it for user in "ab" for it in held(coupon_of(user), order_id=f"stale-{user}", user_id=user)]
    outcome = given([*past, *stale, LAPSE, place(coupon_of("c"), user_id="c")]).when(hold())
    outcome.then([*RELEASED_EVENTS, CouponLocked, BudgetReserved, CheckoutReady])


def test_thresholds_are_told_once_each_when_they_are_first_passed() -> None:
    past = [budget(limit_minor=2000), *two()]
    world = given([*past, *held(MINE)])
    assert [it.threshold_percent for it in world.world.events(BudgetThresholdReached)] == [50]
    world.and_given([release(), place(OTHER, order_id="o2"), hold("o2")])
    assert [it.threshold_percent for it in world.world.events(BudgetThresholdReached)] == [50]
    world.and_given([*held(MINE, order_id="o3")])
    assert [it.threshold_percent for it in world.world.events(BudgetThresholdReached)] == [50, 80, 100]


def test_an_ended_hold_that_makes_way_does_not_count_towards_a_threshold() -> None:
    past: list[Any] = [
        budget(limit_minor=2000),
        *template(budget_ids=("b1",)),
        claim(),
        *held(MINE, order_id="stale"),
        LAPSE,
    ]
    world = given([*past, *held(MINE)])
    assert [it.threshold_percent for it in world.world.events(BudgetThresholdReached)] == [50]


def test_an_old_period_s_sums_are_forgotten_so_that_a_budget_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("command.domain.budget.PERIODS_KEPT_MAX", 2)
    state = Budget()
    for period in ("2026-01", "2026-02", "2026-03"):
        state = BUDGET.evolve(
            state,
            BudgetReserved(budget_id="b", currency="GBP", period=period, order_id="o", coupon_id="c", amount_minor=1),
        )
    assert sorted(state.periods) == ["2026-02", "2026-03"]


# ---- Quote


def test_a_quote_is_the_arithmetic_of_a_hold_and_records_nothing() -> None:
    past = [budget(limit_minor=1500, when_short="grant_remainder"), *two(), claim("bob")]
    coupons = (MINE, OTHER, coupon_of("bob"), "nobodys")
    world = given([*past, *held(coupon_of("bob"), order_id="stale", user_id="bob"), LAPSE])
    wanted = place(*coupons[:2], shipping_minor=350)
    asked = QuoteOrder(user_id="alice", currency="GBP", coupon_ids=coupons, shipping_minor=350, lines=wanted.lines)
    quoted = world.when(asked)
    quoted.then_nothing()
    assert [(it["coupon_id"], it["code"]) for it in quoted.data["unusable"]] == [
        (coupons[2], "not_owner"),
        ("nobodys", "unknown_coupon"),
    ]
    (ready,) = [it for it in world.and_given(wanted).when(hold()).events if isinstance(it, CheckoutReady)]
    assert (quoted.data["payable_minor"], quoted.data["discount_minor"]) == (ready.payable_minor, 1500)
    assert quoted.data["lines"] == [it.model_dump() for it in ready.lines]
    assert [(it["coupon_id"], it["discount_minor"]) for it in quoted.data["usable"]] == [
        (it.coupon_id, it.discount_minor) for it in ready.coupons
    ]


def test_an_order_that_is_held_is_quoted_as_if_it_had_let_go_and_for_others_it_is_held() -> None:
    """Whoever changes a cart after its order was placed asks what the order would cost now."""
    world = given([budget(limit_minor=1000), *two(), *held(MINE)])
    body: dict[str, Any] = {"user_id": "alice", "currency": "GBP", "lines": place().lines}
    own = world.when(QuoteOrder(order_id="o1", coupon_ids=(MINE,), **body))
    own.then_nothing()
    assert [(it["coupon_id"], it["discount_minor"]) for it in own.data["usable"]] == [(MINE, 1000)]
    for other in ("o2", None):
        quoted = world.when(QuoteOrder(order_id=other, coupon_ids=(MINE, OTHER), **body)).data
        assert [(it["coupon_id"], it["code"]) for it in quoted["unusable"]] == [
            (MINE, "already_locked"),
            (OTHER, "budget_exhausted"),
        ]
    exchanged = world.when(QuoteOrder(order_id="o1", coupon_ids=(OTHER,), **body)).data
    assert [(it["coupon_id"], it["discount_minor"]) for it in exchanged["usable"]] == [(OTHER, 1000)]


def test_what_an_order_used_or_another_system_locked_in_its_name_is_not_free_for_its_quote() -> None:
    body: dict[str, Any] = {"user_id": "alice", "currency": "GBP", "lines": place().lines}
    asked = QuoteOrder(order_id="o1", coupon_ids=(MINE,), **body)
    (used,) = given([*ONE, *paid(MINE)]).when(asked).data["unusable"]
    locked = given([*ONE, LockCoupon(coupon_id=MINE, order_id="o1", discount_minor=1000)])
    (elsewhere,) = locked.when(asked).data["unusable"]
    assert (used["code"], elsewhere["code"]) == ("already_redeemed", "already_locked")


def test_an_order_is_quoted_by_its_total_as_it_may_be_placed() -> None:
    quoted = given(ONE).when(QuoteOrder(user_id="alice", currency="GBP", coupon_ids=(MINE,), total_minor=5000)).data
    assert (quoted["total_minor"], quoted["payable_minor"]) == (5000, 4000)


def test_a_guest_is_told_that_coupons_belong_to_users() -> None:
    (unusable,) = given(ONE).when(QuoteOrder(currency="GBP", coupon_ids=(MINE,), total_minor=5000)).data["unusable"]
    assert (unusable["code"], "names no user_id" in unusable["detail"]) == ("not_owner", True)


def test_a_quote_says_how_much_is_missing() -> None:
    past = [*template(minimum_spend_minor=6320), claim()]
    asked = QuoteOrder(user_id="alice", currency="GBP", coupon_ids=(MINE,), lines=place().lines)
    (unusable,) = given(past).when(asked).data["unusable"]
    assert (unusable["code"], unusable["missing_minor"]) == ("minimum_spend_not_reached", 320)


# ---- Redeem


def test_a_payment_redeems_commits_and_settles_from_the_frozen_allocation() -> None:
    world = given([*ONE, *held(MINE), pay()])
    outcome = world.when(redeem())
    outcome.then(REDEEMED_EVENTS).then_answered(status="completed")
    settled = outcome.events[2]
    assert isinstance(settled, SettlementRecorded)
    assert [it.discount_minor for it in settled.lines] == [833, 167]
    assert (money(world).reserved_minor, money(world).committed_minor) == (0, 1000)


def test_a_second_payment_or_the_same_again_redeems_nothing_more() -> None:
    world = given([*ONE, *paid(MINE), pay("p2")])
    world.when(redeem("p-o1")).then_nothing()
    world.when(redeem("p2")).then_nothing()


def test_an_order_with_nothing_to_pay_is_redeemed_without_a_payment() -> None:
    free = [*template(discount=off(6000)), claim(), *held(MINE)]
    given(free).when(redeem(None)).then([CouponRedeemed, SettlementRecorded, CheckoutCompleted])


@pytest.mark.parametrize(
    ("reported", "payment_id"),
    [
        ([], None),
        ([place(order_id="o2"), pay(order_id="o2")], "p1"),
    ],
    ids=["none", "another order's"],
)
def test_something_left_to_pay_needs_a_payment_that_succeeded(reported: list[Any], payment_id: str | None) -> None:
    given([*ONE, *held(MINE), *reported]).when(redeem(payment_id)).then_refused(PaymentRequired)


@pytest.mark.parametrize("order", [[], [*ONE, *held(MINE)]], ids=["no order", "held"])
@pytest.mark.parametrize("told", [[], [pay(status="failed")]], ids=["unknown", "failed"])
def test_a_redemption_that_came_before_its_payment_is_not_answered_but_asked_for_again(
    told: list[Any], order: list[Any]
) -> None:
    given([*order, *told]).when(redeem("p1")).then_not_yet()


def test_a_payment_told_before_its_order_in_another_currency_redeems_nothing() -> None:
    given([*ONE, pay(currency="EUR"), *held(MINE)]).when(redeem()).then_refused(CurrencyMismatch)


def test_a_payment_that_overtook_the_hold_holds_and_redeems() -> None:
    given([*ONE, place(MINE), pay()]).when(redeem()).then([*HELD_EVENTS, *REDEEMED_EVENTS])


def test_an_order_whose_coupons_were_refused_completes_without_a_discount() -> None:
    outcome = given([place("nobodys"), hold(), pay(amount_minor=6000)]).when(redeem())
    outcome.then([CheckoutCompleted])
    completed = outcome.events[0]
    assert isinstance(completed, CheckoutCompleted)
    assert (completed.discount_minor, completed.payable_minor) == (0, 6000)


# ---- Late payment


@pytest.mark.parametrize(
    ("gone", "released"),
    [([LAPSE], RELEASED_EVENTS), ([LAPSE, END_LOCK], []), ([release()], [])],
    ids=["lock ended", "lock end recorded", "payment failed before"],
)
def test_a_late_payment_holds_and_redeems_again_while_that_is_possible(gone: list[Any], released: list[Any]) -> None:
    world = given([*ONE, *held(MINE), *gone, pay()])
    world.when(redeem()).then([*released, *AGAIN_EVENTS])
    assert (money(world).reserved_minor, money(world).committed_minor) == (0, 1000)


def test_a_late_payment_redeems_what_the_buyer_was_promised_not_what_a_new_quote_would_say() -> None:
    past = [budget(limit_minor=400, when_short="grant_remainder"), *template(budget_ids=("b1",)), claim()]
    later: list[Any] = [*held(MINE), LAPSE, TopUpBudget(budget_id="b1", by_minor=5000), pay(amount_minor=5600)]
    outcome = given([*past, *later]).when(redeem())
    completed = outcome.events[-1]
    assert isinstance(completed, CheckoutCompleted)
    assert (completed.discount_minor, completed.payable_minor) == (400, 5600)


def test_a_late_payment_spends_the_budget_period_it_falls_in_and_a_refund_credits_that_one() -> None:
    daily = budget(recurs="day")
    past: list[Any] = [daily, *template(budget_ids=("b1",)), claim(), *held(MINE), Wait(DAY), pay(), redeem()]
    world = given([*past, money_back(amount_minor=5000), credit()])
    assert money(world, period="2026-03-02") == Totals()
    assert (money(world, period="2026-03-03").committed_minor, money(world, period="2026-03-03").credited_minor) == (
        1000,
        1000,
    )


def taken_by_another(code: str) -> list[Any]:
    ways: dict[str, list[Any]] = {
        "already_locked": held(MINE, order_id="o2"),
        "already_redeemed": paid(MINE, order_id="o2"),
        "coupon_revoked": [RevokeCoupon(coupon_id=MINE, reason="fraud")],
    }
    return ways[code]


@pytest.mark.parametrize("policy", ["refuse", "honour"])
@pytest.mark.parametrize("code", ["already_locked", "already_redeemed", "coupon_revoked"])
def test_a_coupon_that_is_in_other_hands_by_then_is_never_honoured(code: str, policy: str) -> None:
    past: list[Any] = [budget(), *template(budget_ids=("b1",), on_late_payment=policy), claim()]
    outcome = given([*past, *held(MINE), LAPSE, *taken_by_another(code), pay()]).when(redeem())
    outcome.then_answered(status="unredeemed")
    assert refusals(outcome) == [(MINE, code)]
    assert not [it for it in outcome.events if isinstance(it, CouponRedeemed)]


def expired_by_then(policy: str) -> list[Any]:
    short = template(
        budget_ids=("b1",), on_late_payment=policy, validity=ValidityAfterClaim(duration_seconds=LOCK_TTL_SECONDS)
    )
    return [budget(), *short, claim(), *held(MINE), LAPSE, pay()]


def test_a_late_payment_for_an_expired_coupon_completes_unredeemed_by_default() -> None:
    outcome = given(expired_by_then("refuse")).when(redeem())
    outcome.then([CouponReleased, CouponExpired, BudgetReleased, CheckoutReleased, CheckoutCompletedUnredeemed])
    assert refusals(outcome) == [(MINE, "coupon_expired")]


def test_a_template_that_honours_late_payment_redeems_an_expired_coupon_and_flags_it() -> None:
    outcome = given(expired_by_then("honour")).when(redeem())
    outcome.then_answered(status="completed")
    redeemed = [it for it in outcome.events if isinstance(it, CouponRedeemed | BudgetCommitted | CheckoutCompleted)]
    assert [it.honoured for it in redeemed] == [True, True, True]


def test_an_expired_coupon_is_honoured_once_the_ended_hold_of_another_order_is_released() -> None:
    """Nobody recorded yet that the other hold ended: a coupon is redeemed by one order, not while another has it."""
    twice = ValidityAfterClaim(duration_seconds=LOCK_TTL_SECONDS + 1)
    past: list[Any] = [budget(), *template(budget_ids=("b1",), on_late_payment="honour", validity=twice), claim()]
    world = given([*past, *held(MINE), LAPSE, *held(MINE, order_id="o2"), LAPSE, pay()])
    outcome = world.when(redeem())
    outcome.then([CouponReleased, CouponExpired, BudgetReleased, CheckoutReleased, *HONOURED_EVENTS])
    assert world.world.state(CHECKOUT, "o2").status == "released"


def test_honouring_spends_more_than_the_budget_has_and_says_so() -> None:
    past = [budget(limit_minor=1000), *two(on_late_payment="honour"), *held(MINE), LAPSE]
    world = given([*past, *paid(OTHER, order_id="o2"), pay()])
    outcome = world.when(redeem())
    (committed,) = [it for it in outcome.events if isinstance(it, BudgetCommitted)]
    assert committed.honoured
    assert world.world.state(BUDGET, "b1").available_minor("") == -1000


def test_a_late_payment_that_the_budget_cannot_pay_completes_unredeemed_by_default() -> None:
    past = [budget(limit_minor=1000), *two(), *held(MINE), LAPSE, *paid(OTHER, order_id="o2"), pay()]
    assert refusals(given(past).when(redeem())) == [(MINE, "budget_exhausted")]


def test_one_coupon_that_cannot_be_honoured_leaves_the_whole_order_unredeemed() -> None:
    past = [budget(), *two(on_late_payment="honour"), *held(MINE, OTHER), LAPSE, *paid(OTHER, order_id="o2"), pay()]
    world = given(past)
    assert refusals(world.when(redeem())) == [(OTHER, "already_redeemed")]
    assert world.world.state(COUPON, MINE).status == "claimed"


def test_honouring_one_coupon_does_not_overlook_another_that_is_gone() -> None:
    short = ValidityAfterClaim(duration_seconds=LOCK_TTL_SECONDS)
    brief = template("t1", on_late_payment="honour", validity=short)
    past: list[Any] = [*brief, *template("t2", on_late_payment="honour"), claim(), claim(template_id="t2")]
    outcome = given([*past, *held(MINE, OTHER), LAPSE, *paid(OTHER, order_id="o2"), pay()]).when(redeem())
    assert refusals(outcome) == [(MINE, "coupon_expired"), (OTHER, "already_redeemed")]
    assert not [it for it in outcome.events if isinstance(it, CouponRedeemed)]


def test_a_free_order_whose_hold_is_gone_for_good_is_only_released() -> None:
    short = template(discount=off(6000), validity=ValidityAfterClaim(duration_seconds=LOCK_TTL_SECONDS))
    outcome = given([*short, claim(), *held(MINE), LAPSE]).when(redeem(None))
    outcome.then([CouponReleased, CouponExpired, CheckoutReleased])


# ---- Release, lock end, cancellation, reopening


@pytest.mark.parametrize("cause", ["payment_failed", "order_cancelled", "order_rejected"])
def test_a_release_gives_everything_back(cause: str) -> None:
    world = given([*ONE, *held(MINE)])
    outcome = world.when(release(cause))
    outcome.then(RELEASED_EVENTS).then_answered(status="released")
    assert {it.cause for it in outcome.events if isinstance(it, CouponReleased | CheckoutReleased)} == {cause}
    assert money(world).reserved_minor == 0
    world.when(release(cause)).then_nothing()


@pytest.mark.parametrize(
    "past", [[], [place("nobodys"), hold()], [*ONE, *paid(MINE)]], ids=["unknown", "refused", "completed"]
)
def test_releasing_what_is_not_held_changes_nothing(past: list[Any]) -> None:
    given(past).when(release()).then_nothing()


def test_a_release_after_the_lock_end_says_that_the_lock_had_ended() -> None:
    outcome = given([*ONE, *held(MINE), Wait(LOCK_TTL_SECONDS + 5)]).when(release("order_cancelled"))
    released = outcome.events[-1]
    assert isinstance(released, CheckoutReleased)
    assert (released.cause, released.released_at) == ("lock_ended", LOCK_END)


def test_the_lock_end_is_recorded_when_it_is_true_and_only_for_that_hold() -> None:
    world = given([*ONE, *held(MINE)])
    world.when(END_LOCK).then_not_yet()
    world.and_given(LAPSE)
    world.when(EndOrderLock(order_id="o1", lock_until=LOCK_END + timedelta(seconds=1))).then_nothing()
    world.when(END_LOCK).then(RELEASED_EVENTS)
    world.when(END_LOCK).then_nothing()


def test_up_to_the_lock_end_a_payment_redeems_without_holding_again() -> None:
    given([*ONE, *held(MINE), Wait(LOCK_TTL_SECONDS - 0.000001), pay()]).when(redeem()).then(REDEEMED_EVENTS)


def test_released_after_its_validity_the_coupon_of_an_order_expires_with_it() -> None:
    short = template(validity=ValidityAfterClaim(duration_seconds=60))
    given([*short, claim(), *held(MINE), Wait(61)]).when(release()).then(
        [CouponReleased, CouponExpired, CheckoutReleased]
    )


def test_an_order_cancelled_before_its_hold_is_refused_as_cancelled() -> None:
    outcome = given([*ONE, CANCEL, place(MINE)]).when(hold())
    outcome.then([CheckoutRefused])
    assert refusals(outcome) == [(None, "order_cancelled")]


@pytest.mark.parametrize(
    ("before", "released"), [([], RELEASED_EVENTS), ([release("order_cancelled")], [])], ids=["held", "released"]
)
def test_a_payment_after_the_cancellation_redeems_nothing_and_lets_go(before: list[Any], released: list[Any]) -> None:
    outcome = given([*ONE, *held(MINE), CANCEL, *before, pay()]).when(redeem())
    outcome.then([*released, CheckoutCompletedUnredeemed])
    assert refusals(outcome) == [(None, "order_cancelled")]


def test_a_cancellation_after_the_payment_changes_nothing_until_a_refund_comes() -> None:
    world = given([*ONE, *paid(MINE), CANCEL])
    world.when(release("order_cancelled")).then_nothing()
    world.and_given(money_back(amount_minor=5000)).when(credit()).then(
        [BudgetCredited, SettlementReversed, CouponReturned, CheckoutRefunded]
    )


def test_a_reopened_order_holds_anew_or_is_refused() -> None:
    again = [*ONE, *held(MINE), CANCEL, release("order_cancelled"), REOPEN]
    given(again).when(hold(attempt=2)).then(HELD_EVENTS)
    taken = given([*again, *held(MINE, order_id="o2")]).when(hold(attempt=2))
    assert refusals(taken) == [(MINE, "already_locked")]


def test_a_reopening_that_overtook_the_release_holds_anew_once() -> None:
    world = given([*ONE, *held(MINE), CANCEL, REOPEN])
    world.when(hold(attempt=2)).then([*RELEASED_EVENTS, *HELD_EVENTS])
    assert money(world).reserved_minor == 1000


def test_a_hold_of_an_earlier_attempt_than_the_latest_does_nothing() -> None:
    past = [*ONE, *held(MINE), CANCEL, release("order_cancelled"), REOPEN]
    given(past).when(hold(attempt=1)).then_nothing()


def test_a_late_payment_that_overtook_the_hold_of_a_reopening_settles_the_order() -> None:
    past = [*ONE, *held(MINE), LAPSE, REOPEN, pay(), redeem()]
    given(past).when(hold(attempt=2)).then_nothing()


# ---- Refunds


def refunded(outcome: When) -> CheckoutRefunded:
    (event,) = [event for event in outcome.events if isinstance(event, CheckoutRefunded)]
    return event


def test_the_vector_returning_the_50_00_line_credits_8_33_and_returns_no_coupon() -> None:
    back = money_back(amount_minor=4167, lines=(RefundLine(line_id="big"),))
    world = given([*ONE, *paid(MINE), back])
    outcome = world.when(credit())
    outcome.then([BudgetCredited, SettlementReversed, CheckoutRefunded])
    event = refunded(outcome)
    assert (event.credited_minor, event.excess_minor, event.full) == (833, 0, False)
    assert (money(world).committed_minor, money(world).credited_minor) == (1000, 833)


def test_partial_refunds_that_add_up_to_the_total_credit_the_discount_and_return_the_coupon() -> None:
    world = given([*ONE, *paid(MINE)])
    for number, amount_minor in enumerate((1234, 1, 3000, 765)):
        world.and_given([money_back(f"r{number}", amount_minor), credit(f"r{number}")])
    events = world.world.events(CheckoutRefunded)
    assert [it.full for it in events] == [False, False, False, True]
    assert (sum(it.credited_minor for it in events), events[-1].returned_coupon_ids) == (1000, (MINE,))
    state = world.world.state(SETTLEMENT, "o1")
    assert (state.recorded_minor, state.reversed_minor) == (1000, 1000)
    assert world.world.state(COUPON, MINE).status == "claimed"


def test_a_returned_coupon_can_be_used_again() -> None:
    past = [*ONE, *paid(MINE), money_back(amount_minor=5000), credit(), place(MINE, order_id="o2")]
    given(past).when(hold("o2")).then([CouponLocked, BudgetReserved, CheckoutReady])


def test_terms_may_keep_the_coupon_on_a_full_refund() -> None:
    past = [*template(on_full_refund="keep"), claim(), *paid(MINE), money_back(amount_minor=5000)]
    outcome = given(past).when(credit())
    outcome.then([SettlementReversed, CheckoutRefunded])
    assert (refunded(outcome).full, refunded(outcome).returned_coupon_ids) == (True, ())


def test_a_coupon_returned_after_its_validity_has_expired() -> None:
    past = [*ONE, *paid(MINE), Wait(31 * DAY), money_back(amount_minor=5000)]
    outcome = given(past).when(credit())
    outcome.then([BudgetCredited, SettlementReversed, CouponReturned, CouponExpired, CheckoutRefunded])
    assert outcome.world.state(COUPON, MINE).status == "expired"


def test_more_than_was_paid_is_recorded_and_the_excess_credits_nothing() -> None:
    world = given([*ONE, *paid(MINE), money_back("r1", 7000)])
    event = refunded(world.when(credit("r1")))
    assert (event.refunded_minor, event.credited_minor, event.excess_minor) == (7000, 1000, 2000)
    event = refunded(world.and_given(money_back("r2", 500)).when(credit("r2")))
    assert (event.credited_minor, event.excess_minor, event.returned_coupon_ids) == (0, 500, ())


def test_a_refund_credited_twice_is_credited_once() -> None:
    given([*ONE, *paid(MINE), money_back(amount_minor=100), credit()]).when(credit()).then_nothing()


@pytest.mark.parametrize("told", [[money_back(order_id=None)], [money_back(order_id="o2")]])
def test_a_refund_that_is_not_this_order_s_is_refused(told: list[Any]) -> None:
    given([*ONE, *paid(MINE), *told]).when(credit()).then_refused(UnknownRefund)


@pytest.mark.parametrize("restored_to", [[*ONE, *paid(MINE)], [money_back()]], ids=["before_it", "before_its_order"])
def test_a_credit_asked_for_before_a_restore_has_no_answer_that_would_be_given_when_its_refund_is_told_again(
    restored_to: list[Any],
) -> None:
    given(restored_to).when(credit()).then_not_yet()


def test_a_refund_in_another_currency_is_refused_when_it_came_before_its_order() -> None:
    given([money_back(currency="EUR"), *ONE, *paid(MINE)]).when(credit()).then_refused(CurrencyMismatch)


def test_a_full_refund_before_redemption_lets_go_and_a_later_payment_redeems_nothing() -> None:
    world = given([*ONE, *held(MINE), money_back(amount_minor=5000)])
    outcome = world.when(credit())
    outcome.then([CheckoutRefunded, *RELEASED_EVENTS])
    assert (refunded(outcome).credited_minor, refunded(outcome).full) == (0, True)
    late = world.and_given(pay()).when(redeem())
    assert refusals(late) == [(None, "order_refunded")]


def test_a_reopening_after_a_full_refund_starts_anew() -> None:
    past = [*ONE, *held(MINE), money_back(amount_minor=5000), credit(), REOPEN, hold(attempt=2), pay()]
    given(past).when(redeem()).then(REDEEMED_EVENTS)


@pytest.mark.parametrize("taken", [[], held(MINE, order_id="o2")], ids=["held anew", "refused"])
def test_a_refund_was_credited_whatever_becomes_of_the_next_attempt(taken: list[Any]) -> None:
    past = [*ONE, *held(MINE), money_back(amount_minor=5000), credit(), *taken, REOPEN, hold(attempt=2)]
    given(past).when(credit()).then_nothing()


def test_a_partial_refund_before_redemption_is_credited_once_the_order_is_redeemed() -> None:
    part = money_back(amount_minor=4167, lines=(RefundLine(line_id="big"),))
    world = given([*ONE, *held(MINE), part])
    assert refunded(world.when(credit())).credited_minor == 0
    outcome = world.and_given(pay()).when(redeem())
    outcome.then(
        [CouponRedeemed, BudgetCommitted, BudgetCredited, SettlementRecorded, SettlementReversed, CheckoutCompleted]
    )
    assert (money(world).committed_minor, money(world).credited_minor) == (1000, 833)
    rest = world.and_given(money_back("r2", 833)).when(credit("r2"))
    assert (refunded(rest).credited_minor, refunded(rest).full) == (167, True)


def test_a_refund_of_an_order_paid_without_its_coupon_credits_nothing() -> None:
    past = [place("nobodys"), hold(), pay(amount_minor=6000), redeem(), money_back(amount_minor=6000)]
    event = refunded(given(past).when(credit()))
    assert (event.credited_minor, event.excess_minor, event.full) == (0, 0, True)


def test_a_refund_of_an_unredeemed_order_credits_nothing() -> None:
    past = [*expired_by_then("refuse"), redeem(), money_back(amount_minor=5000)]
    event = refunded(given(past).when(credit()))
    assert (event.credited_minor, event.returned_coupon_ids) == (0, ())


# ---- All or nothing


def test_a_decision_that_breaks_in_the_middle_records_nothing() -> None:
    """The coupon's stream was changed past the deciders: the redeeming refuses as a whole."""
    world = given([*ONE, *held(MINE), pay()])
    released = world.world.stream(COUPON, MINE)[-1].model_copy()
    assert isinstance(released, CouponLocked)
    about = released.about
    planted = CouponReleased(
        coupon_id=MINE, about=about, order_id="o1", discount_minor=1000, cause="released", released_at=NOON
    )
    world.and_given(At(COUPON, MINE, [planted])).when(redeem()).then_refused("not_locked")
    assert world.world.state(CHECKOUT, "o1").status == "held"


def test_percentages_of_several_coupons_are_frozen_in_stacking_order() -> None:
    past = [*template("t1", discount=percent(1000)), *template("t2", discount=percent(1000)), claim()]
    world = given([*past, claim(template_id="t2"), *held(MINE, OTHER)])
    (ready,) = world.world.events(CheckoutReady)
    assert [it.discount_minor for it in ready.coupons] == [600, 540]


def test_the_order_of_events_of_one_decision_ends_with_the_fact_that_the_saga_hears() -> None:
    commands: list[Command] = [hold(), pay(), redeem()]
    outcome = given([*ONE, place(MINE)]).when(*commands)
    kinds = [entry.kind for entry in outcome.recorded]
    assert [kind for kind in kinds if kind == "checkout"] == ["checkout", "checkout"]
    assert kinds[-1] == "checkout"


def test_an_order_told_as_a_total_only_can_use_a_coupon() -> None:
    total = place(MINE, lines=(), total_minor=6350, shipping_minor=350)
    (ready,) = [it for it in given([*ONE, total]).when(hold()).events if isinstance(it, CheckoutReady)]
    assert (ready.total_minor, ready.discount_minor, ready.payable_minor) == (6350, 1000, 5350)
