"""Short names for the things that tests of the write side are about: terms, orders, and the commands that make them."""

from datetime import timedelta
from typing import Any

from command.domain.ids import coupon_id
from contracts.commands import (
    ActivateTemplate,
    ClaimCoupon,
    Command,
    CreateBudget,
    CreateTemplate,
    HoldForOrder,
    PlaceOrder,
    RedeemForOrder,
    RefundForOrder,
    ReportPayment,
    ReportRefund,
)
from contracts.identity import Realm
from contracts.orders import OrderLine
from contracts.terms import AmountOff, PercentOff, Terms, ValidityAfterClaim
from tests.gwt import NOON

DAY = 86_400
REALM = Realm("acme", "shop")


def terms(**changes: Any) -> Terms:
    """10.00 GBP off anything, to be claimed within a day and used within thirty."""
    usual: dict[str, Any] = {
        "name": "Ten off",
        "campaign_id": "spring",
        "currency": "GBP",
        "discount": AmountOff(amount_minor=1000),
        "claim_from": NOON,
        "claim_until": NOON + timedelta(days=1),
        "validity": ValidityAfterClaim(duration_seconds=30 * DAY),
    }
    return Terms(**(usual | changes))


def off(amount_minor: int) -> AmountOff:
    """So much off."""
    return AmountOff(amount_minor=amount_minor)


def percent(percent_bp: int) -> PercentOff:
    """So many basis points off."""
    return PercentOff(percent_bp=percent_bp)


def template(template_id: str = "t1", **changes: Any) -> list[Command]:
    """A template that is active."""
    return [
        CreateTemplate(template_id=template_id, terms=terms(**changes)),
        ActivateTemplate(template_id=template_id),
    ]


def claim(user_id: str = "alice", template_id: str = "t1") -> ClaimCoupon:
    """A claim."""
    return ClaimCoupon(template_id=template_id, user_id=user_id)


def coupon_of(user_id: str = "alice", template_id: str = "t1", nth: int = 1) -> str:
    """The id of a user's n-th coupon."""
    return coupon_id(REALM, template_id, user_id, nth)


def budget(budget_id: str = "b1", limit_minor: int = 100_000, **changes: Any) -> CreateBudget:
    """A budget in pounds."""
    return CreateBudget(budget_id=budget_id, currency="GBP", limit_minor=limit_minor, **changes)


def line(line_id: str, unit_price_minor: int, quantity: int = 1, **more: Any) -> OrderLine:
    """An order line; its SKU is its id unless told."""
    return OrderLine(
        **({"line_id": line_id, "sku": line_id} | more), unit_price_minor=unit_price_minor, quantity=quantity
    )


# The order of the specification's vector: 50.00 and 10.00.
VECTOR = (line("big", 5000), line("small", 1000))


def place(*coupons: str, order_id: str = "o1", user_id: str | None = "alice", **changes: Any) -> PlaceOrder:
    """An order of 60.00 GBP with these coupons."""
    usual: dict[str, Any] = {"currency": "GBP", "lines": VECTOR}
    return PlaceOrder(order_id=order_id, user_id=user_id, coupon_ids=coupons, **(usual | changes))


def hold(order_id: str = "o1", attempt: int = 1) -> HoldForOrder:
    """What the saga asks when an order was placed."""
    return HoldForOrder(order_id=order_id, attempt=attempt)


def held(*coupons: str, order_id: str = "o1", **changes: Any) -> list[Command]:
    """An order that holds its coupons."""
    return [place(*coupons, order_id=order_id, **changes), hold(order_id)]


def pay(payment_id: str = "p1", order_id: str = "o1", amount_minor: int = 5000, **changes: Any) -> ReportPayment:
    """A payment that succeeded."""
    usual: dict[str, Any] = {"status": "succeeded", "currency": "GBP"}
    return ReportPayment(payment_id=payment_id, order_id=order_id, amount_minor=amount_minor, **(usual | changes))


def redeem(payment_id: str | None = "p1", order_id: str = "o1") -> RedeemForOrder:
    """What the saga asks when a payment succeeded."""
    return RedeemForOrder(order_id=order_id, payment_id=payment_id)


def paid(*coupons: str, order_id: str = "o1", **changes: Any) -> list[Command]:
    """An order that was held, paid and redeemed."""
    payment_id = f"p-{order_id}"
    return [*held(*coupons, order_id=order_id, **changes), pay(payment_id, order_id), redeem(payment_id, order_id)]


def money_back(
    refund_id: str = "r1", amount_minor: int = 0, order_id: str | None = "o1", **changes: Any
) -> ReportRefund:
    """A refund that the upstream reports."""
    usual: dict[str, Any] = {"currency": "GBP"}
    return ReportRefund(refund_id=refund_id, order_id=order_id, amount_minor=amount_minor, **(usual | changes))


def credit(refund_id: str = "r1", order_id: str = "o1") -> RefundForOrder:
    """What the saga asks when a refund succeeded."""
    return RefundForOrder(order_id=order_id, refund_id=refund_id)
