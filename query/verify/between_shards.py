"""What must hold between the books of several shards: what one lent, opened or told is what the other knows of it."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from contracts.identity import Realm as PlacedRealm
from contracts.lending import LENT_UNTIL
from contracts.placement import Placement
from query.verify.books import Books
from query.verify.crossing import STATUS_AFTER, Amounts, BorrowingBook, LoanBook, Order, Realm
from query.verify.raw import Violation


class ShardView(NamedTuple):
    """One shard at one instant: its books, which letters to others wait there, and how far its sagas have heard."""

    books: Books
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


def check_places(shard: int, books: Books, placement: Placement) -> Iterator[Violation]:
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


def check_leases(home: Books, holders: Mapping[str, Books]) -> Iterator[Violation]:
    """I12 over both stores: each branch opened only what home granted, and home took back only what it gave up.

    To be asked when both are at rest: what moves between two looks would be named, too.
    """
    for (realm, budget_id), budget in home.budgets.items():
        for (holder, period), lent in budget.leases.granted.items():
            if holder not in holders:
                continue
            branch = holders[holder].budgets[realm, budget_id]
            subject = f"{'/'.join(realm)}/budget/{budget_id}, holder {holder}, period {period!r}"
            opened = branch.leases.opened.get(period, {})
            for number, amount in opened.items():
                if lent.get(number) != amount:
                    yield Violation("I12", subject, f"lease {number}: {amount} opened, {lent.get(number)} granted")
            told = budget.leases.known.get((holder, period), {})
            for name, has in (
                ("opened_minor", sum(opened.values())),
                ("returned_minor", branch.leases.returned[period]),
                ("committed_minor", branch.committed[period]),
                ("credited_minor", branch.credited[period]),
            ):
                if told.get(name, 0) > has:
                    yield Violation("I12", subject, f"home knows {name} {told[name]}, the holder has {has}")
