"""One user's coupon: claimed, locked by one order, redeemed, released, returned, expired or revoked.

Validity is half-open, ``[valid_from, valid_until)``, and ends from the instant itself, as a lock does; timers only
record it. A lock taken in time keeps its order's right until the lock ends, even past ``valid_until``: a locked coupon
does not expire, and when it is released after its validity it expires in the same decision.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from command.domain.calendar import NO_INSTANT
from command.domain.template import Template
from command.unit_of_work import Kind
from contracts.events import (
    CouponClaimed,
    CouponExpired,
    CouponLocked,
    CouponRedeemed,
    CouponReleased,
    CouponReturned,
    CouponRevoked,
    Event,
)
from contracts.events.coupon import Channel, ReleaseCause
from contracts.events.series import EventSeries
from contracts.lending import LENT_UNTIL
from contracts.refusals import (
    AlreadyLocked,
    AlreadyRedeemed,
    CouponHasExpired,
    CouponNotYetValid,
    CouponWasRevoked,
    LockExpired,
    NotLocked,
    NotOwner,
    UnknownCoupon,
)
from contracts.terms import CouponRef, FixedValidity, Terms

_NOTHING: Final = CouponRef(
    template_id="", terms_version=0, campaign_id="", shop_id=None, source="platform", user_id="", currency=""
)


@dataclass(frozen=True, slots=True)
class Coupon:
    """What decisions need to know of a coupon. ``order_id`` locks it, redeemed it, or was the last to hold it."""

    status: Literal["none", "claimed", "locked", "redeemed", "expired", "revoked"] = "none"
    coupon_id: str = ""
    about: CouponRef = _NOTHING
    valid_from: datetime = NO_INSTANT
    valid_until: datetime = NO_INSTANT
    order_id: str | None = None
    discount_minor: int = 0
    lock_until: datetime = NO_INSTANT
    external: bool = False
    released: ReleaseCause | None = None  # Why the last order lost it.

    @property
    def is_lent(self) -> bool:
        """Whether an order of several shards holds it: only that order's shard says when that ends."""
        return self.status == "locked" and self.lock_until == LENT_UNTIL

    def lock_has_ended(self, now: datetime) -> bool:
        """Whether somebody's lock is over without being released yet."""
        return self.status == "locked" and now >= self.lock_until


def evolve(coupon: Coupon, event: Event) -> Coupon:
    """Fold one event of the coupon's stream."""
    match event:
        case CouponClaimed():
            return Coupon(
                status="claimed",
                coupon_id=event.coupon_id,
                about=event.about,
                valid_from=event.valid_from,
                valid_until=event.valid_until,
            )
        # Spelled out: `replace` takes three times as long, and locks and their ends are most of what coupons see.
        case CouponLocked():
            return Coupon(
                "locked", coupon.coupon_id, coupon.about, coupon.valid_from, coupon.valid_until,
                event.order_id, event.discount_minor, event.lock_until, event.external,
            )  # fmt: skip
        case CouponRedeemed():
            return Coupon(
                "redeemed", coupon.coupon_id, coupon.about, coupon.valid_from, coupon.valid_until,
                event.order_id, event.discount_minor, coupon.lock_until, event.external, coupon.released,
            )  # fmt: skip
        case CouponReleased():
            return Coupon(
                "claimed", coupon.coupon_id, coupon.about, coupon.valid_from, coupon.valid_until,
                coupon.order_id, coupon.discount_minor, coupon.lock_until, coupon.external, event.cause,
            )  # fmt: skip
        case CouponReturned():
            return replace(coupon, status="claimed", order_id=None, released=None)
        case CouponExpired():
            return replace(coupon, status="expired")
        case CouponRevoked():
            return replace(coupon, status="revoked")
    return coupon


COUPON: Final = Kind("coupon", Coupon, Coupon(), evolve)


class Origin(NamedTuple):
    """How a coupon was claimed, and a reference of whoever arranged it."""

    channel: Channel
    reference: str | None = None


