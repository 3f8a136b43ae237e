"""What happens to one user's coupon: claimed, locked, redeemed, released, returned, expired, revoked."""

from typing import ClassVar, Literal

from contracts.events.base import Event
from contracts.terms import CouponRef
from contracts.values import Instant

Channel = Literal["direct", "queue", "distribution", "code", "import", "reservation"]
ReleaseCause = Literal["payment_failed", "order_cancelled", "order_rejected", "lock_ended", "released", "revoked"]


class CouponClaimed(Event):
    """A user holds a coupon, usable in ``[valid_from, valid_until)``: their ``nth`` claim of the template."""

    type: ClassVar[str] = "coupon.claimed.v1"

    coupon_id: str
    about: CouponRef
    channel: Channel
    reference: str | None
    nth: int
    valid_from: Instant
    valid_until: Instant


class CouponLocked(Event):
    """One order owns the coupon until ``lock_until``. ``external``: the upstream runs its own checkout."""

    type: ClassVar[str] = "coupon.locked.v1"

    coupon_id: str
    about: CouponRef
    order_id: str
    discount_minor: int
    lock_until: Instant
    external: bool = False


class CouponRedeemed(Event):
    """The coupon was used up by one order. ``honoured``: over a limit, by the template's policy for late payment."""

    type: ClassVar[str] = "coupon.redeemed.v1"

    coupon_id: str
    about: CouponRef
    order_id: str
    discount_minor: int
    external: bool = False
    honoured: bool = False


class CouponReleased(Event):
    """The lock is gone (true since ``released_at``); the coupon is as it was claimed."""

    type: ClassVar[str] = "coupon.released.v1"

    coupon_id: str
    about: CouponRef
    order_id: str
    discount_minor: int
    cause: ReleaseCause
    released_at: Instant
    external: bool = False
    valid_until: Instant | None = None  # So that the expiry can be timed again from this event alone.


class CouponReturned(Event):
    """A fully refunded order gave the coupon back; usable again while its validity lasts."""

    type: ClassVar[str] = "coupon.returned.v1"

    coupon_id: str
    about: CouponRef
    order_id: str
    refund_id: str
    discount_minor: int
    valid_until: Instant | None = None  # So that the expiry can be timed again from this event alone.


class CouponExpired(Event):
    """The validity ended at ``expired_at``; recorded in bulk by a timer."""

    type: ClassVar[str] = "coupon.expired.v1"

    coupon_id: str
    about: CouponRef
    expired_at: Instant


class CouponRevoked(Event):
    """An operator took the coupon away."""

    type: ClassVar[str] = "coupon.revoked.v1"

    coupon_id: str
    about: CouponRef
    reason: str
