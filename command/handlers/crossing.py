"""Checkouts of orders whose coupons lie on several shards; every other order is handled as ever.

Only a realm that is spread over shards has such orders: :func:`handlers_at` puts these handlers around the usual ones
where there are several shards.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from command.domain import borrowing as borrowings
from command.domain import checkout as checkouts
from command.domain.borrowing import BORROWING, Borrowing, Postponed
from command.domain.checkout import CHECKOUT, Books, Checkout, Plan, abandon
from command.domain.orders import ORDER, PAYMENT, REFUND, Order, Payment
from command.domain.pricing import coupon_refusal
from command.handlers.checkouts import answer_of, refund_of, require_attempt
from command.handlers.handler import Data, Handler, Handlers
from command.unit_of_work import UnitOfWork
from contracts.commands import (
    AnswerLoan,
    Command,
    EndOrderLock,
    HoldForOrder,
    RedeemForOrder,
    RefundForOrder,
    ReleaseForOrder,
)
from contracts.events import (
    CheckoutCompleted,
    CheckoutReady,
    CheckoutRefunded,
    CheckoutRefused,
    CheckoutReleased,
    Event,
    OrderPlaced,
    RefundSucceeded,
)
from contracts.events.coupon import ReleaseCause
from contracts.lending import RefundCredits
from contracts.orders import CouponRefusal, HeldCoupon
from contracts.placement import Placement
from contracts.refusals import CouponsOutOfReach, OrderWasCancelled, PaymentRequired

C = TypeVar("C", HoldForOrder, RedeemForOrder, ReleaseForOrder, EndOrderLock, RefundForOrder)

_PARTING_REFUSALS: Final[Mapping[ReleaseCause, CouponRefusal]] = {
    "order_cancelled": coupon_refusal(None, OrderWasCancelled()),
    "order_rejected": coupon_refusal(None, OrderWasCancelled()),
    "payment_failed": coupon_refusal(None, PaymentRequired("The payment failed before all coupons were held.")),
}


def handlers_at(shard: int, placement: Placement, handlers: Handlers) -> Handlers:
    """The handlers of one of several shards."""
    crossing = Crossing(shard, placement)
    wrapped: dict[type[Command], Callable[[UnitOfWork, Any], Data]] = {
        HoldForOrder: crossing.hold,
        RedeemForOrder: crossing.redeem,
        ReleaseForOrder: crossing.release,
        EndOrderLock: crossing.end_lock,
        RefundForOrder: crossing.refund,
    }
    return {
        command: crossing.around(wrapped[command], handler) if command in wrapped else handler
        for command, handler in handlers.items()
    }


@dataclass(frozen=True, slots=True)
class Crossing:
    """One of several shards: decides orders that live here and use coupons of others."""

    shard: int
    placement: Placement

    def around(self, mine: Callable[[UnitOfWork, C], Data], handler: Handler[C]) -> Handler[C]:
        """The usual handler, unless the order uses coupons of other shards."""

        def handle(uow: UnitOfWork, command: C) -> Data:
            crosses = self.placement.slots_of(uow.realm) is not None and self._crosses(uow, command.order_id)
            return mine(uow, command) if crosses else handler.handle(uow, command)

        return replace(handler, handle=handle)

    def hold(self, uow: UnitOfWork, command: HoldForOrder) -> Data:
        """Begin to borrow; the hold is decided with the last lender's answer."""
        require_attempt(uow, command)
        self._hold(uow, command.order_id, command.attempt)
        return answer_of(uow, command.order_id)

    def redeem(self, uow: UnitOfWork, command: RedeemForOrder) -> Data:
        """Redeem what is held. While lenders are being asked, it waits; when the hold is gone, they are asked again."""
        order_id = command.order_id
        if self._hold_first(uow, order_id):
            _postpone(uow, order_id, Postponed("payment", command.payment_id))
            return answer_of(uow, order_id)
        order, checkout = uow.load(ORDER, order_id), uow.load(CHECKOUT, order_id)
        lost = checkout.status == "released" and not (order.cancelled or checkout.fully_refunded)
        if lost and checkout.coupons:
            payment = _payment(uow, command.payment_id)
            checkouts.require_payment(order.content, payment, checkout.payable_minor)
            self._begin(uow, order.content, order.attempt, payment_id=command.payment_id)
        else:
            redeem(uow, order_id, command.payment_id)
        return answer_of(uow, order_id)

    def release(self, uow: UnitOfWork, command: ReleaseForOrder) -> Data:
        """Give back everything that is held, or is being asked for."""
        if uow.load(BORROWING, command.order_id).status == "asking":
            _stop_asking(uow, command.order_id, command.cause)
        else:
            release(uow, command.order_id, command.cause)
        return answer_of(uow, command.order_id)

    def end_lock(self, uow: UnitOfWork, command: EndOrderLock) -> Data:
        """A timer's: this very hold ended, or a lender did not answer in time."""
        order_id = command.order_id
        borrowing, checkout = uow.load(BORROWING, order_id), uow.load(CHECKOUT, order_id)
        if borrowing.status == "asking":
            if borrowing.until == command.lock_until <= uow.now:
                _stop_asking(uow, order_id, "lock_ended")
        elif checkout.lock_has_ended(uow.now) and checkout.lock_until == command.lock_until:
            release(uow, order_id, "lock_ended")
        return answer_of(uow, order_id)

    def refund(self, uow: UnitOfWork, command: RefundForOrder) -> Data:
        """Credit by the frozen allocation; what lies on other shards is told to them."""
        told = refund_of(uow, command)
        if self._hold_first(uow, command.order_id):
            _postpone(uow, command.order_id, Postponed("refund", command.refund_id))
        else:
            refund(uow, command.order_id, told)
        return answer_of(uow, command.order_id)

    def _crosses(self, uow: UnitOfWork, order_id: str) -> bool:
        placed = uow.load(ORDER, order_id).placed
        return placed is not None and any(shard != self.shard for shard in self._by_shard(uow, placed))

    def _by_shard(self, uow: UnitOfWork, placed: OrderPlaced) -> dict[int, list[str]]:
        by_shard: dict[int, list[str]] = {}
        for coupon_id in placed.coupon_ids:
            by_shard.setdefault(self.placement.shard_of_coupon(uow.realm, coupon_id), []).append(coupon_id)
        return by_shard

    def _hold(self, uow: UnitOfWork, order_id: str, attempt: int) -> None:
        order, borrowing = uow.load(ORDER, order_id), uow.load(BORROWING, order_id)
        if not checkouts.is_next_attempt(order, uow.load(CHECKOUT, order_id), attempt):
            return
        if borrowing.status == "asking":
            if borrowing.attempt == attempt:
                return  # It is on its way.
            _stop_asking(uow, order_id, "released")  # A reopening overtook the attempt before it.
        if uow.load(CHECKOUT, order_id).status == "held":
            release(uow, order_id, "released")
        if order.cancelled:
            _refuse(uow, order, attempt, (coupon_refusal(None, OrderWasCancelled()),))
        else:
            self._begin(uow, order.content, attempt)

    def _hold_first(self, uow: UnitOfWork, order_id: str) -> bool:
        """Whether the hold is not decided yet; it is begun when a payment or refund overtook it."""
        if uow.load(CHECKOUT, order_id).status == "none":
            self._hold(uow, order_id, uow.load(ORDER, order_id).attempt)
        return uow.load(BORROWING, order_id).status == "asking"

    def _begin(self, uow: UnitOfWork, placed: OrderPlaced, attempt: int, *, payment_id: str | None = None) -> None:
        until = uow.now + timedelta(seconds=uow.lock_ttl_seconds)
        events = borrowings.begin(
            uow.load(BORROWING, placed.order_id),
            placed,
            attempt,
            self._by_shard(uow, placed),
            until=until,
            payment_id=payment_id,
        )
        uow.record(BORROWING, placed.order_id, events)


