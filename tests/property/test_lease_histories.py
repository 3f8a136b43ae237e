"""Random histories of a shared budget: whatever is late, lost, repeated or dead, it is never overspent, and adds up."""

from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from command.domain import leases
from command.domain.budget import BUDGET, Budget
from command.domain.checkout import Checkout
from contracts.commands import (
    CancelOrder,
    Command,
    EndOrderLock,
    ReleaseForOrder,
    ShareBudget,
    TopUpBudget,
    UnshareBudget,
)
from contracts.events import BudgetCredited, BudgetReleased, BudgetReserved, Event
from contracts.refusals import Refusal
from query.verify.between_shards import check_leases
from tests.builders import credit, money_back
from tests.gwt import World
from tests.lease_worlds import HOLDER, TERM_SECONDS, Pair, books_of, order, pair, payment, spends_here

LIMIT_MINOR = 8_000


class Burst(NamedTuple):
    """New orders, at home or at the holder."""

    at_home: bool
    orders: int


class Told(NamedTuple):
    """What becomes of an order that was placed."""

    what: str
    nth: int


class Look(NamedTuple):
    """A keeper looks and decides; ``deliver`` of its steps arrive now, and it dies. The rest may come late or never."""

    deliver: int


class Late(NamedTuple):
    """A step that some keeper decided on long ago arrives (again)."""

    nth: int


class Drift(NamedTuple):
    """Time passes, more or less of it on the other side."""

    home_seconds: float
    holder_seconds: float


class Shared(NamedTuple):
    """The operator shares or unshares."""

    on: bool


class Raised(NamedTuple):
    """The limit goes up."""

    by_minor: int


orders = st.integers(0, 100)
seconds = st.sampled_from([0.0, 0.0, 0.0, 1.0, 60.0, TERM_SECONDS / 2, TERM_SECONDS * 1.0, 1_000.0, 90_000.0])
steps = st.one_of(
    st.builds(Burst, st.sampled_from([False, False, True]), st.integers(1, 4)),
    st.builds(Burst, st.just(False), st.integers(1, 2)),
    st.builds(Told, st.sampled_from(["pay", "pay", "cancel", "refund"]), orders),
    st.builds(Told, st.sampled_from(["pay", "refund"]), orders),
    st.builds(Look, st.integers(0, 2)),
    st.just(Look(9)),
    st.just(Look(9)),
    st.builds(Late, orders),
    st.builds(Drift, seconds, seconds),
    st.one_of(
        st.builds(Shared, st.sampled_from([True, True, False])),
        st.builds(Raised, st.sampled_from([1, 250, 1_500])),
    ),
)
# Long ones: short histories never come near the limit.
histories = st.lists(steps, min_size=30, max_size=100)
recurrences = st.sampled_from([None, "day"])


def commands(told: Told, nth: int) -> list[Command]:
    order_id = f"o{nth}"
    match told.what:
        case "pay":
            return payment(nth)
        case "cancel":
            return [
                CancelOrder(order_id=order_id, reason=""),
                ReleaseForOrder(order_id=order_id, cause="order_cancelled"),
            ]
    return [money_back(f"r{nth}", 5_000, order_id), credit(f"r{nth}", order_id)]


def send(world: World, *sent: Command) -> None:
    for command in sent:
        with suppress(Refusal):
            world.send(command)


def play(there: Pair, step: object) -> None:  # noqa: C901 - one case per kind of step
    match step:
        case Burst():
            for _ in range(step.orders):
                there.placed.append(step.at_home)
                send(there.home if step.at_home else there.holder, *order(len(there.placed)))
        case Told():
            if there.placed:
                nth = step.nth % len(there.placed)
                send(there.home if there.placed[nth] else there.holder, *commands(step, nth + 1))
        case Look():
            decided = there.steps()
            there.late.extend(decided)
            for each in decided[: step.deliver]:
                there.take(each)
        case Late():
            if there.late:
                there.take(there.late[step.nth % len(there.late)])
        case Drift():
            there.home.wait(step.home_seconds)
            there.holder.wait(step.holder_seconds)
        case Shared():
            toggle = ShareBudget if step.on else UnshareBudget
            send(there.home, toggle(budget_id="b1", holder=HOLDER))
        case Raised():
            send(there.home, TopUpBudget(budget_id="b1", by_minor=step.by_minor))


