"""A budget: a limit on what discounts may take, whole or anew in each calendar period.

``available = limit - reserved - committed + credited``, never below zero (unless a commitment is flagged honoured).
Which order holds what is decided in :mod:`command.domain.checkout`; here are the sums and the open reservations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Final, Literal, NamedTuple, Self

from command.domain.calendar import NO_INSTANT, period_of
from command.domain.holds import Holds
from command.domain.lease_accounts import Branch, Lending
from command.unit_of_work import Kind
from contracts.commands import CreateBudget
from contracts.events import (
    BudgetBranched,
    BudgetCommitted,
    BudgetCreated,
    BudgetCredited,
    BudgetLeaseClosed,
    BudgetLeaseGranted,
    BudgetLeaseOpened,
    BudgetLeaseSettled,
    BudgetLeaseWanted,
    BudgetReleased,
    BudgetReserved,
    BudgetShared,
    BudgetThresholdReached,
    BudgetToppedUp,
    BudgetUnshared,
    Event,
)
from contracts.orders import BudgetShare
from contracts.refusals import AlreadyExists, BudgetIsElsewhere, UnknownBudget

# Only the present period is ever decided upon; a credit to a forgotten one is still recorded.
PERIODS_KEPT_MAX: Final = 400
# How many ended holds one decision may clear away to make room; timers do the bulk.
LAPSED_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Totals:
    """One period's sums, and the highest threshold that was announced in it (percent)."""

    reserved_minor: int = 0
    committed_minor: int = 0
    credited_minor: int = 0
    announced_percent: int = 0

    @property
    def used_minor(self) -> int:
        """What counts against the limit."""
        return self.reserved_minor + self.committed_minor - self.credited_minor


@dataclass(frozen=True, slots=True)
class Budget:
    """What decisions need to know of a budget: totals by period, and reservations that are still open, by order."""

    created: BudgetCreated | None = None
    limit_minor: int = 0
    periods: dict[str, Totals] = field(default_factory=dict)
    holds: Holds = field(default_factory=Holds)
    lending: Lending = field(default_factory=Lending)
    branch: Branch = field(default_factory=Branch)

    @property
    def exists(self) -> bool:
        """Whether it was created."""
        return self.created is not None

    @property
    def definition(self) -> BudgetCreated:
        """How it was created. Raises UnknownBudget."""
        if self.created is None:
            raise UnknownBudget
        return self.created

    @property
    def currency(self) -> str:
        """Its currency, ``""`` when it does not exist."""
        return self.created.currency if self.created else ""

    def period_at(self, now: datetime) -> str:
        """The name of its present period, in its own zone."""
        return period_of(now, self.definition.recurs, self.definition.zone)

    def available_minor(self, period: str) -> int:
        """What is left of a period's limit; of a branch, of what it was lent."""
        tenure = self.branch.tenure(period)
        lent_minor = tenure.opened_minor - tenure.returned_minor
        return self.limit_minor + lent_minor - self.totals(period).used_minor

    def totals(self, period: str) -> Totals:
        """A period's sums."""
        return self.periods.get(period, Totals())


class Room(NamedTuple):
    """How much a decision may take of a budget, and what happens when that is too little."""

    period: str
    available_minor: int
    when_short: Literal["refuse", "grant_remainder"]

    def less(self, amount_minor: int) -> Self:
        """What is left of it once this much is taken."""
        return self._replace(available_minor=self.available_minor - amount_minor)


