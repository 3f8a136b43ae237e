"""What the upstream told us of orders, payments and refunds: lines, money in, money out (negative)."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from contracts.envelope import Recorded
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
from projections.facts.table import Facts, Row, Table, exact_columns

NO_MONEY = Decimal(0)

# One row per line. orders, shipping_minor and total_minor (lines and shipping) are on row 0 only: they add up.
ORDER = Table(
    "order_facts",
    {
        "kind": "",
        "order_id": "",
        "user_id": "",
        "currency": "",
        "orders": 0,
        "line_id": "",
        "sku": "",
        "category": "",
        "shop_id": "",
        "quantity": 0,
        "unit_price_minor": 0,
        "amount_minor": 0,
        "exact_amount": NO_MONEY,
        "rounding_amount": NO_MONEY,
        "shipping_minor": 0,
        "total_minor": 0,
        "coupon_ids": (),
        "attempt": 0,
        "cause": "",
        "reason": "",
        "status": "",
    },
)

# Adjustments are here too (kind = 'adjusted', signed): corrections of the upstream's own books.
PAYMENT = Table(
    "payment_facts",
    {
        "kind": "",
        "payment_id": "",
        "adjustment_id": "",
        "order_id": "",
        "currency": "",
        "amount_minor": 0,
        "exact_amount": NO_MONEY,
        "rounding_amount": NO_MONEY,
        "reason": "",
        "status": "",
    },
)

# entry = 'refund' holds the money (negative) once per refund; entry = 'line' says what came back of which line.
REFUND = Table(
    "refund_facts",
    {
        "entry": "",
        "refund_id": "",
        "order_id": "",
        "currency": "",
        "amount_minor": 0,
        "exact_amount": NO_MONEY,
        "rounding_amount": NO_MONEY,
        "line_id": "",
        "quantity": None,
        "line_amount_minor": None,
    },
)


def _placed(recorded: Recorded, event: OrderPlaced) -> Iterator[Row]:
    total_minor = sum(line.amount_minor for line in event.lines) + event.shipping_minor
    for row_no, line in enumerate(event.lines):
        first = row_no == 0
        yield ORDER.row(
            recorded,
            row_no,
            kind="placed",
            order_id=event.order_id,
            user_id=event.user_id or "",
            currency=event.currency,
            orders=int(first),
            line_id=line.line_id,
            sku=line.sku,
            category=line.category or "",
            shop_id=line.shop_id or "",
            quantity=line.quantity,
            unit_price_minor=line.unit_price_minor,
            amount_minor=line.amount_minor,
            **exact_columns(line.exact_amount, line.amount_minor, event.currency),
            shipping_minor=event.shipping_minor if first else 0,
            total_minor=total_minor if first else 0,
            coupon_ids=event.coupon_ids,
            attempt=1,
        )


def _cancelled(recorded: Recorded, event: OrderCancelled) -> tuple[Row]:
    row = ORDER.row(recorded, kind="cancelled", order_id=event.order_id, cause=event.cause, reason=event.reason)
    return (row,)


def _reopened(recorded: Recorded, event: OrderReopened) -> tuple[Row]:
    return (ORDER.row(recorded, kind="reopened", order_id=event.order_id, attempt=event.attempt),)


def _order_noted(recorded: Recorded, event: OrderNoted) -> tuple[Row]:
    return (ORDER.row(recorded, kind="noted", order_id=event.order_id, status=event.status),)


def _paid(recorded: Recorded, event: PaymentSucceeded) -> tuple[Row]:
    row = PAYMENT.row(
        recorded,
        kind="succeeded",
        payment_id=event.payment_id,
        order_id=event.order_id,
        currency=event.currency,
        amount_minor=event.amount_minor,
        **exact_columns(None, event.amount_minor, event.currency),
    )
    return (row,)


def _payment_failed(recorded: Recorded, event: PaymentFailed) -> tuple[Row]:
    row = PAYMENT.row(
        recorded, kind="failed", payment_id=event.payment_id, order_id=event.order_id, reason=event.reason
    )
    return (row,)


def _payment_noted(recorded: Recorded, event: PaymentNoted) -> tuple[Row]:
    row = PAYMENT.row(recorded, kind="noted", payment_id=event.payment_id, order_id=event.order_id, status=event.status)
    return (row,)


def _adjusted(recorded: Recorded, event: AdjustmentReported) -> tuple[Row]:
    row = PAYMENT.row(
        recorded,
        kind="adjusted",
        adjustment_id=event.adjustment_id,
        order_id=event.order_id or "",
        currency=event.currency,
        amount_minor=event.amount_minor,
        **exact_columns(event.exact_amount, event.amount_minor, event.currency),
        reason=event.reason,
    )
    return (row,)


def _refunded(recorded: Recorded, event: RefundSucceeded) -> Iterator[Row]:
    about: dict[str, Any] = {"refund_id": event.refund_id, "order_id": event.order_id or "", "currency": event.currency}
    yield REFUND.row(
        recorded,
        entry="refund",
        **about,
        amount_minor=-event.amount_minor,
        **exact_columns(event.exact_amount, event.amount_minor, event.currency, sign=-1),
    )
    for row_no, line in enumerate(event.lines, start=1):
        yield REFUND.row(
            recorded,
            row_no,
            entry="line",
            **about,
            line_id=line.line_id,
            quantity=line.quantity,
            line_amount_minor=None if line.amount_minor is None else -line.amount_minor,
        )


ORDER_FACTS = Facts(
    ORDER,
    {OrderPlaced: _placed, OrderCancelled: _cancelled, OrderReopened: _reopened, OrderNoted: _order_noted},
)
PAYMENT_FACTS = Facts(
    PAYMENT,
    {
        PaymentSucceeded: _paid,
        PaymentFailed: _payment_failed,
        PaymentNoted: _payment_noted,
        AdjustmentReported: _adjusted,
    },
)
REFUND_FACTS = Facts(REFUND, {RefundSucceeded: _refunded})
