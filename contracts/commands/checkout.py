"""What the checkout saga asks: one decision over all coupons, budgets and the settlement of an order."""

from typing import ClassVar

from contracts.commands.base import Command
from contracts.events.coupon import ReleaseCause
from contracts.values import Id, Instant


class HoldForOrder(Command):
    """Quote, lock every named coupon, reserve the budgets and freeze the allocation; or refuse with every reason."""

    type: ClassVar[str] = "hold_for_order"

    order_id: Id
    attempt: int


class RedeemForOrder(Command):
    """Redeem what is held (or hold again, when that lapsed) for a payment, or for an order with nothing to pay."""

    type: ClassVar[str] = "redeem_for_order"

    order_id: Id
    payment_id: Id | None


class ReleaseForOrder(Command):
    """Give back everything that is held."""

    type: ClassVar[str] = "release_for_order"

    order_id: Id
    cause: ReleaseCause


class EndOrderLock(Command):
    """Record that the hold ended at ``lock_until`` (a timer's)."""

    type: ClassVar[str] = "end_order_lock"

    order_id: Id
    lock_until: Instant


class RefundForOrder(Command):
    """Credit budget and settlement for a refund, by the frozen allocation."""

    type: ClassVar[str] = "refund_for_order"

    order_id: Id
    refund_id: Id
