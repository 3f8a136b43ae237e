"""The checkout saga: one order's memory between order, payment, refund and promotion (races: see README.md)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from contracts.commands import Command, HoldForOrder, RedeemForOrder, RefundForOrder, ReleaseForOrder
from contracts.envelope import Recorded
from contracts.events import (
    CheckoutCompleted,
    CheckoutCompletedUnredeemed,
    CheckoutReady,
    CheckoutRefunded,
    CheckoutRefused,
    CheckoutReleased,
    EndedCommand,
    Event,
    OrderCancelled,
    OrderPlaced,
    OrderReopened,
    PaymentFailed,
    PaymentSucceeded,
    RefundSucceeded,
)
from contracts.events.coupon import ReleaseCause
from sagas.process import Details, Fact, MemoryIsFull, Process, Reaction

NAME: Final = "checkout"

REFUNDS_OPEN_MAX: Final = 100
SOURCES_MAX: Final = 64


class Step:
    """Where a checkout stands. Text, because that is how it is stored and shown."""

    AWAITING_ORDER: Final = "awaiting_order"  # Something was told of an order that nobody placed yet.
    HOLDING: Final = "holding"
    HELD: Final = "held"
    REFUSED: Final = "refused"
    REDEEMING: Final = "redeeming"
    COMPLETED: Final = "completed"
    UNREDEEMED: Final = "unredeemed"  # Paid, but the coupons could not be held again.
    RELEASING: Final = "releasing"
    RELEASED: Final = "released"
    CANCELLED: Final = "cancelled"
    REFUNDING: Final = "refunding"
    PARTLY_REFUNDED: Final = "partly_refunded"
    REFUNDED: Final = "refunded"
    RESOLVED: Final = "resolved"  # What it waited for was refused, and an operator ended it by hand.


# Steps at which it waits for the answer to a command of its own.
ASKING: Final = {
    Step.HOLDING: HoldForOrder.type,
    Step.REDEEMING: RedeemForOrder.type,
    Step.RELEASING: ReleaseForOrder.type,
    Step.REFUNDING: RefundForOrder.type,
}
# Steps at which it waits for somebody's answer: staying there for long means that something does not get on.
WAITING: Final = frozenset({Step.AWAITING_ORDER, *ASKING})

# ---- Routing: which facts are heard, and by which order's saga.

ROUTES: Final[dict[type[Event], str]] = {
    OrderPlaced: "order_id",
    OrderCancelled: "order_id",
    OrderReopened: "order_id",
    PaymentSucceeded: "order_id",
    PaymentFailed: "order_id",
    RefundSucceeded: "order_id",  # A refund that names no order concerns no saga.
    CheckoutReady: "order_id",
    CheckoutRefused: "order_id",
    CheckoutCompleted: "order_id",
    CheckoutCompletedUnredeemed: "order_id",
    CheckoutReleased: "order_id",
    CheckoutRefunded: "order_id",
}


def route(event: Event) -> str | None:
    """The order whose saga hears this event; None when none does."""
    field = ROUTES.get(type(event))
    order_id: str | None = getattr(event, field) if field is not None else None
    return order_id


# ---- Memory: what is known of the order, folded from what was heard.


class HoldAnswer(NamedTuple):
    """What the promotion side last said of a hold. ``free``: it leaves nothing to pay."""

    type: str
    attempt: int
    free: bool


@dataclass(frozen=True, slots=True)
class CheckoutMemory:
    """All that a running checkout knows. ``attempt`` counts placing and reopenings; 0: the order is not known."""

    step: str = Step.AWAITING_ORDER
    order_id: str = ""
    attempt: int = 0
    cancelled: Literal["cancelled", "rejected"] | None = None
    taken_up_at: int = 0  # Of the latest reopening: its offset in the log.
    failed_at: int = 0  # Of the latest payment that failed.
    paid_by: str | None = None  # The first payment that succeeded; a second one is for reconciliation to show.
    hold: HoldAnswer | None = None  # The latest; it may be heard before the order itself, which another lane brings.
    settled: bool = False  # Completed, redeemed or not: from here on only refunds matter.
    refunds_open: tuple[str, ...] = ()  # Told, but not yet answered; at most REFUNDS_OPEN_MAX.
    refunded: Literal["part", "full"] | None = None
    heard_of: tuple[tuple[str, int], ...] = ()  # Stream -> last version heard; the SOURCES_MAX latest streams.

    @property
    def payment_failed(self) -> bool:
        """Whether a payment failed since the order was placed or reopened; as recorded, not as heard."""
        return self.failed_at > self.taken_up_at


def learn(memory: CheckoutMemory, fact: Fact) -> CheckoutMemory:
    """Add one fact to what is known; the step stays."""
    details = fact.details
    known = replace(memory, order_id=details["order_id"], heard_of=_with_source(memory, fact))
    match fact.type:
        case OrderPlaced.type:
            known = replace(known, attempt=1)
        case OrderReopened.type:
            at = details.get("at", max(known.taken_up_at, known.failed_at))
            known = replace(known, attempt=details["attempt"], cancelled=None, taken_up_at=at)
        case OrderCancelled.type:
            known = replace(known, cancelled=details["cause"])
        case PaymentSucceeded.type:
            known = replace(known, paid_by=known.paid_by or details["payment_id"])
        case PaymentFailed.type:
            known = replace(known, failed_at=max(known.failed_at, details.get("at", known.taken_up_at + 1)))
        case RefundSucceeded.type:
            known = replace(known, refunds_open=(*known.refunds_open, details["refund_id"]))
        case CheckoutReady.type | CheckoutRefused.type | CheckoutReleased.type:
            free = details.get("payable_minor") == 0
            known = replace(known, hold=HoldAnswer(fact.type, details["attempt"], free))
        case CheckoutCompleted.type | CheckoutCompletedUnredeemed.type:
            known = replace(known, settled=True)
        case CheckoutRefunded.type if details["refund_id"] in known.refunds_open:
            known = _refund_answered(known, details["refund_id"], full=details["full"])
    return known


def _refund_answered(known: CheckoutMemory, refund_id: str, *, full: bool) -> CheckoutMemory:
    still_open = tuple(refund for refund in known.refunds_open if refund != refund_id)
    return replace(known, refunds_open=still_open, refunded="full" if full or known.refunded == "full" else "part")


def give_up(memory: CheckoutMemory, ended: Sequence[EndedCommand]) -> CheckoutMemory:
    """Forget what an operator ended; the step is over if it waited for that and for nothing else.

    The payment stays known: a refund of it can still be told, and facts that come later still count.
    """
    refunds = {each.payload.get("refund_id") for each in ended if each.type == RefundForOrder.type}
    still_open = tuple(refund for refund in memory.refunds_open if refund not in refunds)
    over = ASKING.get(memory.step) in {each.type for each in ended}
    if memory.step == Step.REFUNDING and still_open:
        over = False
    return replace(memory, refunds_open=still_open, step=Step.RESOLVED if over else memory.step)


def is_news(memory: CheckoutMemory, fact: Fact) -> bool:
    """Whether the fact was not heard yet: within its stream it comes after the last one heard."""
    return fact.version > dict(memory.heard_of).get(fact.source, 0)


def excerpt(recorded: Recorded) -> Details:
    """What the memory needs of an event; the event itself, lines and all, stays in its own stream."""
    details = recorded.event.model_dump(mode="json", include=_KEPT)
    # Facts of two streams may be heard in another order than they were recorded in: here that order matters.
    return {**details, "at": recorded.offset} if isinstance(recorded.event, _ORDERED) else details


_KEPT: Final = {"order_id", "attempt", "cause", "payment_id", "refund_id", "full", "payable_minor"}
_ORDERED: Final = (OrderReopened, PaymentFailed)


def _with_source(memory: CheckoutMemory, fact: Fact) -> tuple[tuple[str, int], ...]:
    others = tuple((source, version) for source, version in memory.heard_of if source != fact.source)
    return (*others[-(SOURCES_MAX - 1) :], (fact.source, fact.version))


# ---- Reaction: by family of facts, what each one leads to in each step.


def react(known: CheckoutMemory, recorded: Recorded) -> Reaction:
    """The next step and the commands. ``known`` already includes the fact; its step is the one before it."""
    match recorded.event:
        case OrderPlaced() | OrderReopened():
            return _on_taken_up(known)
        case OrderCancelled():
            return _on_cancelled(known)
        case PaymentSucceeded() | PaymentFailed() as payment:
            return _on_payment(known, payment)
        case RefundSucceeded() as refund:
            return _on_refund(known, refund)
        case CheckoutReady() | CheckoutRefused() | CheckoutReleased():
            assert known.hold is not None
            return _on_hold(known, known.hold)
        case _:
            return _on_settled(known, recorded.event)


def _on_taken_up(known: CheckoutMemory) -> Reaction:
    """Placed or reopened: hold, and at once do what payment or cancellation already asked for (races 2, 3, 6)."""
    hold = HoldForOrder(order_id=known.order_id, attempt=known.attempt)
    if known.settled:
        return Reaction(known.step)
    if known.paid_by:
        return Reaction(Step.REDEEMING, (hold, _redeem(known), *_refunds(known)))
    if known.cancelled:
        return Reaction(Step.CANCELLED, (hold,))  # It will be refused: whoever placed the order learns why.
    if known.payment_failed:
        return _with_early_answer(known, Reaction(Step.RELEASING, (hold, _release(known, "payment_failed"))))
    return _with_early_answer(known, Reaction(Step.HOLDING, (hold,)))


def _with_early_answer(known: CheckoutMemory, reaction: Reaction) -> Reaction:
    """The hold's answer may have been heard before the order: the step that it leads to is made up for now."""
    if known.hold is None or known.hold.attempt != known.attempt:
        return reaction
    after = _on_hold(replace(known, step=reaction.step), known.hold)
    return Reaction(after.step, (*reaction.commands, *after.commands))


