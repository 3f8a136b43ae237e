"""What shards ask of each other for one order whose coupons lie on several of them; only sagas send these."""

from typing import ClassVar

from contracts.commands.base import Command
from contracts.events.coupon import ReleaseCause
from contracts.lending import BorrowingOrder, LenderWord, Loan, LoanWord
from contracts.values import Id


class LendCoupons(Command):
    """Lock these coupons for an order of another shard, and reserve what they may need; or say every reason why not.

    ``nth`` counts the order's borrowings. ``only_ask``: judge, and lock nothing: somebody else has refused already.
    """

    type: ClassVar[str] = "lend_coupons"

    shard: int
    nth: int
    order: BorrowingOrder
    coupon_ids: tuple[Id, ...]
    only_ask: bool = False


class AnswerLoan(Command):
    """Tell the order's shard what a lender decided."""

    type: ClassVar[str] = "answer_loan"

    order_id: Id
    nth: int
    lender: int
    loan: Loan


class TellLender(Command):
    """Tell a lender what became of the order that it lent to."""

    type: ClassVar[str] = "tell_lender"

    shard: int
    order_id: Id
    nth: int
    word: LoanWord
    cause: ReleaseCause = "released"
    told: LenderWord
