"""What became of one order's coupons: one decision over all of them at each step."""

from typing import ClassVar

from contracts.events.base import Event
from contracts.events.coupon import ReleaseCause
from contracts.orders import CouponCredit, CouponRefusal, FrozenLine, HeldCoupon, ReturnedLine
from contracts.values import Instant


class CheckoutReady(Event):
    """Everything is held until ``lock_until`` and the allocation is frozen; ``payable_minor`` includes shipping."""

    type: ClassVar[str] = "checkout.ready.v1"

    order_id: str
    attempt: int
    user_id: str | None
    currency: str
    total_minor: int
    shipping_minor: int
    discount_minor: int
    payable_minor: int
    lines: tuple[FrozenLine, ...]
    coupons: tuple[HeldCoupon, ...]
    lock_until: Instant


class CheckoutRefused(Event):
    """Nothing is held; every reason is here."""

    type: ClassVar[str] = "checkout.refused.v1"

    order_id: str
    attempt: int
    currency: str
    refusals: tuple[CouponRefusal, ...]


class CheckoutCompleted(Event):
    """Coupons redeemed, budgets committed, settlement written. ``payment_id`` is absent when nothing was to pay."""

    type: ClassVar[str] = "checkout.completed.v1"

    order_id: str
    payment_id: str | None
    currency: str
    discount_minor: int
    payable_minor: int
    honoured: bool = False
    coupons: tuple[HeldCoupon, ...] | None = None  # Only after a late payment: the budget periods that paid in the end.


class CheckoutCompletedUnredeemed(Event):
    """Paid after the hold was gone and holding again was impossible: the break ``paid_not_redeemed``."""

    type: ClassVar[str] = "checkout.completed_unredeemed.v1"

    order_id: str
    payment_id: str
    currency: str
    discount_minor: int
    payable_minor: int
    refusals: tuple[CouponRefusal, ...]


class CheckoutReleased(Event):
    """Coupons and budgets are free again (true since ``released_at``)."""

    type: ClassVar[str] = "checkout.released.v1"

    order_id: str
    attempt: int
    currency: str
    discount_minor: int
    cause: ReleaseCause
    released_at: Instant


class CheckoutRefunded(Event):
    """A refund credited ``credited_minor`` of discounts; ``excess_minor`` was beyond what was paid: no credit."""

    type: ClassVar[str] = "checkout.refunded.v1"

    order_id: str
    refund_id: str
    currency: str
    refunded_minor: int
    credited_minor: int
    excess_minor: int
    full: bool
    returned_coupon_ids: tuple[str, ...]
    lines: tuple[ReturnedLine, ...] = ()
    shipping_minor: int = 0
    credits: tuple[CouponCredit, ...] = ()  # Before redemption: what will be credited if it is still redeemed.
