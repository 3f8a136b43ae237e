"""What happens to a budget: limit, reservations per order, commitments, credits and thresholds."""

from typing import ClassVar, Literal

from contracts.events.base import Event
from contracts.values import Instant

Recurrence = Literal["day", "week", "month", "year"]


class BudgetCreated(Event):
    """Money that discounts may take. ``recurs``: the limit is anew in each calendar period of ``zone``."""

    type: ClassVar[str] = "budget.created.v1"

    budget_id: str
    name: str
    currency: str
    limit_minor: int
    recurs: Recurrence | None
    zone: str
    when_short: Literal["refuse", "grant_remainder"]
    thresholds_percent: tuple[int, ...]


class BudgetToppedUp(Event):
    """The limit went up, for this and every later period."""

    type: ClassVar[str] = "budget.topped_up.v1"

    budget_id: str
    by_minor: int
    limit_minor: int


class BudgetReserved(Event):
    """Held for an order. ``period`` names the calendar period (``""`` when the budget does not recur)."""

    type: ClassVar[str] = "budget.reserved.v1"

    budget_id: str
    currency: str
    period: str
    order_id: str
    coupon_id: str
    amount_minor: int
    lock_until: Instant | None = None  # From here on the money counts as free again, released or not.


class BudgetCommitted(Event):
    """Spent: a reservation of the order became final. ``honoured``: may exceed the limit, nothing was reserved."""

    type: ClassVar[str] = "budget.committed.v1"

    budget_id: str
    currency: str
    period: str
    order_id: str
    coupon_id: str
    amount_minor: int
    honoured: bool = False


class BudgetReleased(Event):
    """A reservation of the order was given back."""

    type: ClassVar[str] = "budget.released.v1"

    budget_id: str
    currency: str
    period: str
    order_id: str
    coupon_id: str
    amount_minor: int


class BudgetCredited(Event):
    """A refund gave spent money back, to the period it was spent in."""

    type: ClassVar[str] = "budget.credited.v1"

    budget_id: str
    currency: str
    period: str
    order_id: str
    coupon_id: str
    refund_id: str
    amount_minor: int


class BudgetThresholdReached(Event):
    """Reserved and spent money first passed a threshold of the limit in this period."""

    type: ClassVar[str] = "budget.threshold_reached.v1"

    budget_id: str
    currency: str
    period: str
    threshold_percent: int
    used_minor: int
    limit_minor: int
