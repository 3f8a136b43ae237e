"""Orders over several shards, checked from all their raw logs: what is lent ends with its order, to the penny."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from contracts.identity import Realm as PlacedRealm
from contracts.lending import LENT_UNTIL
from contracts.placement import Placement
from query.verify.raw import RawEvent, Violation

if TYPE_CHECKING:
    from query.verify.books import Books

Realm = tuple[str, str]
Order = tuple[Realm, str]

# What a loan is once its lender has done what it was told.
STATUS_AFTER: Final = {"freeze": "lent", "redeem": "redeemed", "credit": "redeemed", "release": "released"}
OPEN: Final = frozenset({"checkout.ready.v1", "checkout.refunded.v1"})
CROSSING_EVENTS: Final = (
    *("loan.answered.v1", "loan.changed.v1", "borrowing.began.v1", "borrowing.asked.v1"),
    *("borrowing.answered.v1", "borrowing.told.v1"),
    *("checkout.completed.v1", "checkout.completed_unredeemed.v1", "checkout.released.v1", "checkout.refused.v1"),
)

Amounts = dict[str, tuple[int, tuple[tuple[str, str, int], ...]]]  # Coupon -> discount, and what each budget pays.


@dataclass(slots=True)
class LoanBook:
    """What one shard lent to one order, last: refused, lent, redeemed or released; the answer, and the amounts now."""

    nth: int
    status: str
    answer: Mapping[str, Any]
    held: Amounts


@dataclass(slots=True)
class BorrowingBook:
    """What an order's own shard asked, took in and told: each by borrowing and lender."""

    nth: int = 0
    ended: str = ""  # The event that ended the order's latest borrowing.
    asked: dict[tuple[int, int], int] = field(default_factory=dict)  # -> offset
    answers: dict[tuple[int, int], Mapping[str, Any]] = field(default_factory=dict)
    told: dict[tuple[int, int], tuple[str, Amounts | None, int]] = field(default_factory=dict)  # -> word, …, offset


class CrossingBooks:
    """One shard's part of orders over several shards."""

    def __init__(self) -> None:
        self.loans: dict[tuple[Order, int], LoanBook] = {}
        self.borrowings: dict[Order, BorrowingBook] = {}

    def moved(self, event: RawEvent) -> None:
        """Take in one of CROSSING_EVENTS."""
        data = event.data
        order: Order = (event.realm, data["order_id"])
        if event.type == "loan.answered.v1":
            status = "lent" if data["loan"]["granted"] else "refused"
            self.loans[order, data["shard"]] = LoanBook(data["nth"], status, data["loan"], _amounts(data["held"]))
        elif event.type == "loan.changed.v1":
            loan = self.loans[order, data["shard"]]
            loan.status, loan.held = STATUS_AFTER[data["word"]], _amounts(data["held"])
        elif event.type.startswith("borrowing."):
            self._borrowed(event, self.borrowings.setdefault(order, BorrowingBook()))
        elif (borrowing := self.borrowings.get(order)) is not None:
            borrowing.ended = event.type

    def _borrowed(self, event: RawEvent, book: BorrowingBook) -> None:
        data, nth = event.data, event.data["nth"]
        if event.type == "borrowing.began.v1":
            book.nth, book.ended = nth, ""
        elif event.type == "borrowing.asked.v1":
            book.asked[nth, data["lender"]["shard"]] = event.offset
        elif event.type == "borrowing.answered.v1":
            book.answers[nth, data["lender"]] = data["loan"]
        else:
            for words in data["words"]:
                # A credit and a release leave the amounts that were told before.
                before = book.told.get((nth, words["shard"]), ("", None, 0))[1]
                amounts = _amounts(words["held"]) if data["word"] in {"freeze", "redeem"} else before
                book.told[nth, words["shard"]] = (data["word"], amounts, event.offset)