def _on_cancelled(known: CheckoutMemory) -> Reaction:
    """Whatever is held is given back; a payment that came first is answered by its own redemption (race 2)."""
    if known.settled or known.step == Step.AWAITING_ORDER or (known.step == Step.REDEEMING and known.paid_by):
        return Reaction(known.step)
    if known.step in {Step.HOLDING, Step.HELD, Step.REDEEMING, Step.RESOLVED}:
        cause: ReleaseCause = "order_rejected" if known.cancelled == "rejected" else "order_cancelled"
        return Reaction(Step.CANCELLED, (_release(known, cause),))
    return Reaction(Step.CANCELLED)


def _on_payment(known: CheckoutMemory, payment: PaymentSucceeded | PaymentFailed) -> Reaction:
    """The first success redeems, also after the hold was gone (race 1); all others change nothing (race 4).

    Also for a cancelled order: the write side redeems nothing then, but records that money came for nothing (race 2).
    """
    if isinstance(payment, PaymentFailed):
        if known.step in {Step.HOLDING, Step.HELD} and known.payment_failed:
            return Reaction(Step.RELEASING, (_release(known, "payment_failed"),))
        return Reaction(known.step)
    if known.attempt == 0 or known.settled or known.paid_by != payment.payment_id:
        return Reaction(known.step)
    return Reaction(Step.REDEEMING, (_redeem(known), *_refunds(known)))