def claim(
    template: Template, coupon_id: str, user_id: str, nth: int, origin: Origin, *, now: datetime
) -> tuple[CouponClaimed]:
    """Give a user the coupon, under the template's present terms, once the template allowed it."""
    terms = template.current
    about = CouponRef(
        template_id=template.template_id,
        terms_version=template.terms_version,
        campaign_id=terms.campaign_id,
        shop_id=terms.shop_id,
        source=terms.source,
        user_id=user_id,
        currency=terms.currency,
    )
    valid_from, valid_until = validity(terms, now)
    claimed = CouponClaimed(
        coupon_id=coupon_id,
        about=about,
        channel=origin.channel,
        reference=origin.reference,
        nth=nth,
        valid_from=valid_from,
        valid_until=valid_until,
    )
    return (claimed,)


def claim_each(
    template: Template, coupon_ids: Sequence[str], claims: Sequence[tuple[str, int]], origin: Origin, *, now: datetime
) -> EventSeries:
    """The same for many claims, (user, n-th) each, of one template at one instant: each coupon's event, in order."""
    (like,) = claim(template, "", "", 0, origin, now=now)
    user_ids, nths = zip(*claims, strict=True)
    return EventSeries(like, {("coupon_id",): coupon_ids, ("about", "user_id"): user_ids, ("nth",): nths})


def require_usable(coupon: Coupon, *, now: datetime) -> None:
    """Refuse unless an order may lock the coupon now. A lock that has ended counts as free."""
    match coupon.status:
        case "none":
            raise UnknownCoupon
        case "redeemed":
            raise AlreadyRedeemed
        case "revoked":
            raise CouponWasRevoked
        case "locked" if now < coupon.lock_until:
            raise AlreadyLocked
    if now >= coupon.valid_until:
        raise CouponHasExpired(f"The coupon was valid until {coupon.valid_until.isoformat()}.")
    if now < coupon.valid_from:
        raise CouponNotYetValid(f"The coupon is valid from {coupon.valid_from.isoformat()}.")


def require_owner(coupon: Coupon, user_id: str | None) -> None:
    """Refuse unless it is this user's. A guest, None, owns no coupons."""
    if coupon.about.user_id != user_id:
        raise NotOwner if user_id is not None else NotOwner("The coupon belongs to a user, and this names no user_id.")


def lock(
    coupon: Coupon, order_id: str, discount_minor: int, lock_until: datetime, *, now: datetime, external: bool = False
) -> tuple[Event, ...]:
    """Let one order own the coupon until ``lock_until``."""
    holds_it = coupon.status == "locked" and coupon.order_id == order_id and now < coupon.lock_until
    if holds_it and (coupon.external, coupon.discount_minor) == (external, discount_minor):
        return ()
    require_usable(coupon, now=now)
    locked = CouponLocked(
        coupon_id=coupon.coupon_id,
        about=coupon.about,
        order_id=order_id,
        discount_minor=discount_minor,
        lock_until=lock_until,
        external=external,
    )
    return (*end_external_lock(coupon, now=now), locked)


def redeem(coupon: Coupon, order_id: str, discount_minor: int | None = None, *, now: datetime) -> tuple[Event, ...]:
    """Use up a coupon that this order holds. A coupon is redeemed for one order once."""
    if coupon.status == "redeemed" and coupon.order_id == order_id:
        return ()
    require_held(coupon, order_id, now=now)
    return (
        CouponRedeemed(
            coupon_id=coupon.coupon_id,
            about=coupon.about,
            order_id=order_id,
            discount_minor=coupon.discount_minor if discount_minor is None else discount_minor,
            external=coupon.external,
        ),
    )


def honour(coupon: Coupon, order_id: str, discount_minor: int, *, now: datetime) -> tuple[Event, ...]:
    """Use up a coupon that the order holds no more, by its template's policy for late payment."""
    redeemed = CouponRedeemed(
        coupon_id=coupon.coupon_id, about=coupon.about, order_id=order_id, discount_minor=discount_minor, honoured=True
    )
    return (*end_external_lock(coupon, now=now), redeemed)


def release(coupon: Coupon, order_id: str, cause: ReleaseCause, *, now: datetime) -> tuple[Event, ...]:
    """Give up this order's lock. After the lock's end its end is the cause, whoever asks."""
    if coupon.status == "none":
        raise UnknownCoupon
    if coupon.status == "redeemed" and coupon.order_id == order_id:
        raise AlreadyRedeemed
    if coupon.status != "locked" and coupon.order_id == order_id and coupon.released is not None:
        return ()
    if coupon.status != "locked" or coupon.order_id != order_id:
        raise NotLocked
    released = _released(coupon, order_id, cause, now)
    if now < coupon.valid_until:
        return (released,)
    return (released, _expired(coupon, max(coupon.valid_until, released.released_at)))


