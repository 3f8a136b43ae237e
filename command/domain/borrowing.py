"""An order whose coupons lie on several shards: its own shard borrows them, prices once, and says what became of it.

The lenders are asked one after the other, in sorted order, the order's own shard in its place among them: of two orders
that want the same coupons one comes first everywhere. Once all have answered, the order is one decision as ever, by the
same arithmetic (:mod:`command.domain.checkout`), on coupons and budgets as the lenders described them; what happens to
the real ones is told to the lenders. From their grant on they wait for that word, so it can always be carried out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, NamedTuple

from command.domain.budget import Budget
from command.domain.checkout import CHECKOUT, Books, Checkout, Plan, Step
from command.domain.coupon import Coupon
from command.domain.settlement import SETTLEMENT
from command.domain.template import Template
from command.unit_of_work import Kind
from contracts.events import (
    BorrowingAnswered,
    BorrowingAsked,
    BorrowingBegan,
    BorrowingPostponed,
    BorrowingTold,
    BudgetCreated,
    CheckoutCompleted,
    CheckoutReady,
    Event,
    OrderPlaced,
)
from contracts.events.coupon import ReleaseCause
from contracts.lending import (
    LENT_UNTIL,
    BorrowingOrder,
    Lender,
    LenderWord,
    Loan,
    LoanWord,
    RefundCredits,
)
from contracts.orders import BudgetShare, CouponCredit, CouponRefusal, HeldCoupon


class Postponed(NamedTuple):
    """What came while lenders were being asked."""

    what: Literal["payment", "refund"]
    key: str | None


@dataclass(frozen=True, slots=True)
class Borrowing:
    """One order's latest borrowing: whom it asks, who has answered, and what waits for the end of it."""

    status: Literal["none", "asking", "answered", "closed"] = "none"
    nth: int = 0
    attempt: int = 0
    payment_id: str | None = None
    until: datetime = LENT_UNTIL
    lenders: tuple[Lender, ...] = ()
    asked: tuple[int, ...] = ()
    loans: dict[int, Loan] = field(default_factory=dict)
    postponed: tuple[Postponed, ...] = ()

    @property
    def refusals(self) -> tuple[CouponRefusal, ...]:
        """Every reason that a lender gave."""
        return tuple(refusal for loan in self.loans.values() for refusal in loan.refusals)

    @property
    def next_lender(self) -> Lender | None:
        """Whose turn it is; None once all were asked."""
        return next((lender for lender in self.lenders if lender.shard not in self.asked), None)

    def lender_of(self, coupon_id: str) -> int:
        """The shard that a coupon was asked of."""
        return next(lender.shard for lender in self.lenders if coupon_id in lender.coupon_ids)


def evolve(borrowing: Borrowing, event: Event) -> Borrowing:
    """Fold one event of the order's borrowing stream."""
    match event:
        case BorrowingBegan():
            return Borrowing(
                status="asking",
                nth=event.nth,
                attempt=event.attempt,
                payment_id=event.payment_id,
                until=event.until,
                lenders=event.lenders,
                postponed=borrowing.postponed,
            )
        case BorrowingAsked():
            return replace(borrowing, asked=(*borrowing.asked, event.lender.shard))
        case BorrowingAnswered():
            loans = {**borrowing.loans, event.lender: event.loan}
            status = "answered" if len(loans) == len(borrowing.lenders) else borrowing.status
            return replace(borrowing, loans=loans, status=status)
        case BorrowingPostponed():
            return replace(borrowing, postponed=(*borrowing.postponed, Postponed(event.what, event.key)))
        case BorrowingTold(word="release"):
            return replace(borrowing, status="closed", postponed=())
        case BorrowingTold():
            return replace(borrowing, postponed=())
    return borrowing


BORROWING: Final = Kind("borrowing", Borrowing, Borrowing(), evolve)


# Asking ---------------------------------------------------------------------------------------------------------------


