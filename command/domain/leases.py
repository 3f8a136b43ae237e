"""Leasing a budget's money: home lends in chunks and takes back, a branch opens, spends, gives up and closes.

Everything that home has lent is reserved at home until the holder's own books say that it was spent or given up. So the
sum of leases and of everything else never exceeds the limit, whatever is late, lost, repeated or dead in between.
"""

from datetime import datetime, timedelta
from typing import Final

from command.domain import budget as budgets
from command.domain.budget import Budget
from command.domain.lease_accounts import Waiting
from command.unit_of_work import NotYet
from contracts.commands import CloseBudgetLease, GrantBudgetLease, OpenBudgetLease
from contracts.events import (
    BudgetBranched,
    BudgetLeaseClosed,
    BudgetLeaseGranted,
    BudgetLeaseOpened,
    BudgetLeaseSettled,
    BudgetLeaseWanted,
    BudgetShared,
    BudgetUnshared,
    Event,
)
from contracts.leases import HOLDERS_MAX, BranchTerms, HomeBooks, Lent, Purse, Statement
from contracts.refusals import AlreadyExists, BudgetIsElsewhere, BudgetNotShared, LeaseOutOfTurn, TooMany

# No chunk is more than this part of the limit, nor than half of what each holder and home could have in equal parts:
# the nearer the limit, the smaller the chunks, down to what somebody waits for.
CHUNKS_PER_LIMIT: Final = 20
# Commands of one branch that wait for money; beyond them the sender waits, not the branch.
WAITING_MAX: Final = 1_000


class TooManyWait(NotYet):
    """So many orders wait for a budget's lease that this one must be sent again later."""


# At home --------------------------------------------------------------------------------------------------------------


def share(budget: Budget, holder: str) -> tuple[Event, ...]:
    """Allow a holder to be lent money."""
    budget_id = _home(budget)
    if holder in budget.lending.holders:
        return ()
    if len(budget.lending.holders) >= HOLDERS_MAX:
        raise TooMany(f"At most {HOLDERS_MAX} holders share a budget.")
    return (BudgetShared(budget_id=budget_id, currency=budget.currency, holder=holder),)


def unshare(budget: Budget, holder: str) -> tuple[Event, ...]:
    """Lend a holder nothing more; nothing when that was said before. Refused of one that never had a part."""
    budget_id = _home(budget)
    if holder not in budget.lending.holders:
        if any(known == holder for (_, known), _ in budget.lending.lent):
            return ()
        raise BudgetNotShared(f"Budget {budget_id} is not shared with {holder}.", holders=list(budget.lending.holders))
    return (BudgetUnshared(budget_id=budget_id, currency=budget.currency, holder=holder),)


def grant(budget: Budget, command: GrantBudgetLease, *, now: datetime) -> tuple[Event, ...]:
    """Lend the next chunk; nothing when that lease was granted before.

    There is one lease under way at a time: the next one waits until the holder's books tell of the last one.
    """
    budget_id = _home(budget)
    lent = budget.lending.to(command.holder, command.period)
    if command.number <= lent.number:
        return ()
    if command.holder not in budget.lending.holders:
        raise BudgetNotShared
    _require_turn(budget, lent, command, now)
    available = max(budget.available_minor(command.period), 0)
    chunk = chunk_minor(available, budget.limit_minor, len(budget.lending.holders))
    amount = min(available, command.need_minor + max(chunk - command.free_minor, 0))
    reserved = _reserved_by(lent.out_minor + amount) - _reserved_by(lent.out_minor)
    granted = BudgetLeaseGranted(
        budget_id=budget_id,
        currency=budget.currency,
        holder=command.holder,
        period=command.period,
        number=command.number,
        amount_minor=amount,
        reserved_delta_minor=reserved,
        left_minor=available - reserved,
        until=now + timedelta(seconds=command.term_seconds),
    )
    return (granted, *budgets.thresholds(budgets.evolve(budget, granted), command.period))


def _require_turn(budget: Budget, lent: Lent, command: GrantBudgetLease, now: datetime) -> None:
    if lent.in_flight or command.number != lent.number + 1:
        raise LeaseOutOfTurn(f"Lease {lent.number} was the last one, and must be known to be open or closed.")
    if command.period != budget.period_at(now):
        raise LeaseOutOfTurn("Only the present period can be lent.")