def evolve(budget: Budget, event: Event) -> Budget:  # noqa: C901, PLR0911, PLR0912 - one case per event
    """Fold one event of the budget's stream."""
    match event:
        case BudgetCreated():
            return replace(budget, created=event, limit_minor=event.limit_minor)
        case BudgetToppedUp():
            return replace(budget, limit_minor=event.limit_minor)
        case BudgetReserved():
            changed = _with_totals(budget, event.period, reserved=event.amount_minor)
            lock_until = event.lock_until or NO_INSTANT
            holds = budget.holds.plus(event.order_id, event.period, event.amount_minor, lock_until)
            return replace(changed, holds=holds)
        case BudgetCommitted(honoured=True):
            return _with_totals(budget, event.period, committed=event.amount_minor)
        case BudgetCommitted():
            changed = _with_totals(budget, event.period, reserved=-event.amount_minor, committed=event.amount_minor)
            return _less(changed, event.order_id, event.amount_minor)
        case BudgetReleased():
            changed = _with_totals(budget, event.period, reserved=-event.amount_minor)
            return _less(changed, event.order_id, event.amount_minor)
        case BudgetCredited():
            return _with_totals(budget, event.period, credited=event.amount_minor)
        case BudgetThresholdReached():
            return _with_totals(budget, event.period, announced=event.threshold_percent)
        case BudgetShared():
            holders = (*budget.lending.holders, event.holder)
            return replace(budget, lending=replace(budget.lending, holders=holders))
        case BudgetUnshared():
            holders = tuple(holder for holder in budget.lending.holders if holder != event.holder)
            return replace(budget, lending=replace(budget.lending, holders=holders))
        case BudgetLeaseGranted():
            changed = _with_totals(budget, event.period, reserved=event.reserved_delta_minor)
            return replace(changed, lending=budget.lending.granted(event))
        case BudgetLeaseSettled():
            changed = _with_totals(
                budget,
                event.period,
                reserved=event.reserved_delta_minor,
                committed=event.committed_delta_minor,
                credited=event.credited_delta_minor,
            )
            return replace(changed, lending=budget.lending.settled(event))
        case BudgetBranched():
            return replace(budget, created=_as_created(event), branch=replace(budget.branch, is_branch=True))
        case BudgetLeaseOpened():
            return replace(budget, branch=budget.branch.opened(event))
        case BudgetLeaseClosed():
            return replace(budget, branch=budget.branch.closed(event))
        case BudgetLeaseWanted():
            return replace(budget, branch=budget.branch.wanted(event))
    return budget


def _as_created(event: BudgetBranched) -> BudgetCreated:
    """A branch in the words of a budget: no limit of its own, and thresholds are its home's to announce."""
    return BudgetCreated(
        budget_id=event.budget_id,
        name=event.name,
        currency=event.currency,
        limit_minor=0,
        recurs=event.recurs,
        zone=event.zone,
        when_short=event.when_short,
        thresholds_percent=(),
    )


def _size(budget: Budget) -> int:
    """What grows: open holds, accounts of holders, and commands that wait for money."""
    return len(budget.holds) + len(budget.lending.lent) + len(budget.branch.waiting)


BUDGET: Final = Kind("budget", Budget, Budget(), evolve, size=_size)


def create(budget: Budget, budget_id: str, command: CreateBudget) -> tuple[Event, ...]:
    """Open a budget."""
    event = BudgetCreated(
        budget_id=budget_id,
        name=command.name,
        currency=command.currency,
        limit_minor=command.limit_minor,
        recurs=command.recurs,
        zone=command.zone,
        when_short=command.when_short,
        thresholds_percent=command.thresholds_percent,
    )
    if budget.created == event:
        return ()
    if budget.exists:
        raise AlreadyExists(f"There is another budget {budget_id}.")
    return (event,)


def top_up(budget: Budget, by_minor: int) -> tuple[Event, ...]:
    """Raise the limit, for this and every later period."""
    budget_id = budget.definition.budget_id
    if budget.branch.is_branch:
        raise BudgetIsElsewhere
    return (BudgetToppedUp(budget_id=budget_id, by_minor=by_minor, limit_minor=budget.limit_minor + by_minor),)


def room(budget: Budget, need_max_minor: int, *, now: datetime) -> Room:
    """What may be reserved now. Holds that ended count as free from that instant, released or not.

    ``need_max_minor`` is the most that anybody could ask: with that much left, nobody looks for ended holds. A branch
    whose home may have more has room for that much: what is missing here is fetched (:func:`shortage`), not refused.
    """
    period = budget.period_at(now)
    available = _spendable_minor(budget, period, need_max_minor, now)
    if budget.branch.is_branch and budget.branch.tenure(period).may_get_more(now):
        available = max(available, need_max_minor)
    return Room(period, available, budget.definition.when_short)


def shortage(budget: Budget, needed_minor: int, *, now: datetime) -> bool:
    """Whether home must be asked first, because so much is not here and home may have it."""
    period = budget.period_at(now)
    if not budget.branch.is_branch or not budget.branch.tenure(period).may_get_more(now):
        return False
    return _spendable_minor(budget, period, needed_minor, now) < needed_minor


