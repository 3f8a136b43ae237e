"""What became of each order's coupons: one row per decision, and below it one per line, coupon, refusal or return."""

from collections.abc import Iterable, Iterator
from typing import Any

from contracts.envelope import Recorded
from contracts.events import (
    CheckoutCompleted,
    CheckoutCompletedUnredeemed,
    CheckoutReady,
    CheckoutRefunded,
    CheckoutRefused,
    CheckoutReleased,
)
from contracts.orders import CouponRefusal
from projections.facts.table import Facts, Row, Table

# Totals are on entry = 'decision' only; the other entries have amounts of their own: every column adds up.
CHECKOUT = Table(
    "checkout_facts",
    {
        "kind": "",
        "entry": "decision",
        "order_id": "",
        "attempt": 0,
        "user_id": "",
        "currency": "",
        "payment_id": "",
        "refund_id": "",
        "total_minor": 0,
        "shipping_minor": 0,
        "discount_minor": 0,
        "payable_minor": 0,
        "refunded_minor": 0,
        "credited_minor": 0,
        "excess_minor": 0,
        "is_full": 0,
        "honoured": 0,
        "cause": "",
        "lock_until": None,
        "effective_at": None,
        "line_id": "",
        "quantity": 0,
        "line_amount_minor": 0,
        "line_discount_minor": 0,
        "coupon_id": "",
        "template_id": "",
        "campaign_id": "",
        "coupon_discount_minor": 0,
        "code": "",
        "detail": "",
        "missing_minor": None,
    },
)


def _ready(recorded: Recorded, event: CheckoutReady) -> Iterator[Row]:
    about: dict[str, Any] = {
        "kind": "ready",
        "order_id": event.order_id,
        "attempt": event.attempt,
        "user_id": event.user_id or "",
        "currency": event.currency,
        "effective_at": recorded.metadata.occurred_at,
    }
    yield CHECKOUT.row(
        recorded,
        **about,
        total_minor=event.total_minor,
        shipping_minor=event.shipping_minor,
        discount_minor=event.discount_minor,
        payable_minor=event.payable_minor,
        lock_until=event.lock_until,
    )
    row_no = 0
    for row_no, line in enumerate(event.lines, start=1):
        yield CHECKOUT.row(
            recorded,
            row_no,
            **about,
            entry="line",
            line_id=line.line_id,
            quantity=line.quantity,
            line_amount_minor=line.amount_minor,
            line_discount_minor=line.discount_minor,
        )
    for coupon_no, coupon in enumerate(event.coupons, start=row_no + 1):
        yield CHECKOUT.row(
            recorded,
            coupon_no,
            **about,
            entry="coupon",
            coupon_id=coupon.coupon_id,
            template_id=coupon.about.template_id,
            campaign_id=coupon.about.campaign_id,
            coupon_discount_minor=coupon.discount_minor,
        )


def _refused(recorded: Recorded, event: CheckoutRefused) -> Iterator[Row]:
    about: dict[str, Any] = {
        "kind": "refused",
        "order_id": event.order_id,
        "attempt": event.attempt,
        "currency": event.currency,
        "effective_at": recorded.metadata.occurred_at,
    }
    yield CHECKOUT.row(recorded, **about)
    yield from _refusals(recorded, about, event.refusals)


def _completed(recorded: Recorded, event: CheckoutCompleted) -> tuple[Row]:
    row = CHECKOUT.row(
        recorded,
        kind="completed",
        order_id=event.order_id,
        currency=event.currency,
        payment_id=event.payment_id or "",
        discount_minor=event.discount_minor,
        payable_minor=event.payable_minor,
        honoured=int(event.honoured),
        effective_at=recorded.metadata.occurred_at,
    )
    return (row,)


def _completed_unredeemed(recorded: Recorded, event: CheckoutCompletedUnredeemed) -> Iterator[Row]:
    about: dict[str, Any] = {
        "kind": "completed_unredeemed",
        "order_id": event.order_id,
        "currency": event.currency,
        "payment_id": event.payment_id,
        "effective_at": recorded.metadata.occurred_at,
    }
    yield CHECKOUT.row(recorded, **about, discount_minor=event.discount_minor, payable_minor=event.payable_minor)
    yield from _refusals(recorded, about, event.refusals)


def _released(recorded: Recorded, event: CheckoutReleased) -> tuple[Row]:
    row = CHECKOUT.row(
        recorded,
        kind="released",
        order_id=event.order_id,
        attempt=event.attempt,
        currency=event.currency,
        discount_minor=event.discount_minor,
        cause=event.cause,
        effective_at=event.released_at,
    )
    return (row,)


def _refunded(recorded: Recorded, event: CheckoutRefunded) -> Iterator[Row]:
    about: dict[str, Any] = {
        "kind": "refunded",
        "order_id": event.order_id,
        "currency": event.currency,
        "refund_id": event.refund_id,
        "effective_at": recorded.metadata.occurred_at,
    }
    yield CHECKOUT.row(
        recorded,
        **about,
        refunded_minor=event.refunded_minor,
        credited_minor=event.credited_minor,
        excess_minor=event.excess_minor,
        is_full=int(event.full),
    )
    for row_no, coupon_id in enumerate(event.returned_coupon_ids, start=1):
        yield CHECKOUT.row(recorded, row_no, **about, entry="returned", coupon_id=coupon_id)


def _refusals(recorded: Recorded, about: dict[str, Any], refusals: Iterable[CouponRefusal]) -> Iterator[Row]:
    for row_no, refusal in enumerate(refusals, start=1):
        yield CHECKOUT.row(
            recorded,
            row_no,
            **about,
            entry="refusal",
            coupon_id=refusal.coupon_id or "",
            code=refusal.code,
            detail=refusal.detail,
            missing_minor=refusal.missing_minor,
        )


CHECKOUT_FACTS = Facts(
    CHECKOUT,
    {
        CheckoutReady: _ready,
        CheckoutRefused: _refused,
        CheckoutCompleted: _completed,
        CheckoutCompletedUnredeemed: _completed_unredeemed,
        CheckoutReleased: _released,
        CheckoutRefunded: _refunded,
    },
)
