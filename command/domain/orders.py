"""What the order system told us: orders, payments, refunds and adjustments, each fact recorded once, in any order."""

from dataclasses import dataclass, replace
from typing import Final

from command.unit_of_work import Kind
from contracts.commands import PlaceOrder, ReportAdjustment, ReportPayment, ReportRefund
from contracts.events import (
    AdjustmentReported,
    Event,
    OrderCancelled,
    OrderNoted,
    OrderPlaced,
    OrderReopened,
    PaymentFailed,
    PaymentNoted,
    PaymentSucceeded,
    RefundSucceeded,
)
from contracts.orders import OrderLine
from contracts.refusals import AlreadyExists, CurrencyMismatch, OrderIsDifferent, OrderNotReopenable, UnknownOrder

# The one line of an order that was told as a total only.
WHOLE_ORDER: Final = "order"


@dataclass(frozen=True, slots=True)
class Order:
    """What was told of an order. It may be cancelled before it is known; ``attempt`` counts placing and reopenings."""

    placed: OrderPlaced | None = None
    cancelled: bool = False
    attempt: int = 0
    noted: str | None = None

    @property
    def content(self) -> OrderPlaced:
        """The order as placed. Raises UnknownOrder."""
        if self.placed is None:
            raise UnknownOrder
        return self.placed


@dataclass(frozen=True, slots=True)
class Payment:
    """What was told of a payment: each status once."""

    order_id: str | None = None
    statuses: tuple[str, ...] = ()
    succeeded: PaymentSucceeded | None = None


@dataclass(frozen=True, slots=True)
class Refund:
    """What was told of a refund."""

    told: RefundSucceeded | None = None


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What was told of an adjustment."""

    told: AdjustmentReported | None = None


def evolve_order(order: Order, event: Event) -> Order:
    """Fold one event of an order's stream."""
    match event:
        case OrderPlaced():
            return replace(order, placed=event, attempt=max(order.attempt, 1))
        case OrderCancelled():
            return replace(order, cancelled=True)
        case OrderReopened():
            return replace(order, cancelled=False, attempt=event.attempt)
        case OrderNoted():
            return replace(order, noted=event.status)
    return order


def evolve_payment(payment: Payment, event: Event) -> Payment:
    """Fold one event of a payment's stream."""
    match event:
        case PaymentSucceeded():
            return Payment(event.order_id, (*payment.statuses, "succeeded"), event)
        case PaymentFailed():
            return replace(payment, order_id=event.order_id, statuses=(*payment.statuses, "failed"))
        case PaymentNoted():
            return replace(payment, order_id=event.order_id, statuses=(*payment.statuses, event.status))
    return payment


def evolve_refund(refund: Refund, event: Event) -> Refund:
    """Fold one event of a refund's stream."""
    return Refund(event) if isinstance(event, RefundSucceeded) else refund


def evolve_adjustment(adjustment: Adjustment, event: Event) -> Adjustment:
    """Fold one event of an adjustment's stream."""
    return Adjustment(event) if isinstance(event, AdjustmentReported) else adjustment


ORDER: Final = Kind("order", Order, Order(), evolve_order)
PAYMENT: Final = Kind("payment", Payment, Payment(), evolve_payment)
REFUND: Final = Kind("refund", Refund, Refund(), evolve_refund)
ADJUSTMENT: Final = Kind("adjustment", Adjustment, Adjustment(), evolve_adjustment)


def place(order: Order, command: PlaceOrder) -> tuple[Event, ...]:
    """Record an order, also one that was cancelled before we heard of it."""
    placed = content_of(command)
    if order.placed == placed:
        return ()
    if order.placed is not None:
        raise OrderIsDifferent
    return (placed,)


def content_of(command: PlaceOrder) -> OrderPlaced:
    """The order as it is recorded: one that was told as a total only is one line."""
    return OrderPlaced(
        order_id=command.order_id,
        user_id=command.user_id,
        currency=command.currency,
        coupon_ids=command.coupon_ids,
        shipping_minor=command.shipping_minor,
        lines=command.lines or (_whole_order(command),),
    )


