"""A coupon's document from its own stream."""

from collections.abc import Callable
from typing import Any

from contracts.envelope import Recorded
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
from contracts.read_models import COUPON, NO_LOCK, SINGLE_FIELD
from projections.model import Document, Place, ReadModel, changed, instant, require


def route(recorded: Recorded) -> tuple[Place, ...]:
    """A coupon's stream is its document."""
    return (Place(recorded.realm, recorded.name.key, SINGLE_FIELD),)


def fold_coupon(document: Document | None, recorded: Recorded) -> Document:
    """The coupon after one event: instants and amounts as recorded, the status by name."""
    event = recorded.event
    if isinstance(event, CouponClaimed):
        return _claimed(event, recorded)
    before = require(document, recorded)
    change = _CHANGES.get(type(event))
    return changed(before, recorded, {"version": recorded.version, **(change(event) if change else {})})


def _claimed(event: CouponClaimed, recorded: Recorded) -> Document:
    claimed_at = instant(recorded.metadata.occurred_at)
    return {
        "coupon_id": event.coupon_id,
        "stream": recorded.stream,
        "version": recorded.version,
        "status": "claimed",
        **event.about.model_dump(),
        "channel": event.channel,
        "reference": event.reference,
        "nth": event.nth,
        "valid_from": instant(event.valid_from),
        "valid_until": instant(event.valid_until),
        **NO_LOCK,
        "honoured": False,
        "returned_by": None,
        "reason": None,
        "claimed_at": claimed_at,
        "updated_at": claimed_at,
    }


def _locked(event: CouponLocked) -> dict[str, Any]:
    return {
        "status": "locked",
        "order_id": event.order_id,
        "lock_until": instant(event.lock_until),
        "discount_minor": event.discount_minor,
        "external": event.external,
    }


def _redeemed(event: CouponRedeemed) -> dict[str, Any]:
    return {
        "status": "redeemed",
        "order_id": event.order_id,
        "lock_until": None,
        "discount_minor": event.discount_minor,
        "external": event.external,
        "honoured": event.honoured,
    }


def _released(event: CouponReleased) -> dict[str, Any]:
    return {"status": "claimed", **NO_LOCK}


def _returned(event: CouponReturned) -> dict[str, Any]:
    return {"status": "claimed", **NO_LOCK, "honoured": False, "returned_by": event.refund_id}


def _expired(event: CouponExpired) -> dict[str, Any]:
    return {"status": "expired", **NO_LOCK, "expired_at": instant(event.expired_at)}


def _revoked(event: CouponRevoked) -> dict[str, Any]:
    return {"status": "revoked", **NO_LOCK, "reason": event.reason}


_CHANGES: dict[type[Event], Callable[[Any], dict[str, Any]]] = {
    CouponLocked: _locked,
    CouponRedeemed: _redeemed,
    CouponReleased: _released,
    CouponReturned: _returned,
    CouponExpired: _expired,
    CouponRevoked: _revoked,
}

COUPON_MODEL = ReadModel(name=COUPON, kinds=frozenset({"coupon"}), route=route, fold=fold_coupon)
