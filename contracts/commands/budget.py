"""What merchants ask of budgets; reserving and spending happen inside checkout decisions."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from contracts.commands.base import Command
from contracts.events.budget import Recurrence
from contracts.values import Currency, Id, PositiveMinor, Text, Zone


class CreateBudget(Command):
    """Open a budget. Without an id one is derived from the command id."""

    type: ClassVar[str] = "create_budget"

    budget_id: Id | None = None
    name: Text = ""
    currency: Currency
    limit_minor: PositiveMinor
    recurs: Recurrence | None = None
    zone: Zone = "UTC"
    when_short: Literal["refuse", "grant_remainder"] = "refuse"
    thresholds_percent: Annotated[
        tuple[Annotated[int, Field(gt=0, le=100)], ...], Field(min_length=1, max_length=10)
    ] = (50, 80, 100)

    @model_validator(mode="after")
    def _thresholds_ascend(self) -> Self:
        if list(self.thresholds_percent) != sorted(set(self.thresholds_percent)):
            raise ValueError("thresholds_percent must ascend without repeats")
        return self


class TopUpBudget(Command):
    """Raise the limit."""

    type: ClassVar[str] = "top_up_budget"

    budget_id: Id
    by_minor: PositiveMinor
