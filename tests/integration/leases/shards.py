"""A budget's home and a holder of its leases on two real PostgreSQL databases, with a keeper that may die."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import psycopg

from command.domain.budget import Budget
from contracts.commands import (
    ActivateTemplate,
    AdvanceClock,
    ClaimCoupon,
    Command,
    CreateBudget,
    CreateTemplate,
    HoldForOrder,
    PlaceOrder,
    RedeemForOrder,
    ReportPayment,
    ShareBudget,
)
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import stream_id
from contracts.orders import OrderLine
from contracts.terms import AmountOff, Terms, ValidityAfterClaim
from infra.leases import books
from infra.leases.keeper import At, KeeperSettings, LeaseKeeper
from infra.verify import log_rows
from query.verify.between_shards import check_leases
from query.verify.books import Books
from tests.integration.sagas.world import Store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOLDER = "1"
OFF_MINOR = 1_000
TERM_SECONDS = 600
SETTINGS = KeeperSettings(term_seconds=TERM_SECONDS, look_seconds=0)
ROUNDS_MAX = 200


class Died(BaseException):
    """The keeper is gone."""


@dataclass
class Shards:
    """One realm over two stores, on business clocks that start at noon."""

    home: Store
    holder: Store
    now: datetime = NOON
    deaths: int = 0
    _told: Any = field(default_factory=count)

    def __post_init__(self) -> None:
        self.realm = self.home.realm()
        self.stream = stream_id(self.realm, "budget", "b1")
        self.do(self.home, AdvanceClock(to=self.now))
        self.do(self.holder, AdvanceClock(to=self.now))

    def share(self, limit_minor: int, **changes: Any) -> None:
        """A budget at home that the holder may spend from, and a template there that does."""
        self.do(self.home, CreateBudget(budget_id="b1", currency="GBP", limit_minor=limit_minor, **changes))
        self.do(self.home, ShareBudget(budget_id="b1", holder=HOLDER))

    def spend_here(self, store: Store) -> None:
        """A template whose coupons take 10.00."""
        content = Terms(
            name="Ten off",
            campaign_id="spring",
            currency="GBP",
            discount=AmountOff(amount_minor=OFF_MINOR),
            claim_from=NOON,
            claim_until=NOON + timedelta(days=300),
            validity=ValidityAfterClaim(duration_seconds=300 * 86_400),
            budget_ids=("b1",),
        )
        self.do(store, CreateTemplate(template_id="t1", terms=content))
        self.do(store, ActivateTemplate(template_id="t1"))

    def do(self, store: Store, command: Command) -> Answer:
        """Send a command that must be accepted."""
        answer = self.tell(store, command)
        assert answer.accepted, answer
        return answer

    def tell(self, store: Store, command: Command) -> Answer:
        """Send a command."""
        name = f"told-{next(self._told)}"
        return store.engine.execute(CommandEnvelope(self.realm, name, command, "upstream", name))

    def order(self, store: Store, name: str) -> str:
        """An order that takes 10.00; its status."""
        coupon_id = self.do(store, ClaimCoupon(template_id="t1", user_id=name)).data["coupon_id"]
        lines = (OrderLine(line_id="1", sku="s", unit_price_minor=6_000, quantity=1),)
        self.do(store, PlaceOrder(order_id=name, user_id=name, currency="GBP", lines=lines, coupon_ids=(coupon_id,)))
        return str(self.do(store, HoldForOrder(order_id=name, attempt=1)).data["status"])

    def pay(self, store: Store, name: str) -> None:
        """Its payment."""
        paid = ReportPayment(
            payment_id=f"p-{name}", order_id=name, amount_minor=5_000, status="succeeded", currency="GBP"
        )
        self.do(store, paid)
        self.do(store, RedeemForOrder(order_id=name, payment_id=f"p-{name}"))

    def wait(self, seconds: float) -> None:
        """Time passes on both sides."""
        self.now += timedelta(seconds=seconds)
        self.do(self.home, AdvanceClock(to=self.now))
        self.do(self.holder, AdvanceClock(to=self.now))

    # Keepers.

    def keeper(self, checkpoint: Callable[[At], None] = lambda _: None) -> LeaseKeeper:
        """A new keeper, with connections of its own."""
        return LeaseKeeper(_of(self.home), {HOLDER: _of(self.holder)}, SETTINGS, checkpoint=checkpoint)

    def keep(self, checkpoint: Callable[[At], None] = lambda _: None) -> int:
        """Let keepers work until all is well; one that dies is replaced by a new one. Returns the steps taken."""
        taken, keeper = 0, self.keeper(checkpoint)
        for _ in range(ROUNDS_MAX):
            try:
                sent = keeper.run_once()
            except Died:
                self.deaths += 1
                keeper.close()
                keeper = self.keeper(checkpoint)
                continue
            taken += sent
            if not sent:
                keeper.close()
                return taken
        raise AssertionError("the keeper does not come to rest")

    # Looking.

    def budget(self, store: Store) -> Budget:
        """The budget's state on one side."""
        side = _of(store)
        try:
            return side.side(self.stream).budget
        finally:
            side.close()

    def violations(self) -> list[str]:
        """What verification says of both logs, alone and together."""
        home, holder = _books(self.home), _books(self.holder)
        found = [*home.finish(), *holder.finish(), *check_leases(home, {HOLDER: holder})]
        return [f"{it.subject}: {it.detail}" for it in found]


def _of(store: Store) -> books.Store:
    return books.Store(store.dsn, store.log, store.engine)


def _books(store: Store) -> Books:
    found = Books()
    with psycopg.connect(store.dsn) as connection:
        found.fold(log_rows.events(connection, 0, log_rows.head(connection)))
    return found
