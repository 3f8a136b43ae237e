"""The parts of orders, quotes and refunds that commands and events share."""

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from contracts.terms import CouponRef
from contracts.values import AMOUNT_MINOR_MAX, AmountMinor, Id, PositiveMinor, Quantity, StrictValue, Value

LINES_MAX = 2_000
COUPONS_MAX = 20

# An upstream's own amount in major units, where it has more digits than the currency: "10.485".
ExactAmount = Annotated[str, Field(pattern=r"^-?\d{1,15}(\.\d{1,9})?$")]


def _no_default(schema: dict[str, Any]) -> None:
    del schema["default"]


_FROM_PRICE = Field(description="quantity x unit_price_minor where it is not told", json_schema_extra=_no_default)


class OrderLine(StrictValue):
    """One line. Pricing uses ``amount_minor``: quantity x unit price, unless the upstream rounds otherwise."""

    line_id: Id
    sku: Id
    category: Id | None = None
    shop_id: Id | None = None
    quantity: Quantity = 1
    unit_price_minor: AmountMinor
    amount_minor: Annotated[AmountMinor, _FROM_PRICE] = -1  # Filled in below when it is not told.
    exact_amount: ExactAmount | None = None

    @model_validator(mode="before")
    @classmethod
    def _amount_from_price(cls, data: object) -> object:
        if isinstance(data, dict) and "amount_minor" not in data:
            price, quantity = data.get("unit_price_minor"), data.get("quantity", 1)
            if isinstance(price, int) and isinstance(quantity, int) and price >= 0 and quantity > 0:
                return {**data, "amount_minor": price * quantity}
        return data

    @model_validator(mode="after")
    def _amount_agrees_with_price(self) -> Self:
        # Sub-unit prices round by at most half a minor unit each; with an exact amount the upstream may round per line.
        if self.exact_amount is None and self.amount_minor != self.unit_price_minor * self.quantity:
            raise ValueError("amount_minor must be quantity x unit_price_minor (or come with exact_amount)")
        if self.amount_minor > AMOUNT_MINOR_MAX:
            raise ValueError("the line's amount is too large")
        return self


def require_payable(lines: Sequence[OrderLine], shipping_minor: int) -> int:
    """What lines and shipping add up to. Raises ValueError when no single payment could ever be reported of it."""
    total_minor = sum(line.amount_minor for line in lines) + shipping_minor
    if total_minor > AMOUNT_MINOR_MAX:
        raise ValueError(f"lines and shipping add up to {total_minor}, more than {AMOUNT_MINOR_MAX}")
    return total_minor


class RefundLine(StrictValue):
    """What came back of one order line: so many pieces, or the whole line when no quantity is told."""

    line_id: Id
    quantity: Quantity | None = None
    amount_minor: PositiveMinor | None = None


class LineDiscount(Value):
    """What one coupon takes off one line."""

    line_id: str
    discount_minor: int


class BudgetShare(Value):
    """What one budget pays of one coupon's discount, in which of its periods."""

    budget_id: str
    period: str
    amount_minor: int


class HeldCoupon(Value):
    """One coupon of a held order: the frozen allocation, all that redeeming, releasing and refunding need."""

    coupon_id: str
    about: CouponRef
    discount_minor: int
    lines: tuple[LineDiscount, ...]
    budgets: tuple[BudgetShare, ...]
    on_full_refund: str


class FrozenLine(Value):
    """One line as it was priced: amount before discounts, all discounts on it, and its quantity."""

    line_id: str
    quantity: int
    amount_minor: int
    discount_minor: int


class ReturnedLine(Value):
    """What one refund took back of one line: pieces, and what had been paid for them after discounts."""

    line_id: str
    quantity: int
    net_minor: int


class CouponCredit(Value):
    """What one refund takes back of one coupon's discount, line by line (positive amounts)."""

    coupon_id: str
    discount_minor: int
    lines: tuple[LineDiscount, ...]


class CouponRefusal(Value):
    """Why one coupon (or, with no coupon id, the whole order) cannot be used; ``missing_minor`` when more would do."""

    coupon_id: str | None
    code: str
    detail: str
    missing_minor: int | None = None
