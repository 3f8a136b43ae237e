"""One order, one decision: its coupons, budgets and settlement are held, redeemed, released and refunded together.

Every function returns a :class:`Plan`: what happens on which stream. A plan without steps means that there is nothing
(more) to do: what is done already is not done twice, and a stale command changes nothing. Otherwise there is always a
``checkout.*`` fact, also for "no": the saga hears facts, not answers.

What a hold froze stays frozen: a payment that comes late redeems the very allocation that the buyer was promised.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import reduce
from typing import Any, Final, Literal, NamedTuple

from command.domain import budget as budgets
from command.domain import coupon as coupons
from command.domain import template as templates
from command.domain.budget import BUDGET, Budget, Room
from command.domain.calendar import NO_INSTANT
from command.domain.coupon import COUPON, Coupon
from command.domain.orders import Order, Payment
from command.domain.pricing import Applied, Candidate, Priced, Returned, coupon_refusal, price, refund_credit
from command.domain.settlement import SETTLEMENT
from command.domain.template import Template
from command.unit_of_work import Kind
from contracts.events import (
    BudgetCredited,
    BudgetReleased,
    CheckoutCompleted,
    CheckoutCompletedUnredeemed,
    CheckoutReady,
    CheckoutRefunded,
    CheckoutRefused,
    CheckoutReleased,
    Event,
    OrderPlaced,
    RefundSucceeded,
)
from contracts.events.coupon import ReleaseCause
from contracts.events.settlement import SettlementRecorded, SettlementReversed
from contracts.orders import BudgetShare, CouponCredit, CouponRefusal, FrozenLine, HeldCoupon
from contracts.refusals import (
    BudgetExhausted,
    CouponHasExpired,
    CurrencyMismatch,
    Ended,
    OrderWasCancelled,
    OrderWasRefunded,
    Paused,
    PaymentRequired,
    Refusal,
    UnknownCoupon,
)
from contracts.terms import Terms


class PendingCredit(NamedTuple):
    """What a refund will credit if its order, not redeemed yet, is redeemed after all."""

    refund_id: str
    credits: tuple[CouponCredit, ...]


@dataclass(frozen=True, slots=True)
class Checkout:
    """What is decided of an order so far, with the allocation frozen by its last hold."""

    status: Literal["none", "held", "refused", "released", "completed", "unredeemed"] = "none"
    order_id: str = ""
    attempt: int = 0
    user_id: str | None = None
    currency: str = ""
    total_minor: int = 0
    shipping_minor: int = 0
    discount_minor: int = 0
    payable_minor: int = 0
    lines: tuple[FrozenLine, ...] = ()
    coupons: tuple[HeldCoupon, ...] = ()
    lock_until: datetime = NO_INSTANT
    refund_ids: tuple[str, ...] = ()
    refunded_minor: int = 0
    fully_refunded: bool = False
    returned: Returned = field(default_factory=Returned)
    pending: tuple[PendingCredit, ...] = ()

    def is_held(self, now: datetime) -> bool:
        """Whether its hold lasts: up to, not including, the lock's end, whether or not a timer recorded that."""
        return self.status == "held" and now < self.lock_until

    def lock_has_ended(self, now: datetime) -> bool:
        """Whether its hold is over without being released yet."""
        return self.status == "held" and now >= self.lock_until

    @property
    def coupon_ids(self) -> tuple[str, ...]:
        """The coupons that its last hold took."""
        return tuple(held.coupon_id for held in self.coupons)


