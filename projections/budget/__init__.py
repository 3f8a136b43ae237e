"""A budget by period: limit, reserved, committed, credited, available."""

from projections.budget.fold import BUDGET_MODEL

__all__ = ["BUDGET_MODEL"]