def answer(uow: UnitOfWork, command: AnswerLoan) -> Data:
    """A lender's answer: ask the next one, or decide the order once all have answered."""
    order_id = command.order_id
    order = uow.load(ORDER, order_id)
    events = borrowings.answered(
        uow.load(BORROWING, order_id), order.content, command.nth, command.lender, command.loan
    )
    borrowing = uow.record(BORROWING, order_id, events)
    if events and borrowing.status == "answered":
        _decide(uow, order, borrowing)
    return answer_of(uow, order_id)


# What is decided once nobody is being asked. Plans over described coupons; the lenders are told.


def redeem(uow: UnitOfWork, order_id: str, payment_id: str | None) -> None:
    """Redeem what is held at the lenders; also past the lock's end, as long as nobody has released it."""
    order, checkout = uow.load(ORDER, order_id), uow.load(CHECKOUT, order_id)
    held = borrowings.described(checkout) if checkout.status == "held" else checkout
    books = Books(coupons=borrowings.as_held(checkout))
    ttl = timedelta(seconds=uow.lock_ttl_seconds)
    pending = [borrowings.refund_of(it.refund_id, it.credits) for it in checkout.pending]
    plan = checkouts.redeem(order, held, books, _payment(uow, payment_id), now=uow.now, lock_ttl=ttl)
    _carry_out(uow, order_id, plan, checkout.coupons, pending)


