"""Which function handles which command: the write side's table of contents."""

from collections.abc import Callable
from typing import Any, Final

from command.domain.borrowing import BORROWING
from command.domain.breaks import BREAK
from command.domain.budget import BUDGET
from command.domain.checkout import CHECKOUT
from command.domain.clock import CLOCK, MAIN
from command.domain.code import CODE, CODE_BATCH
from command.domain.coupon import COUPON
from command.domain.distribution import DISTRIBUTION
from command.domain.imports import IMPORT
from command.domain.loans import LOAN
from command.domain.orders import ADJUSTMENT, ORDER, PAYMENT, REFUND
from command.domain.settlement import SETTLEMENT
from command.domain.template import TEMPLATE
from command.handlers import (
    budgets,
    checkouts,
    claims,
    codes,
    coupons,
    crossing,
    distributions,
    leases,
    loans,
    operations,
    templates,
    upstream,
)
from command.handlers.handler import Handler, Handlers, Rush, Touches
from command.unit_of_work import Kind
from contracts import commands as c
from contracts.codes import code_key_of

# Every kind of stream that commands decide upon, by the name in its stream ids.
KINDS: Final[dict[str, Kind[Any]]] = {
    kind.name: kind
    for kind in (
        *(TEMPLATE, COUPON, BUDGET, DISTRIBUTION),
        *(CODE_BATCH, CODE),
        *(ORDER, PAYMENT, REFUND, ADJUSTMENT),
        *(CHECKOUT, SETTLEMENT, BORROWING, LOAN),
        *(CLOCK, BREAK, IMPORT),
    )
}


def _by(kind: Kind[Any], field: str, *more: tuple[Kind[Any], str]) -> Callable[[c.Command], Touches]:
    """Touches the streams whose keys are these fields of the command; a field without a value touches none."""
    named = ((kind, field), *more)
    return lambda command: [(kind, key) for kind, name in named if (key := getattr(command, name)) is not None]


def _named_coupons(command: c.QuoteOrder) -> Touches:
    return [(COUPON, coupon_id) for coupon_id in command.coupon_ids]


_template = _by(TEMPLATE, "template_id")
_coupon = _by(COUPON, "coupon_id")
_budget = _by(BUDGET, "budget_id")
_order = _by(ORDER, "order_id")
_code_batch = _by(CODE_BATCH, "batch_id")
_distribution = _by(DISTRIBUTION, "distribution_id")
_checkout = _by(CHECKOUT, "order_id", (ORDER, "order_id"))


def _code(command: c.UseCode | c.VoidCode) -> Touches:
    return [(CODE_BATCH, command.batch_id), (CODE, code_key_of(command.batch_id, command.index))]


def _order_and_its_hold(command: c.PlaceOrder) -> Touches:
    """Also what its hold will look at, which mostly comes right behind it."""
    return [*_checkout(command), *((COUPON, coupon_id) for coupon_id in command.coupon_ids)]