def begin(
    borrowing: Borrowing,
    placed: OrderPlaced,
    attempt: int,
    by_shard: Mapping[int, Sequence[str]],
    *,
    until: datetime,
    payment_id: str | None = None,
) -> tuple[Event, ...]:
    """Start to ask, the lowest shard first."""
    lenders = tuple(Lender(shard=shard, coupon_ids=tuple(ids)) for shard, ids in sorted(by_shard.items()))
    began = BorrowingBegan(
        order_id=placed.order_id,
        nth=borrowing.nth + 1,
        attempt=attempt,
        lenders=lenders,
        until=until,
        payment_id=payment_id,
    )
    return (began, *ask_next(evolve(borrowing, began), placed))


def ask_next(borrowing: Borrowing, placed: OrderPlaced) -> tuple[Event, ...]:
    """Ask whose turn it is. After a refusal the others are only asked for their reasons: nothing more is locked."""
    if (lender := borrowing.next_lender) is None:
        return ()
    order = BorrowingOrder(
        order_id=placed.order_id,
        user_id=placed.user_id,
        currency=placed.currency,
        shipping_minor=placed.shipping_minor,
        lines=placed.lines,
    )
    refused = any(not loan.granted for loan in borrowing.loans.values())
    return (BorrowingAsked(order_id=placed.order_id, nth=borrowing.nth, lender=lender, order=order, only_ask=refused),)


def answered(borrowing: Borrowing, placed: OrderPlaced, nth: int, lender: int, loan: Loan) -> tuple[Event, ...]:
    """Take in a lender's answer and go on; nothing for one that came before, or that nobody waits for any more."""
    if borrowing.status != "asking" or nth != borrowing.nth or lender in borrowing.loans:
        return ()
    took = BorrowingAnswered(order_id=placed.order_id, nth=nth, lender=lender, loan=loan)
    return (took, *ask_next(evolve(borrowing, took), placed))


def postpone(borrowing: Borrowing, order_id: str, what: Postponed) -> tuple[Event, ...]:
    """Keep a payment or a refund until all lenders have answered."""
    if what in borrowing.postponed:
        return ()
    return (BorrowingPostponed(order_id=order_id, nth=borrowing.nth, what=what.what, key=what.key),)


# Deciding on what the lenders described -------------------------------------------------------------------------------


def books_of(borrowing: Borrowing) -> Books:
    """Coupons, templates and budgets as the lenders described them.

    A budget's id says whose it is: two lenders may have money of one name, each only its own.
    """
    coupons: dict[str, Coupon] = {}
    templates: dict[str, Template] = {}
    budgets: dict[str, Budget] = {}
    for shard, loan in borrowing.loans.items():
        for lent in loan.coupons:
            about = lent.about
            coupons[lent.coupon_id] = Coupon(
                status="claimed", coupon_id=lent.coupon_id, about=about, valid_until=LENT_UNTIL
            )
            terms = lent.terms.model_copy(
                update={"budget_ids": tuple(_at(key, shard) for key in lent.terms.budget_ids)}
            )
            template = templates.get(about.template_id) or Template(
                status="active", template_id=about.template_id, claim_until=LENT_UNTIL
            )
            versions = {**template.terms, about.terms_version: terms}
            templates[about.template_id] = replace(template, terms_version=about.terms_version, terms=versions)
        for pot in loan.budgets:
            key = _at(pot.budget_id, shard)
            created = BudgetCreated(
                budget_id=key,
                name="",
                currency=pot.currency,
                limit_minor=pot.amount_minor,
                recurs=None,
                zone="UTC",
                when_short=pot.when_short,
                thresholds_percent=(),
            )
            budgets[key] = Budget(created=created, limit_minor=pot.amount_minor)
    return Books(coupons, templates, budgets)


def described(checkout: Checkout) -> Checkout:
    """A held order as its lenders keep it: without an end until they are told, its budgets with them."""
    coupons = tuple(it.model_copy(update={"budgets": ()}) for it in checkout.coupons)
    return replace(checkout, lock_until=LENT_UNTIL, coupons=coupons)