def evolve(checkout: Checkout, event: Event) -> Checkout:
    """Fold one event of the order's checkout stream."""
    match event:
        case CheckoutReady():
            return Checkout(
                status="held",
                order_id=event.order_id,
                attempt=event.attempt,
                user_id=event.user_id,
                currency=event.currency,
                total_minor=event.total_minor,
                shipping_minor=event.shipping_minor,
                discount_minor=event.discount_minor,
                payable_minor=event.payable_minor,
                lines=event.lines,
                coupons=event.coupons,
                lock_until=event.lock_until,
                refund_ids=checkout.refund_ids,
            )
        case CheckoutRefused():
            return Checkout(
                status="refused",
                order_id=event.order_id,
                attempt=event.attempt,
                currency=event.currency,
                refund_ids=checkout.refund_ids,
            )
        case CheckoutReleased():
            return replace(checkout, status="released")
        case CheckoutCompleted():
            redeemed = checkout.coupons if event.coupons is None else event.coupons
            return replace(
                checkout,
                status="completed",
                discount_minor=event.discount_minor,
                payable_minor=event.payable_minor,
                coupons=redeemed,
                pending=(),
            )
        case CheckoutCompletedUnredeemed():
            return replace(checkout, status="unredeemed", pending=())
        case CheckoutRefunded():
            return _evolve_refunded(checkout, event)
    return checkout


def _evolve_refunded(checkout: Checkout, event: CheckoutRefunded) -> Checkout:
    redeemed = checkout.status == "completed"
    pending = () if redeemed or not event.credits else (PendingCredit(event.refund_id, event.credits),)
    return replace(
        checkout,
        refund_ids=(*checkout.refund_ids, event.refund_id),
        refunded_minor=checkout.refunded_minor + event.refunded_minor,
        fully_refunded=checkout.fully_refunded or event.full,
        returned=checkout.returned.plus(event.lines, event.shipping_minor, event.credits),
        pending=(*checkout.pending, *pending),
    )


CHECKOUT: Final = Kind("checkout", Checkout, Checkout(), evolve)


class Step(NamedTuple):
    """Events for one stream."""

    kind: Kind[Any]
    key: str
    events: tuple[Event, ...]


class Plan(NamedTuple):
    """One decision over many streams. ``lapsed``: orders whose ended holds must be released before these steps."""

    steps: tuple[Step, ...] = ()
    lapsed: tuple[str, ...] = ()


NOTHING: Final = Plan()


class MoneyIsElsewhere(Exception):
    """Not decided: these budgets are branches without enough money, and their home may have it (id -> needed)."""

    def __init__(self, needed: Mapping[str, int]) -> None:
        super().__init__(f"money of {sorted(needed)} must be fetched first")
        self.needed = needed


@dataclass(frozen=True, slots=True)
class Books:
    """The states that a decision on an order looks at, by id. ``budgets`` has what the coupons' terms name."""

    coupons: Mapping[str, Coupon] = field(default_factory=dict)
    templates: Mapping[str, Template] = field(default_factory=dict)
    budgets: Mapping[str, Budget] = field(default_factory=dict)

    def terms_of(self, coupon: Coupon) -> Terms:
        """The terms that the coupon was claimed under."""
        return self.templates[coupon.about.template_id].terms[coupon.about.terms_version]

    def without(self, order_id: str, *, now: datetime) -> "Books":
        """These states as they would be if the order let go of what it holds."""
        own = {
            key: reduce(coupons.evolve, coupons.release(coupon, order_id, "released", now=now), coupon)
            for key, coupon in self.coupons.items()
            if coupon.status == "locked" and coupon.order_id == order_id and not coupon.external
        }
        spent = {key: budgets.without(budget, (order_id,)) for key, budget in self.budgets.items()}
        return Books({**self.coupons, **own}, self.templates, spent)


# Quote and hold -------------------------------------------------------------------------------------------------------


class Quote(NamedTuple):
    """What a hold would say: prices with the usable coupons, and why each of the others is none (request order)."""

    priced: Priced
    refusals: tuple[CouponRefusal, ...]


