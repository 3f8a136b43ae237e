"""Leases of budgets: what an operator allows, and the keeper's steps at home and at the holder."""

from command.domain import budget as budgets
from command.domain import leases
from command.domain.budget import BUDGET
from command.handlers.checkouts import decide_waiting, release_order
from command.handlers.handler import Data
from command.unit_of_work import UnitOfWork
from contracts.commands import (
    CloseBudgetLease,
    GrantBudgetLease,
    OpenBudgetLease,
    SettleBudgetLease,
    ShareBudget,
    UnshareBudget,
)


def share(uow: UnitOfWork, command: ShareBudget) -> Data:
    """A holder may be lent money from now on."""
    events = leases.share(uow.load(BUDGET, command.budget_id), command.holder)
    budget = uow.record(BUDGET, command.budget_id, events)
    return {"budget_id": command.budget_id, "holders": list(budget.lending.holders)}


def unshare(uow: UnitOfWork, command: UnshareBudget) -> Data:
    """A holder is lent nothing more."""
    events = leases.unshare(uow.load(BUDGET, command.budget_id), command.holder)
    budget = uow.record(BUDGET, command.budget_id, events)
    return {"budget_id": command.budget_id, "holders": list(budget.lending.holders)}


def grant(uow: UnitOfWork, command: GrantBudgetLease) -> Data:
    """The next chunk. Holds of home's own orders that ended are released first, when they stand in the way."""
    budget = uow.load(BUDGET, command.budget_id)
    for order_id in budgets.lapsed_to_free(budget, command.period, command.need_minor, now=uow.now):
        release_order(uow, order_id, "lock_ended")
    events = leases.grant(uow.load(BUDGET, command.budget_id), command, now=uow.now)
    lent = uow.record(BUDGET, command.budget_id, events).lending.to(command.holder, command.period)
    return {"number": lent.number, "amount_minor": lent.amount_minor, "left_minor": lent.left_minor}


def settle(uow: UnitOfWork, command: SettleBudgetLease) -> Data:
    """What the holder's books say."""
    budget = uow.load(BUDGET, command.budget_id)
    events = leases.settle(budget, command.holder, command.period, command.statement)
    lent = uow.record(BUDGET, command.budget_id, events).lending.to(command.holder, command.period)
    return {"out_minor": lent.out_minor}


def open_lease(uow: UnitOfWork, command: OpenBudgetLease) -> Data:
    """Money has come: what waited for it is decided in the same transaction."""
    budget = uow.load(BUDGET, command.budget_id)
    events = leases.open_lease(budget, command)
    after = uow.record(BUDGET, command.budget_id, events)
    if len(after.branch.waiting) < len(budget.branch.waiting):
        decide_waiting(uow, budget.branch.waiting_in(command.period))
    return {"number": after.branch.tenure(command.period).number}


def close_lease(uow: UnitOfWork, command: CloseBudgetLease) -> Data:
    """Nothing more is spent; where nothing more will come, what waited is decided without it."""
    budget = uow.load(BUDGET, command.budget_id)
    after = uow.record(BUDGET, command.budget_id, leases.close_lease(budget, command))
    if len(after.branch.waiting) < len(budget.branch.waiting):
        decide_waiting(uow, budget.branch.waiting_in(command.period))
    return {"number": after.branch.tenure(command.period).number}
