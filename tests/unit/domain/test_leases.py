"""Leases of a budget: what home lends is reserved before it is spent, and comes back only by the holder's own books."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from command.domain import leases
from command.domain.budget import BUDGET
from command.domain.leases import chunk_minor
from command.handlers import HANDLERS
from command.handlers.sharing import sharing_among
from command.unit_of_work import NotYet
from contracts.commands import (
    CloseBudgetLease,
    EndOrderLock,
    GrantBudgetLease,
    OpenBudgetLease,
    SettleBudgetLease,
    ShareBudget,
    TopUpBudget,
    UnshareBudget,
)
from contracts.events import (
    BudgetBranched,
    BudgetLeaseClosed,
    BudgetLeaseGranted,
    BudgetLeaseOpened,
    BudgetLeaseSettled,
    BudgetLeaseWanted,
    BudgetReserved,
    BudgetShared,
    BudgetThresholdReached,
    BudgetUnshared,
    CheckoutReady,
    CheckoutRefused,
)
from contracts.leases import MARGIN_SECONDS, BranchTerms, Statement
from contracts.refusals import (
    AlreadyExists,
    BudgetIsElsewhere,
    BudgetNotShared,
    LeaseOutOfTurn,
    NotAHolder,
    UnknownBudget,
)
from tests.builders import budget, credit, money_back
from tests.gwt import NOON, InMemoryUnitOfWork, World, given
from tests.lease_worlds import HOLDER, OFF_MINOR, TERM_SECONDS, Pair, lent_minor, order, pair, payment

TERMS = BranchTerms(name="", currency="GBP", recurs=None, zone="UTC", when_short="refuse")
UNTIL = NOON + timedelta(seconds=TERM_SECONDS)
SHARED = [budget(limit_minor=100_000), ShareBudget(budget_id="b1", holder=HOLDER)]


def grant(number: int = 1, need_minor: int = 0, free_minor: int = 0, **changes: Any) -> GrantBudgetLease:
    usual: dict[str, Any] = {"budget_id": "b1", "holder": HOLDER, "period": "", "term_seconds": TERM_SECONDS}
    return GrantBudgetLease(number=number, need_minor=need_minor, free_minor=free_minor, **(usual | changes))


def opening(number: int = 1, amount_minor: int = 5_000, left_minor: int = 95_000) -> OpenBudgetLease:
    return OpenBudgetLease(
        budget_id="b1",
        period="",
        number=number,
        amount_minor=amount_minor,
        left_minor=left_minor,
        until=UNTIL,
        terms=TERMS,
    )


def closing(number: int = 1, *, final: bool = False) -> CloseBudgetLease:
    return CloseBudgetLease(budget_id="b1", period="", number=number, terms=TERMS, final=final)


def books(**sums: int) -> SettleBudgetLease:
    return SettleBudgetLease(budget_id="b1", holder=HOLDER, period="", statement=Statement(**sums))


# At home.


def test_sharing_is_done_once_and_undone_once() -> None:
    share, unshare = ShareBudget(budget_id="b1", holder=HOLDER), UnshareBudget(budget_id="b1", holder=HOLDER)
    given([budget()]).when(share).then([BudgetShared])
    given([budget(), share]).when(share).then_nothing()
    given([budget(), share]).when(unshare).then([BudgetUnshared])
    given([budget(), share, grant(), unshare]).when(unshare).then_nothing()
    given().when(share).then_refused(UnknownBudget)


def test_what_was_never_shared_is_not_taken_back() -> None:
    given([budget()]).when(UnshareBudget(budget_id="b1", holder="9")).then_refused(BudgetNotShared)


@pytest.mark.parametrize("holder", ["bogus", "01", "-1", "\u0661", "32768", ""])
def test_a_budget_is_shared_with_nothing_that_is_no_shard_number(holder: str) -> None:
    with pytest.raises(ValidationError, match="holder"):
        ShareBudget(budget_id="b1", holder=holder)


@pytest.mark.parametrize(
    ("shards", "holder", "said"),
    [
        ([0], "0", "Shard 0 is the budget's home"),
        ([0, 1, 2], "0", "Shard 0 is the budget's home"),
        ([0, 1, 2], "7", "no shard 7; the others are 1, 2"),
        ([0, 1, 2], "2", None),
        ([0], "7", None),
    ],
)
def test_a_budget_is_shared_with_another_known_shard_only(shards: list[int], holder: str, said: str | None) -> None:
    world = World()
    world.send(budget())
    handler = sharing_among(0, shards, HANDLERS)[ShareBudget]
    uow = InMemoryUnitOfWork(world, "share", NOON)
    command = ShareBudget(budget_id="b1", holder=holder)
    if said is None:
        assert handler.handle(uow, command)["holders"] == [holder]
    else:
        with pytest.raises(NotAHolder, match=said):
            handler.handle(uow, command)


def test_what_is_lent_is_reserved_at_home_before_anybody_can_spend_it() -> None:
    granted = BudgetLeaseGranted(
        budget_id="b1",
        currency="GBP",
        holder=HOLDER,
        period="",
        number=1,
        amount_minor=5_000,
        reserved_delta_minor=5_000,
        left_minor=95_000,
        until=UNTIL,
    )
    done = given(SHARED).when(grant()).then([granted])
    assert done.world.state(BUDGET, "b1").available_minor("") == 95_000


def test_a_lease_is_granted_once_and_the_next_one_only_when_the_last_is_known_to_have_arrived() -> None:
    given([*SHARED, grant()]).when(grant()).then_nothing()
    given([*SHARED, grant()]).when(grant(2)).then_refused(LeaseOutOfTurn)
    given([*SHARED, grant()]).when(books(number=1, opened_minor=5_000), grant(2)).then(
        [BudgetLeaseSettled, BudgetLeaseGranted]
    )
    given(SHARED).when(grant(2)).then_refused(LeaseOutOfTurn)
    given(SHARED).when(grant(period="2026-03")).then_refused(LeaseOutOfTurn)
    given([budget()]).when(grant()).then_refused(BudgetNotShared)


def test_chunks_shrink_towards_the_limit_and_what_is_waited_for_is_lent_to_the_last_cent() -> None:
    chunks = [chunk_minor(left, 100_000, 1) for left in (100_000, 20_000, 1_000, 10, 3, 0)]
    assert chunks == [5_000, 5_000, 250, 2, 0, 0]
    given(SHARED).when(grant(need_minor=200_000)).then_answered(amount_minor=100_000, left_minor=0)
    given(SHARED).when(grant(need_minor=7, free_minor=4_999)).then_answered(amount_minor=8)


def test_thresholds_are_announced_where_the_limit_is_and_count_what_is_lent() -> None:
    given(SHARED).when(grant(need_minor=76_000)).then(
        [BudgetLeaseGranted, BudgetThresholdReached, BudgetThresholdReached]
    )
    there = pair(limit_minor=100_000)
    there.send(*order(1))
    assert there.holder.events(BudgetThresholdReached) == []


def test_books_move_money_from_reserved_to_committed_and_give_back_what_was_returned() -> None:
    moved = books(number=1, opened_minor=5_000, returned_minor=1_000, committed_minor=3_000, credited_minor=500)
    done = given([*SHARED, grant()]).when(moved).then([BudgetLeaseSettled])
    home = done.world.state(BUDGET, "b1")
    totals = home.totals("")
    assert (totals.reserved_minor, totals.committed_minor, totals.credited_minor) == (1_500, 3_000, 500)
    assert home.available_minor("") == 96_000  # What the credit gave back is at the holder, who may spend it again.


def test_older_books_and_the_same_again_change_nothing() -> None:
    newer = books(number=1, opened_minor=5_000, committed_minor=3_000)
    given([*SHARED, grant(), newer]).when(newer).then_nothing()
    given([*SHARED, grant(), newer]).when(books(number=1, opened_minor=5_000, committed_minor=1_000)).then_nothing()
    given([*SHARED, grant()]).when(books()).then_nothing()


@pytest.mark.parametrize(
    "sums",
    [
        {"number": 2, "opened_minor": 5_000},
        {"number": 1, "opened_minor": 5_001},
        {"number": 1, "opened_minor": 4_000, "committed_minor": 2_999},
    ],
)
def test_books_of_money_that_was_never_lent_are_refused(sums: dict[str, int]) -> None:
    known = books(number=1, opened_minor=5_000, committed_minor=3_000)
    given([*SHARED, grant(), known]).when(books(**sums, returned_minor=1)).then_refused(LeaseOutOfTurn)


def test_what_is_under_way_stays_reserved_while_books_of_before_it_arrive() -> None:
    opened = books(number=1, opened_minor=5_000)
    spent = books(number=1, opened_minor=5_000, committed_minor=2_000)
    done = given([*SHARED, grant(), opened, grant(2)]).when(spent).then([BudgetLeaseSettled])
    home = done.world.state(BUDGET, "b1")
    assert (home.totals("").committed_minor, lent_minor(home)) == (2_000, 8_000)


def test_a_lease_that_was_closed_unopened_is_home_s_again() -> None:
    done = given([*SHARED, grant()]).when(books(number=1)).then([BudgetLeaseSettled])
    assert done.world.state(BUDGET, "b1").available_minor("") == 100_000


def test_payments_honoured_beyond_the_lease_are_committed_at_home_and_owed_by_nobody() -> None:
    beyond = books(number=1, opened_minor=5_000, committed_minor=5_600)
    done = given([*SHARED, grant(), beyond]).when(grant(2, free_minor=0))
    home = done.world.state(BUDGET, "b1")
    assert home.totals("").committed_minor == 5_600
    assert home.available_minor("") == 100_000 - 5_600 - lent_minor(home)
    settled = done.world.events(BudgetLeaseSettled)[0]
    assert (settled.honoured, settled.out_minor, settled.reserved_delta_minor) == (True, -600, -5_000)


# At the holder.


def test_the_first_lease_makes_the_branch_and_each_is_opened_once() -> None:
    given().when(opening()).then([BudgetBranched, BudgetLeaseOpened])
    given([opening()]).when(opening()).then_nothing()
    given([opening()]).when(opening(2)).then([BudgetLeaseOpened])
    given([opening()]).when(opening(3)).then_refused(LeaseOutOfTurn)
    given([budget()]).when(opening()).then_refused(AlreadyExists)


def test_a_lease_that_is_closed_before_it_came_is_closed_for_ever() -> None:
    given().when(closing()).then([BudgetBranched, BudgetLeaseClosed])
    done = given([closing()]).when(opening()).then_nothing()
    assert done.world.state(BUDGET, "b1").available_minor("") == 0


def test_closing_gives_up_what_is_free_once_and_later_what_became_free() -> None:
    there = pair()
    there.send(*order(1))
    number = there.branch.branch.tenure("").number
    there.send(closing(number), closing(number))
    assert [it.returned_minor for it in there.holder.events(BudgetLeaseClosed)] == [4_000]
    there.wait(901)  # The hold ends; its timer says so.
    (ready,) = there.holder.events(CheckoutReady)
    there.send(EndOrderLock(order_id="o1", lock_until=ready.lock_until), closing(number))
    assert [it.returned_minor for it in there.holder.events(BudgetLeaseClosed)] == [4_000, OFF_MINOR]


def test_a_late_closing_of_an_earlier_lease_leaves_the_open_one_alone() -> None:
    given([opening(), opening(2)]).when(closing(1)).then_nothing()


def test_a_branch_is_spent_from_like_any_budget_and_neither_topped_up_nor_shared() -> None:
    there = pair()
    there.send(*order(1), *payment(1))
    assert [type(event).type for event in there.holder.stream(BUDGET, "b1")[-2:]] == [
        "budget.reserved.v1",
        "budget.committed.v1",
    ]
    given([opening()]).when(TopUpBudget(budget_id="b1", by_minor=1)).then_refused(BudgetIsElsewhere)
    given([opening()]).when(ShareBudget(budget_id="b1", holder="2")).then_refused(BudgetIsElsewhere)


def test_nothing_is_spent_after_the_end_of_a_lease_nor_a_while_before_it() -> None:
    for early, status in ((1, CheckoutReady), (0, BudgetLeaseWanted)):
        there = pair()
        there.wait(TERM_SECONDS - MARGIN_SECONDS - early)
        there.send(*order(1))
        assert isinstance(there.holder.log[-1].event, status)


def test_an_order_beyond_the_lease_waits_and_is_decided_by_the_lease_that_opens() -> None:
    there = pair()
    for nth in range(5):
        there.send(*order(nth))
    there.send(*order(6))
    assert there.holder.events(CheckoutRefused) == []
    assert there.branch.branch.waiting_in("")[0].needed_minor == OFF_MINOR
    there.keep()
    assert {it.order_id for it in there.holder.events(CheckoutReady)} == {"o0", "o1", "o2", "o3", "o4", "o6"}
    assert there.branch.branch.waiting == ()


def test_a_command_waits_once_and_a_payment_waits_behind_its_hold() -> None:
    there = pair(limit_minor=10_000)
    there.send(*order(1), *payment(1))  # The first chunk is less than one coupon takes.
    assert [it.command_type for it in there.holder.events(BudgetLeaseWanted)] == ["hold_for_order", "redeem_for_order"]
    there.send(payment(1)[1])
    assert len(there.holder.events(BudgetLeaseWanted)) == 2
    there.keep()
    assert there.branch.totals("").committed_minor == OFF_MINOR


def test_beyond_a_bound_the_sender_waits_and_not_the_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "WAITING_MAX", 1)
    there = pair(limit_minor=10_000)
    there.send(*order(1))
    with pytest.raises(NotYet):
        there.send(*order(2))
    assert len(there.branch.branch.waiting) == 1


def test_exhausted_is_said_only_when_home_has_nothing_left_and_the_last_cent_was_lent() -> None:
    there = pair(limit_minor=10_500)
    for nth in range(12):
        there.send(*order(nth))
        there.keep()
    assert len(there.holder.events(CheckoutReady)) == 10
    refused = there.holder.events(CheckoutRefused)
    assert [refusal.code for it in refused for refusal in it.refusals] == ["budget_exhausted"] * 2
    assert there.at_home.available_minor("") == 0


def test_a_remainder_is_granted_once_all_of_it_is_here() -> None:
    there = pair(limit_minor=1_500, when_short="grant_remainder")
    for nth in range(3):
        there.send(*order(nth))
        there.keep()
    assert [it.amount_minor for it in there.holder.events(BudgetReserved)] == [1_000, 500]


def test_an_exhausted_branch_spends_again_once_home_has_money_again() -> None:
    there = pair(limit_minor=1_000)
    there.send(*order(1))
    there.keep()
    there.send(*order(2))
    there.keep()
    assert len(there.holder.events(CheckoutRefused)) == 1
    there.home.send(TopUpBudget(budget_id="b1", by_minor=5_000))
    there.keep()
    there.send(*order(3))
    there.keep()
    assert len(there.holder.events(CheckoutReady)) == 2


def test_an_idle_holder_gives_everything_back_after_the_end_and_one_in_use_is_lent_on() -> None:
    idle, busy = pair(), pair()
    busy.send(*order(1), *payment(1))
    for it in (idle, busy):
        for _ in range(4):
            it.wait(TERM_SECONDS / 2)
            it.keep()
    assert idle.at_home.available_minor("") == 100_000
    assert busy.holder.events(BudgetLeaseOpened)[-1].number > 1
    assert busy.at_home.totals("").committed_minor == OFF_MINOR
    assert busy.at_home.available_minor("") == 100_000 - OFF_MINOR  # Not used since: given back, too.


def test_unsharing_brings_the_rest_back_and_ends_what_waits() -> None:
    there = pair(limit_minor=10_000)
    there.send(*order(1))
    there.home.send(UnshareBudget(budget_id="b1", holder=HOLDER))
    there.keep()
    assert there.at_home.available_minor("") == 10_000
    assert [it.refusals[0].code for it in there.holder.events(CheckoutRefused)] == ["budget_exhausted"]
    there.send(*order(2))
    assert len(there.holder.events(CheckoutRefused)) == 2


def test_a_refund_after_the_return_is_credited_at_home_in_the_period_that_paid() -> None:
    there = pair(recurs="day")
    there.send(*order(1), *payment(1))
    there.keep()
    there.wait(86_400)
    there.keep()
    period = there.holder.events(BudgetReserved)[0].period
    assert there.at_home.available_minor(period) == 100_000 - OFF_MINOR
    there.send(money_back(amount_minor=5_000), credit())
    there.keep()
    totals = there.at_home.totals(period)
    assert (totals.committed_minor, totals.credited_minor, totals.reserved_minor) == (OFF_MINOR, OFF_MINOR, 0)
    assert there.at_home.available_minor(period) == 100_000


def test_each_period_has_leases_of_its_own() -> None:
    there = pair(recurs="day")
    there.wait(86_400)
    there.send(*order(1))
    there.keep()
    there.send(*order(2))
    granted = there.home.events(BudgetLeaseGranted)
    assert [(it.period, it.number) for it in granted] == [("2026-03-02", 1), ("2026-03-03", 1)]
    assert len(there.holder.events(CheckoutReady)) == 2


def test_a_keeper_comes_to_rest_and_a_second_one_finds_nothing_to_do() -> None:
    there = pair()
    there.send(*order(1), *payment(1))
    steps = there.steps()
    assert there.keep() >= 1
    recorded = len(there.home.log), len(there.holder.log)
    for step in steps:  # A keeper that looked before the other one acted.
        there.take(step)
    assert (len(there.home.log), len(there.holder.log)) == recorded
    assert there.steps() == ()


def test_home_and_holder_agree_once_quiet() -> None:
    there = pair()
    for nth in range(9):
        there.send(*order(nth))
        there.keep()
    there.send(*payment(3), *payment(4))
    there.keep()
    assert_agreed(there)


def assert_agreed(there: Pair) -> None:
    for period, purse in leases.purses(there.branch).items():
        lent = there.at_home.lending.to(HOLDER, period)
        assert purse.statement == lent.known
        assert lent.out_minor == purse.free_minor + purse.reserved_minor
