"""What a caller is told of what became of an order's coupons."""

from collections.abc import Mapping
from typing import Any

from contracts.events import (
    CheckoutCompleted,
    CheckoutCompletedUnredeemed,
    CheckoutReady,
    CheckoutRefunded,
    CheckoutRefused,
    CheckoutReleased,
    Event,
)


def outcome_of(event: Event) -> Mapping[str, Any] | None:
    """A checkout's step as JSON; None for steps that are no answer to placing an order."""
    match event:
        case CheckoutReady():
            return {"status": "ready", **event.model_dump(mode="json", exclude={"order_id"})}
        case CheckoutRefused():
            return {"status": "refused", **event.model_dump(mode="json", exclude={"order_id"})}
        case CheckoutCompleted():
            return {"status": "completed", **event.model_dump(mode="json", exclude={"order_id"})}
    return None


def outcome_after(before: Mapping[str, Any] | None, event: Event) -> Mapping[str, Any] | None:
    """A checkout as it stands after one more step: the status and members that its order's address shows, too."""
    if isinstance(event, CheckoutReady | CheckoutRefused):
        return outcome_of(event)  # A new attempt: nothing of the one before holds any more.
    told = event.model_dump(mode="json", exclude={"order_id"})
    match event:
        case CheckoutCompleted():
            told |= {"status": "completed"}
            if event.coupons is None:
                del told["coupons"]  # Those that the hold took.
        case CheckoutCompletedUnredeemed():
            told |= {"status": "completed_unredeemed"}
        case CheckoutReleased():
            told |= {"status": "released"}
        case CheckoutRefunded():
            told = {"status": "refunded", "refunds": {**(before or {}).get("refunds", {}), **_refund(event)}}
        case _:
            return before
    return {**(before or {}), **told}


def _refund(event: CheckoutRefunded) -> Mapping[str, Any]:
    shown = {"refunded_minor", "credited_minor", "excess_minor", "full", "returned_coupon_ids"}
    return {event.refund_id: event.model_dump(mode="json", include=shown)}