def quote(placed: OrderPlaced, books: Books, *, now: datetime) -> Quote:
    """Price an order with every coupon that it may use now. A hold is this, and nothing held if anything is refused."""
    refused: dict[str, CouponRefusal] = {}
    candidates: list[Candidate] = []
    for coupon_id in placed.coupon_ids:
        try:
            candidates.append(candidate(coupon_id, placed, books, now))
        except Refusal as refusal:
            refused[coupon_id] = coupon_refusal(coupon_id, refusal)
    need_max_minor = sum(line.amount_minor for line in placed.lines)
    rooms = {key: budgets.room(budget, need_max_minor, now=now) for key, budget in books.budgets.items()}
    priced = price(placed.lines, placed.shipping_minor, placed.currency, candidates, rooms)
    refused |= {str(refusal.coupon_id): refusal for refusal in priced.refusals}
    return Quote(priced, tuple(refused[key] for key in placed.coupon_ids if key in refused))


def candidate(coupon_id: str, placed: OrderPlaced, books: Books, now: datetime) -> Candidate:
    coupon = books.coupons.get(coupon_id, Coupon())
    if coupon.status == "none":
        raise UnknownCoupon
    coupons.require_owner(coupon, placed.user_id)
    coupons.require_usable(coupon, now=now)
    _require_template_allows(coupon, books, now)
    return Candidate(coupon_id, books.terms_of(coupon))


def _require_template_allows(coupon: Coupon, books: Books, now: datetime) -> None:
    """Claimed coupons stay valid whatever becomes of their template, unless their terms say otherwise."""
    template = books.templates[coupon.about.template_id]
    if books.terms_of(coupon).claimed_stay_valid:
        return
    if templates.is_over(template, now):
        raise Ended("The template has ended, and with it its coupons.")
    if template.status == "paused":
        raise Paused


def hold(order: Order, checkout: Checkout, books: Books, attempt: int, *, now: datetime, lock_ttl: timedelta) -> Plan:
    """Lock every coupon, reserve every budget and freeze the allocation; or refuse with every reason, holding nothing.

    Nothing for an attempt that was decided before, or one that a later one overtook. Raises MoneyIsElsewhere.
    """
    placed = order.content
    if not is_next_attempt(order, checkout, attempt):
        return NOTHING
    quoted = quote(placed, books, now=now)
    refusals = (coupon_refusal(None, OrderWasCancelled()),) if order.cancelled else quoted.refusals
    if refusals:
        refused = CheckoutRefused(
            order_id=placed.order_id, attempt=attempt, currency=placed.currency, refusals=refusals
        )
        own = (placed.order_id,) if checkout.lock_has_ended(now) else ()
        return Plan((Step(CHECKOUT, placed.order_id, (refused,)),), own)
    lock_until = now + lock_ttl
    held = tuple(_held_coupon(applied, books, now) for applied in quoted.priced.applied)
    _require_money_here(held, books, now)
    lapsed = lapsed_holds(checkout, held, books, now)
    ready = CheckoutReady(
        order_id=placed.order_id,
        attempt=attempt,
        user_id=placed.user_id,
        currency=placed.currency,
        total_minor=quoted.priced.total_minor,
        shipping_minor=placed.shipping_minor,
        discount_minor=quoted.priced.discount_minor,
        payable_minor=quoted.priced.payable_minor,
        lines=quoted.priced.lines,
        coupons=held,
        lock_until=lock_until,
    )
    ledger = Ledger(placed.order_id, books, lapsed)
    for it in held:
        ledger.lock(it, lock_until, now)
    return Plan((*ledger.steps(), Step(CHECKOUT, placed.order_id, (ready,))), lapsed)


def is_next_attempt(order: Order, checkout: Checkout, attempt: int) -> bool:
    """Whether this attempt is the order's latest and awaits its decision."""
    settled = checkout.status in {"completed", "unredeemed"}
    return attempt == order.attempt and attempt > checkout.attempt and not settled


def _held_coupon(applied: Applied, books: Books, now: datetime) -> HeldCoupon:
    coupon = books.coupons[applied.coupon_id]
    terms = books.terms_of(coupon)
    return HeldCoupon(
        coupon_id=applied.coupon_id,
        about=coupon.about,
        discount_minor=applied.discount_minor,
        lines=applied.lines,
        budgets=_shares(terms.budget_ids, applied.discount_minor, books, now),
        on_full_refund=terms.on_full_refund,
    )