def _spendable_minor(budget: Budget, period: str, need_max_minor: int, now: datetime) -> int:
    if budget.branch.is_branch and not budget.branch.tenure(period).may_spend(now):
        return 0
    available = budget.available_minor(period)
    if available < need_max_minor:
        available += sum(amount_minor for _, amount_minor in lapsed(budget, period, now=now))
    return max(available, 0)


def lapsed(budget: Budget, period: str, *, now: datetime) -> list[tuple[str, int]]:
    """The orders whose hold on this period ended without being released yet: the oldest ones, a bounded number."""
    return list(islice(budget.holds.ended(period, now), LAPSED_MAX))


def lapsed_to_free(budget: Budget, period: str, needed_minor: int, *, now: datetime) -> tuple[str, ...]:
    """The orders whose ended holds must be released first, so that ``needed_minor`` fits."""
    missing = needed_minor - budget.available_minor(period)
    orders: list[str] = []
    if missing > 0:
        for order_id, amount_minor in lapsed(budget, period, now=now):
            if missing <= 0:
                break
            orders.append(order_id)
            missing -= amount_minor
    return tuple(orders)


def without(budget: Budget, orders: Sequence[str]) -> Budget:
    """The budget as it is once these orders' reservations are released."""
    for order_id in orders:
        if (held := budget.holds.get(order_id)) is not None:
            budget = _less(_with_totals(budget, held.period, reserved=-held.amount_minor), order_id, held.amount_minor)
    return budget


def reserve(
    budget: Budget, order_id: str, coupon_id: str, share: BudgetShare, lock_until: datetime
) -> tuple[Event, ...]:
    """Hold money for an order, and say which thresholds that passes."""
    reserved = BudgetReserved(
        budget_id=share.budget_id,
        currency=budget.currency,
        period=share.period,
        order_id=order_id,
        coupon_id=coupon_id,
        amount_minor=share.amount_minor,
        lock_until=lock_until,
    )
    return (reserved, *thresholds(evolve(budget, reserved), share.period))


def commit(budget: Budget, order_id: str, coupon_id: str, share: BudgetShare) -> tuple[Event, ...]:
    """Make a reservation final."""
    return (
        BudgetCommitted(
            budget_id=share.budget_id,
            currency=budget.currency,
            period=share.period,
            order_id=order_id,
            coupon_id=coupon_id,
            amount_minor=share.amount_minor,
        ),
    )


def honour(budget: Budget, order_id: str, coupon_id: str, share: BudgetShare) -> tuple[Event, ...]:
    """Spend without a reservation and whatever is left, by a template's policy for late payment."""
    spent = BudgetCommitted(
        budget_id=share.budget_id,
        currency=budget.currency,
        period=share.period,
        order_id=order_id,
        coupon_id=coupon_id,
        amount_minor=share.amount_minor,
        honoured=True,
    )
    return (spent, *thresholds(evolve(budget, spent), share.period))


def thresholds(budget: Budget, period: str) -> list[Event]:
    """The thresholds that a period has passed and nobody announced yet."""
    totals = budget.periods[period]
    return [
        BudgetThresholdReached(
            budget_id=budget.definition.budget_id,
            currency=budget.currency,
            period=period,
            threshold_percent=percent,
            used_minor=totals.used_minor,
            limit_minor=budget.limit_minor,
        )
        for percent in budget.definition.thresholds_percent
        if percent > totals.announced_percent and totals.used_minor * 100 >= percent * budget.limit_minor
    ]


def _with_totals(
    budget: Budget, period: str, *, reserved: int = 0, committed: int = 0, credited: int = 0, announced: int = 0
) -> Budget:
    old = budget.totals(period)
    new = Totals(
        old.reserved_minor + reserved,
        old.committed_minor + committed,
        old.credited_minor + credited,
        max(old.announced_percent, announced),
    )
    periods = {**budget.periods, period: new}
    if len(periods) > PERIODS_KEPT_MAX:
        del periods[min(periods)]
    return replace(budget, periods=periods)


def _less(budget: Budget, order_id: str, amount_minor: int) -> Budget:
    return replace(budget, holds=budget.holds.minus(order_id, amount_minor))
