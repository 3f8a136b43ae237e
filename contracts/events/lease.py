"""A budget's money lent from its home to a holder: another shard that spends it without asking home each time.

Both sides record on a stream of the same name, ``budget/{id}``, each in its own store: home what it lent and took back,
the holder (its *branch* of the budget) what it was lent, spent and gave up.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from contracts.events.base import Event
from contracts.events.budget import Recurrence
from contracts.values import Instant

# At home.


class BudgetShared(Event):
    """From now on a holder may be lent money of this budget."""

    type: ClassVar[str] = "budget.shared.v1"

    budget_id: str
    currency: str
    holder: str


class BudgetUnshared(Event):
    """The holder is lent nothing more; what it has not spent comes back."""

    type: ClassVar[str] = "budget.unshared.v1"

    budget_id: str
    currency: str
    holder: str


class BudgetLeaseGranted(Event):
    """Lent: reserved at home before anybody can spend it. ``number`` counts the holder's leases of this period.

    ``reserved_delta_minor`` is less than the amount where the holder had honoured payments beyond what it was lent.
    ``left_minor`` is what home has left: with nothing left, a holder that runs dry may say that there is no more.
    """

    type: ClassVar[str] = "budget.lease_granted.v1"

    budget_id: str
    currency: str
    holder: str
    period: str
    number: int
    amount_minor: int
    reserved_delta_minor: int
    left_minor: int
    until: Instant


class BudgetLeaseSettled(Event):
    """What the holder's books say, taken over at home. Sums since the first lease of the period, and the changes.

    ``out_minor`` is what the holder still has: reserved there, or not spent yet.
    """

    type: ClassVar[str] = "budget.lease_settled.v1"

    budget_id: str
    currency: str
    holder: str
    period: str
    number: int
    opened_minor: int
    returned_minor: int
    committed_minor: int
    credited_minor: int
    out_minor: int
    reserved_delta_minor: int
    committed_delta_minor: int
    credited_delta_minor: int
    honoured: bool = False  # The holder spent beyond what it was lent, by a template's policy for late payment.


# At the holder.


class BudgetBranched(Event):
    """A branch of a budget that lives elsewhere: same currency, periods and policy, no money of its own."""

    type: ClassVar[str] = "budget.branched.v1"

    budget_id: str
    name: str
    currency: str
    recurs: Recurrence | None
    zone: str
    when_short: Literal["refuse", "grant_remainder"]


class BudgetLeaseOpened(Event):
    """Money from home may be spent here until ``until``; leases before it are part of the same sum."""

    type: ClassVar[str] = "budget.lease_opened.v1"

    budget_id: str
    currency: str
    period: str
    number: int
    amount_minor: int
    left_minor: int
    until: Instant


class BudgetLeaseClosed(Event):
    """Leases up to ``number`` are closed, those that never came for ever; ``returned_minor`` is home's again.

    What is still reserved stays here until it is spent or given up in another closing of the same number.
    ``final``: nothing more will be lent, so that a shortage is the budget's end.
    """

    type: ClassVar[str] = "budget.lease_closed.v1"

    budget_id: str
    currency: str
    period: str
    number: int
    returned_minor: int
    final: bool


class BudgetLeaseWanted(Event):
    """A checkout command needs more than is here, and home may have it: it is decided when the next lease opens."""

    type: ClassVar[str] = "budget.lease_wanted.v1"

    budget_id: str
    currency: str
    period: str
    order_id: str
    needed_minor: int
    command_type: str
    payload: Mapping[str, Any]
