"""A user's coupons, one bucket per user, latest claim first."""

from projections.wallet.fold import WALLET_MODEL

__all__ = ["WALLET_MODEL"]
