"""Upstream facts: orders, payments, refunds and adjustments, recorded once each, in whatever order they arrive."""

from command.domain import orders
from command.domain.checkout import CHECKOUT
from command.domain.orders import ADJUSTMENT, ORDER, PAYMENT, REFUND, Order
from command.handlers.handler import Data
from command.unit_of_work import UnitOfWork
from contracts.commands import (
    CancelOrder,
    NoteOrder,
    PlaceOrder,
    ReopenOrder,
    ReportAdjustment,
    ReportPayment,
    ReportRefund,
)
from contracts.events import Event
from contracts.refusals import OrderNotReopenable


def place(uow: UnitOfWork, command: PlaceOrder) -> Data:
    """An order was placed; its saga holds what it names."""
    return _record_order(uow, command.order_id, orders.place(uow.load(ORDER, command.order_id), command))


def cancel(uow: UnitOfWork, command: CancelOrder) -> Data:
    """An order will not be fulfilled: heard before, with or after its payment, even before the order itself."""
    order = uow.load(ORDER, command.order_id)
    return _record_order(uow, command.order_id, orders.cancel(order, command.order_id, command.cause, command.reason))


def reopen(uow: UnitOfWork, command: ReopenOrder) -> Data:
    """A cancelled or lapsed order is taken up again; its saga holds anew."""
    order = uow.load(ORDER, command.order_id)
    checkout = uow.load(CHECKOUT, command.order_id)
    lapsed = checkout.status in {"refused", "released"} or checkout.lock_has_ended(uow.now)
    if checkout.status in {"completed", "unredeemed"}:
        raise OrderNotReopenable("The order is completed.")
    return _record_order(uow, command.order_id, orders.reopen(order, checkout.attempt, lapsed=lapsed))


def note(uow: UnitOfWork, command: NoteOrder) -> Data:
    """A status that changes nothing here."""
    order = uow.load(ORDER, command.order_id)
    return _record_order(uow, command.order_id, orders.note(order, command.order_id, command.status))


def report_payment(uow: UnitOfWork, command: ReportPayment) -> Data:
    """What became of a payment; once per status."""
    payment = uow.load(PAYMENT, command.payment_id)
    events = orders.report_payment(payment, uow.load(ORDER, command.order_id), command)
    uow.record(PAYMENT, command.payment_id, events)
    return {"payment_id": command.payment_id, "order_id": command.order_id, "status": command.status}


def report_refund(uow: UnitOfWork, command: ReportRefund) -> Data:
    """Money went back; without an order it is an orphan until one is named."""
    refund = uow.load(REFUND, command.refund_id)
    order = uow.load(ORDER, command.order_id) if command.order_id is not None else Order()
    uow.record(REFUND, command.refund_id, orders.report_refund(refund, order, command))
    return {"refund_id": command.refund_id, "order_id": command.order_id}


def report_adjustment(uow: UnitOfWork, command: ReportAdjustment) -> Data:
    """The upstream corrected its own books."""
    adjustment = uow.load(ADJUSTMENT, command.adjustment_id)
    uow.record(ADJUSTMENT, command.adjustment_id, orders.report_adjustment(adjustment, command))
    return {"adjustment_id": command.adjustment_id, "order_id": command.order_id}


def _record_order(uow: UnitOfWork, order_id: str, events: tuple[Event, ...]) -> Data:
    order = uow.record(ORDER, order_id, events)
    return {"order_id": order_id, "attempt": order.attempt, "cancelled": order.cancelled}
