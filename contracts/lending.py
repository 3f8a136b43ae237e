"""What shards tell each other of one order's coupons: an order's shard borrows them from the shards where they lie."""

from typing import Final, Literal

from contracts.orders import CouponCredit, CouponRefusal, HeldCoupon, OrderLine
from contracts.terms import CouponRef, Terms
from contracts.values import BUSINESS_TIME_UNTIL, Value

# A lender never decides alone: what it lent is locked until the borrower's word comes, whatever time passes.
LENT_UNTIL: Final = BUSINESS_TIME_UNTIL

# What a borrower tells its lenders: these amounts; use them up; give everything back; credit what a refund took back.
LoanWord = Literal["freeze", "redeem", "release", "credit"]


class BorrowingOrder(Value):
    """An order as far as a lender has to know it."""

    order_id: str
    user_id: str | None
    currency: str
    shipping_minor: int
    lines: tuple[OrderLine, ...]


class Lender(Value):
    """A shard and the coupons of the order that lie there."""

    shard: int
    coupon_ids: tuple[str, ...]


class LentCoupon(Value):
    """A coupon locked for the order, with the terms that it was claimed under."""

    coupon_id: str
    about: CouponRef
    terms: Terms


class LentBudget(Value):
    """What a budget can give to the order's coupons in its present period: reserved, up to what they may need."""

    budget_id: str
    currency: str
    period: str
    amount_minor: int
    when_short: Literal["refuse", "grant_remainder"]


class Loan(Value):
    """A lender's answer: everything that was asked for, or the reasons why nothing is lent (none when only asked)."""

    granted: bool
    coupons: tuple[LentCoupon, ...] = ()
    budgets: tuple[LentBudget, ...] = ()
    refusals: tuple[CouponRefusal, ...] = ()


class RefundCredits(Value):
    """What one refund takes back of one lender's coupons, and which of them it returns."""

    refund_id: str
    credits: tuple[CouponCredit, ...] = ()
    returned: tuple[str, ...] = ()


class LenderWord(Value):
    """What one lender is told: its coupons with the frozen amounts, and what refunds take back of them."""

    shard: int
    held: tuple[HeldCoupon, ...] = ()
    refunds: tuple[RefundCredits, ...] = ()
