"""What order systems report: orders, payments, refunds. Facts are recorded once, in whatever order they arrive."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from contracts.commands.base import Command
from contracts.orders import COUPONS_MAX, LINES_MAX, ExactAmount, OrderLine, RefundLine, require_payable
from contracts.values import AmountMinor, Currency, Id, SignedMinor, Text


class _WantedOrder(Command):
    """An order as it is wanted, placed or not yet. One without lines is one line of its total."""

    order_id: Id | None
    user_id: Id | None = None
    currency: Currency
    coupon_ids: Annotated[tuple[Id, ...], Field(max_length=COUPONS_MAX)] = ()
    shipping_minor: AmountMinor = 0
    lines: Annotated[tuple[OrderLine, ...], Field(max_length=LINES_MAX)] = ()
    total_minor: AmountMinor | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if len({line.line_id for line in self.lines}) != len(self.lines):
            raise ValueError("line_id must not repeat within an order")
        if len(set(self.coupon_ids)) != len(self.coupon_ids):
            raise ValueError("coupon_ids must not repeat")
        if not self.lines and self.total_minor is None:
            raise ValueError("an order needs lines or a total_minor")
        told = require_payable(self.lines, self.shipping_minor)
        if self.lines and self.total_minor is not None and self.total_minor != told:
            raise ValueError(f"total_minor is {self.total_minor}, but lines and shipping add up to {told}")
        if not self.lines and self.total_minor is not None and self.total_minor < self.shipping_minor:
            raise ValueError("total_minor must not be less than shipping_minor")
        return self


class PlaceOrder(_WantedOrder):
    """Report an order with the coupons it wants to use. An order without lines is one line of its total."""

    type: ClassVar[str] = "place_order"

    order_id: Id


class QuoteOrder(_WantedOrder):
    """What would a hold of this order say? A dry run: nothing is recorded.

    The body is the order's, which need not have a name yet. What an order of this name holds already counts as free.
    """

    type: ClassVar[str] = "quote_order"

    order_id: Id | None = None


class CancelOrder(Command):
    """Report that an order will not be fulfilled."""

    type: ClassVar[str] = "cancel_order"

    order_id: Id
    cause: Literal["cancelled", "rejected"] = "cancelled"
    reason: Text = ""


class ReopenOrder(Command):
    """Report that a cancelled or lapsed order is taken up again."""

    type: ClassVar[str] = "reopen_order"

    order_id: Id


class NoteOrder(Command):
    """Report a status that changes nothing here."""

    type: ClassVar[str] = "note_order"

    order_id: Id
    status: Id


class ReportPayment(Command):
    """Report what became of a payment."""

    type: ClassVar[str] = "report_payment"

    payment_id: Id
    order_id: Id
    status: Literal["succeeded", "failed", "initiated", "pending"]
    amount_minor: AmountMinor = 0
    currency: Currency
    reason: Text = ""


class ReportRefund(Command):
    """Report money that went back. Without an order it is recorded and shown as an orphan until one is named."""

    type: ClassVar[str] = "report_refund"

    refund_id: Id
    order_id: Id | None = None
    amount_minor: AmountMinor
    currency: Currency
    lines: Annotated[tuple[RefundLine, ...], Field(max_length=LINES_MAX)] = ()
    exact_amount: ExactAmount | None = None

    @model_validator(mode="after")
    def _lines_are_distinct(self) -> Self:
        if len({line.line_id for line in self.lines}) != len(self.lines):
            raise ValueError("line_id must not repeat within a refund")
        return self


class ReportAdjustment(Command):
    """Report a correction of the upstream's own books."""

    type: ClassVar[str] = "report_adjustment"

    adjustment_id: Id
    order_id: Id | None = None
    amount_minor: SignedMinor
    currency: Currency
    reason: Text = ""
    exact_amount: ExactAmount | None = None
