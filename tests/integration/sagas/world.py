"""A promotion side with its sagas, in process on real PostgreSQL, played by hand: tell, let time pass, settle, look."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from command.engine import Engine, EngineSettings
from command.handlers import HANDLERS
from contracts.commands import (
    ActivateTemplate,
    AdvanceClock,
    CancelOrder,
    ClaimCoupon,
    Command,
    CreateBudget,
    CreateTemplate,
    PlaceOrder,
    ReopenOrder,
    ReportPayment,
    ReportRefund,
)
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm, stream_id
from contracts.orders import OrderLine, RefundLine
from contracts.terms import AmountOff, Terms, ValidityAfterClaim
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresEventLog
from infra.sagas.checkpoints import At, Checkpoint, pass_by
from infra.sagas.dispatcher import Dispatcher
from infra.sagas.first_step import first_step
from infra.sagas.postgres_store import PostgresSagaStore
from infra.sagas.runner import SagaRunner
from infra.sagas.sending import Submits
from infra.sagas.settings import SagaSettings
from infra.sagas.timer_service import TimerService

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
GBP = "GBP"
ROUNDS_MAX = 1_000
LOCK_SECONDS = 900
PATIENT = SagaSettings(retry_seconds_first=0.0, retry_seconds_max=0.0)


class Died(BaseException):
    """The saga process is gone. Not an Exception: nothing may catch it on the way."""


@dataclass
class Death:
    """Kills whoever passes a checkpoint: the n-th time only, or each time for the first try and not for the second."""

    at: At
    nth: int | None = None
    passed: int = 0
    came: int = 0

    def __call__(self, at: At) -> None:
        if at is not self.at:
            return
        self.passed += 1
        if self.passed == self.nth or (self.nth is None and self.passed % 2 == 1):
            self.came += 1
            raise Died


class Store:
    """One database with one engine; worlds in it are realms, so that each play begins anew."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.log = PostgresEventLog(dsn)
        self.engine = Engine(self.log, HANDLERS, EngineSettings(lock_ttl_seconds=LOCK_SECONDS))
        self.engine.start()
        self.feed = StoreFeed(dsn)  # It remembers nothing, so those that die may share it.
        self.connection = psycopg.connect(dsn, row_factory=dict_row, autocommit=True)
        self._realms = 0

    def close(self) -> None:
        self.connection.close()
        self.feed.close()
        self.engine.stop()
        self.log.close()

    def sagas(self) -> PostgresSagaStore:
        """What one part of a saga process works on."""
        return PostgresSagaStore(self.dsn, self.log)

    def realm(self) -> Realm:
        self._realms += 1
        return Realm(f"tenant{self._realms}", "shop")


class Parts:
    """Ear, voice and clock of one saga process, stepped by hand."""

    def __init__(self, store: Store, engine: Submits, settings: SagaSettings, checkpoint: Checkpoint) -> None:
        self.runner = SagaRunner(store.sagas(), store.feed, settings, checkpoint=checkpoint)
        self.dispatcher = Dispatcher(store.sagas(), engine, settings, checkpoint=checkpoint)
        self.timers = TimerService(store.sagas(), engine, settings, checkpoint=checkpoint)

    def run_once(self) -> int:
        return self.runner.run_once() + self.dispatcher.run_once() + self.timers.run_once()

    def close(self) -> None:
        for part in (self.runner, self.dispatcher, self.timers):
            part.close()