def spent_minor(there: Pair, period: str) -> int:
    """What orders hold or took of a period, wherever they are: from the events of orders alone."""
    return sum(change_of(entry.event, period) for world in (there.home, there.holder) for entry in world.log)


def change_of(event: Event, period: str) -> int:
    match event:
        case BudgetReserved() if event.period == period:
            return event.amount_minor
        case BudgetReleased() | BudgetCredited() if event.period == period:
            return -event.amount_minor
    return 0


def assert_within_the_limit(there: Pair) -> None:
    for period in {*there.at_home.periods, *there.branch.periods}:
        limit = there.at_home.limit_minor
        assert there.at_home.available_minor(period) >= 0
        assert there.branch.available_minor(period) >= 0
        assert spent_minor(there, period) <= limit
        lent = there.at_home.lending.to(HOLDER, period)
        tenure = there.branch.branch.tenure(period)
        assert tenure.number <= lent.number
        # What the branch has is at most what home reserves for it, and what home does not know to be spent yet.
        have = there.branch.available_minor(period) + there.branch.totals(period).reserved_minor
        unknown = there.branch.totals(period).committed_minor - lent.known.committed_minor
        assert have + unknown <= lent.out_minor + there.branch.totals(period).credited_minor - lent.known.credited_minor


def become_quiet(there: Pair) -> None:
    """Everything late arrives, every lock ends, and a keeper works until it rests."""
    for step in there.late:
        there.take(step)
    latest = max(there.home.now, there.holder.now) + timedelta(days=2)
    for world in (there.home, there.holder):
        world.now = latest
        for (kind, key), state in list(world.states.items()):
            if kind == "checkout" and isinstance(state, Checkout) and state.lock_has_ended(world.now):
                world.send(EndOrderLock(order_id=key, lock_until=state.lock_until))
    there.keep()


@settings(max_examples=80)
@given(histories, recurrences)
def test_a_shared_budget_is_never_overspent_and_home_s_figures_are_everybody_s_once_quiet(
    history: list[object], recurs: str | None
) -> None:
    there = pair(limit_minor=LIMIT_MINOR, recurs=recurs)
    spends_here(there.home)
    for step in history:
        play(there, step)
        assert_within_the_limit(there)
    become_quiet(there)
    assert_within_the_limit(there)
    assert there.branch.branch.waiting == ()
    for period, purse in leases.purses(there.branch).items():
        lent = there.at_home.lending.to(HOLDER, period)
        assert lent.known == purse.statement
        assert lent.out_minor == purse.free_minor + purse.reserved_minor
        free = there.at_home.available_minor(period) + purse.free_minor
        assert free == there.at_home.limit_minor - spent_minor(there, period)
    home, holder = books_of(there.home), books_of(there.holder)
    assert [*home.finish(), *holder.finish(), *check_leases(home, {HOLDER: holder})] == []


@given(histories)
@settings(max_examples=25)
def test_both_sides_fold_to_the_same_state_from_a_snapshot(history: list[object]) -> None:
    there = pair(limit_minor=LIMIT_MINOR)
    for step in history:
        play(there, step)
    adapter = TypeAdapter(Budget)
    for world in (there.home, there.holder):
        events = world.stream(BUDGET, "b1")
        for cut in {0, len(events) // 2, len(events)}:
            folded = Budget()
            for event in events[:cut]:
                folded = BUDGET.evolve(folded, event)
            thawed = adapter.validate_json(adapter.dump_json(folded))
            for event in events[cut:]:
                thawed = BUDGET.evolve(thawed, event)
            assert adapter.dump_json(thawed) == adapter.dump_json(world.state(BUDGET, "b1"))
