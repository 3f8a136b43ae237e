"""The coupon ledger: one row per coupon event."""

from contracts.envelope import Recorded
from contracts.events import (
    CouponClaimed,
    CouponExpired,
    CouponLocked,
    CouponRedeemed,
    CouponReleased,
    CouponReturned,
    CouponRevoked,
)
from projections.facts.table import ABOUT, Facts, Row, Table, about_columns

# discount_minor is what the event says; redeemed_minor is signed (redeemed +, returned -), so that it adds up.
COUPON = Table(
    "coupon_facts",
    {
        "kind": "",
        "coupon_id": "",
        **ABOUT,
        "channel": "",
        "reference": "",
        "nth": 0,
        "order_id": "",
        "refund_id": "",
        "discount_minor": 0,
        "redeemed_minor": 0,
        "external": 0,
        "honoured": 0,
        "cause": "",
        "reason": "",
        "valid_from": None,
        "valid_until": None,
        "lock_until": None,
        "effective_at": None,
    },
)


def _claimed(recorded: Recorded, event: CouponClaimed) -> tuple[Row]:
    row = COUPON.row(
        recorded,
        kind="claimed",
        coupon_id=event.coupon_id,
        **about_columns(event.about),
        channel=event.channel,
        reference=event.reference or "",
        nth=event.nth,
        valid_from=event.valid_from,
        valid_until=event.valid_until,
        effective_at=recorded.metadata.occurred_at,
    )
    return (row,)


def _locked(recorded: Recorded, event: CouponLocked) -> tuple[Row]:
    row = COUPON.row(
        recorded,
        kind="locked",
        coupon_id=event.coupon_id,
        **about_columns(event.about),
        order_id=event.order_id,
        discount_minor=event.discount_minor,
        external=int(event.external),
        lock_until=event.lock_until,
        effective_at=recorded.metadata.occurred_at,
    )
    return (row,)


def _redeemed(recorded: Recorded, event: CouponRedeemed) -> tuple[Row]:
    row = COUPON.row(
        recorded,
        kind="redeemed",
        coupon_id=event.coupon_id,
        **about_columns(event.about),
        order_id=event.order_id,
        discount_minor=event.discount_minor,
        redeemed_minor=event.discount_minor,
        external=int(event.external),
        honoured=int(event.honoured),
        effective_at=recorded.metadata.occurred_at,
    )
    return (row,)


def _released(recorded: Recorded, event: CouponReleased) -> tuple[Row]:
    row = COUPON.row(
        recorded,
        kind="released",
        coupon_id=event.coupon_id,
        **about_columns(event.about),
        order_id=event.order_id,
        discount_minor=event.discount_minor,
        external=int(event.external),
        cause=event.cause,
        valid_until=event.valid_until,
        effective_at=event.released_at,
    )
    return (row,)


def _returned(recorded: Recorded, event: CouponReturned) -> tuple[Row]:
    row = COUPON.row(
        recorded,
        kind="returned",
        coupon_id=event.coupon_id,
        **about_columns(event.about),
        order_id=event.order_id,
        refund_id=event.refund_id,
        discount_minor=event.discount_minor,
        redeemed_minor=-event.discount_minor,
        valid_until=event.valid_until,
        effective_at=recorded.metadata.occurred_at,
    )
    return (row,)


def _expired(recorded: Recorded, event: CouponExpired) -> tuple[Row]:
    row = COUPON.row(
        recorded,
        kind="expired",
        coupon_id=event.coupon_id,
        **about_columns(event.about),
        effective_at=event.expired_at,
    )
    return (row,)


def _revoked(recorded: Recorded, event: CouponRevoked) -> tuple[Row]:
    row = COUPON.row(
        recorded,
        kind="revoked",
        coupon_id=event.coupon_id,
        **about_columns(event.about),
        reason=event.reason,
        effective_at=recorded.metadata.occurred_at,
    )
    return (row,)


COUPON_FACTS = Facts(
    COUPON,
    {
        CouponClaimed: _claimed,
        CouponLocked: _locked,
        CouponRedeemed: _redeemed,
        CouponReleased: _released,
        CouponReturned: _returned,
        CouponExpired: _expired,
        CouponRevoked: _revoked,
    },
)