def _shares(budget_ids: Iterable[str], discount_minor: int, books: Books, now: datetime) -> tuple[BudgetShare, ...]:
    """Every budget that the terms name pays the whole discount, in its present period."""
    return tuple(
        BudgetShare(budget_id=key, period=books.budgets[key].period_at(now), amount_minor=discount_minor)
        for key in budget_ids
    )


def lapsed_holds(checkout: Checkout, held: Sequence[HeldCoupon], books: Books, now: datetime) -> tuple[str, ...]:
    """Orders whose ended holds stand in the way: this order's own, those on its coupons, those on its budgets."""
    orders: dict[str, None] = {checkout.order_id: None} if checkout.lock_has_ended(now) else {}
    orders |= dict.fromkeys(_lapsed_on_coupons(held, books, now))
    for key, needed in _by_budget(held).items():
        period = books.budgets[key].period_at(now)
        orders |= dict.fromkeys(budgets.lapsed_to_free(books.budgets[key], period, needed, now=now))
    return tuple(orders)


def _lapsed_on_coupons(held: Iterable[HeldCoupon], books: Books, now: datetime) -> Iterator[str]:
    for it in held:
        coupon = books.coupons[it.coupon_id]
        if coupon.lock_has_ended(now) and not coupon.external and coupon.order_id is not None:
            yield coupon.order_id


def _require_money_here(held: Iterable[HeldCoupon], books: Books, now: datetime) -> None:
    needed = _by_budget(held)
    elsewhere = {key: minor for key, minor in needed.items() if budgets.shortage(books.budgets[key], minor, now=now)}
    if elsewhere:
        raise MoneyIsElsewhere(elsewhere)


def _by_budget(held: Iterable[HeldCoupon]) -> dict[str, int]:
    needed: dict[str, int] = {}
    for it in held:
        for share in it.budgets:
            needed[share.budget_id] = needed.get(share.budget_id, 0) + share.amount_minor
    return needed


# Redeem ---------------------------------------------------------------------------------------------------------------

# What a template that honours late payment overlooks. A coupon that is in somebody's hands, used or taken away is gone.
HONOURABLE: Final = frozenset({CouponHasExpired.code, BudgetExhausted.code, Ended.code, Paused.code})


def redeem(
    order: Order,
    checkout: Checkout,
    books: Books,
    payment: Payment | None,
    *,
    now: datetime,
    lock_ttl: timedelta,
) -> Plan:
    """Redeem what is held, commit the budgets and write the settlement, for a payment or when nothing is to pay.

    - The hold lasts: done. It is gone (lock ended, payment failed): done anew if that is still possible.
    - It is not possible: by each coupon's terms honoured over the limit, or completed unredeemed.
    - Nothing was held because coupons were refused: completed without a discount, which nobody promised.
    - The order is cancelled or all its money went back: completed unredeemed, a break until the upstream refunds it.

    Raises MoneyIsElsewhere when it is to be held anew and a budget's money must be fetched first.
    """
    placed = order.content
    if checkout.status in {"none", "completed", "unredeemed"}:
        return NOTHING
    frozen = _unpriced(placed, checkout) if checkout.status == "refused" else checkout
    payment_id = require_payment(placed, payment, frozen.payable_minor)
    if order.cancelled:
        return abandon(frozen, books, payment_id, (coupon_refusal(None, OrderWasCancelled()),), now)
    if checkout.fully_refunded:
        return abandon(frozen, books, payment_id, (coupon_refusal(None, OrderWasRefunded()),), now)
    if checkout.is_held(now):
        ledger = Ledger(placed.order_id, books)
        for held in checkout.coupons:
            ledger.redeem(held, now)
        ledger.credit_pending(checkout.pending, checkout.coupons)
        return Plan((*ledger.steps(), _completed(frozen, payment_id)))
    if checkout.status == "refused":
        return Plan((_completed(frozen, payment_id),))
    return _redeem_late(placed, checkout, books, payment_id, now, now + lock_ttl)


