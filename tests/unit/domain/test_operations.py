"""Budgets on their own, business clocks, breaks and rows set aside."""

from datetime import timedelta
from typing import Any

from contracts.commands import AdvanceClock, CloseBreak, CreateBudget, OpenBreak, SetRowsAside, TopUpBudget
from contracts.events import (
    BreakClosed,
    BreakOpened,
    BudgetCreated,
    BudgetToppedUp,
    ClockAdvanced,
    ImportRowsSetAside,
    RowSetAside,
)
from contracts.refusals import AlreadyExists, ClockRunsForwardOnly, UnknownBreak, UnknownBudget
from tests.builders import budget
from tests.gwt import NOON, given

CLOSE = CloseBreak(break_id="x", reason="a refund came")


def found(**changes: Any) -> OpenBreak:
    usual: dict[str, Any] = {
        "kind": "paid_not_redeemed",
        "severity": "critical",
        "subject": "o1",
        "currency": "GBP",
        "amount_minor": 1000,
        "event_ids": ("e1", "e2"),
        "since": NOON,
    }
    return OpenBreak(break_id="x", **(usual | changes))


def test_a_budget_is_opened_once() -> None:
    given().when(budget()).then([BudgetCreated])
    given([budget()]).when(budget()).then_nothing()
    given([budget()]).when(budget(limit_minor=1)).then_refused(AlreadyExists)


def test_a_budget_without_an_id_gets_one_that_follows_from_the_command() -> None:
    unnamed = CreateBudget(currency="GBP", limit_minor=1)
    assert given().when(unnamed).data["budget_id"] == given().when(unnamed).data["budget_id"] != ""


def test_a_top_up_raises_the_limit() -> None:
    more = TopUpBudget(budget_id="b1", by_minor=50)
    given([budget(limit_minor=100)]).when(more, more).then(
        [
            BudgetToppedUp(budget_id="b1", by_minor=50, limit_minor=150),
            BudgetToppedUp(budget_id="b1", by_minor=50, limit_minor=200),
        ]
    )
    given().when(more).then_refused(UnknownBudget)


def test_a_business_clock_runs_forward_only() -> None:
    world = given([AdvanceClock(to=NOON)])
    world.when(AdvanceClock(to=NOON)).then_nothing()
    world.when(AdvanceClock(to=NOON - timedelta(microseconds=1))).then_refused(ClockRunsForwardOnly)
    world.when(AdvanceClock(to=NOON + timedelta(days=1))).then([ClockAdvanced])


def test_a_break_opens_once_and_again_when_it_looks_different() -> None:
    world = given([found()])
    world.when(found()).then_nothing()
    world.when(found(amount_minor=1200)).then([BreakOpened])


def test_a_break_closes_once_and_may_come_back() -> None:
    world = given([found()])
    world.when(CLOSE, CLOSE).then([BreakClosed])
    world.when(found()).then([BreakOpened])


def test_a_break_that_nobody_found_cannot_close() -> None:
    given().when(CLOSE).then_refused(UnknownBreak)


def test_rows_set_aside_are_counted_by_outcome() -> None:
    rows = (
        RowSetAside(row="7", outcome="refused", code="already_redeemed", detail=""),
        RowSetAside(row="8", outcome="parked", code="unknown_order", detail=""),
        RowSetAside(row="9", outcome="refused", code="already_redeemed", detail=""),
    )
    outcome = given().when(SetRowsAside(import_id="i", statement="redeem", rows=rows))
    outcome.then([ImportRowsSetAside]).then_answered(import_id="i", refused=2, parked=1)
