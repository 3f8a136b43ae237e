"""Facts of one order told like a story, and a saga that hears them: given these, when that, then those commands."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from contracts.envelope import Metadata, Recorded
from contracts.events import (
    CheckoutCompleted,
    CheckoutCompletedUnredeemed,
    CheckoutReady,
    CheckoutRefunded,
    CheckoutRefused,
    CheckoutReleased,
    Event,
    OrderCancelled,
    OrderPlaced,
    OrderReopened,
    PaymentFailed,
    PaymentSucceeded,
    RefundSucceeded,
    SagaHeard,
    SentCommand,
)
from contracts.events.coupon import ReleaseCause
from contracts.identity import Realm, stream_id
from contracts.orders import OrderLine
from sagas.checkout import CURRENT, CheckoutMemory, route
from sagas.process import Process

REALM = Realm("acme", "shop")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORDER = "o1"
LINE = OrderLine(line_id="1", sku="tea", unit_price_minor=6_000)
GBP = "GBP"

PLACED = OrderPlaced(order_id=ORDER, user_id="u1", currency=GBP, coupon_ids=("c1",), shipping_minor=0, lines=(LINE,))
CANCELLED = OrderCancelled(order_id=ORDER, cause="cancelled", reason="")
REJECTED = OrderCancelled(order_id=ORDER, cause="rejected", reason="")


def reopened(attempt: int = 2) -> OrderReopened:
    return OrderReopened(order_id=ORDER, attempt=attempt)


def paid(payment_id: str = "p1") -> PaymentSucceeded:
    return PaymentSucceeded(payment_id=payment_id, order_id=ORDER, amount_minor=5_000, currency=GBP)


def failed(payment_id: str = "p1") -> PaymentFailed:
    return PaymentFailed(payment_id=payment_id, order_id=ORDER, reason="declined")


def refund(refund_id: str = "r1") -> RefundSucceeded:
    return RefundSucceeded(refund_id=refund_id, order_id=ORDER, amount_minor=1_000, currency=GBP)


def ready(attempt: int = 1, payable_minor: int = 5_000) -> CheckoutReady:
    return CheckoutReady(
        order_id=ORDER,
        attempt=attempt,
        user_id="u1",
        currency=GBP,
        total_minor=6_000,
        shipping_minor=0,
        discount_minor=6_000 - payable_minor,
        payable_minor=payable_minor,
        lines=(),
        coupons=(),
        lock_until=NOON + timedelta(minutes=15),
    )


def refused(attempt: int = 1) -> CheckoutRefused:
    return CheckoutRefused(order_id=ORDER, attempt=attempt, currency=GBP, refusals=())


def released(attempt: int = 1, cause: ReleaseCause = "payment_failed") -> CheckoutReleased:
    return CheckoutReleased(
        order_id=ORDER, attempt=attempt, currency=GBP, discount_minor=1_000, cause=cause, released_at=NOON
    )


def completed(payment_id: str | None = "p1") -> CheckoutCompleted:
    return CheckoutCompleted(
        order_id=ORDER, payment_id=payment_id, currency=GBP, discount_minor=1_000, payable_minor=5_000
    )


UNREDEEMED = CheckoutCompletedUnredeemed(
    order_id=ORDER, payment_id="p1", currency=GBP, discount_minor=1_000, payable_minor=5_000, refusals=()
)


def refunded(refund_id: str = "r1", *, full: bool = False) -> CheckoutRefunded:
    return CheckoutRefunded(
        order_id=ORDER,
        refund_id=refund_id,
        currency=GBP,
        refunded_minor=1_000,
        credited_minor=200,
        excess_minor=0,
        full=full,
        returned_coupon_ids=(),
    )


def stream_of(event: Event) -> str:
    """The stream that the write side records this event in."""
    match event:
        case PaymentSucceeded() | PaymentFailed():
            return stream_id(REALM, "payment", event.payment_id)
        case RefundSucceeded():
            return stream_id(REALM, "refund", event.refund_id)
        case OrderPlaced() | OrderCancelled() | OrderReopened():
            return stream_id(REALM, "order", event.order_id)
        case _:
            return stream_id(REALM, "checkout", ORDER)


@dataclass
class Log:
    """Gives events their places: an offset in the log and a version in their stream."""

    versions: dict[str, int] = field(default_factory=dict)
    offset: int = 0

    def record(self, event: Event) -> Recorded:
        stream = stream_of(event)
        self.versions[stream] = self.versions.get(stream, 0) + 1
        self.offset += 1
        metadata = Metadata(f"e{self.offset}", NOON, NOON, "upstream", f"k{self.offset}", f"k{self.offset}")
        return Recorded(self.offset, stream, self.versions[stream], event, metadata)


@dataclass
class Story:
    """A saga that hears facts: ``given(...).when(...).then(step, *commands)``."""

    log: Log = field(default_factory=Log)
    process: Process[CheckoutMemory] = CURRENT
    memory: CheckoutMemory = CURRENT.initial
    remembered: list[SagaHeard] = field(default_factory=list)
    last: SagaHeard | None = None

    def hear(self, fact: Recorded) -> SagaHeard | None:
        key = route(fact.event)
        assert key == ORDER
        self.last = self.process.hear(self.memory, key, fact)
        if self.last is not None:
            self.remembered.append(self.last)
            self.memory = self.process.evolve(self.memory, self.last)
        return self.last

    def when(self, event: Event) -> Self:
        self.hear(self.log.record(event))
        return self

    def then(self, step: str, *commands: tuple[str, dict[str, Any]]) -> Self:
        """The step after the last fact, and the commands it sent, as (type, some of the payload)."""
        assert self.memory.step == step
        sent = self.last.sends if self.last is not None else ()
        assert [command.type for command in sent] == [name for name, _ in commands]
        for command, (_, wanted) in zip(sent, commands, strict=True):
            assert wanted.items() <= command.payload.items()
        return self

    @property
    def sent(self) -> list[SentCommand]:
        return [command for heard in self.remembered for command in heard.sends]


def given(*events: Event) -> Story:
    """A saga that has heard these."""
    story = Story()
    for event in events:
        story.when(event)
    return story


def hold(attempt: int = 1) -> tuple[str, dict[str, Any]]:
    return "hold_for_order", {"order_id": ORDER, "attempt": attempt}


def redeem(payment_id: str | None = "p1") -> tuple[str, dict[str, Any]]:
    return "redeem_for_order", {"order_id": ORDER, "payment_id": payment_id}


def release(cause: ReleaseCause) -> tuple[str, dict[str, Any]]:
    return "release_for_order", {"order_id": ORDER, "cause": cause}


def credit(refund_id: str = "r1") -> tuple[str, dict[str, Any]]:
    return "refund_for_order", {"order_id": ORDER, "refund_id": refund_id}
