"""Checkouts: the saga's commands, each one decision over an order's coupons, budgets and settlement; and quotes."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import wraps
from typing import Any, Final, TypeVar

from command.domain import checkout as checkouts
from command.domain import leases, orders
from command.domain.budget import BUDGET
from command.domain.checkout import CHECKOUT, Books, Checkout, MoneyIsElsewhere, Plan
from command.domain.coupon import COUPON, Coupon
from command.domain.lease_accounts import Waiting
from command.domain.orders import ORDER, PAYMENT, REFUND
from command.domain.template import TEMPLATE
from command.handlers.handler import Data, require_time
from command.outcomes import outcome_of
from command.unit_of_work import NotYet, UnitOfWork
from contracts.commands import (
    EndOrderLock,
    HoldForOrder,
    PlaceOrder,
    QuoteOrder,
    RedeemForOrder,
    RefundForOrder,
    ReleaseForOrder,
)
from contracts.events import Event, RefundSucceeded
from contracts.events.coupon import ReleaseCause
from contracts.refusals import Refusal, UnknownRefund

ForOrder = HoldForOrder | RedeemForOrder | RefundForOrder
C = TypeVar("C", HoldForOrder, RedeemForOrder, RefundForOrder)

# The name of an order that has none yet. It is written nowhere.
_NAMELESS: Final = "quote"


def quote(uow: UnitOfWork, command: QuoteOrder) -> Data:
    """The dry run of a hold: the same function prices it, and nothing is recorded."""
    placed = orders.content_of(PlaceOrder(**{**dict(command), "order_id": command.order_id or _NAMELESS}))
    books = books_of(uow, placed.coupon_ids)
    if command.order_id is not None:
        books = books.without(command.order_id, now=uow.now)
    quoted = checkouts.quote(placed, books, now=uow.now)
    priced = quoted.priced
    return {
        "currency": placed.currency,
        "total_minor": priced.total_minor,
        "shipping_minor": placed.shipping_minor,
        "discount_minor": priced.discount_minor,
        "payable_minor": priced.payable_minor,
        "lines": [line.model_dump() for line in priced.lines],
        "usable": [
            {
                "coupon_id": it.coupon_id,
                "discount_minor": it.discount_minor,
                "lines": [share.model_dump() for share in it.lines],
            }
            for it in priced.applied
        ],
        "unusable": [refusal.model_dump() for refusal in quoted.refusals],
    }


def _or_wait(decide: Callable[[UnitOfWork, C], Data]) -> Callable[[UnitOfWork, C], Data]:
    """Decide, or note on a budget's branch what must be fetched from its home first, and decide when it has come."""

    @wraps(decide)
    def handle(uow: UnitOfWork, command: C) -> Data:
        try:
            return decide(uow, command)
        except MoneyIsElsewhere as elsewhere:
            for budget_id, needed_minor in elsewhere.needed.items():
                _wait(uow, command, budget_id, needed_minor)
            return answer_of(uow, command.order_id) | {"status": "waiting"}

    return handle


def _wait(uow: UnitOfWork, command: ForOrder, budget_id: str, needed_minor: int) -> None:
    budget = uow.load(BUDGET, budget_id)
    waits = Waiting(
        budget.period_at(uow.now), command.order_id, needed_minor, command.type, command.model_dump(mode="json")
    )
    uow.record(BUDGET, budget_id, leases.want(budget, waits))


def decide_waiting(uow: UnitOfWork, waiting: Iterable[Waiting]) -> None:
    """Decide what waited, in the order in which it came. What still needs more waits again."""
    for each in waiting:
        command_type, handle = _WAKES[each.command_type]
        with suppress(Refusal):  # Nobody waits for the answer any more. A hold that was missing stays: the order's own.
            handle(uow, command_type.model_validate(each.payload))


@_or_wait
def hold(uow: UnitOfWork, command: HoldForOrder) -> Data:
    """Lock, reserve and freeze; or refuse with every reason. ``checkout`` is what this very command decided."""
    require_attempt(uow, command)
    decided = _hold(uow, command.order_id, command.attempt)
    answer = answer_of(uow, command.order_id)
    outcome = None if decided is None else outcome_of(decided)
    return answer if outcome is None else {**answer, "checkout": outcome}


@_or_wait
def redeem(uow: UnitOfWork, command: RedeemForOrder) -> Data:
    """Redeem, commit and settle; anew when the hold is gone and it is still possible."""
    payment = uow.load(PAYMENT, command.payment_id) if command.payment_id is not None else None
    if payment is not None:
        _require_fact(payment.succeeded, f"payment {command.payment_id}")
    order = uow.load(ORDER, command.order_id)
    if order.placed is None:
        # Sent along with a payment that overtook its order. Nothing may be logged as the answer to this id: the saga
        # may ask under the same one once the order is known.
        raise NotYet(f"Order {command.order_id!r} is not known yet.")
    checkout = _held_first(uow, command.order_id)
    books = books_of(uow, checkout.coupon_ids)
    ttl = timedelta(seconds=uow.lock_ttl_seconds)
    carry_out(uow, checkouts.redeem(order, checkout, books, payment, now=uow.now, lock_ttl=ttl))
    return answer_of(uow, command.order_id)


def _require_fact(fact: Event | None, name: str) -> None:
    """A saga's first step goes along with the fact that causes it, and may come through when the fact did not.

    No answer of it may stay then: when the fact is told again, its saga asks under the same id. Raises NotYet.
    """
    if fact is None:
        raise NotYet(f"{name} is not recorded yet")


