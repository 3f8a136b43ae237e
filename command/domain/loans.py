"""A lender's side of an order whose coupons lie on several shards: what it locks, and what it does when told.

What is lent stays locked until the order's own shard says what became of it: no time and no timer ends a loan here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from command.domain import budget as budgets
from command.domain.budget import Room
from command.domain.checkout import (
    NOTHING,
    Books,
    Checkout,
    Ledger,
    Plan,
    Step,
    candidate,
    lapsed_holds,
)
from command.domain.pricing import coupon_refusal, price
from command.domain.settlement import SETTLEMENT
from command.unit_of_work import Kind
from contracts.commands import LendCoupons, TellLender
from contracts.events import Event, LoanAnswered, LoanChanged, OrderPlaced
from contracts.lending import LENT_UNTIL, LentBudget, LentCoupon, Loan
from contracts.orders import BudgetShare, CouponRefusal, HeldCoupon
from contracts.refusals import Refusal
from contracts.terms import Terms
from contracts.values import AMOUNT_MINOR_MAX

# For judging a coupon by itself: what its budgets have left is for the order's shard to weigh.
_ENOUGH: Final = Room("", AMOUNT_MINOR_MAX, "grant_remainder")


@dataclass(frozen=True, slots=True)
class LoanState:
    """What this shard has lent to one order. ``nth`` is the borrowing that it answered last."""

    nth: int = 0
    status: Literal["none", "refused", "lent", "redeemed", "released"] = "none"
    held: tuple[HeldCoupon, ...] = ()


def evolve(loan: LoanState, event: Event) -> LoanState:
    """Fold one event of a loan's stream."""
    match event:
        case LoanAnswered():
            return LoanState(event.nth, "lent" if event.loan.granted else "refused", event.held)
        case LoanChanged(word="redeem"):
            return LoanState(event.nth, "redeemed", event.held)
        case LoanChanged(word="release"):
            return LoanState(event.nth, "released")
        case LoanChanged(word="freeze"):
            return LoanState(event.nth, loan.status, event.held)
    return loan


LOAN: Final = Kind("loan", LoanState, LoanState(), evolve)


def loan_key(order_id: str, shard: int) -> str:
    """The key of a lender's stream for one order: no other shard has a stream of that name."""
    return f"{order_id}@{shard}"


def lend(loan: LoanState, asked: LendCoupons, books: Books, *, now: datetime) -> Plan:
    """Lock all of the coupons and reserve what they may need; or say every reason why not, and lock none.

    A discount beside others is never larger than alone, so what a coupon takes off alone is the most it may need.
    Whether that much is left of its budgets is not judged here: the order's shard learns how much is.
    """
    if loan.nth >= asked.nth:
        return NOTHING
    needs, refusals = _judge(asked, books, now)
    if refusals or asked.only_ask:
        return Plan((_answered(asked, Loan(granted=False, refusals=tuple(refusals))),))
    terms = {key: books.terms_of(books.coupons[key]) for key in asked.coupon_ids}
    rooms = {key: budgets.room(budget, sum(needs.values()), now=now) for key, budget in books.budgets.items()}
    held = _reserved(asked, books, terms, needs, rooms)
    lapsed = lapsed_holds(Checkout(), held, books, now)
    ledger = Ledger(asked.order.order_id, books, lapsed)
    for it in held:
        ledger.lock(it, LENT_UNTIL, now)
    granted = Loan(
        granted=True,
        coupons=tuple(LentCoupon(coupon_id=it.coupon_id, about=it.about, terms=terms[it.coupon_id]) for it in held),
        budgets=tuple(
            LentBudget(
                budget_id=key,
                currency=books.budgets[key].currency,
                period=room.period,
                amount_minor=sum(s.amount_minor for it in held for s in it.budgets if s.budget_id == key),
                when_short=room.when_short,
            )
            for key, room in rooms.items()
        ),
    )
    return Plan((*ledger.steps(), _answered(asked, granted, held)), lapsed)


