"""A budget's decision does the same work however many orders hold it; its holds are found by order and by end."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from command.domain import budget as budgets
from command.domain.budget import LAPSED_MAX, Budget
from command.domain.sorted_map import CHUNK_MAX, SortedMap
from contracts.events import BudgetReleased, BudgetReserved
from contracts.orders import BudgetShare
from tests.builders import budget as create
from tests.gwt import NOON

SECOND = timedelta(seconds=1)
HELD_MINOR = 10


def held_by(orders: int, limit_minor: int = 10**9) -> Budget:
    """A budget that so many orders hold 0.10 of, each until a second later than the one before."""
    (created,) = budgets.create(Budget(), "b1", create(limit_minor=limit_minor))
    budget = budgets.evolve(Budget(), created)
    for nth in range(orders):
        budget = budgets.evolve(budget, reserved(f"o{nth}", NOON + nth * SECOND))
    return budget


def reserved(order_id: str, lock_until: datetime) -> BudgetReserved:
    share = BudgetShare(budget_id="b1", period="", amount_minor=HELD_MINOR)
    event = budgets.reserve(held_by(0), order_id, "c1", share, lock_until)[0]
    assert isinstance(event, BudgetReserved)
    return event


def released(order_id: str) -> BudgetReleased:
    return BudgetReleased(
        budget_id="b1", currency="GBP", period="", order_id=order_id, coupon_id="c1", amount_minor=HELD_MINOR
    )


def copied(before: SortedMap[Any, Any], after: SortedMap[Any, Any]) -> int:
    """How many entries a change wrote anew: those of the chunks that the former map does not have, too."""
    shared = {id(chunk) for chunk in before._chunks}
    return sum(len(chunk) for chunk in after._chunks if id(chunk) not in shared)


@pytest.mark.parametrize("orders", [10, 1_000, 20_000])
def test_a_hold_and_its_end_copy_a_bounded_number_of_entries_whatever_is_held(orders: int) -> None:
    before = held_by(orders)
    for event in (reserved("o17x", NOON + 17 * SECOND), released(f"o{orders // 2}")):
        after = budgets.evolve(before, event)
        assert after.holds != before.holds
        assert 0 < copied(before.holds.by_order, after.holds.by_order) <= CHUNK_MAX + 1
        assert 0 < copied(before.holds.ends, after.holds.ends) <= CHUNK_MAX + 1


@pytest.mark.parametrize("orders", [10, 1_000, 20_000])
def test_an_exhausted_budget_looks_only_at_holds_that_ended(orders: int, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = held_by(orders, limit_minor=orders * HELD_MINOR)
    looked_at = 0
    search = SortedMap.after

    def counted(self: SortedMap[Any, Any], key: Any) -> Iterator[Any]:
        nonlocal looked_at
        for item in search(self, key):
            looked_at += 1
            yield item

    monkeypatch.setattr(SortedMap, "after", counted)
    assert budgets.room(budget, 100, now=NOON + 3 * SECOND).available_minor == 4 * HELD_MINOR
    assert looked_at == 5  # Four that ended, and the first that did not.
    looked_at = 0
    ended = min(orders, LAPSED_MAX)
    assert budgets.room(budget, 10**6, now=NOON + orders * SECOND).available_minor == ended * HELD_MINOR
    assert looked_at <= LAPSED_MAX + 1


def test_the_oldest_end_is_freed_first_in_whatever_order_the_holds_came() -> None:
    budget = held_by(0, limit_minor=30)
    for order_id, end in (("late", 3), ("early", 1), ("middle", 2)):
        budget = budgets.evolve(budget, reserved(order_id, NOON + end * SECOND))
    assert budgets.lapsed_to_free(budget, "", 2 * HELD_MINOR, now=NOON + 3 * SECOND) == ("early", "middle")


def test_two_ways_to_the_same_holds_are_equal_and_written_alike() -> None:
    there = held_by(300)
    straight = held_by(299)
    back = budgets.evolve(there, released("o299"))
    assert back.holds == straight.holds
    adapter = TypeAdapter(Budget)
    assert adapter.dump_json(back) == adapter.dump_json(straight)
    assert adapter.validate_json(adapter.dump_json(back)) == back


keys = st.integers(0, 400)
changes = st.lists(st.tuples(st.booleans(), keys), max_size=800)


@given(changes)
def test_a_sorted_map_says_what_a_dictionary_says(history: list[tuple[bool, int]]) -> None:
    ours: SortedMap[int, int] = SortedMap()
    plain: dict[int, int] = {}
    for nth, (put, key) in enumerate(history):
        before, former = ours, tuple(ours)
        if put:
            ours, plain[key] = ours.plus(key, nth), nth
        else:
            ours = ours.minus(key)
            plain.pop(key, None)
        assert tuple(before) == former
        assert (len(ours), ours.get(key)) == (len(plain), plain.get(key))
    assert list(ours) == sorted(plain.items())
    assert SortedMap(plain.items()) == ours
    for key in (0, 200, 401):
        assert list(ours.after(key)) == [item for item in sorted(plain.items()) if item[0] >= key]
    assert all(0 < len(chunk) <= CHUNK_MAX for chunk in ours._chunks)