def _redeem_late(
    placed: OrderPlaced, checkout: Checkout, books: Books, payment_id: str | None, now: datetime, lock_until: datetime
) -> Plan:
    held = tuple(
        it.model_copy(update={"budgets": _shares([s.budget_id for s in it.budgets], it.discount_minor, books, now)})
        for it in checkout.coupons
    )
    refusals = _late_refusals(placed, held, books, now)
    honoured = {key for key, refusal in refusals.items() if _may_honour(key, refusal, books)}
    if honoured != set(refusals):
        return abandon(checkout, books, payment_id, tuple(refusals.values()), now)
    anew = [it for it in held if it.coupon_id not in honoured]
    _require_money_here(anew, books, now)
    # An honoured coupon may have been held by another order since: its ended hold is in the way as well.
    lapsed = tuple(dict.fromkeys((*lapsed_holds(checkout, anew, books, now), *_lapsed_on_coupons(held, books, now))))
    ledger = Ledger(placed.order_id, books, lapsed)
    for it in held:
        if it.coupon_id in honoured:
            ledger.honour(it, now)
        else:
            ledger.lock(it, lock_until, now)
            ledger.redeem(it, now)
    ledger.credit_pending(checkout.pending, held)
    return Plan((*ledger.steps(), _completed(checkout, payment_id, held, honoured=bool(honoured))), lapsed)


def abandon(
    checkout: Checkout, books: Books, payment_id: str | None, refusals: tuple[CouponRefusal, ...], now: datetime
) -> Plan:
    """Nothing is redeemed for this payment; whatever is still held is released. Unpaid, it is a release only."""
    let_go = release(checkout, books.coupons, "order_cancelled", now=now)
    if payment_id is None:
        return let_go
    unredeemed = CheckoutCompletedUnredeemed(
        order_id=checkout.order_id,
        payment_id=payment_id,
        currency=checkout.currency,
        discount_minor=checkout.discount_minor,
        payable_minor=checkout.payable_minor,
        refusals=refusals,
    )
    return Plan((*let_go.steps, Step(CHECKOUT, checkout.order_id, (unredeemed,))))


def _late_refusals(
    placed: OrderPlaced, held: Sequence[HeldCoupon], books: Books, now: datetime
) -> dict[str, CouponRefusal]:
    """Why the frozen coupons cannot be held again, by coupon: their own state, and what the budgets have left."""
    need_max_minor = sum(it.discount_minor for it in held)
    rooms = {key: budgets.room(budget, need_max_minor, now=now) for key, budget in books.budgets.items()}
    refusals: dict[str, CouponRefusal] = {}
    for it in held:
        try:
            candidate(it.coupon_id, placed, books, now)
            _take(rooms, it)
        except Refusal as refusal:
            refusals[it.coupon_id] = coupon_refusal(it.coupon_id, refusal)
    return refusals


def _take(rooms: dict[str, Room], held: HeldCoupon) -> None:
    if any(rooms[share.budget_id].available_minor < share.amount_minor for share in held.budgets):
        raise BudgetExhausted
    for share in held.budgets:
        rooms[share.budget_id] = rooms[share.budget_id].less(share.amount_minor)


def _may_honour(coupon_id: str, refusal: CouponRefusal, books: Books) -> bool:
    terms = books.terms_of(books.coupons[coupon_id])
    return terms.on_late_payment == "honour" and refusal.code in HONOURABLE


def require_payment(placed: OrderPlaced, payment: Payment | None, payable_minor: int) -> str | None:
    if payment is None:
        if payable_minor > 0:
            raise PaymentRequired
        return None
    if payment.succeeded is None or payment.succeeded.order_id != placed.order_id:
        raise PaymentRequired("This payment of the order has not succeeded.")
    if payment.succeeded.currency != placed.currency:
        raise CurrencyMismatch(f"The order is in {placed.currency}, the payment in {payment.succeeded.currency}.")
    return payment.succeeded.payment_id


