"""One order playing one scenario, without any input or output: whoever drives it sends the commands and answers."""

from collections.abc import Generator
from dataclasses import dataclass, field
from enum import Enum

from contracts.commands import CancelOrder, Command, PlaceOrder, ReopenOrder, ReportPayment, ReportRefund
from infra.simulator.scenarios import (
    WHOLE_BP,
    Cancel,
    FailToPay,
    Pass,
    Pay,
    Place,
    Refund,
    Reopen,
    Scenario,
)


class Question(Enum):
    """What the order system needs to know; the answer is an amount in minor units."""

    QUOTE = "what will be payable"  # Before the order is told.
    PAYABLE = "what is payable"  # Of an order that was told.


@dataclass(frozen=True, slots=True)
class Told:
    """Something to send; sent again under the same id it is the same."""

    command_id: str
    command: Command


Move = Told | Question | Pass
Moves = Generator[Move, int | None, None]


@dataclass
class Play:
    """An order and what becomes of it."""

    placing: PlaceOrder
    scenario: Scenario
    refunded_minor: int = 0
    payable_minor: int | None = None
    placed: bool = False
    _told: int = field(default=0, repr=False)

    @property
    def order_id(self) -> str:
        """The order system's own name for it."""
        return self.placing.order_id

    @property
    def total_minor(self) -> int:
        """What the customer pays when no coupon is held."""
        return sum(line.amount_minor for line in self.placing.lines) + self.placing.shipping_minor

    def moves(self) -> Moves:
        """What happens next, until nothing does.

        A Question expects its answer by ``send``; placing and reopening may be answered with what is payable, if that
        is known at once; all else expects None.
        """
        for step in self.scenario.steps:
            match step:
                case Place():
                    self.payable_minor = yield self._tell(self.placing)
                    self.placed = True
                case Pay():
                    command = self._payment(step.payment, (yield from self._payable()))
                    for _ in range(step.times):
                        yield self._tell(command)
                case FailToPay():
                    yield self._tell(self._failure(step.payment))
                case Cancel():
                    yield self._tell(
                        CancelOrder(order_id=self.order_id, cause="rejected" if step.rejected else "cancelled")
                    )
                case Reopen():
                    self.payable_minor = yield self._tell(ReopenOrder(order_id=self.order_id))
                case Refund():
                    yield self._tell(self._refund(step, (yield from self._payable())))
                case Pass():
                    yield step

    def _payable(self) -> Generator[Move, int | None, int]:
        if self.payable_minor is None:
            self.payable_minor = yield Question.PAYABLE if self.placed else Question.QUOTE
        assert self.payable_minor is not None
        return self.payable_minor

    def _tell(self, command: Command) -> Told:
        self._told += 1
        return Told(f"{self.order_id}:{self._told}", command)

    def _payment(self, payment: str, amount_minor: int) -> Command:
        return ReportPayment(
            payment_id=f"{self.order_id}-p{payment}",
            order_id=self.order_id,
            status="succeeded",
            amount_minor=amount_minor,
            currency=self.placing.currency,
        )

    def _failure(self, payment: str) -> Command:
        return ReportPayment(
            payment_id=f"{self.order_id}-p{payment}",
            order_id=self.order_id,
            status="failed",
            currency=self.placing.currency,
            reason="declined",
        )

    def _refund(self, step: Refund, payable_minor: int) -> Command:
        left_minor = payable_minor - self.refunded_minor
        part_minor = left_minor if step.share_bp is None else payable_minor * step.share_bp // WHOLE_BP
        self.refunded_minor += part_minor
        return ReportRefund(
            refund_id=f"{self.order_id}-r{step.refund}",
            order_id=self.order_id,
            amount_minor=part_minor + step.excess_minor,
            currency=self.placing.currency,
        )