@dataclass
class World:
    """One realm on a business clock that starts at noon. A saga process that dies is replaced by a new one."""

    store: Store
    checkpoint: Checkpoint = pass_by
    settings: SagaSettings = PATIENT
    wrap: Callable[[Submits], Submits] = lambda engine: engine
    steps_along: bool = False  # Whoever tells a fact sends the saga's first step with it, as the API does.
    now: datetime = NOON
    deaths: int = 0
    coupons: dict[str, str] = field(default_factory=dict)  # Label -> coupon id.
    _told: int = 0

    def __post_init__(self) -> None:
        self.realm = self.store.realm()
        self._parts = self._new_parts()
        self.do(AdvanceClock(to=self.now))

    def _new_parts(self) -> Parts:
        return Parts(self.store, self.wrap(self.store.engine), self.settings, self.checkpoint)

    # Making things happen.

    def do(self, command: Command, *, command_id: str | None = None) -> Answer:
        """Send a command as an upstream would; the answer may be a refusal."""
        self._told += 1
        name = command_id or f"told-{self._told}"
        envelope = CommandEnvelope(self.realm, name, command, "upstream", name)
        step = first_step(envelope) if self.steps_along else None
        answer, *_ = self.store.engine.submit_many((envelope,) if step is None else (envelope, step))
        return answer.result(30)

    def tell(self, command: Command, *, command_id: str | None = None) -> Self:
        """Send a command that must be accepted."""
        answer = self.do(command, command_id=command_id)
        assert answer.accepted, answer
        return self

    def settle(self) -> Self:
        """Let the sagas work until nothing is left to do now; whoever dies meanwhile is replaced."""
        for _ in range(ROUNDS_MAX):
            try:
                handled = self._parts.run_once()
            except Died:
                self.deaths += 1
                self.replace_process()
                continue
            if handled == 0:
                return self
        raise AssertionError(f"not quiet after {ROUNDS_MAX} rounds")

    def settle_ear(self) -> Self:
        """Let the sagas hear all there is, but send and fire nothing."""
        while self._parts.runner.run_once():
            pass
        return self

    def replace_process(self) -> None:
        """Throw the saga process away and start another one, with nothing but what the database holds."""
        self._parts.close()
        self._parts = self._new_parts()

    def later(self, **by: float) -> Self:
        """Let business time pass."""
        self.now += timedelta(**by)
        return self.tell(AdvanceClock(to=self.now))

    def close(self) -> None:
        self._parts.close()

    # The usual cast.

    def template(self, name: str = "ten-off", **terms: Any) -> Self:
        given = {
            "name": name,
            "campaign_id": "spring",
            "currency": GBP,
            "discount": AmountOff(amount_minor=1_000),
            "claim_from": NOON - timedelta(days=1),
            "claim_until": NOON + timedelta(days=30),
            "validity": ValidityAfterClaim(duration_seconds=7 * 86_400),
            **terms,
        }
        self.tell(CreateTemplate(template_id=name, terms=Terms(**given)))
        return self.tell(ActivateTemplate(template_id=name))

    def budget(self, limit_minor: int, name: str = "pot") -> Self:
        return self.tell(CreateBudget(budget_id=name, currency=GBP, limit_minor=limit_minor))

    def claim(self, label: str = "c", *, template: str = "ten-off", user: str = "ann") -> Self:
        answer = self.do(ClaimCoupon(template_id=template, user_id=user))
        assert answer.accepted, answer
        self.coupons[label] = answer.data["coupon_id"]
        return self

    def place(self, order: str = "o", *coupons: str, user: str = "ann", shipping_minor: int = 0) -> Self:
        """50.00 + 10.00, with the coupon labelled ``c`` unless others are named."""
        return self.tell(self.placing(order, *coupons, user=user, shipping_minor=shipping_minor))

    def placing(self, order: str = "o", *coupons: str, user: str = "ann", shipping_minor: int = 0) -> PlaceOrder:
        lines = (
            OrderLine(line_id="kettle", sku="kettle", unit_price_minor=5_000),
            OrderLine(line_id="tea", sku="tea", unit_price_minor=1_000),
        )
        ids = tuple(self.coupons[label] for label in coupons or ("c",))
        return PlaceOrder(
            order_id=order, user_id=user, currency=GBP, coupon_ids=ids, lines=lines, shipping_minor=shipping_minor
        )

    def pay(self, payment: str = "p", order: str = "o", amount_minor: int = 5_000) -> Self:
        return self.tell(
            ReportPayment(
                payment_id=payment, order_id=order, status="succeeded", amount_minor=amount_minor, currency=GBP
            )
        )

    def fail(self, payment: str = "p", order: str = "o") -> Self:
        return self.tell(ReportPayment(payment_id=payment, order_id=order, status="failed", currency=GBP))

    def cancel(self, order: str = "o") -> Self:
        return self.tell(CancelOrder(order_id=order))

    def reopen(self, order: str = "o") -> Self:
        return self.tell(ReopenOrder(order_id=order))

    def refund(self, refund: str = "r", order: str = "o", amount_minor: int = 5_000, *lines: str) -> Self:
        return self.tell(
            ReportRefund(
                refund_id=refund,
                order_id=order,
                amount_minor=amount_minor,
                currency=GBP,
                lines=tuple(RefundLine(line_id=line) for line in lines),
            )
        )

    # Looking.

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        return self.store.connection.execute(query.encode(), values).fetchall()

    def events(self, kind: str, key: str) -> list[dict[str, Any]]:
        """One stream: type and payload."""
        return self.rows(
            "SELECT type, data FROM events WHERE stream = %s ORDER BY version", stream_id(self.realm, kind, key)
        )

    def types(self, kind: str, key: str) -> list[str]:
        """The events of a stream, by their names without kind and version: ``["ready", "completed"]``."""
        return [event["type"].split(".")[1] for event in self.events(kind, key)]

    def step(self, order: str = "o") -> str | None:
        """Where the order's saga stands."""
        found = self.rows(
            "SELECT step FROM sagas WHERE tenant_id = %s AND app_id = %s AND key = %s", *self.realm, order
        )
        return found[0]["step"] if found else None

    def coupon(self, label: str = "c") -> str:
        """What happened last to a coupon."""
        return self.types("coupon", self.coupons[label])[-1]

    def checkout(self, order: str = "o") -> list[str]:
        """What the promotion side decided of the order."""
        return self.types("checkout", order)

    def settled_minor(self, order: str = "o") -> int:
        """What the coupons took off in the settlement ledger, less what refunds took back."""
        signs = {"settlement.recorded.v1": 1, "settlement.reversed.v1": -1}
        return sum(signs[event["type"]] * event["data"]["discount_minor"] for event in self.events("settlement", order))

    def pot(self, name: str = "pot") -> dict[str, int]:
        """A budget by its own stream: reserved, committed and credited."""
        sums = {"reserved": 0, "committed": 0, "credited": 0}
        for event in self.events("budget", name):
            amount = event["data"].get("amount_minor", 0)
            match event["type"].split(".")[1]:
                case "reserved":
                    sums["reserved"] += amount
                case "released":
                    sums["reserved"] -= amount
                case "committed":
                    sums["reserved"] -= 0 if event["data"]["honoured"] else amount
                    sums["committed"] += amount
                case "credited":
                    sums["credited"] += amount
        return sums

    def owed(self) -> list[dict[str, Any]]:
        """Commands that have no accepted answer."""
        return self.rows(
            "SELECT saga_key, command_type, attempts, refused_code FROM saga_outbox"
            " WHERE tenant_id = %s AND app_id = %s ORDER BY id",
            *self.realm,
        )

    def double_effects(self) -> list[dict[str, Any]]:
        """Effects that one fact or one command had twice: none, whatever died."""
        return self.rows(
            "SELECT stream, data ->> 'fact_event_id' AS fact, count(*) FROM events"
            " WHERE tenant_id = %s AND app_id = %s AND type = 'saga.heard.v1' GROUP BY 1, 2 HAVING count(*) > 1",
            *self.realm,
        )


class Lost(Future[Answer]):
    """An answer that never comes."""


@dataclass
class Lossy:
    """An engine over a bad line. ``mode``: each command arrives twice; or its first answer, or itself, is lost once."""

    engine: Submits
    mode: str
    seen: set[str] = field(default_factory=set)

    def submit_many(self, envelopes: Any) -> list[Future[Answer]]:
        """As an engine does, with losses."""
        return [self._submit(envelope) for envelope in envelopes]

    def _submit(self, envelope: CommandEnvelope) -> Future[Answer]:
        first = envelope.command_id not in self.seen
        self.seen.add(envelope.command_id)
        if self.mode == "twice":
            return self.engine.submit_many((envelope, envelope))[1]
        if first and self.mode == "late":
            (future,) = self.engine.submit_many((envelope,))
            future.result(30)  # It took effect; its answer is what gets lost.
            return Lost()
        if first and self.mode == "never":
            return Lost()
        return self.engine.submit_many((envelope,))[0]


def hear_all(world: World) -> None:
    """Let an ear of its own hear whatever was told; nothing is sent, and nothing fires."""
    runner = SagaRunner(world.store.sagas(), world.store.feed)
    while runner.run_once():
        pass
    runner.close()