def _completed(
    checkout: Checkout, payment_id: str | None, held: tuple[HeldCoupon, ...] | None = None, *, honoured: bool = False
) -> Step:
    completed = CheckoutCompleted(
        order_id=checkout.order_id,
        payment_id=payment_id,
        currency=checkout.currency,
        discount_minor=checkout.discount_minor,
        payable_minor=checkout.payable_minor,
        honoured=honoured,
        coupons=held,
    )
    return Step(CHECKOUT, checkout.order_id, (completed,))


# Release --------------------------------------------------------------------------------------------------------------


def release(checkout: Checkout, held_coupons: Mapping[str, Coupon], cause: ReleaseCause, *, now: datetime) -> Plan:
    """Give back everything that is held; after the lock's end its end is the cause, whoever asks."""

    def give_up(coupon: Coupon) -> tuple[Event, ...]:
        return coupons.release(coupon, checkout.order_id, cause, now=now)

    return _release(checkout, held_coupons, cause, give_up, now)


def end_lock(checkout: Checkout, held_coupons: Mapping[str, Coupon], lock_until: datetime, *, now: datetime) -> Plan:
    """Record that this very hold ended; nothing when it did not, or when it is another one."""
    if not checkout.lock_has_ended(now) or checkout.lock_until != lock_until:
        return NOTHING
    return release(checkout, held_coupons, "lock_ended", now=now)


def revoke(
    checkout: Checkout, held_coupons: Mapping[str, Coupon], coupon_id: str, reason: str, *, now: datetime
) -> Plan:
    """Take one coupon of a held order away: the order's whole hold goes with it."""

    def give_up(coupon: Coupon) -> tuple[Event, ...]:
        if coupon.coupon_id == coupon_id:
            return coupons.revoke(coupon, reason, now=now)
        return coupons.release(coupon, checkout.order_id, "revoked", now=now)

    return _release(checkout, held_coupons, "revoked", give_up, now)


def _release(
    checkout: Checkout,
    held_coupons: Mapping[str, Coupon],
    cause: ReleaseCause,
    give_up: Callable[[Coupon], tuple[Event, ...]],
    now: datetime,
) -> Plan:
    if checkout.status != "held":
        return NOTHING
    ended = checkout.lock_has_ended(now)
    released = CheckoutReleased(
        order_id=checkout.order_id,
        attempt=checkout.attempt,
        currency=checkout.currency,
        discount_minor=checkout.discount_minor,
        cause="lock_ended" if ended else cause,
        released_at=checkout.lock_until if ended else now,
    )
    steps: list[Step] = []
    for held in checkout.coupons:
        steps.append(Step(COUPON, held.coupon_id, give_up(held_coupons[held.coupon_id])))
        for share in held.budgets:
            back = released_share(checkout.order_id, held, share)
            steps.append(Step(BUDGET, share.budget_id, (back,)))
    return Plan((*steps, Step(CHECKOUT, checkout.order_id, (released,))))


def released_share(order_id: str, held: HeldCoupon, share: BudgetShare) -> BudgetReleased:
    """What one budget gets back of one coupon's reservation."""
    return BudgetReleased(
        budget_id=share.budget_id,
        currency=held.about.currency,
        period=share.period,
        order_id=order_id,
        coupon_id=held.coupon_id,
        amount_minor=share.amount_minor,
    )


# Refund ---------------------------------------------------------------------------------------------------------------


