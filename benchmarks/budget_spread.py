"""Orders held per second on one budget and on a thousand: what a hot budget costs on one shard.

``python -m benchmarks.budget_spread``; a durable embedded PostgreSQL, both in turn, one process that sends batches.
"""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from statistics import median
from time import perf_counter, process_time

from command.engine import Engine
from command.handlers import HANDLERS
from contracts.commands import (
    ActivateTemplate,
    ClaimCoupon,
    Command,
    CreateBudget,
    CreateTemplate,
    HoldForOrder,
    PlaceOrder,
)
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.orders import OrderLine
from contracts.terms import AmountOff, Terms, ValidityAfterClaim
from infra.embedded import EmbeddedStack
from infra.postgres.log import PostgresEventLog
from infra.postgres.migrations import migrate

BUDGETS = (1, 1_000)
TEMPLATES = 1_000
ORDERS = 4_000
ROUNDS = 3
BATCH = 500
WAIT_SECONDS = 60.0
MICROSECONDS = 1_000_000
LINE = OrderLine(line_id="1", sku="s", unit_price_minor=1_000, quantity=1)


class Shop:
    """A realm whose thousand templates spend from so many budgets."""

    def __init__(self, engine: Engine, budgets: int) -> None:
        self._engine = engine
        self._budgets = budgets
        self._realm = Realm(f"budgets-{budgets}", "shop")
        self._numbers = count()
        self._coupons: list[str] = []

    def prepare(self) -> None:
        """Budgets, templates, and a coupon for every order to come."""
        opened = [CreateBudget(budget_id=f"b{n}", currency="GBP", limit_minor=10**12) for n in range(self._budgets)]
        self._run(opened)
        terms = [_terms(f"b{n % self._budgets}") for n in range(TEMPLATES)]
        self._run([CreateTemplate(template_id=f"t{n}", terms=each) for n, each in enumerate(terms)])
        self._run([ActivateTemplate(template_id=f"t{n}") for n in range(TEMPLATES)])
        claims = [ClaimCoupon(template_id=f"t{n % TEMPLATES}", user_id=f"u{n}") for n in range(ORDERS * ROUNDS)]
        self._coupons = [answer.data["coupon_id"] for answer in self._run(claims)]

    def hold(self, turn: int) -> tuple[float, float]:
        """Place and hold the next orders; how many per second, and microseconds of processor time for each."""
        users = range(turn * ORDERS, (turn + 1) * ORDERS)
        placed = [_order(user, self._coupons[user]) for user in users]
        holds = [HoldForOrder(order_id=f"o{user}", attempt=1) for user in users]
        started, worked = perf_counter(), process_time()
        self._run(placed)
        answers = self._run(holds)
        worked, seconds = process_time() - worked, perf_counter() - started
        assert {answer.data["status"] for answer in answers} == {"held"}
        return ORDERS / seconds, worked / ORDERS * MICROSECONDS

    def _run(self, commands: Sequence[Command]) -> list[Answer]:
        answers: list[Answer] = []
        for first in range(0, len(commands), BATCH):
            batch = [self._envelope(command) for command in commands[first : first + BATCH]]
            answers += [future.result(WAIT_SECONDS) for future in self._engine.submit_many(batch)]
        assert all(answer.accepted for answer in answers)
        return answers

    def _envelope(self, command: Command) -> CommandEnvelope:
        return CommandEnvelope(self._realm, f"c{next(self._numbers)}", command, "bench", "bench")


def _terms(budget_id: str) -> Terms:
    now = datetime.now(UTC)
    return Terms(
        name="Ten pence off",
        campaign_id="c",
        currency="GBP",
        discount=AmountOff(amount_minor=10),
        claim_from=now - timedelta(days=1),
        claim_until=now + timedelta(days=1),
        validity=ValidityAfterClaim(duration_seconds=86_400),
        budget_ids=(budget_id,),
    )


def _order(user: int, coupon_id: str) -> PlaceOrder:
    return PlaceOrder(order_id=f"o{user}", user_id=f"u{user}", currency="GBP", lines=(LINE,), coupon_ids=(coupon_id,))


def main() -> None:
    """Print both sides and their ratio, medians of the rounds."""
    with EmbeddedStack(tempfile.mkdtemp(prefix="tessera-bench-")) as stack:
        migrate(stack.endpoints.postgres_dsn)
        with closing(PostgresEventLog(stack.endpoints.postgres_dsn)) as log:
            engine = Engine(log, HANDLERS)
            engine.start()
            shops = [Shop(engine, budgets) for budgets in BUDGETS]
            for shop in shops:
                shop.prepare()
            turns = [[shop.hold(turn) for shop in shops] for turn in range(ROUNDS)]
            engine.stop()
    rates = [median(turn[side][0] for turn in turns) for side in range(len(BUDGETS))]
    costs = [median(turn[side][1] for turn in turns) for side in range(len(BUDGETS))]
    for budgets, rate, cost in zip(BUDGETS, rates, costs, strict=True):
        print(f"{budgets:>6,} budgets {rate:>8,.0f} orders held/s {cost:>6.0f} µs each")
    print(f"one hot budget / {BUDGETS[1]:,} budgets: {rates[0] / rates[1]:.2f}")


if __name__ == "__main__":
    main()
