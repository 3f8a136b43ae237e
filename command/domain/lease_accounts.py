"""What a budget's state says of leases: what home has lent to whom, and what a branch was lent."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from command.domain.calendar import NO_INSTANT
from command.domain.sorted_map import SortedMap
from contracts.events import (
    BudgetLeaseClosed,
    BudgetLeaseGranted,
    BudgetLeaseOpened,
    BudgetLeaseSettled,
    BudgetLeaseWanted,
)
from contracts.leases import MARGIN_SECONDS, Lent, Statement

MARGIN: Final = timedelta(seconds=MARGIN_SECONDS)
# Accounts kept at home, one for each holder and period: beyond them the oldest periods are forgotten.
ACCOUNTS_MAX: Final = 10_000
TENURES_KEPT_MAX: Final = 400

LentTo = tuple[str, str]  # Period and holder: the oldest periods come first.


@dataclass(frozen=True, slots=True)
class Lending:
    """Home's side: who may be lent money, and what each holder has of each period."""

    holders: tuple[str, ...] = ()
    lent: SortedMap[LentTo, Lent] = field(default_factory=SortedMap)

    def to(self, holder: str, period: str) -> Lent:
        """What a holder was lent of a period; a first lease would be number one."""
        return self.lent.get((period, holder)) or Lent(0, 0, 0, NO_INSTANT, 0, Statement(), 0)

    def granted(self, event: BudgetLeaseGranted) -> "Lending":
        """After one more lease."""
        before = self.to(event.holder, event.period)
        return self._with(
            event.period,
            event.holder,
            Lent(
                event.number,
                event.amount_minor,
                event.left_minor,
                event.until,
                before.known.committed_minor,
                before.known,
                before.out_minor + event.amount_minor,
            ),
        )

    def settled(self, event: BudgetLeaseSettled) -> "Lending":
        """After the holder's books were taken over."""
        known = Statement(
            number=event.number,
            opened_minor=event.opened_minor,
            returned_minor=event.returned_minor,
            committed_minor=event.committed_minor,
            credited_minor=event.credited_minor,
        )
        lent = self.to(event.holder, event.period)._replace(known=known, out_minor=event.out_minor)
        return self._with(event.period, event.holder, lent)

    def _with(self, period: str, holder: str, lent: Lent) -> "Lending":
        accounts = self.lent.plus((period, holder), lent)
        if len(accounts) > ACCOUNTS_MAX:
            oldest, _ = next(iter(accounts))
            accounts = accounts.minus(oldest)
        return replace(self, lent=accounts)


class Waiting(NamedTuple):
    """A checkout command that is decided when the next lease opens, as it was sent."""

    period: str
    order_id: str
    needed_minor: int
    command_type: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tenure:
    """What a branch was lent in one period, over all leases, and the end of the last one."""

    number: int = 0
    is_open: bool = False
    is_final: bool = False
    opened_minor: int = 0
    returned_minor: int = 0
    left_minor: int = 0
    until: datetime = NO_INSTANT

    def may_spend(self, now: datetime) -> bool:
        """Whether new holds may be taken: a while before the lease's end that is over."""
        return self.is_open and now < self.until - MARGIN

    def may_get_more(self, now: datetime) -> bool:
        """Whether home could have more, so that a shortage here is not the budget's end."""
        return not self.is_final and not (self.may_spend(now) and self.left_minor == 0)


@dataclass(frozen=True, slots=True)
class Branch:
    """The holder's side. ``is_branch`` is false at home."""

    is_branch: bool = False
    tenures: dict[str, Tenure] = field(default_factory=dict)
    waiting: tuple[Waiting, ...] = ()

    def tenure(self, period: str) -> Tenure:
        """What it was lent in a period."""
        return self.tenures.get(period, Tenure())

    def waiting_in(self, period: str) -> tuple[Waiting, ...]:
        """What waits for a lease of a period."""
        return tuple(each for each in self.waiting if each.period == period)

    def opened(self, event: BudgetLeaseOpened) -> "Branch":
        """After a lease came. What waited is decided anew."""
        before = self.tenure(event.period)
        tenure = replace(
            before,
            number=event.number,
            is_open=True,
            is_final=False,
            opened_minor=before.opened_minor + event.amount_minor,
            left_minor=event.left_minor,
            until=event.until,
        )
        return self._with(event.period, tenure, wakes=True)

    def closed(self, event: BudgetLeaseClosed) -> "Branch":
        """After leases were closed. When nothing more comes, what waited is decided."""
        before = self.tenure(event.period)
        tenure = replace(
            before,
            number=max(before.number, event.number),
            is_open=False,
            is_final=event.final,
            returned_minor=before.returned_minor + event.returned_minor,
        )
        return self._with(event.period, tenure, wakes=event.final)

    def wanted(self, event: BudgetLeaseWanted) -> "Branch":
        """One more waits."""
        waits = Waiting(event.period, event.order_id, event.needed_minor, event.command_type, event.payload)
        return replace(self, waiting=(*self.waiting, waits))

    def _with(self, period: str, tenure: Tenure, *, wakes: bool) -> "Branch":
        tenures = {**self.tenures, period: tenure}
        if len(tenures) > TENURES_KEPT_MAX:
            del tenures[min(tenures)]
        waiting = tuple(each for each in self.waiting if each.period != period) if wakes else self.waiting
        return replace(self, tenures=tenures, waiting=waiting)