def refund(
    order: Order, checkout: Checkout, held_coupons: Mapping[str, Coupon], told: RefundSucceeded, *, now: datetime
) -> Plan:
    """Credit budgets and settlement by the frozen allocation; on a full refund return the coupons, as their terms say.

    Before redemption nothing is credited. It is remembered: an order that was fully refunded gives up its hold and is
    not redeemed by a later payment (a reopening starts anew), and one that was refunded in part has those credits
    written when it is redeemed.
    """
    placed = order.content
    if told.refund_id in checkout.refund_ids:
        return NOTHING
    if told.currency != placed.currency:
        raise CurrencyMismatch(f"The order is in {placed.currency}, the refund in {told.currency}.")
    frozen = checkout if checkout.lines else _unpriced(placed, checkout)
    paid_left = max(frozen.payable_minor - frozen.refunded_minor, 0)
    outcome = refund_credit(
        frozen.lines,
        frozen.shipping_minor,
        frozen.coupons,
        frozen.returned,
        told.lines,
        amount_minor=told.amount_minor,
        paid_left_minor=paid_left,
    )
    redeemed = checkout.status == "completed"
    ledger = Ledger(placed.order_id, Books(coupons=held_coupons))
    if redeemed:
        ledger.credit(told.refund_id, outcome.credits, frozen.coupons)
    returned = [it.coupon_id for it in frozen.coupons if it.on_full_refund == "return"]
    if redeemed and outcome.full:
        returned = [key for key in returned if ledger.give_back(key, told.refund_id, now)]
    refunded = CheckoutRefunded(
        order_id=placed.order_id,
        refund_id=told.refund_id,
        currency=placed.currency,
        refunded_minor=told.amount_minor,
        credited_minor=outcome.credited_minor if redeemed else 0,
        excess_minor=max(told.amount_minor - paid_left, 0),
        full=outcome.full,
        returned_coupon_ids=tuple(returned) if redeemed and outcome.full else (),
        lines=outcome.lines,
        shipping_minor=outcome.shipping_minor,
        credits=outcome.credits if redeemed or checkout.status in {"held", "released"} else (),
    )
    let_go = release(checkout, held_coupons, "released", now=now) if outcome.full else NOTHING
    return Plan((*ledger.steps(), Step(CHECKOUT, placed.order_id, (refunded,)), *let_go.steps))


def _unpriced(placed: OrderPlaced, checkout: Checkout) -> Checkout:
    """An order that was never held: no coupon, no discount, all of it payable."""
    lines = tuple(
        FrozenLine(line_id=line.line_id, quantity=line.quantity, amount_minor=line.amount_minor, discount_minor=0)
        for line in placed.lines
    )
    total_minor = sum(line.amount_minor for line in lines) + placed.shipping_minor
    return replace(checkout, lines=lines, shipping_minor=placed.shipping_minor, payable_minor=total_minor)


# The streams of one decision ------------------------------------------------------------------------------------------