def release(uow: UnitOfWork, order_id: str, cause: ReleaseCause) -> None:
    """Release an order's whole hold; nothing when it holds nothing."""
    checkout = uow.load(CHECKOUT, order_id)
    plan = checkouts.release(checkout, borrowings.as_held(checkout), cause, now=uow.now)
    _carry_out(uow, order_id, plan, checkout.coupons)


def refund(uow: UnitOfWork, order_id: str, told: RefundSucceeded) -> None:
    """Credit what is redeemed; release what a full refund gives up."""
    checkout = uow.load(CHECKOUT, order_id)
    plan = checkouts.refund(uow.load(ORDER, order_id), checkout, borrowings.as_held(checkout), told, now=uow.now)
    _carry_out(uow, order_id, plan, checkout.coupons)


def _decide(uow: UnitOfWork, order: Order, borrowing: Borrowing) -> None:
    """All lenders have answered: hold, or redeem late, or refuse; then what came meanwhile."""
    order_id = order.content.order_id
    if borrowing.payment_id is None:
        _decide_hold(uow, order, borrowing)
    else:
        _decide_late(uow, order, borrowing)
    for kind, key in borrowing.postponed:
        if kind == "payment":
            redeem(uow, order_id, key)
        elif (told := uow.load(REFUND, key or "").told) is not None:
            refund(uow, order_id, told)


def _decide_hold(uow: UnitOfWork, order: Order, borrowing: Borrowing) -> None:
    if borrowing.refusals:
        _refuse(uow, order, borrowing.attempt, _in_request_order(order.content, borrowing.refusals))
        _tell_release(uow, order.content.order_id, "released")
        return
    ttl = timedelta(seconds=uow.lock_ttl_seconds)
    checkout = uow.load(CHECKOUT, order.content.order_id)
    plan = checkouts.hold(order, checkout, borrowings.books_of(borrowing), borrowing.attempt, now=uow.now, lock_ttl=ttl)
    _carry_out(uow, order.content.order_id, plan, ())


def _decide_late(uow: UnitOfWork, order: Order, borrowing: Borrowing) -> None:
    """A payment after the hold was gone: redeem the frozen amounts if all of it is to be had again, else nothing."""
    checkout = uow.load(CHECKOUT, order.content.order_id)
    pending = [borrowings.refund_of(it.refund_id, it.credits) for it in checkout.pending]
    if borrowing.refusals or order.cancelled:
        refusals = _in_request_order(order.content, borrowing.refusals)
        reasons = refusals or (coupon_refusal(None, OrderWasCancelled()),)
        plan = abandon(checkout, Books(), borrowing.payment_id, reasons, uow.now)
        _carry_out(uow, checkout.order_id, plan, ())
        _tell_release(uow, checkout.order_id, "released")
        return
    coupons = tuple(borrowings.named_here(it, borrowing) for it in checkout.coupons)
    ttl = timedelta(seconds=uow.lock_ttl_seconds)
    plan = checkouts.redeem(
        order,
        replace(checkout, coupons=coupons),
        borrowings.books_of(borrowing),
        _payment(uow, borrowing.payment_id),
        now=uow.now,
        lock_ttl=ttl,
    )
    _carry_out(uow, checkout.order_id, plan, (), pending)


