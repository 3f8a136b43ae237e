"""Coupons outside our own checkout: an upstream's locks, revocation and the timers."""

from datetime import timedelta

from command.domain import checkout as checkouts
from command.domain import coupon as coupons
from command.domain.checkout import CHECKOUT
from command.domain.coupon import COUPON, Coupon
from command.handlers.checkouts import carry_out, coupons_of, release_order
from command.handlers.handler import Data, require_time
from command.unit_of_work import UnitOfWork
from contracts.commands import EndCouponLock, ExpireCoupon, LockCoupon, RedeemCoupon, ReleaseCoupon, RevokeCoupon
from contracts.events import Event


def lock(uow: UnitOfWork, command: LockCoupon) -> Data:
    """Claimed -> locked, by an upstream that runs its own checkout."""
    coupon = _freed(uow, command.coupon_id)
    lock_until = uow.now + timedelta(seconds=command.lock_seconds or uow.lock_ttl_seconds)
    events = coupons.lock(coupon, command.order_id, command.discount_minor, lock_until, now=uow.now, external=True)
    return _record(uow, command.coupon_id, events)


def redeem(uow: UnitOfWork, command: RedeemCoupon) -> Data:
    """Locked -> redeemed, by the order that owns the lock."""
    coupon = uow.load(COUPON, command.coupon_id)
    coupons.require_external(coupon)
    return _record(
        uow, command.coupon_id, coupons.redeem(coupon, command.order_id, command.discount_minor, now=uow.now)
    )


def release(uow: UnitOfWork, command: ReleaseCoupon) -> Data:
    """Locked -> claimed, by the order that owns the lock."""
    coupon = uow.load(COUPON, command.coupon_id)
    coupons.require_external(coupon)
    return _record(uow, command.coupon_id, coupons.release(coupon, command.order_id, "released", now=uow.now))


def revoke(uow: UnitOfWork, command: RevokeCoupon) -> Data:
    """Any unused -> revoked; one that our own checkout holds takes its order's whole hold with it."""
    coupon = uow.load(COUPON, command.coupon_id)
    if coupon.status == "locked" and not coupon.external and coupon.order_id is not None:
        checkout = uow.load(CHECKOUT, coupon.order_id)
        held = coupons_of(uow, checkout.coupon_ids)
        carry_out(uow, checkouts.revoke(checkout, held, command.coupon_id, command.reason, now=uow.now))
        coupon = uow.load(COUPON, command.coupon_id)
    return _record(uow, command.coupon_id, coupons.revoke(coupon, command.reason, now=uow.now))


def expire(uow: UnitOfWork, command: ExpireCoupon) -> Data:
    """A timer's: the validity ended. A lock that ended is released first."""
    coupon = _freed(uow, command.coupon_id)
    if coupon.status == "claimed":
        require_time(uow, coupon.valid_until)
    return _record(uow, command.coupon_id, coupons.expire(coupon, now=uow.now))


def end_lock(uow: UnitOfWork, command: EndCouponLock) -> Data:
    """A timer's: an external lock ended; nothing when it is another lock by now."""
    coupon = uow.load(COUPON, command.coupon_id)
    same = (coupon.order_id, coupon.lock_until) == (command.order_id, command.lock_until)
    if same and coupon.status == "locked":
        require_time(uow, command.lock_until)
    return _record(uow, command.coupon_id, coupons.end_external_lock(coupon, now=uow.now) if same else ())


def _freed(uow: UnitOfWork, coupon_id: str) -> Coupon:
    """The coupon, once a hold of our own checkout that ended on it is released with its whole order."""
    coupon = uow.load(COUPON, coupon_id)
    if coupon.lock_has_ended(uow.now) and not coupon.external and coupon.order_id is not None:
        release_order(uow, coupon.order_id, "lock_ended")
        return uow.load(COUPON, coupon_id)
    return coupon


def _record(uow: UnitOfWork, coupon_id: str, events: tuple[Event, ...]) -> Data:
    coupon = uow.record(COUPON, coupon_id, events)
    data: Data = {"coupon_id": coupon_id, "status": coupon.status}
    if coupon.status == "locked":
        data["lock_until"] = coupon.lock_until.isoformat()
    return data