def _on_refund(known: CheckoutMemory, refund: RefundSucceeded) -> Reaction:
    """Credited after the payment that it gives back; one that overtook its payment waits for it (races 3, 5)."""
    if len(known.refunds_open) > REFUNDS_OPEN_MAX:
        raise MemoryIsFull(f"{REFUNDS_OPEN_MAX} refunds of order {known.order_id} already wait to be credited")
    if not known.settled and (known.attempt == 0 or not known.paid_by):
        return Reaction(known.step)
    credit = RefundForOrder(order_id=known.order_id, refund_id=refund.refund_id)
    return Reaction(Step.REFUNDING if known.settled else known.step, (credit,))


def _on_hold(known: CheckoutMemory, answer: HoldAnswer) -> Reaction:
    """The promotion side holds, refuses or released. Of an earlier attempt: too late to matter (race 6)."""
    if answer.attempt < known.attempt:
        return Reaction(known.step)
    match known.step, answer.type:
        case Step.HOLDING, CheckoutReady.type if answer.free:
            return Reaction(Step.REDEEMING, (_redeem(known),))
        case Step.HOLDING, CheckoutReady.type:
            return Reaction(Step.HELD)
        case ((Step.HOLDING | Step.RELEASING), CheckoutRefused.type):
            return Reaction(Step.REFUSED)
        case ((Step.HOLDING | Step.HELD | Step.RELEASING), CheckoutReleased.type):
            return Reaction(Step.RELEASED)
        case Step.REDEEMING, CheckoutReleased.type if not known.paid_by:
            return Reaction(Step.RELEASED)  # Nothing was to pay, and the lock ended first: nobody waits for more.
    return Reaction(known.step)  # Paid: it is held again by the redemption itself, or completed without (race 1).


def _on_settled(known: CheckoutMemory, answer: Event) -> Reaction:
    """Completed or credited. Refunds that still waited, for a payment or for word of the order, are credited now."""
    if not known.settled:
        return Reaction(known.step)  # Its redemption was refused: that stays to be seen.
    newly = not isinstance(answer, CheckoutRefunded)
    waited = known.attempt == 0 or not known.paid_by
    if known.refunds_open:
        return Reaction(Step.REFUNDING, _refunds(known) if newly and waited else ())
    if known.refunded:
        return Reaction(Step.REFUNDED if known.refunded == "full" else Step.PARTLY_REFUNDED)
    if newly:
        return Reaction(Step.COMPLETED if isinstance(answer, CheckoutCompleted) else Step.UNREDEEMED)
    return Reaction(known.step)


def _redeem(known: CheckoutMemory) -> Command:
    return RedeemForOrder(order_id=known.order_id, payment_id=known.paid_by)


def _release(known: CheckoutMemory, cause: ReleaseCause) -> Command:
    return ReleaseForOrder(order_id=known.order_id, cause=cause)


def _refunds(known: CheckoutMemory) -> tuple[Command, ...]:
    return tuple(RefundForOrder(order_id=known.order_id, refund_id=refund) for refund in known.refunds_open)


# ---- Versions: a running saga keeps the one it began with; a new meaning is a new entry, the old one stays.


def _at_step(memory: CheckoutMemory, step: str) -> CheckoutMemory:
    return replace(memory, step=step)


def _step_of(memory: CheckoutMemory) -> str:
    return memory.step


CHECKOUT_V1: Final = Process(
    name=NAME,
    version=1,
    initial=CheckoutMemory(),
    excerpt=excerpt,
    is_news=is_news,
    learn=learn,
    react=react,
    at_step=_at_step,
    give_up=give_up,
    step_of=_step_of,
)

VERSIONS: Final[dict[int, Process[CheckoutMemory]]] = {CHECKOUT_V1.version: CHECKOUT_V1}
CURRENT: Final = CHECKOUT_V1