def end_external_lock(coupon: Coupon, *, now: datetime) -> tuple[Event, ...]:
    """Record that an external lock ended; a lock of our own checkout ends with its whole order."""
    if not (coupon.external and coupon.lock_has_ended(now)):
        return ()
    return release(coupon, coupon.order_id or "", "lock_ended", now=now)


def give_back(coupon: Coupon, order_id: str, refund_id: str, *, now: datetime) -> tuple[Event, ...]:
    """Return a redeemed coupon after a full refund; one whose validity is over expires at once."""
    if coupon.status != "redeemed" or coupon.order_id != order_id:
        return ()
    returned = CouponReturned(
        coupon_id=coupon.coupon_id,
        about=coupon.about,
        order_id=order_id,
        refund_id=refund_id,
        discount_minor=coupon.discount_minor,
        valid_until=coupon.valid_until,
    )
    return (returned,) if now < coupon.valid_until else (returned, _expired(coupon, now))


def expire(coupon: Coupon, *, now: datetime) -> tuple[Event, ...]:
    """Record that the validity ended; nothing when it did not, or when somebody used or still holds the coupon."""
    if coupon.status == "none":
        raise UnknownCoupon
    if now < coupon.valid_until:
        return ()
    if coupon.status == "claimed":
        return (_expired(coupon, coupon.valid_until),)
    return end_external_lock(coupon, now=now)  # Released after its validity, it expires too.


def revoke(coupon: Coupon, reason: str, *, now: datetime) -> tuple[Event, ...]:
    """Take the coupon away; a lock is released first."""
    if coupon.status == "revoked":
        return ()
    if coupon.is_lent:
        raise AlreadyLocked(f"Order {coupon.order_id} holds coupons of several shards: cancel it first.")
    locked = coupon.status == "locked"
    if not locked or coupon.lock_has_ended(now):
        _require_unused(coupon, now)
    revoked = CouponRevoked(coupon_id=coupon.coupon_id, about=coupon.about, reason=reason)
    return (_released(coupon, coupon.order_id or "", "revoked", now), revoked) if locked else (revoked,)


def require_held(coupon: Coupon, order_id: str, *, now: datetime) -> None:
    """Refuse unless this order's lock on the coupon lasts."""
    match coupon.status:
        case "none":
            raise UnknownCoupon
        case "redeemed":
            raise AlreadyRedeemed
        case "revoked":
            raise CouponWasRevoked
    if coupon.order_id != order_id:
        raise NotLocked
    if coupon.lock_has_ended(now) or coupon.released == "lock_ended":
        raise LockExpired(f"The lock ended at {coupon.lock_until.isoformat()}.")
    if coupon.status != "locked":
        raise NotLocked


def require_external(coupon: Coupon) -> None:
    """Refuse what an upstream with a checkout of its own asks of a coupon that our checkout holds."""
    if coupon.status == "locked" and not coupon.external:
        raise NotLocked("Our own checkout holds the coupon, and redeems or releases it with its order.")


def _require_unused(coupon: Coupon, now: datetime) -> None:
    match coupon.status:
        case "none":
            raise UnknownCoupon
        case "redeemed":
            raise AlreadyRedeemed
    if now >= coupon.valid_until:
        raise CouponHasExpired


def _released(coupon: Coupon, order_id: str, cause: ReleaseCause, now: datetime) -> CouponReleased:
    ended = now >= coupon.lock_until
    return CouponReleased(
        coupon_id=coupon.coupon_id,
        about=coupon.about,
        order_id=order_id,
        discount_minor=coupon.discount_minor,
        cause="lock_ended" if ended else cause,
        released_at=coupon.lock_until if ended else now,
        external=coupon.external,
        valid_until=coupon.valid_until,
    )


def _expired(coupon: Coupon, expired_at: datetime) -> CouponExpired:
    return CouponExpired(coupon_id=coupon.coupon_id, about=coupon.about, expired_at=expired_at)


def validity(terms: Terms, now: datetime) -> tuple[datetime, datetime]:
    """From when until when a coupon that is claimed now can be used."""
    stated = terms.validity
    if isinstance(stated, FixedValidity):
        return stated.valid_from, stated.valid_until
    return now, now + timedelta(seconds=stated.duration_seconds)
