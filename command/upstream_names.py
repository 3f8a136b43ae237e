"""The names that order and payment services already publish under, translated into our commands by one table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from command.upstream_members import (
    CURRENCY,
    Data,
    JsonSchema,
    Member,
    UntranslatableEvent,
    by_amount,
    by_id,
    by_ids,
    by_text,
    schema_of,
)
from contracts.commands import CancelOrder, Command, NoteOrder, PlaceOrder, ReportPayment, ReportRefund


@dataclass(frozen=True, slots=True)
class UpstreamEvent:
    """An event of an upstream: which members it has, by what our command calls them, and the command it means."""

    about: str
    members: Mapping[str, Member]
    build: Callable[..., Command]

    def translated(self, data: Data, currency: str) -> Command:
        """Raises UntranslatableEvent, ValidationError."""
        return self.build(**{ours: member.read(data, currency) for ours, member in self.members.items()})

    def schema(self) -> JsonSchema:
        """The JSON Schema of its data."""
        return schema_of(self.members.values())


def translate(event: str, data: Data, *, default_currency: str) -> Command:
    """The command that an upstream event means. Raises UntranslatableEvent, or ValidationError for impossible values.

    Amounts are decimals of major units (text or number), currency ``default_currency`` unless the data names one.
    Members that we have no use for are ignored: these are their events, not our bodies.
    """
    if (known := UPSTREAM_EVENTS.get(event)) is None:
        raise UntranslatableEvent("", "unknown_upstream_event", f"{event!r} is not one of {sorted(UPSTREAM_EVENTS)}")
    return known.translated(data, data.get("currency") or default_currency)


_ORDER: Final = by_id("order_id", "id", about="The order.")
_PAYMENT: Final = by_id("payment_id", "transaction_id", "id", about="The payment.")
_REASON: Final = by_text("reason", "Why, in words.")
_MAJOR: Final = "A decimal of major units, with no more digits than the currency has."


def _noted(about: str, status: str) -> UpstreamEvent:
    return UpstreamEvent(about, {"order_id": _ORDER}, partial(NoteOrder, status=status))


def _payment(about: str, status: Literal["initiated", "succeeded", "failed"]) -> UpstreamEvent:
    """Money that came has an amount: to take a missing one for nothing would complete an order that nobody paid."""
    members = {
        "payment_id": _PAYMENT,
        "order_id": by_id("order_id", about="The order that it pays."),
        "amount_minor": by_amount("amount", about=_MAJOR, is_required=status == "succeeded"),
        "currency": CURRENCY,
        "reason": _REASON,
    }
    return UpstreamEvent(about, members, partial(ReportPayment, status=status))


def _status_changed(status: str, order_id: str, reason: str) -> Command:
    match status:
        case "cancelled" | "rejected":
            return CancelOrder(order_id=order_id, cause=status, reason=reason)
    return NoteOrder(order_id=order_id, status=status)


UPSTREAM_EVENTS: Final[dict[str, UpstreamEvent]] = {
    "order.created": UpstreamEvent(
        "An order was placed.",
        {
            "order_id": _ORDER,
            "user_id": by_id("customer_id", "user_id", about="Who ordered.", is_required=False),
            "currency": CURRENCY,
            "coupon_ids": by_ids("coupon_ids", "The coupons that it wants to use."),
            "total_minor": by_amount("total_amount", "total", about=_MAJOR),
        },
        PlaceOrder,
    ),
    "order.cancelled": UpstreamEvent(
        "An order will not be fulfilled.",
        {"order_id": _ORDER, "reason": _REASON},
        partial(CancelOrder, cause="cancelled"),
    ),
    "order.rejected": UpstreamEvent(
        "An order was not accepted.", {"order_id": _ORDER, "reason": _REASON}, partial(CancelOrder, cause="rejected")
    ),
    "order.status_changed": UpstreamEvent(
        "An order has another status; cancelled and rejected end it, all others are recorded and change nothing.",
        {
            "status": by_id("new_status", "status", about="The status it has now."),
            "order_id": _ORDER,
            "reason": _REASON,
        },
        _status_changed,
    ),
    "order.accepted": _noted("An order was accepted: recorded, changes nothing.", "accepted"),
    "order.approved": _noted("An order was approved: recorded, changes nothing.", "approved"),
    "payment.initiated": _payment("A payment was begun: recorded, changes nothing.", "initiated"),
    "payment.completed": _payment("An order was paid.", "succeeded"),
    "payment.failed": _payment("A payment failed.", "failed"),
    "refund.processed": UpstreamEvent(
        "Money went back.",
        {
            "refund_id": by_id("refund_id", "id", about="The refund."),
            "order_id": by_id("order_id", about="The order; may be told later.", is_required=False),
            "amount_minor": by_amount("amount", about=_MAJOR),
            "currency": CURRENCY,
        },
        ReportRefund,
    ),
}