def _stop_asking(uow: UnitOfWork, order_id: str, cause: ReleaseCause) -> None:
    """Give up a borrowing: whoever lent, or still will, gives back. The order is refused, or its payment unredeemed."""
    order, borrowing = uow.load(ORDER, order_id), uow.load(BORROWING, order_id)
    reason = _PARTING_REFUSALS.get(cause) or coupon_refusal(None, CouponsOutOfReach())
    _tell_release(uow, order_id, cause)
    if borrowing.payment_id is not None:
        plan = abandon(uow.load(CHECKOUT, order_id), Books(), borrowing.payment_id, (reason,), uow.now)
        _carry_out(uow, order_id, plan, ())
        return
    _refuse(uow, order, borrowing.attempt, (reason,))
    for kind, key in borrowing.postponed:
        if kind == "payment":
            redeem(uow, order_id, key)
        elif (told := uow.load(REFUND, key or "").told) is not None:
            refund(uow, order_id, told)


def _refuse(uow: UnitOfWork, order: Order, attempt: int, refusals: tuple[CouponRefusal, ...]) -> None:
    placed = order.content
    refused = CheckoutRefused(order_id=placed.order_id, attempt=attempt, currency=placed.currency, refusals=refusals)
    uow.record(CHECKOUT, placed.order_id, (refused,))


def _carry_out(
    uow: UnitOfWork,
    order_id: str,
    plan: Plan,
    held: tuple[HeldCoupon, ...],
    pending: list[RefundCredits] | None = None,
) -> None:
    """Record what a plan writes here, and tell the lenders what it means for them."""
    borrowing = uow.load(BORROWING, order_id)
    for step in borrowings.own_steps(plan, borrowing):
        uow.record(step.kind, step.key, step.events)
        for event in step.events:
            uow.record(BORROWING, order_id, _told(uow, order_id, event, held, pending or []))


def _told(
    uow: UnitOfWork, order_id: str, event: Event, held: tuple[HeldCoupon, ...], pending: list[RefundCredits]
) -> tuple[Event, ...]:
    borrowing = uow.load(BORROWING, order_id)
    if borrowing.status == "none":
        return ()
    match event:
        case CheckoutReady():
            return borrowings.tell(borrowing, order_id, "freeze", event.coupons)
        case CheckoutCompleted() if event.coupons or held:
            return borrowings.tell(borrowing, order_id, "redeem", event.coupons or held, pending)
        case CheckoutReleased():
            return borrowings.tell(borrowing, order_id, "release", cause=event.cause)
        case CheckoutRefunded() if _checkout(uow, order_id).status == "completed":
            credit = borrowings.refund_of(event.refund_id, event.credits, event.returned_coupon_ids)
            return borrowings.tell(borrowing, order_id, "credit", (), (credit,))
        case CheckoutRefused():
            return _release_words(borrowing, order_id, "released")
        case _:
            return _release_words(borrowing, order_id, "released") if _is_unredeemed(event) else ()


def _is_unredeemed(event: Event) -> bool:
    return event.type == "checkout.completed_unredeemed.v1"


def _release_words(borrowing: Borrowing, order_id: str, cause: ReleaseCause) -> tuple[Event, ...]:
    """Once: what was given up, or was never had, is not given back again."""
    return () if borrowing.status == "closed" else borrowings.tell(borrowing, order_id, "release", cause=cause)


def _tell_release(uow: UnitOfWork, order_id: str, cause: ReleaseCause) -> None:
    uow.record(BORROWING, order_id, _release_words(uow.load(BORROWING, order_id), order_id, cause))


def _postpone(uow: UnitOfWork, order_id: str, what: Postponed) -> None:
    uow.record(BORROWING, order_id, borrowings.postpone(uow.load(BORROWING, order_id), order_id, what))


def _in_request_order(placed: OrderPlaced, refusals: tuple[CouponRefusal, ...]) -> tuple[CouponRefusal, ...]:
    place = {coupon_id: index for index, coupon_id in enumerate(placed.coupon_ids)}
    return tuple(sorted(refusals, key=lambda refusal: place.get(refusal.coupon_id or "", -1)))


def _payment(uow: UnitOfWork, payment_id: str | None) -> Payment | None:
    return uow.load(PAYMENT, payment_id) if payment_id is not None else None


def _checkout(uow: UnitOfWork, order_id: str) -> Checkout:
    return uow.load(CHECKOUT, order_id)
