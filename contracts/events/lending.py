"""One order's coupons on several shards: what its own shard asks and tells, and what each lender decided."""

from typing import ClassVar, Literal

from contracts.events.base import Event
from contracts.events.coupon import ReleaseCause
from contracts.lending import BorrowingOrder, Lender, LenderWord, Loan, LoanWord
from contracts.orders import HeldCoupon
from contracts.values import Instant


class BorrowingBegan(Event):
    """The order's shard asks for its coupons, shard by shard in sorted order, its own included.

    ``payment_id``: the order was paid after its hold was gone, and is to be redeemed with what can be held again.
    """

    type: ClassVar[str] = "borrowing.began.v1"

    order_id: str
    nth: int
    attempt: int
    lenders: tuple[Lender, ...]
    until: Instant  # By then every lender has answered, or the order is refused.
    payment_id: str | None = None


class BorrowingAsked(Event):
    """It is one lender's turn."""

    type: ClassVar[str] = "borrowing.asked.v1"

    order_id: str
    nth: int
    lender: Lender
    order: BorrowingOrder
    only_ask: bool = False


class BorrowingAnswered(Event):
    """A lender's answer arrived."""

    type: ClassVar[str] = "borrowing.answered.v1"

    order_id: str
    nth: int
    lender: int
    loan: Loan


class BorrowingPostponed(Event):
    """A payment or a refund came before all lenders had answered; it is decided right after the hold."""

    type: ClassVar[str] = "borrowing.postponed.v1"

    order_id: str
    nth: int
    what: Literal["payment", "refund"]
    key: str | None


class BorrowingTold(Event):
    """What the lenders are told from here on; they do it, sooner or later."""

    type: ClassVar[str] = "borrowing.told.v1"

    order_id: str
    nth: int
    word: LoanWord
    cause: ReleaseCause = "released"
    words: tuple[LenderWord, ...]


class LoanAnswered(Event):
    """A lender's decision: coupons locked and budgets reserved (``held``: up to what may be needed), or refused."""

    type: ClassVar[str] = "loan.answered.v1"

    order_id: str
    shard: int
    nth: int
    loan: Loan
    held: tuple[HeldCoupon, ...] = ()


class LoanChanged(Event):
    """A lender did what the order's shard told it; ``held`` is what it holds, or used up, from here on."""

    type: ClassVar[str] = "loan.changed.v1"

    order_id: str
    shard: int
    nth: int
    word: LoanWord
    held: tuple[HeldCoupon, ...] = ()
