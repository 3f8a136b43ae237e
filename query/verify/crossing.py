"""One shard's part of orders over several shards, kept from its raw log: what it lent, what it asked and was told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from query.verify.raw import RawEvent

Realm = tuple[str, str]
Order = tuple[Realm, str]

# What a loan is once its lender has done what it was told.
STATUS_AFTER: Final = {"freeze": "lent", "redeem": "redeemed", "credit": "redeemed", "release": "released"}
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
