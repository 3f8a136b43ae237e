"""Budgets: opening and topping up. Reserving and spending happen inside checkout decisions."""

from command.domain import budget as budgets
from command.domain.budget import BUDGET
from command.domain.ids import derived_id
from command.handlers.handler import Data
from command.unit_of_work import UnitOfWork
from contracts.commands import CreateBudget, TopUpBudget


def create(uow: UnitOfWork, command: CreateBudget) -> Data:
    """Open a budget; without an id it gets one that follows from the command's."""
    budget_id = command.budget_id or derived_id("b", uow.realm, uow.command_id)
    budget = uow.record(BUDGET, budget_id, budgets.create(uow.load(BUDGET, budget_id), budget_id, command))
    return {"budget_id": budget_id, "limit_minor": budget.limit_minor}


def top_up(uow: UnitOfWork, command: TopUpBudget) -> Data:
    """Raise the limit."""
    events = budgets.top_up(uow.load(BUDGET, command.budget_id), command.by_minor)
    return {"budget_id": command.budget_id, "limit_minor": uow.record(BUDGET, command.budget_id, events).limit_minor}