def _amounts(held: Iterable[Mapping[str, Any]]) -> Amounts:
    return {
        it["coupon_id"]: (
            it["discount_minor"],
            tuple(sorted((share["budget_id"], share["period"], share["amount_minor"]) for share in it["budgets"])),
        )
        for it in held
    }


class ShardView(NamedTuple):
    """One shard at one instant: its books, which letters to others wait there, and how far its sagas have heard."""

    books: "Books"
    letters: frozenset[tuple[Realm, str]]
    heard: int

    def is_on_its_way(self, order: Order, lender: int, said_at: int) -> bool:
        """Whether what was said at an offset may not have reached a lender yet."""
        realm, order_id = order
        return said_at > self.heard or (realm, f"lending:{order_id}@{lender}") in self.letters


def check_crossing(shards: Mapping[int, ShardView], placement: Placement) -> Iterator[Violation]:
    """I9, I12 over all shards: each loan has its order, says what its order says, and is over when its order is.

    The shards are looked at one after the other: what moves meanwhile may show once. What shows in two looks, the
    second begun after the first was over, is so.
    """
    for lender, view in shards.items():
        crossing = view.books.crossing
        for (order, shard), loan in crossing.loans.items():
            home = shards.get(_shard_of(placement, order), view)
            subject = f"{'/'.join(order[0])}/order/{order[1]}, lent by shard {shard}"
            for invariant, detail in _check_loan(order, shard, loan, home, view):
                yield Violation(invariant, subject, detail, shard=lender)
        yield from _check_locks(lender, view)
        yield from _check_questions(lender, view, shards, placement)


def _check_loan(
    order: Order, shard: int, loan: LoanBook, home: ShardView, view: ShardView
) -> Iterator[tuple[str, str]]:
    borrowing = home.books.crossing.borrowings.get(order)
    if borrowing is None or (loan.nth, shard) not in borrowing.asked:
        if loan.status in {"lent", "redeemed"}:
            yield "I9", f"{loan.status} for borrowing {loan.nth}, which the order's shard never asked for"
        return
    taken = borrowing.answers.get((loan.nth, shard))
    if taken is not None and taken != loan.answer:
        yield "I12", f"the order was decided on another answer than the lender gave: {_differs(taken, loan.answer)}"
    word, amounts, said_at = borrowing.told.get((loan.nth, shard), ("", None, 0))
    if loan.status != "refused" and not home.is_on_its_way(order, shard, said_at):
        yield from _check_word(loan, word, amounts, borrowing)
    yield from _check_held(order, loan, view)
    if loan.status == "redeemed":
        settled = home.books.orders[order].settled
        for coupon_id, (discount, _) in loan.held.items():
            if settled[coupon_id] != discount:
                yield (
                    "I9",
                    f"coupon {coupon_id} redeemed {discount} at its lender, the order settled {settled[coupon_id]}",
                )


def _check_word(
    loan: LoanBook, word: str, amounts: Amounts | None, borrowing: BorrowingBook
) -> Iterator[tuple[str, str]]:
    """What the lender did is what it was told, and nothing is lent any more once the order has ended."""
    expected = STATUS_AFTER.get(word, "lent")
    if loan.status != expected:
        yield "I9", f"{loan.status}, but the order's shard said {word or 'nothing yet'}"
    elif loan.status != "released" and amounts is not None and amounts != loan.held:
        yield "I12", f"the order's shard says {amounts}, the lender {loan.held}"
    elif loan.status == "lent" and (borrowing.ended or loan.nth < borrowing.nth):
        yield "I9", f"still lent after {borrowing.ended or f'borrowing {borrowing.nth} began'}"


