"""Upstream facts: recorded once each, in whatever order they arrive, never with two contents."""

from typing import Any

import pytest

from command.domain.orders import ORDER
from contracts.commands import CancelOrder, Command, NoteOrder, PlaceOrder, ReopenOrder, ReportAdjustment
from contracts.events import (
    AdjustmentReported,
    OrderCancelled,
    OrderNoted,
    OrderPlaced,
    OrderReopened,
    PaymentFailed,
    PaymentNoted,
    PaymentSucceeded,
    RefundSucceeded,
)
from contracts.orders import RefundLine
from contracts.refusals import (
    AlreadyExists,
    CurrencyMismatch,
    OrderIsDifferent,
    OrderNotReopenable,
    UnknownOrder,
)
from tests.builders import claim, coupon_of, held, hold, line, money_back, paid, pay, place, template
from tests.gwt import LOCK_TTL_SECONDS, Wait, given

CANCEL = CancelOrder(order_id="o1", reason="no longer wanted")
REOPEN = ReopenOrder(order_id="o1")


def adjust(amount_minor: int = -150, **changes: Any) -> ReportAdjustment:
    usual: dict[str, Any] = {"order_id": "o1", "currency": "GBP", "reason": "bad debt"}
    return ReportAdjustment(adjustment_id="a1", amount_minor=amount_minor, **(usual | changes))


@pytest.mark.parametrize(
    "fact",
    [
        place("c1"),
        CANCEL,
        NoteOrder(order_id="o1", status="shipped"),
        pay(),
        pay(status="failed"),
        pay(status="initiated"),
        pay(status="pending"),
        money_back(amount_minor=5),
        money_back(order_id=None),
        adjust(),
    ],
    ids=lambda fact: fact.type,
)
def test_a_fact_told_twice_is_recorded_once(fact: Command) -> None:
    given([fact]).when(fact).then_nothing()


def test_an_order_with_the_same_id_but_other_content_is_refused() -> None:
    given([place("c1")]).when(place("c2")).then_refused(OrderIsDifferent)
    given([place("c1")]).when(place("c1", user_id=None)).then_refused(OrderIsDifferent)


def test_an_order_told_as_a_total_only_is_one_line_of_it() -> None:
    total = PlaceOrder(order_id="o1", currency="JPY", total_minor=1200, shipping_minor=200)
    (placed,) = given().when(total).events
    assert isinstance(placed, OrderPlaced)
    assert [(it.line_id, it.quantity, it.amount_minor) for it in placed.lines] == [("order", 1, 1000)]


def test_a_cancellation_that_arrives_before_its_order_is_kept() -> None:
    world = given([CANCEL])
    world.when(place()).then([OrderPlaced])
    assert world.world.state(ORDER, "o1").cancelled


def test_an_order_cancelled_again_after_a_reopening_is_cancelled() -> None:
    given([place(), CANCEL, REOPEN]).when(CANCEL).then([OrderCancelled])


def test_a_status_is_noted_when_it_changes() -> None:
    shipped = NoteOrder(order_id="o1", status="shipped")
    given([place(), shipped]).when(NoteOrder(order_id="o1", status="delivered"), shipped).then([OrderNoted, OrderNoted])


# ---- Reopening


def test_a_cancelled_order_is_reopened_as_the_next_attempt() -> None:
    given([place(), CANCEL]).when(REOPEN).then([OrderReopened(order_id="o1", attempt=2)])


def test_a_reopening_that_awaits_its_hold_is_not_repeated() -> None:
    given([place(), CANCEL, REOPEN]).when(REOPEN).then_nothing()
    given([place(), hold(), CANCEL, REOPEN]).when(REOPEN).then_nothing()


@pytest.mark.parametrize(
    "past",
    [
        [*held(), Wait(LOCK_TTL_SECONDS)],
        held("nobodys-coupon"),
    ],
    ids=["its lock ended", "its coupons were refused"],
)
def test_a_lapsed_order_is_reopened(past: list[Any]) -> None:
    given(past).when(REOPEN).then([OrderReopened])


@pytest.mark.parametrize("past", [[place()], held(), paid(), [*paid(), CANCEL]], ids=["placed", "held", "paid", "late"])
def test_an_open_or_completed_order_is_not_reopened(past: list[Any]) -> None:
    given(past).when(REOPEN).then_refused(OrderNotReopenable)


def test_an_unknown_order_is_not_reopened() -> None:
    given().when(REOPEN).then_refused(UnknownOrder)


# ---- Payments


def test_a_payment_goes_through_its_statuses_and_each_is_recorded_once() -> None:
    outcome = given().when(pay(status="initiated"), pay(status="failed"), pay(), pay(status="failed"), pay())
    outcome.then([PaymentNoted, PaymentFailed, PaymentSucceeded])


def test_a_payment_s_success_cannot_be_told_with_another_amount_or_order() -> None:
    given([pay()]).when(pay(amount_minor=4999)).then_refused(AlreadyExists)
    given([pay()]).when(pay(order_id="o2")).then_refused(AlreadyExists)
    given([pay(status="initiated")]).when(pay(order_id="o2")).then_refused(AlreadyExists)


def test_two_different_payments_of_one_order_are_two_facts() -> None:
    given([place(), pay("p1")]).when(pay("p2")).then([PaymentSucceeded])


def test_a_payment_may_arrive_before_its_order() -> None:
    given().when(pay(), place()).then([PaymentSucceeded, OrderPlaced])


@pytest.mark.parametrize("fact", [pay(currency="EUR"), money_back(currency="EUR")], ids=lambda fact: fact.type)
def test_one_order_has_one_currency(fact: Command) -> None:
    given([place()]).when(fact).then_refused(CurrencyMismatch)


# ---- Refunds and adjustments


def test_a_refund_that_named_no_order_is_told_again_with_its_order() -> None:
    world = given([money_back(amount_minor=5, order_id=None)])
    world.when(money_back(amount_minor=5)).then([RefundSucceeded])
    world.when(money_back(amount_minor=5)).then_nothing()
    world.when(money_back(amount_minor=5, order_id="o2")).then_refused(AlreadyExists)


def test_a_refund_with_the_same_id_but_other_content_is_refused() -> None:
    other = money_back(amount_minor=5, lines=(RefundLine(line_id="big"),))
    given([money_back(amount_minor=5)]).when(other).then_refused(AlreadyExists)
    given([money_back(amount_minor=5, order_id=None)]).when(money_back(amount_minor=6)).then_refused(AlreadyExists)


def test_an_adjustment_is_recorded_with_its_sign_and_only_once() -> None:
    world = given()
    (told,) = world.when(adjust()).events
    assert isinstance(told, AdjustmentReported)
    assert told.amount_minor == -150
    world.when(adjust(-151)).then_refused(AlreadyExists)


def test_an_order_that_names_a_coupon_that_nobody_knows_is_still_a_fact() -> None:
    given([*template(), claim()]).when(place("nobodys", coupon_of(), lines=(line("a", 1),))).then([OrderPlaced])
