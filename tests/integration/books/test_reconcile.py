"""A clean day has no breaks; every planted fault shows as exactly its break, and later facts settle it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from contracts.commands import CancelOrder, LockCoupon, PlaceOrder, RedeemCoupon
from contracts.orders import OrderLine
from tests.integration.books.conftest import Business, a_bit_of_everything
from tests.integration.books.planting import about, append, claimed

Step = Callable[[Business], None]


def test_a_clean_day_has_no_breaks(business: Business) -> None:
    a_bit_of_everything(business)
    assert business.found() == []


# Planting, and what settles it: commands, upstream facts, lost steps, events past the deciders.


def a_payment_after_everything_was_gone(business: Business) -> None:
    business.world.place().settle().later(days=8).settle().pay().settle()


def all_money_back(business: Business) -> None:
    business.world.refund("back", amount_minor=5_000).settle()


def a_discount_given_without_payment(business: Business) -> None:
    business.world.place().settle()
    coupon_id = business.world.coupons["c"]
    data = {"coupon_id": coupon_id, "about": about("ann"), "order_id": "o", "discount_minor": 1_000}
    append(business, "coupon", coupon_id, "coupon.redeemed.v1", data)
    append(business, "settlement", "o", "settlement.recorded.v1", {**data, "lines": [_line("kettle", 1_000)]})


def a_settlement_entry_too_many(business: Business) -> None:
    business.world.place().settle().pay().settle()
    data = {"order_id": "o", "coupon_id": business.world.coupons["c"], "about": about("ann"), "discount_minor": 7}
    append(business, "settlement", "o", "settlement.recorded.v1", {**data, "lines": [_line("tea", 7)]})


def a_settlement_entry_taken_back(business: Business) -> None:
    data = {"order_id": "o", "coupon_id": business.world.coupons["c"], "about": about("ann"), "discount_minor": -7}
    append(business, "settlement", "o", "settlement.recorded.v1", {**data, "lines": [_line("tea", -7)]})


def a_payment_of_the_wrong_amount(business: Business) -> None:
    business.world.place().settle().pay(amount_minor=4_999).settle()


def the_wrong_amount_goes_back(business: Business) -> None:
    business.world.refund("back", amount_minor=4_999).settle()


def a_payment_for_a_cancelled_order(business: Business) -> None:
    business.world.place().settle().cancel().settle().pay().settle()


def two_payments(business: Business) -> None:
    business.world.place().settle().pay("p1").pay("p2").settle()


def a_refund_beyond_the_payment(business: Business) -> None:
    business.world.place().settle().pay().settle().refund(amount_minor=6_000).settle()


def a_refund_that_the_saga_never_heard(business: Business) -> None:
    business.world.place().settle().pay().settle().refund(amount_minor=1_000)


def the_saga_hears_it(business: Business) -> None:
    business.world.settle()


def a_checkout_released_without_its_coupon(business: Business) -> None:
    business.world.place().settle()
    data = {"order_id": "o", "attempt": 1, "currency": "GBP", "discount_minor": 1_000, "cause": "released"}
    append(business, "checkout", "o", "checkout.released.v1", {**data, "released_at": "2026-03-01T12:00:00Z"})


def the_coupon_is_released(business: Business) -> None:
    coupon_id = business.world.coupons["c"]
    data = {"coupon_id": coupon_id, "about": about("ann"), "order_id": "o", "discount_minor": 1_000}
    append(
        business,
        "coupon",
        coupon_id,
        "coupon.released.v1",
        {**data, "cause": "released", "released_at": "2026-03-01T12:00:00Z"},
    )


def money_spent_without_settlement(business: Business) -> None:
    business.world.budget(5_000)
    append(business, "budget", "pot", "budget.committed.v1", {**_spent(), "honoured": True})


def it_is_credited(business: Business) -> None:
    """Taken back by a negative entry: a credit alone would be a second difference."""
    append(business, "budget", "pot", "budget.committed.v1", {**_spent(), "amount_minor": -5, "honoured": True})


def a_payment_for_an_unknown_order(business: Business) -> None:
    business.world.pay(order="nobody's").settle()


def the_order_is_told_after_all(business: Business) -> None:
    line = OrderLine(line_id="1", sku="kettle", unit_price_minor=5_000)
    business.world.tell(PlaceOrder(order_id="nobody's", user_id="ann", currency="GBP", lines=(line,))).settle()


def a_refund_for_an_unknown_order(business: Business) -> None:
    business.world.refund(order="nobody's", amount_minor=100).settle()


def more_coupons_than_stock(business: Business) -> None:
    for number in range(3):
        claimed(business, f"extra{number}", f"user{number}")


def _line(line_id: str, discount_minor: int) -> dict[str, object]:
    return {"line_id": line_id, "discount_minor": discount_minor}


def _spent() -> dict[str, object]:
    return {
        "budget_id": "pot",
        "currency": "GBP",
        "period": "",
        "order_id": "o",
        "coupon_id": "c",
        "amount_minor": 5,
    }


FAULTS: list[tuple[str, int, Step, Step | None]] = [
    ("paid_not_redeemed", 1_000, a_payment_after_everything_was_gone, all_money_back),
    ("redeemed_not_paid", 1_000, a_discount_given_without_payment, None),
    ("discount_mismatch", -7, a_settlement_entry_too_many, a_settlement_entry_taken_back),
    ("payment_mismatch", -1, a_payment_of_the_wrong_amount, the_wrong_amount_goes_back),
    ("payment_mismatch", 5_000, a_payment_for_a_cancelled_order, all_money_back),
    ("duplicate_payment", 5_000, two_payments, None),
    ("refund_exceeds_payment", 1_000, a_refund_beyond_the_payment, None),
    ("refund_not_returned", 1_000, a_refund_that_the_saga_never_heard, the_saga_hears_it),
    ("lock_leaked", 0, a_checkout_released_without_its_coupon, the_coupon_is_released),
    ("budget_drift", 5, money_spent_without_settlement, it_is_credited),
    ("orphan_payment", 5_000, a_payment_for_an_unknown_order, the_order_is_told_after_all),
    ("orphan_refund", 100, a_refund_for_an_unknown_order, None),
    ("oversold", 2, more_coupons_than_stock, None),
]


@pytest.mark.parametrize(
    ("kind", "amount_minor", "plant", "settle"),
    FAULTS,
    ids=[f"{kind}-{plant.__name__}" for kind, _, plant, _ in FAULTS],
)
def test_a_planted_fault_shows_as_exactly_its_break_until_it_is_settled(
    business: Business, kind: str, amount_minor: int, plant: Step, settle: Step | None
) -> None:
    business.world.template(stock=2).claim()
    business.project()
    before = datetime.now(UTC)

    plant(business)
    business.project()
    found = business.found()
    assert [(each.kind, each.amount_minor) for each in found] == [(kind, amount_minor)], found
    assert found[0].event_ids
    assert all(answer.accepted for answer in business.reconcile())
    assert business.breaks() == [(kind, "open")]
    assert business.reconcile() == [], "a second run has nothing new to record"
    assert business.found(as_of=before) == [], "yesterday's question has yesterday's answer"
    assert business.found(patience=timedelta(hours=1)) == [], "the patient do not call it a break yet"

    if settle is not None:
        settle(business)
        business.project()
        assert business.found() == []
        business.reconcile()
        assert business.breaks() == [(kind, "closed")]


def test_a_break_that_comes_back_is_opened_again(business: Business) -> None:
    business.world.pay(order="late").settle()
    business.project()
    business.reconcile()
    the_order = PlaceOrder(
        order_id="late", currency="GBP", lines=(OrderLine(line_id="1", sku="s", unit_price_minor=5_000),)
    )
    business.world.tell(the_order).settle()
    business.project()
    business.reconcile()
    assert business.breaks() == [("orphan_payment", "closed")]


def test_upstreams_that_run_their_own_checkout_raise_no_break(business: Business) -> None:
    business.world.template().claim()
    coupon_id = business.world.coupons["c"]
    business.world.tell(LockCoupon(coupon_id=coupon_id, order_id="theirs", discount_minor=300))
    business.world.tell(RedeemCoupon(coupon_id=coupon_id, order_id="theirs"))
    business.project()
    assert business.found() == []


def test_a_cancelled_order_that_nobody_paid_is_no_break(business: Business) -> None:
    business.world.template().claim().place().settle().tell(CancelOrder(order_id="o")).settle()
    business.project()
    assert business.found() == []