def cancel(order: Order, order_id: str, cause: str, reason: str) -> tuple[Event, ...]:
    """Record that an order will not be fulfilled, also before the order itself arrives."""
    if order.cancelled:
        return ()
    return (OrderCancelled(order_id=order_id, cause="rejected" if cause == "rejected" else "cancelled", reason=reason),)


def reopen(order: Order, attempt_held: int, *, lapsed: bool) -> tuple[Event, ...]:
    """Record that an order is taken up again, when it is cancelled or what it held is gone (``lapsed``).

    ``attempt_held`` is the last attempt that was decided: a reopening that awaits its hold is not repeated.
    """
    placed = order.content
    if not order.cancelled and order.attempt > max(attempt_held, 1):
        return ()
    if not (order.cancelled or lapsed):
        raise OrderNotReopenable
    return (OrderReopened(order_id=placed.order_id, attempt=order.attempt + 1),)


def note(order: Order, order_id: str, status: str) -> tuple[Event, ...]:
    """Record a status that changes nothing here."""
    return () if order.noted == status else (OrderNoted(order_id=order_id, status=status),)


def report_payment(payment: Payment, order: Order, command: ReportPayment) -> tuple[Event, ...]:
    """Record what became of a payment. A success stays one, whatever arrives late."""
    _require_currency(order, command.currency)
    if payment.order_id not in {None, command.order_id}:
        raise AlreadyExists(f"Payment {command.payment_id} was told for another order.")
    if command.status == "succeeded" and payment.succeeded is not None:
        told = (payment.succeeded.amount_minor, payment.succeeded.currency)
        if told != (command.amount_minor, command.currency):
            raise AlreadyExists(f"Payment {command.payment_id} was told with another amount.")
    if command.status in payment.statuses:
        return ()
    ids = {"payment_id": command.payment_id, "order_id": command.order_id}
    match command.status:
        case "succeeded":
            return (PaymentSucceeded(**ids, amount_minor=command.amount_minor, currency=command.currency),)
        case "failed":
            return (PaymentFailed(**ids, reason=command.reason),)
        case status:
            return (PaymentNoted(**ids, status=status),)


def report_refund(refund: Refund, order: Order, command: ReportRefund) -> tuple[Event, ...]:
    """Record money that went back. One that named no order may be told again with its order."""
    _require_currency(order, command.currency)
    told = RefundSucceeded(
        refund_id=command.refund_id,
        order_id=command.order_id,
        amount_minor=command.amount_minor,
        currency=command.currency,
        lines=command.lines,
        exact_amount=command.exact_amount,
    )
    if refund.told is None or refund.told == told.model_copy(update={"order_id": None}) != told:
        return (told,)
    if refund.told != told:
        raise AlreadyExists(f"Refund {command.refund_id} was told with other content.")
    return ()


def report_adjustment(adjustment: Adjustment, command: ReportAdjustment) -> tuple[Event, ...]:
    """Record a correction of the upstream's own books."""
    told = AdjustmentReported(
        adjustment_id=command.adjustment_id,
        order_id=command.order_id,
        amount_minor=command.amount_minor,
        currency=command.currency,
        reason=command.reason,
        exact_amount=command.exact_amount,
    )
    if adjustment.told == told:
        return ()
    if adjustment.told is not None:
        raise AlreadyExists(f"Adjustment {command.adjustment_id} was told with other content.")
    return (told,)


def _whole_order(command: PlaceOrder) -> OrderLine:
    goods = (command.total_minor or 0) - command.shipping_minor
    return OrderLine(line_id=WHOLE_ORDER, sku=WHOLE_ORDER, unit_price_minor=goods)


def _require_currency(order: Order, currency: str) -> None:
    if order.placed is not None and order.placed.currency != currency:
        raise CurrencyMismatch(f"The order is in {order.placed.currency}.")
