"""What users, order systems with a checkout of their own, operators and timers ask of coupons."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from contracts.commands.base import Command
from contracts.values import AmountMinor, Id, Instant, Text

# How coupons are claimed by this command; a code's coupon is claimed by using the code.
ClaimChannel = Literal["direct", "queue", "distribution", "import", "reservation"]
LockSeconds = Annotated[int, Field(gt=0, le=7 * 86_400)]


class ClaimCoupon(Command):
    """Take one coupon of a template for a user."""

    type: ClassVar[str] = "claim_coupon"

    template_id: Id
    user_id: Id
    channel: ClaimChannel = "direct"
    reference: Id | None = None


class LockCoupon(Command):
    """Hold a coupon for an order whose checkout is the upstream's own."""

    type: ClassVar[str] = "lock_coupon"

    coupon_id: Id
    order_id: Id
    discount_minor: AmountMinor = 0
    lock_seconds: LockSeconds | None = None  # None: the configured time.


class RedeemCoupon(Command):
    """Use up a coupon locked for this order."""

    type: ClassVar[str] = "redeem_coupon"

    coupon_id: Id
    order_id: Id
    discount_minor: AmountMinor | None = None  # None: as it was locked.


class ReleaseCoupon(Command):
    """Give up this order's lock."""

    type: ClassVar[str] = "release_coupon"

    coupon_id: Id
    order_id: Id


class RevokeCoupon(Command):
    """Take a coupon away from its user; a lock is released first."""

    type: ClassVar[str] = "revoke_coupon"

    coupon_id: Id
    reason: Annotated[Text, Field(min_length=1)]


class ExpireCoupon(Command):
    """Record that the validity ended (a timer's)."""

    type: ClassVar[str] = "expire_coupon"

    coupon_id: Id


class EndCouponLock(Command):
    """Record that an external lock ended (a timer's)."""

    type: ClassVar[str] = "end_coupon_lock"

    coupon_id: Id
    order_id: Id
    lock_until: Instant