class Ledger:
    """Collects one decision's events by stream, each decided on the state that the earlier ones lead to."""

    def __init__(self, order_id: str, books: Books, lapsed: Sequence[str] = ()) -> None:
        self._order_id = order_id
        self._coupons = dict(books.coupons)
        self._budgets = {key: budgets.without(budget, lapsed) for key, budget in books.budgets.items()}
        self._events: dict[tuple[str, str], list[Event]] = {}

    def steps(self) -> tuple[Step, ...]:
        """What was decided, by stream."""
        kinds: dict[str, Kind[Any]] = {kind.name: kind for kind in (COUPON, BUDGET, SETTLEMENT)}
        return tuple(Step(kinds[name], key, tuple(events)) for (name, key), events in self._events.items())

    def lock(self, held: HeldCoupon, lock_until: datetime, now: datetime) -> None:
        """Lock a coupon and reserve its budgets."""
        coupon = self._coupons[held.coupon_id]
        self._on_coupon(coupon, coupons.lock(coupon, self._order_id, held.discount_minor, lock_until, now=now))
        for share in held.budgets:
            budget = self._budgets[share.budget_id]
            self._on_budget(share, budgets.reserve(budget, self._order_id, held.coupon_id, share, lock_until))

    def refit(self, before: Sequence[HeldCoupon], after: Sequence[HeldCoupon], lock_until: datetime) -> None:
        """Reserve other amounts of the budgets than before: all is given back first, so that coupons may share."""
        for it in before:
            for share in it.budgets:
                self._on_budget(share, (released_share(self._order_id, it, share),))
        for it in after:
            for share in it.budgets:
                budget = self._budgets[share.budget_id]
                self._on_budget(share, budgets.reserve(budget, self._order_id, it.coupon_id, share, lock_until))

    def release(self, held: HeldCoupon, cause: ReleaseCause, now: datetime) -> None:
        """Unlock a coupon and give its budgets back what was reserved."""
        coupon = self._coupons[held.coupon_id]
        self._on_coupon(coupon, coupons.release(coupon, self._order_id, cause, now=now))
        for share in held.budgets:
            self._on_budget(share, (released_share(self._order_id, held, share),))

    def redeem(self, held: HeldCoupon, now: datetime) -> None:
        """Redeem a locked coupon, commit its budgets and write its settlement."""
        coupon = self._coupons[held.coupon_id]
        self._on_coupon(coupon, coupons.redeem(coupon, self._order_id, held.discount_minor, now=now))
        for share in held.budgets:
            budget = self._budgets[share.budget_id]
            self._on_budget(share, budgets.commit(budget, self._order_id, held.coupon_id, share))
        self._settle(held)

    def honour(self, held: HeldCoupon, now: datetime) -> None:
        """Redeem a coupon that could not be held again, over the limits that stood in its way."""
        coupon = self._coupons[held.coupon_id]
        self._on_coupon(coupon, coupons.honour(coupon, self._order_id, held.discount_minor, now=now))
        for share in held.budgets:
            budget = self._budgets[share.budget_id]
            self._on_budget(share, budgets.honour(budget, self._order_id, held.coupon_id, share))
        self._settle(held)

    def credit(self, refund_id: str, credits: Sequence[CouponCredit], held: Sequence[HeldCoupon]) -> None:
        """Give budgets their money back, to the period it was spent in, and reverse the settlement."""
        by_id = {it.coupon_id: it for it in held}
        for credit in credits:
            coupon = by_id[credit.coupon_id]
            for share in coupon.budgets:
                back = BudgetCredited(
                    budget_id=share.budget_id,
                    currency=coupon.about.currency,
                    period=share.period,
                    order_id=self._order_id,
                    coupon_id=coupon.coupon_id,
                    refund_id=refund_id,
                    amount_minor=credit.discount_minor,
                )
                self._add(BUDGET, share.budget_id, (back,))
            reversed_ = SettlementReversed(
                order_id=self._order_id,
                refund_id=refund_id,
                coupon_id=coupon.coupon_id,
                about=coupon.about,
                discount_minor=credit.discount_minor,
                lines=credit.lines,
            )
            self._add(SETTLEMENT, self._order_id, (reversed_,))

    def credit_pending(self, pending: Sequence[PendingCredit], held: Sequence[HeldCoupon]) -> None:
        """Write down what refunds that came before redemption had to wait for."""
        for waiting in pending:
            self.credit(waiting.refund_id, waiting.credits, held)

    def give_back(self, coupon_id: str, refund_id: str, now: datetime) -> bool:
        """Return a coupon; says whether there was anything to return."""
        coupon = self._coupons[coupon_id]
        events = coupons.give_back(coupon, self._order_id, refund_id, now=now)
        self._on_coupon(coupon, events)
        return bool(events)

    def _settle(self, held: HeldCoupon) -> None:
        recorded = SettlementRecorded(
            order_id=self._order_id,
            coupon_id=held.coupon_id,
            about=held.about,
            discount_minor=held.discount_minor,
            lines=held.lines,
        )
        self._add(SETTLEMENT, self._order_id, (recorded,))

    def _on_coupon(self, coupon: Coupon, events: tuple[Event, ...]) -> None:
        for event in events:
            coupon = coupons.evolve(coupon, event)
        self._coupons[coupon.coupon_id] = coupon
        self._add(COUPON, coupon.coupon_id, events)

    def _on_budget(self, share: BudgetShare, events: tuple[Event, ...]) -> None:
        for event in events:
            self._budgets[share.budget_id] = budgets.evolve(self._budgets[share.budget_id], event)
        self._add(BUDGET, share.budget_id, events)

    def _add(self, kind: Kind[Any], key: str, events: tuple[Event, ...]) -> None:
        self._events.setdefault((kind.name, key), []).extend(events)
