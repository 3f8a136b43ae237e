"""The settlement ledger: what each coupon took off each line of an order, and what refunds gave back."""

from typing import ClassVar

from contracts.events.base import Event
from contracts.orders import LineDiscount
from contracts.terms import CouponRef


class SettlementRecorded(Event):
    """One coupon's discount on one completed order, line by line, from the frozen allocation."""

    type: ClassVar[str] = "settlement.recorded.v1"

    order_id: str
    coupon_id: str
    about: CouponRef
    discount_minor: int
    lines: tuple[LineDiscount, ...]


class SettlementReversed(Event):
    """What one refund took back of one coupon's discount (positive amounts)."""

    type: ClassVar[str] = "settlement.reversed.v1"

    order_id: str
    refund_id: str
    coupon_id: str
    about: CouponRef
    discount_minor: int
    lines: tuple[LineDiscount, ...]
