"""Verification of leases: books that balance say nothing, and each planted violation is named."""

from datetime import timedelta
from typing import Any

import pytest

from contracts.events import BudgetLeaseClosed, BudgetLeaseGranted, BudgetLeaseOpened, BudgetLeaseSettled, Event
from query.verify.between_shards import check_leases
from tests.gwt import NOON
from tests.lease_worlds import HOLDER, Pair, books_of, order, pair, payment

UNTIL = NOON + timedelta(minutes=10)
OF_B1: dict[str, Any] = {"budget_id": "b1", "currency": "GBP", "period": ""}


def played() -> Pair:
    """Two leases (50.00 and 40.00 of 1,000.00), one order paid, both sides at rest."""
    there = pair()
    for nth in range(5):
        there.send(*order(nth))
    there.send(*payment(1))
    there.keep()
    return there


def found(home: list[Event], holder: list[Event]) -> list[str]:
    there = played()
    at_home, at_holder = books_of(there.home, *home), books_of(there.holder, *holder)
    every = [*at_home.finish(), *at_holder.finish(), *check_leases(at_home, {HOLDER: at_holder})]
    assert {it.invariant for it in every} <= {"I12"}
    return [it.detail for it in every]


def granted(number: int, amount_minor: int, reserved_minor: int) -> BudgetLeaseGranted:
    lent: dict[str, Any] = {"number": number, "amount_minor": amount_minor, "reserved_delta_minor": reserved_minor}
    return BudgetLeaseGranted(**OF_B1, holder=HOLDER, left_minor=0, until=UNTIL, **lent)


def opened(number: int, amount_minor: int) -> BudgetLeaseOpened:
    return BudgetLeaseOpened(**OF_B1, number=number, amount_minor=amount_minor, left_minor=0, until=UNTIL)


def settled(**changes: Any) -> BudgetLeaseSettled:
    usual: dict[str, Any] = {
        "number": 2,
        "opened_minor": 10_000,
        "returned_minor": 0,
        "committed_minor": 1_000,
        "credited_minor": 0,
        "out_minor": 9_000,
        "reserved_delta_minor": 0,
        "committed_delta_minor": 0,
        "credited_delta_minor": 0,
    }
    return BudgetLeaseSettled(**OF_B1, holder=HOLDER, **(usual | changes))


def test_books_that_balance_say_nothing() -> None:
    assert found([], []) == []
    assert found([settled()], []) == []


@pytest.mark.parametrize(
    ("home", "holder", "named"),
    [
        ([granted(3, 500, 0)], [], "lent 500, but 0 reserved for it, not 500"),
        ([granted(3, 90_000, 90_000), granted(4, 9_000, 9_000)], [], "available is -9000 in period ''"),
        ([granted(5, 0, 0)], [], "lease 5 follows 2"),
        ([], [opened(3, 500)], "lease 3: 500 opened, None granted"),
        ([], [opened(2, 9_000)], "lease 2 is opened after 2 was opened or closed"),
        ([settled(returned_minor=300, out_minor=8_700, reserved_delta_minor=-300)], [],
         "home knows returned_minor 300, the holder has 0"),
        ([settled(committed_minor=900, out_minor=9_100, reserved_delta_minor=100, committed_delta_minor=-100)], [],
         "the holder's committed_minor fell from 1000 to 900"),
        ([settled(opened_minor=11_000, out_minor=10_000, reserved_delta_minor=1_000)], [],
         "11000 opened of 10000 granted"),
        ([], [BudgetLeaseClosed(**OF_B1, number=2, returned_minor=5_001, final=False),
              BudgetLeaseClosed(**OF_B1, number=2, returned_minor=5_000, final=False)],
         "available is -5001 in period ''"),
        ([settled(reserved_delta_minor=-70)], [], "-70 reserved for the holder, not 0"),
    ],
    ids=[
        "lent without reserving", "lent more than there is", "a lease left out", "opened without a grant",
        "opened twice", "taken back what was not given up", "books that fell", "opened more than granted",
        "given up twice", "reserved is not what the books say",
    ],
)  # fmt: skip
def test_what_is_wrong_with_leases_is_named(home: list[Event], holder: list[Event], named: str) -> None:
    assert named in found(home, holder)
