"""A wallet holds each coupon's document under the user whom every coupon event names."""

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
from contracts.read_models import WALLET
from projections.coupon import fold_coupon
from projections.model import Place, ReadModel

_CouponEvent = (
    CouponClaimed | CouponLocked | CouponRedeemed | CouponReleased | CouponReturned | CouponExpired | CouponRevoked
)


def route(recorded: Recorded) -> tuple[Place, ...]:
    """The bucket is the user's, the field is the coupon's."""
    event = recorded.event
    if not isinstance(event, _CouponEvent):
        raise ValueError(f"{event.type} in {recorded.stream!r} does not say whose coupon it is about")
    return (Place(recorded.realm, event.about.user_id, event.coupon_id),)


WALLET_MODEL = ReadModel(name=WALLET, kinds=frozenset({"coupon"}), route=route, fold=fold_coupon, listed=True)
