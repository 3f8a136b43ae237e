"""What the order system told us of orders, payments and refunds: facts of theirs, recorded once per fact."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from contracts.events.base import Event
from contracts.orders import OrderLine, RefundLine


class OrderPlaced(Event):
    """An order with everything that pricing needs. ``user_id`` is absent for a guest."""

    type: ClassVar[str] = "order.placed.v1"

    order_id: str
    user_id: str | None
    currency: str
    coupon_ids: tuple[str, ...]
    shipping_minor: int
    lines: Annotated[tuple[OrderLine, ...], Field(min_length=1)]


class OrderCancelled(Event):
    """The order will not be fulfilled."""

    type: ClassVar[str] = "order.cancelled.v1"

    order_id: str
    cause: Literal["cancelled", "rejected"]
    reason: str


class OrderReopened(Event):
    """The customer took a cancelled or lapsed order up again; ``attempt`` counts from 1 (the placing)."""

    type: ClassVar[str] = "order.reopened.v1"

    order_id: str
    attempt: int


class OrderNoted(Event):
    """A status that changes nothing here: accepted, approved, shipped …"""

    type: ClassVar[str] = "order.noted.v1"

    order_id: str
    status: str


class PaymentSucceeded(Event):
    """Money arrived for an order."""

    type: ClassVar[str] = "payment.succeeded.v1"

    payment_id: str
    order_id: str
    amount_minor: int
    currency: str


class PaymentFailed(Event):
    """A payment did not go through."""

    type: ClassVar[str] = "payment.failed.v1"

    payment_id: str
    order_id: str
    reason: str


class PaymentNoted(Event):
    """A payment status that changes nothing here: initiated, pending …"""

    type: ClassVar[str] = "payment.noted.v1"

    payment_id: str
    order_id: str
    status: str


class RefundSucceeded(Event):
    """Money went back: for named lines, or just an amount; some refunds name no order at all."""

    type: ClassVar[str] = "refund.succeeded.v1"

    refund_id: str
    order_id: str | None
    amount_minor: int
    currency: str
    lines: tuple[RefundLine, ...] = ()
    exact_amount: str | None = None


class AdjustmentReported(Event):
    """A correction of the upstream's own books (bad debt …); signed, in favour of the merchant when positive."""

    type: ClassVar[str] = "payment.adjusted.v1"

    adjustment_id: str
    order_id: str | None
    amount_minor: int
    currency: str
    reason: str
    exact_amount: str | None = None