def obey(loan: LoanState, told: TellLender, books: Books, *, now: datetime) -> Plan:
    """Do what the order's shard decided; nothing for what is done already, or was said of another borrowing."""
    if told.nth != loan.nth:
        return NOTHING
    ledger = Ledger(told.order_id, books)
    match told.word, loan.status:
        case "freeze", "lent":
            held = _fitted(loan.held, told.told.held)
            ledger.refit(loan.held, held, LENT_UNTIL)
        case "redeem", "lent":
            held = _fitted(loan.held, told.told.held)
            if held != loan.held:
                ledger.refit(loan.held, held, LENT_UNTIL)
            for it in held:
                ledger.redeem(it, now)
            _credit(ledger, told, held, now)
        case "release", "lent":
            held = ()
            for it in loan.held:
                ledger.release(it, told.cause, now)
        case "credit", "redeemed":
            held = loan.held
            _credit(ledger, told, held, now)
        case _:
            return NOTHING
    changed = LoanChanged(order_id=told.order_id, shard=told.shard, nth=told.nth, word=told.word, held=held)
    # The settlement is written where the order is: once.
    steps = tuple(step for step in ledger.steps() if step.kind is not SETTLEMENT)
    return Plan((*steps, Step(LOAN, loan_key(told.order_id, told.shard), (changed,))))


def _credit(ledger: Ledger, told: TellLender, held: Sequence[HeldCoupon], now: datetime) -> None:
    for refund in told.told.refunds:
        ledger.credit(refund.refund_id, refund.credits, held)
        for coupon_id in refund.returned:
            ledger.give_back(coupon_id, refund.refund_id, now)


def _judge(asked: LendCoupons, books: Books, now: datetime) -> tuple[dict[str, int], list[CouponRefusal]]:
    """The most that each coupon may take off, and why others cannot be used."""
    placed = OrderPlaced(**dict(asked.order), coupon_ids=asked.coupon_ids)
    needs: dict[str, int] = {}
    refusals: list[CouponRefusal] = []
    rooms = dict.fromkeys(books.budgets, _ENOUGH)
    for coupon_id in asked.coupon_ids:
        try:
            alone = [candidate(coupon_id, placed, books, now)]
        except Refusal as refusal:
            refusals.append(coupon_refusal(coupon_id, refusal))
            continue
        priced = price(placed.lines, placed.shipping_minor, placed.currency, alone, rooms)
        refusals += priced.refusals
        needs |= {applied.coupon_id: applied.discount_minor for applied in priced.applied}
    return needs, refusals


def _reserved(
    asked: LendCoupons,
    books: Books,
    terms: Mapping[str, Terms],
    needs: Mapping[str, int],
    rooms: Mapping[str, Room],
) -> tuple[HeldCoupon, ...]:
    left = {key: room.available_minor for key, room in rooms.items()}
    held: list[HeldCoupon] = []
    for coupon_id in asked.coupon_ids:
        shares: list[BudgetShare] = []
        for key in terms[coupon_id].budget_ids:
            amount = min(needs[coupon_id], left[key])
            left[key] -= amount
            if amount:
                shares.append(BudgetShare(budget_id=key, period=rooms[key].period, amount_minor=amount))
        held.append(
            HeldCoupon(
                coupon_id=coupon_id,
                about=books.coupons[coupon_id].about,
                discount_minor=needs[coupon_id],
                lines=(),
                budgets=tuple(shares),
                on_full_refund=terms[coupon_id].on_full_refund,
            )
        )
    return tuple(held)


def _fitted(lent: Sequence[HeldCoupon], frozen: Sequence[HeldCoupon]) -> tuple[HeldCoupon, ...]:
    """What was frozen, of the coupons that were lent."""
    mine = {it.coupon_id for it in lent}
    return tuple(it for it in frozen if it.coupon_id in mine)


def _answered(asked: LendCoupons, loan: Loan, held: tuple[HeldCoupon, ...] = ()) -> Step:
    order_id = asked.order.order_id
    answered = LoanAnswered(order_id=order_id, shard=asked.shard, nth=asked.nth, loan=loan, held=held)
    return Step(LOAN, loan_key(order_id, asked.shard), (answered,))
