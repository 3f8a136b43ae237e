"""What a hold on a budget costs, by how many orders hold it already: processor time of the decision alone.

``python -m benchmarks.budget_holds``; see ``docs/decisions`` for what the figures decided.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import process_time

from pydantic import TypeAdapter

from command.domain import budget as budgets
from command.domain.budget import Budget
from contracts.commands import CreateBudget
from contracts.events import BudgetReleased
from contracts.orders import BudgetShare

OPEN_HOLDS = (10, 1_000, 20_000, 200_000)
ROUNDS = 2_000
MICROSECONDS = 1_000_000
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
AMOUNT_MINOR = 10
NEED_MINOR = 5_000


def held_by(orders: int, limit_minor: int) -> Budget:
    """A budget that so many orders hold, each a millisecond longer than the one before."""
    (created,) = budgets.create(Budget(), "b1", CreateBudget(currency="GBP", limit_minor=limit_minor))
    budget = budgets.evolve(Budget(), created)
    for nth in range(orders):
        budget = hold(budget, f"order-{nth}", nth)
    return budget


def hold(budget: Budget, order_id: str, nth: int) -> Budget:
    """What one more order does."""
    budgets.room(budget, NEED_MINOR, now=NOW)
    share = BudgetShare(budget_id="b1", period="", amount_minor=AMOUNT_MINOR)
    lock_until = NOW + timedelta(seconds=900, milliseconds=nth)
    for event in budgets.reserve(budget, order_id, "c1", share, lock_until):
        budget = budgets.evolve(budget, event)
    return budget


def let_go(budget: Budget, order_id: str) -> Budget:
    """The end of a hold."""
    released = BudgetReleased(
        budget_id="b1", currency="GBP", period="", order_id=order_id, coupon_id="c1", amount_minor=AMOUNT_MINOR
    )
    return budgets.evolve(budget, released)


def microseconds(step: Callable[[int], object], rounds: int) -> float:
    """Processor time per round."""
    started = process_time()
    for nth in range(rounds):
        step(nth)
    return (process_time() - started) / rounds * MICROSECONDS


def measure(orders: int) -> tuple[float, float, float, float]:
    """Microseconds of a hold and its end, of a refusal by an exhausted budget, of a snapshot; and its bytes."""
    budget = held_by(orders, 10**12)
    exhausted = held_by(orders, orders * AMOUNT_MINOR)
    adapter = TypeAdapter(Budget)

    def hold_and_end(nth: int) -> None:
        nonlocal budget
        budget = let_go(hold(budget, f"more-{nth}", orders + nth), f"more-{nth}")

    there_and_back = microseconds(hold_and_end, ROUNDS)
    refused = microseconds(lambda _: budgets.room(exhausted, NEED_MINOR, now=NOW), min(ROUNDS, 4_000_000 // orders))
    snapshot = microseconds(lambda _: adapter.dump_json(budget), 3)
    return there_and_back, refused, snapshot, len(adapter.dump_json(budget))


def main() -> None:
    """Print the table."""
    print(f"{'open holds':>12} {'hold and end, µs':>18} {'exhausted, µs':>14} {'snapshot, µs':>13} {'bytes':>12}")
    for orders in OPEN_HOLDS:
        both, refused, snapshot, size = measure(orders)
        print(f"{orders:>12,} {both:>18.1f} {refused:>14.1f} {snapshot:>13.0f} {size:>12,}")


if __name__ == "__main__":
    main()
