"""What holds at the instant of reading: locks and validities end by themselves, also before a timer has recorded it.

Documents write instants so that their texts sort like their times.
"""

from typing import Any

from contracts.read_models import NO_LOCK

Document = dict[str, Any]


def coupon_ends_by_itself(coupon: Document) -> bool:
    """Whether the document may say something else at another instant."""
    return coupon["status"] in {"claimed", "locked"}


def hold_ends_by_itself(order: Document) -> bool:
    """Whether the order holds coupons for a while."""
    return order["checkout"] is not None and order["checkout"]["status"] == "ready"


def coupon_at(coupon: Document, now: str) -> Document:
    """A coupon's document as the deciders would judge it: its owner's lock first, then its own validity."""
    if coupon["status"] == "locked" and coupon["lock_until"] <= now:
        coupon = {**coupon, "status": "claimed", **NO_LOCK}
    if coupon["status"] == "claimed" and coupon["valid_until"] <= now:
        coupon = {**coupon, "status": "expired", "expired_at": coupon["valid_until"]}
    return coupon


def order_at(order: Document, now: str) -> Document:
    """An order's document: a hold whose lock has ended is released, from the instant itself."""
    checkout = order["checkout"]
    if not hold_ends_by_itself(order) or checkout["lock_until"] > now:
        return order
    ended = {"status": "released", "cause": "lock_ended", "released_at": checkout["lock_until"]}
    return {**order, "checkout": {**checkout, **ended}}
