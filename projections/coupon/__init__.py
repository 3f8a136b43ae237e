"""One coupon: what it is worth to whom, in which state, and where its history is."""

from projections.coupon.fold import COUPON_MODEL, fold_coupon

__all__ = ["COUPON_MODEL", "fold_coupon"]