def _check_held(order: Order, loan: LoanBook, view: ShardView) -> Iterator[tuple[str, str]]:
    """At the lender: a loan's coupons and budgets are bound to its order exactly as long as it is lent."""
    realm, order_id = order
    for coupon_id, (discount, shares) in loan.held.items():
        coupon = view.books.coupons.get((realm, coupon_id))
        bound = coupon is not None and coupon.order_id == order_id and coupon.status == "locked"
        if bound != (loan.status == "lent"):
            status = "does not exist" if coupon is None else f"is {coupon.status} for {coupon.order_id}"
            yield "I9", f"{loan.status}, but coupon {coupon_id} {status}"
        elif coupon is not None and bound and coupon.locked_minor != discount:
            yield "I9", f"coupon {coupon_id} is locked at {coupon.locked_minor}, lent at {discount}"
        for budget_id, _, amount in shares:
            reserved = view.books.budgets[realm, budget_id].open.get((order_id, coupon_id), 0)
            if reserved != (amount if loan.status == "lent" else 0):
                yield "I12", f"{loan.status} with {amount} of budget {budget_id}, but {reserved} is reserved for it"


def _check_locks(lender: int, view: ShardView) -> Iterator[Violation]:
    """A coupon that is locked without an end is lent."""
    for (realm, coupon_id), coupon in view.books.coupons.items():
        if coupon.status == "locked" and datetime.fromisoformat(coupon.lock_until) >= LENT_UNTIL:
            loan = view.books.crossing.loans.get(((realm, coupon.order_id or ""), lender))
            if loan is None or loan.status != "lent" or coupon_id not in loan.held:
                subject = f"{'/'.join(realm)}/coupon/{coupon_id}"
                detail = f"locked without an end for {coupon.order_id}, which it is not lent to"
                yield Violation("I9", subject, detail, shard=lender)


def _check_questions(
    home: int, view: ShardView, shards: Mapping[int, ShardView], placement: Placement
) -> Iterator[Violation]:
    """Every lender that was asked has answered, or the question is on its way."""
    for order, borrowing in view.books.crossing.borrowings.items():
        for (nth, shard), said_at in borrowing.asked.items():
            if shard not in shards or view.is_on_its_way(order, shard, said_at):
                continue
            loan = shards[shard].books.crossing.loans.get((order, shard))
            if loan is None or loan.nth < nth:
                subject = f"{'/'.join(order[0])}/order/{order[1]}, lent by shard {shard}"
                taken = "took in an answer" if (nth, shard) in borrowing.answers else "sent its question"
                yield Violation(
                    "I9", subject, f"shard {home} {taken} to borrowing {nth}, the lender knows none", shard=shard
                )


def _differs(taken: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    names = sorted(name for name in {*taken, *given} if taken.get(name) != given.get(name))
    return ", ".join(names)


def check_places(shard: int, books: "Books", placement: Placement) -> Iterator[Violation]:
    """I10: nothing of a tenant lies on a shard where it does not live. Branches of budgets lie where they spend."""
    strangers: dict[Realm, int] = {}
    for (realm, _), count in books.events_by_type.items():
        if shard not in placement.shards_of(PlacedRealm(*realm)):
            strangers[realm] = strangers.get(realm, 0) + count
    for realm, count in strangers.items():
        lives = ", ".join(map(str, placement.shards_of(PlacedRealm(*realm))))
        yield Violation("I10", "/".join(realm), f"{count} events here, but it lives on shard {lives}", shard=shard)
    named = [
        *(("template", key, _shard_of(placement, key)) for key, it in books.templates.items() if it.terms),
        *(("coupon", key, placement.shard_of_coupon(PlacedRealm(*key[0]), key[1])) for key in books.coupons),
        *(("order", key, _shard_of(placement, key)) for key in books.orders if books.orders[key].settled),
        *(("order", key, _shard_of(placement, key)) for key in books.crossing.borrowings),
    ]
    for kind, (realm, key), belongs in named:
        if realm not in strangers and belongs != shard:
            yield Violation("I10", f"{'/'.join(realm)}/{kind}/{key}", f"belongs on shard {belongs}", shard=shard)


def _shard_of(placement: Placement, key: Order) -> int:
    realm, name = key
    return placement.shard_of(PlacedRealm(*realm), name)
