"""What a caller is told of what became of an order's coupons."""

from collections.abc import Mapping
from typing import Any

from contracts.events import CheckoutCompleted, CheckoutReady, CheckoutRefused, Event


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