def require_attempt(uow: UnitOfWork, command: HoldForOrder) -> None:
    """The order was placed, and reopened as often as the hold says. Raises NotYet."""
    order = uow.load(ORDER, command.order_id)
    told = order.placed if order.attempt >= command.attempt else None
    _require_fact(told, f"attempt {command.attempt} of order {command.order_id}")


def release(uow: UnitOfWork, command: ReleaseForOrder) -> Data:
    """Give back everything that is held."""
    release_order(uow, command.order_id, command.cause)
    return answer_of(uow, command.order_id)


def end_lock(uow: UnitOfWork, command: EndOrderLock) -> Data:
    """A timer's: this very hold ended."""
    checkout = uow.load(CHECKOUT, command.order_id)
    if checkout.status == "held" and checkout.lock_until == command.lock_until:
        require_time(uow, command.lock_until)
    held = coupons_of(uow, checkout.coupon_ids)
    carry_out(uow, checkouts.end_lock(checkout, held, command.lock_until, now=uow.now))
    return answer_of(uow, command.order_id)


@_or_wait
def refund(uow: UnitOfWork, command: RefundForOrder) -> Data:
    """Credit by the frozen allocation; return the coupons on a full refund."""
    told = refund_of(uow, command)
    checkout = _held_first(uow, command.order_id)
    held = coupons_of(uow, checkout.coupon_ids)
    carry_out(uow, checkouts.refund(uow.load(ORDER, command.order_id), checkout, held, told, now=uow.now))
    return answer_of(uow, command.order_id)


def refund_of(uow: UnitOfWork, command: RefundForOrder) -> RefundSucceeded:
    """What was told of an order's refund. Raises UnknownRefund for another order's.

    Its saga asks once it has heard of both. One of them is not there only when the store was restored to before it,
    with this on its way: told again it has the same name, and so has what the saga asks then. Raises NotYet.
    """
    told = uow.load(REFUND, command.refund_id).told
    _require_fact(told, f"refund {command.refund_id}")
    if told is None or told.order_id != command.order_id:
        raise UnknownRefund
    _require_fact(uow.load(ORDER, command.order_id).placed, f"order {command.order_id}")
    return told


def release_order(uow: UnitOfWork, order_id: str, cause: ReleaseCause) -> None:
    """Release an order's whole hold; nothing when it holds nothing."""
    checkout = uow.load(CHECKOUT, order_id)
    held = coupons_of(uow, checkout.coupon_ids)
    carry_out(uow, checkouts.release(checkout, held, cause, now=uow.now))


def carry_out(uow: UnitOfWork, plan: Plan) -> None:
    """Record a decision: first the release of the ended holds in its way, then its own steps."""
    for order_id in plan.lapsed:
        release_order(uow, order_id, "lock_ended")
    for step in plan.steps:
        uow.record(step.kind, step.key, step.events)


def books_of(uow: UnitOfWork, coupon_ids: Sequence[str]) -> Books:
    """Coupons, their templates, and the budgets that their terms name: one round trip each."""
    coupons = coupons_of(uow, coupon_ids)
    known = [coupon for coupon in coupons.values() if coupon.status != "none"]
    template_ids = _distinct(coupon.about.template_id for coupon in known)
    templates = dict(zip(template_ids, uow.load_all(TEMPLATE, template_ids), strict=True))
    books = Books(coupons, templates)
    budget_ids = _distinct(key for coupon in known for key in books.terms_of(coupon).budget_ids)
    return Books(coupons, templates, dict(zip(budget_ids, uow.load_all(BUDGET, budget_ids), strict=True)))


def coupons_of(uow: UnitOfWork, coupon_ids: Sequence[str]) -> dict[str, Coupon]:
    """The coupons by id."""
    return dict(zip(coupon_ids, uow.load_all(COUPON, coupon_ids), strict=True))


def _hold(uow: UnitOfWork, order_id: str, attempt: int) -> Event | None:
    """Decide an attempt; its fact, or None when there was nothing to decide any more."""
    order, checkout = uow.load(ORDER, order_id), uow.load(CHECKOUT, order_id)
    if checkout.is_held(uow.now) and checkouts.is_next_attempt(order, checkout, attempt):
        release_order(uow, order_id, "released")  # A reopening overtook the release of the attempt before it.
        checkout = uow.load(CHECKOUT, order_id)
    books = books_of(uow, order.content.coupon_ids)
    ttl = timedelta(seconds=uow.lock_ttl_seconds)
    plan = checkouts.hold(order, checkout, books, attempt, now=uow.now, lock_ttl=ttl)
    carry_out(uow, plan)
    return plan.steps[-1].events[-1] if plan.steps else None


def _held_first(uow: UnitOfWork, order_id: str) -> Checkout:
    """The order's checkout, decided first when a payment or refund overtook the hold, also that of a reopened order."""
    order, checkout = uow.load(ORDER, order_id), uow.load(CHECKOUT, order_id)
    if checkout.status == "none" or checkouts.is_next_attempt(order, checkout, order.attempt):
        _hold(uow, order_id, order.attempt)
    return uow.load(CHECKOUT, order_id)


def answer_of(uow: UnitOfWork, order_id: str) -> Data:
    """What a command's answer says of the order."""
    checkout = uow.load(CHECKOUT, order_id)
    status = "released" if checkout.lock_has_ended(uow.now) else checkout.status  # True before a timer records it.
    return {"order_id": order_id, "status": status, "attempt": checkout.attempt}


_WAKES: Final[dict[str, tuple[type[ForOrder], Callable[[UnitOfWork, Any], Data]]]] = {
    HoldForOrder.type: (HoldForOrder, hold),
    RedeemForOrder.type: (RedeemForOrder, redeem),
    RefundForOrder.type: (RefundForOrder, refund),
}


def _distinct(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(keys))