def as_held(checkout: Checkout) -> dict[str, Coupon]:
    """The coupons of a decided order, as they are at their lenders: nothing can have happened to them there."""
    status: Literal["redeemed", "locked"] = "redeemed" if checkout.status == "completed" else "locked"
    return {
        it.coupon_id: Coupon(
            status=status,
            coupon_id=it.coupon_id,
            about=it.about,
            valid_until=LENT_UNTIL,
            order_id=checkout.order_id,
            discount_minor=it.discount_minor,
            lock_until=LENT_UNTIL,
        )
        for it in checkout.coupons
    }


def own_steps(plan: Plan, borrowing: Borrowing) -> tuple[Step, ...]:
    """What a decision writes here: the order's checkout and settlement. All else is at its lenders."""
    return tuple(
        step._replace(events=tuple(_at_home(event, borrowing) for event in step.events))
        for step in plan.steps
        if step.kind in (CHECKOUT, SETTLEMENT)
    )


def _at_home(event: Event, borrowing: Borrowing) -> Event:
    if isinstance(event, CheckoutReady | CheckoutCompleted) and event.coupons:
        coupons = tuple(_named_by_lender(it, borrowing) for it in event.coupons)
        return event.model_copy(update={"coupons": coupons})
    return event


def _named_by_lender(held: HeldCoupon, borrowing: Borrowing) -> HeldCoupon:
    """The shares of budgets by their lender's own names and periods."""
    loan = borrowing.loans[borrowing.lender_of(held.coupon_id)]
    periods = {pot.budget_id: pot.period for pot in loan.budgets}
    shares = []
    for share in held.budgets:
        budget_id = share.budget_id.rpartition("@")[0]
        period = periods.get(budget_id, share.period)
        shares.append(BudgetShare(budget_id=budget_id, period=period, amount_minor=share.amount_minor))
    return held.model_copy(update={"budgets": tuple(shares)})


def named_here(held: HeldCoupon, borrowing: Borrowing) -> HeldCoupon:
    """The inverse: as the books of a borrowing name the budgets."""
    shard = borrowing.lender_of(held.coupon_id)
    shares = tuple(share.model_copy(update={"budget_id": _at(share.budget_id, shard)}) for share in held.budgets)
    return held.model_copy(update={"budgets": shares})


def _at(budget_id: str, shard: int) -> str:
    return f"{budget_id}@{shard}"


# Telling --------------------------------------------------------------------------------------------------------------


def tell(
    borrowing: Borrowing,
    order_id: str,
    word: LoanWord,
    held: Iterable[HeldCoupon] = (),
    refunds: Iterable[RefundCredits] = (),
    *,
    cause: ReleaseCause = "released",
) -> tuple[Event, ...]:
    """Tell every lender that was asked what concerns it. One that has not answered yet hears it after its answer."""
    coupons, told_refunds = tuple(held), tuple(refunds)
    words = []
    for lender in borrowing.lenders:
        if lender.shard not in borrowing.asked:
            continue
        mine = tuple(it for it in coupons if it.coupon_id in lender.coupon_ids)
        credits = tuple(part for it in told_refunds if (part := _part_of(it, lender)) is not None)
        if word != "credit" or credits:
            words.append(LenderWord(shard=lender.shard, held=mine, refunds=credits))
    if not words:
        return ()
    return (BorrowingTold(order_id=order_id, nth=borrowing.nth, word=word, cause=cause, words=tuple(words)),)


def refund_of(refund_id: str, credits: Sequence[CouponCredit], returned: Sequence[str] = ()) -> RefundCredits:
    """What one refund takes back."""
    return RefundCredits(refund_id=refund_id, credits=tuple(credits), returned=tuple(returned))


def _part_of(refund: RefundCredits, lender: Lender) -> RefundCredits | None:
    credits = tuple(it for it in refund.credits if it.coupon_id in lender.coupon_ids)
    returned = tuple(key for key in refund.returned if key in lender.coupon_ids)
    return (
        RefundCredits(refund_id=refund.refund_id, credits=credits, returned=returned) if credits or returned else None
    )