def chunk_minor(available_minor: int, limit_minor: int, holders: int) -> int:
    """How much is lent at a time beyond what somebody waits for."""
    return min(available_minor // (2 * (holders + 1)), limit_minor // CHUNKS_PER_LIMIT)


def settle(budget: Budget, holder: str, period: str, statement: Statement) -> tuple[Event, ...]:
    """Take over a holder's books; nothing when newer ones are known already."""
    budget_id = _home(budget)
    lent = budget.lending.to(holder, period)
    known = lent.known
    if known.covers(statement):
        return ()
    under_way = lent.amount_minor if statement.number < lent.number else 0
    out = under_way + _here(statement)
    if not statement.covers(known) or statement.number > lent.number or _claims_more(lent, statement, under_way):
        raise LeaseOutOfTurn("These books tell of money that was never lent.")
    committed = statement.committed_minor - known.committed_minor
    settled = BudgetLeaseSettled(
        budget_id=budget_id,
        currency=budget.currency,
        holder=holder,
        period=period,
        **dict(statement),
        out_minor=out,
        reserved_delta_minor=_reserved_by(out) - _reserved_by(lent.out_minor),
        committed_delta_minor=committed,
        credited_delta_minor=statement.credited_minor - known.credited_minor,
        honoured=committed > 0 and out < 0,
    )
    return (settled, *budgets.thresholds(budgets.evolve(budget, settled), period))


def _claims_more(lent: Lent, statement: Statement, under_way: int) -> bool:
    """Whether more was opened than was granted: what is known to be open, and what was under way to it."""
    was_under_way = lent.amount_minor if lent.in_flight else 0
    return statement.opened_minor > lent.known.opened_minor + was_under_way - under_way


def _here(statement: Statement) -> int:
    """What is at the holder: reserved there, or free."""
    return statement.opened_minor - statement.returned_minor - statement.committed_minor + statement.credited_minor


def _reserved_by(out_minor: int) -> int:
    """What home reserves for a holder. One that honoured payments beyond its leases has nothing, and owes nothing."""
    return max(out_minor, 0)


def _home(budget: Budget) -> str:
    budget_id = budget.definition.budget_id
    if budget.branch.is_branch:
        raise BudgetIsElsewhere
    return budget_id


def home_books(budget: Budget, holder: str, *, now: datetime) -> HomeBooks:
    """Everything that the keeper of leases needs to know of home."""
    definition, present = budget.definition, budget.period_at(now)
    return HomeBooks(
        budget_id=definition.budget_id,
        holder=holder,
        terms=BranchTerms(
            name=definition.name,
            currency=definition.currency,
            recurs=definition.recurs,
            zone=definition.zone,
            when_short=definition.when_short,
        ),
        shared=holder in budget.lending.holders,
        present_period=present,
        available_minor=max(budget.available_minor(present), 0),
        lent={period: lent for (period, to), lent in budget.lending.lent if to == holder},
    )


# At the holder --------------------------------------------------------------------------------------------------------


def open_lease(budget: Budget, command: OpenBudgetLease) -> tuple[Event, ...]:
    """Take in what home has lent; nothing when it was opened before, or closed before it came."""
    branched = _branch(budget, command.budget_id, command.terms)
    tenure = budget.branch.tenure(command.period)
    if command.number <= tenure.number:
        return branched
    if command.number != tenure.number + 1:
        raise LeaseOutOfTurn(f"Lease {tenure.number} was the last one here.")
    opened = BudgetLeaseOpened(
        budget_id=command.budget_id,
        currency=command.terms.currency,
        period=command.period,
        number=command.number,
        amount_minor=command.amount_minor,
        left_minor=command.left_minor,
        until=command.until,
    )
    return (*branched, opened)


def close_lease(budget: Budget, command: CloseBudgetLease) -> tuple[Event, ...]:
    """Close leases up to a number, opened or not, and give up what is free; nothing when a later one is open."""
    branched = _branch(budget, command.budget_id, command.terms)
    tenure = budget.branch.tenure(command.period)
    free = max(budget.available_minor(command.period), 0)
    final = command.final or tenure.is_final
    is_news = tenure.is_open or command.number > tenure.number or final != tenure.is_final or free > 0
    if command.number < tenure.number or not is_news:
        return branched
    closed = BudgetLeaseClosed(
        budget_id=command.budget_id,
        currency=command.terms.currency,
        period=command.period,
        number=command.number,
        returned_minor=free,
        final=final,
    )
    return (*branched, closed)


def want(budget: Budget, waits: Waiting) -> tuple[Event, ...]:
    """Note what a checkout command needs; nothing when that command waits already. Raises TooManyWait."""
    if any((it.command_type, it.payload) == (waits.command_type, waits.payload) for it in budget.branch.waiting):
        return ()
    if len(budget.branch.waiting) >= WAITING_MAX:
        raise TooManyWait(f"{WAITING_MAX} commands wait for a lease of budget {budget.definition.budget_id}")
    return (BudgetLeaseWanted(budget_id=budget.definition.budget_id, currency=budget.currency, **waits._asdict()),)


def is_taken(budget: Budget) -> bool:
    """Whether a budget of its own lives here under the id. It will never be a branch: budgets stay what they are."""
    return budget.exists and not budget.branch.is_branch


def id_is_taken(budget_id: str) -> AlreadyExists:
    """Why nothing is opened here then."""
    return AlreadyExists(f"Budget {budget_id} lives here; it cannot be a branch of another one.")


def purses(budget: Budget) -> dict[str, Purse]:
    """A branch's books: every period that it was lent money of, or waits for."""
    periods = {*budget.branch.tenures, *(each.period for each in budget.branch.waiting)}
    return {period: _purse(budget, period) for period in periods}


def _purse(budget: Budget, period: str) -> Purse:
    tenure, totals = budget.branch.tenure(period), budget.totals(period)
    waiting = budget.branch.waiting_in(period)
    free = max(budget.available_minor(period), 0)
    statement = Statement(
        number=tenure.number,
        opened_minor=tenure.opened_minor,
        returned_minor=tenure.returned_minor,
        committed_minor=totals.committed_minor,
        credited_minor=totals.credited_minor,
    )
    return Purse(
        statement=statement,
        is_open=tenure.is_open,
        is_final=tenure.is_final,
        left_minor=tenure.left_minor,
        until=tenure.until,
        free_minor=free,
        reserved_minor=totals.reserved_minor,
        waiting=len(waiting),
        missing_minor=max(sum(each.needed_minor for each in waiting) - free, 0),
    )


def _branch(budget: Budget, budget_id: str, terms: BranchTerms) -> tuple[Event, ...]:
    if budget.branch.is_branch:
        return ()
    if budget.exists:
        raise id_is_taken(budget_id)
    return (BudgetBranched(budget_id=budget_id, **dict(terms)),)