HANDLERS: Final[Handlers] = {
    # Template: draft -> active <-> paused -> ended
    c.CreateTemplate: Handler(templates.create, _template),
    c.ActivateTemplate: Handler(templates.activate, _template),
    c.PauseTemplate: Handler(templates.pause, _template),
    c.ResumeTemplate: Handler(templates.resume, _template),
    c.TerminateTemplate: Handler(templates.terminate, _template),
    c.OpenTemplate: Handler(templates.open_window, _template),
    c.CloseTemplate: Handler(templates.close, _template),
    # Terms and stock of a template
    c.IncreaseTemplateStock: Handler(templates.increase_stock, _template),
    c.ShortenTemplate: Handler(templates.shorten, _template),
    c.ReviseTemplate: Handler(templates.revise, _template),
    # Reserved stock
    c.ReserveTemplateStock: Handler(templates.reserve, _template, templates.reservation_counters, counts_anew=False),
    c.ConfirmTemplateReservation: Handler(templates.confirm, _template),
    c.CancelTemplateReservation: Handler(templates.cancel, _template),
    # Coupon: claimed -> locked -> redeemed, released, expired, revoked
    c.ClaimCoupon: Handler(
        claims.claim, _template, claims.counters, Rush(claims.offer_of, claims.claim_together, claims.rush_counters)
    ),
    c.LockCoupon: Handler(coupons.lock, _coupon),
    c.RedeemCoupon: Handler(coupons.redeem, _coupon),
    c.ReleaseCoupon: Handler(coupons.release, _coupon),
    c.RevokeCoupon: Handler(coupons.revoke, _coupon),
    c.ExpireCoupon: Handler(coupons.expire, _coupon),
    c.EndCouponLock: Handler(coupons.end_lock, _coupon),
    # Code: generated -> assigned -> used, voided
    c.GenerateCodes: Handler(codes.generate, _template),
    c.AssignCodes: Handler(codes.assign, _code_batch),
    c.UseCode: Handler(codes.use, _code, codes.counters, counts_anew=False),
    c.VoidCode: Handler(codes.void_one, _code),
    c.VoidCodes: Handler(codes.void_many, _code_batch, codes.spent_counters, counts_anew=False),
    # Distribution: running <-> paused -> completed, cancelled
    c.StartDistribution: Handler(distributions.start, _by(DISTRIBUTION, "distribution_id", (TEMPLATE, "template_id"))),
    c.IssueDistributionChunk: Handler(distributions.issue_chunk, _distribution, distributions.counters),
    c.PauseDistribution: Handler(distributions.pause, _distribution),
    c.ResumeDistribution: Handler(distributions.resume, _distribution),
    c.CancelDistribution: Handler(distributions.cancel, _distribution),
    # Budget
    c.CreateBudget: Handler(budgets.create, _budget),
    c.TopUpBudget: Handler(budgets.top_up, _budget),
    # Budget leases: at home, then at the holder
    c.ShareBudget: Handler(leases.share, _budget),
    c.UnshareBudget: Handler(leases.unshare, _budget),
    c.GrantBudgetLease: Handler(leases.grant, _budget),
    c.SettleBudgetLease: Handler(leases.settle, _budget),
    c.OpenBudgetLease: Handler(leases.open_lease, _budget),
    c.CloseBudgetLease: Handler(leases.close_lease, _budget),
    # What the upstream tells us
    c.PlaceOrder: Handler(upstream.place, _order_and_its_hold),
    c.CancelOrder: Handler(upstream.cancel, _order),
    c.ReopenOrder: Handler(upstream.reopen, _checkout),
    c.NoteOrder: Handler(upstream.note, _order),
    c.ReportPayment: Handler(upstream.report_payment, _by(PAYMENT, "payment_id", (ORDER, "order_id"))),
    c.ReportRefund: Handler(upstream.report_refund, _by(REFUND, "refund_id", (ORDER, "order_id"))),
    c.ReportAdjustment: Handler(upstream.report_adjustment, _by(ADJUSTMENT, "adjustment_id")),
    # One order is one decision
    c.QuoteOrder: Handler(checkouts.quote, _named_coupons),
    c.HoldForOrder: Handler(checkouts.hold, _checkout),
    c.RedeemForOrder: Handler(
        checkouts.redeem, _by(CHECKOUT, "order_id", (ORDER, "order_id"), (PAYMENT, "payment_id"))
    ),
    c.ReleaseForOrder: Handler(checkouts.release, _by(CHECKOUT, "order_id")),
    c.EndOrderLock: Handler(checkouts.end_lock, _by(CHECKOUT, "order_id")),
    c.RefundForOrder: Handler(checkouts.refund, _by(CHECKOUT, "order_id", (ORDER, "order_id"), (REFUND, "refund_id"))),
    # One order over several shards (what an order's own shard decides then: crossing.handlers_at)
    c.LendCoupons: Handler(loans.lend, lambda command: [(COUPON, key) for key in command.coupon_ids]),
    c.AnswerLoan: Handler(crossing.answer, _by(BORROWING, "order_id", (ORDER, "order_id"), (CHECKOUT, "order_id"))),
    c.TellLender: Handler(loans.obey, lambda command: [(COUPON, it.coupon_id) for it in command.told.held]),
    # Operations
    c.AdvanceClock: Handler(operations.advance_clock, lambda _: [(CLOCK, MAIN)]),
    c.OpenBreak: Handler(operations.open_break, _by(BREAK, "break_id")),
    c.CloseBreak: Handler(operations.close_break, _by(BREAK, "break_id")),
    c.SetRowsAside: Handler(operations.set_rows_aside, _by(IMPORT, "import_id")),
}
