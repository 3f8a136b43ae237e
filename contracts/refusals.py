"""Every reason for which a command is refused: named facts with a stable code.

::

    Refusal
    ├── NotFound              the thing does not exist for this caller
    ├── Malformed             the request cannot be meant this way
    │   └── CommandIdReused
    └── Conflict              the thing exists, but not like this, not now, not any more
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class Refusal(Exception):
    """A command is refused; it changed nothing. ``data`` is JSON that helps the caller."""

    code: ClassVar[str]

    def __init__(self, detail: str = "", **data: Any) -> None:
        super().__init__(detail or self.__doc__)
        self.detail = detail or (self.__doc__ or "").strip()
        self.data: Mapping[str, Any] = data


class NotFound(Refusal):
    """It does not exist."""

    code = "not_found"


class Malformed(Refusal):
    """The request cannot be meant this way."""

    code = "malformed"


class Conflict(Refusal):
    """It cannot be done in the present state."""

    code = "conflict"


class UnknownTemplate(NotFound):
    """There is no such template."""

    code = "unknown_template"


class UnknownCoupon(NotFound):
    """There is no such coupon."""

    code = "unknown_coupon"


class UnknownBudget(NotFound):
    """There is no such budget."""

    code = "unknown_budget"


class UnknownOrder(NotFound):
    """There is no such order."""

    code = "unknown_order"


class UnknownRefund(NotFound):
    """There is no such refund of this order."""

    code = "unknown_refund"


class UnknownReservation(NotFound):
    """There is no such open reservation."""

    code = "unknown_reservation"


class UnknownDistribution(NotFound):
    """There is no such distribution."""

    code = "unknown_distribution"


class UnknownBreak(NotFound):
    """There is no such open break."""

    code = "unknown_break"


class UnknownCode(NotFound):
    """There is no such code."""

    code = "unknown_code"


class UnknownCodeBatch(NotFound):
    """There is no such batch of codes."""

    code = "unknown_code_batch"


class CommandIdReused(Malformed):
    """This command id was used before, with other content."""

    code = "command_id_reused"


class AlreadyExists(Conflict):
    """Something else already has this id."""

    code = "already_exists"


class TemplateExhausted(Conflict):
    """Every coupon of this template was claimed."""

    code = "template_exhausted"


class UserLimitReached(Conflict):
    """This user has claimed as many as the template allows."""

    code = "user_limit_reached"


class PeriodLimitReached(Conflict):
    """This user has claimed as many as the template allows in this period."""

    code = "period_limit_reached"


class NotStarted(Conflict):
    """The window has not begun."""

    code = "not_started"


class Ended(Conflict):
    """It has ended."""

    code = "ended"


class Paused(Conflict):
    """The template is paused."""

    code = "paused"


class NotActive(Conflict):
    """The template is still a draft."""

    code = "not_active"


class NotPaused(Conflict):
    """The template is not paused."""

    code = "not_paused"


class TermsFixed(Conflict):
    """These terms cannot change any more."""

    code = "terms_fixed"


class NotOwner(Conflict):
    """The coupon belongs to somebody else."""

    code = "not_owner"


class AlreadyLocked(Conflict):
    """Another order holds the coupon."""

    code = "already_locked"


class NotLocked(Conflict):
    """This order does not hold the coupon."""

    code = "not_locked"


class LockExpired(Conflict):
    """The lock's time was over."""

    code = "lock_expired"


class AlreadyRedeemed(Conflict):
    """The coupon was used."""

    code = "already_redeemed"


class CouponHasExpired(Conflict):
    """The coupon's validity is over."""

    code = "coupon_expired"


class CouponNotYetValid(Conflict):
    """The coupon's validity has not begun."""

    code = "coupon_not_yet_valid"


class CouponWasRevoked(Conflict):
    """The coupon was taken away."""

    code = "coupon_revoked"


class CodeWasUsed(Conflict):
    """The code was used."""

    code = "code_used"


class CodesExhausted(Conflict):
    """The batch has not so many codes left to give."""

    code = "codes_exhausted"


class CodeKeyGone(Conflict):
    """The key of these codes was deleted: nobody can write or read them any more."""

    code = "code_key_gone"


class BudgetExhausted(Conflict):
    """The budget has not enough left."""

    code = "budget_exhausted"


class BudgetIsElsewhere(Conflict):
    """This is a branch of a budget that lives on another shard; ask there."""

    code = "budget_is_elsewhere"


class NotAHolder(Conflict):
    """A budget can only be shared with another shard that is known here."""

    code = "not_a_holder"


class BudgetNotShared(Conflict):
    """The budget is not shared with this holder."""

    code = "budget_not_shared"


class LeaseOutOfTurn(Conflict):
    """This lease is not the next one."""

    code = "lease_out_of_turn"


class NotApplicable(Conflict):
    """The coupon does not apply to anything in this order."""

    code = "not_applicable"


class MinimumSpendNotReached(Conflict):
    """The order is too small for the coupon."""

    code = "minimum_spend_not_reached"


class NotCombinable(Conflict):
    """The coupon stands alone, or another one of the order does."""

    code = "not_combinable"


class CurrencyMismatch(Conflict):
    """The currencies differ."""

    code = "currency_mismatch"


class OrderIsDifferent(Conflict):
    """This order was placed before, with other content."""

    code = "order_is_different"


class OrderWasCancelled(Conflict):
    """The order was cancelled."""

    code = "order_cancelled"


class CouponsOutOfReach(Conflict):
    """The shard where some of the coupons lie did not answer in time."""

    code = "coupons_out_of_reach"


class OrderWasRefunded(Conflict):
    """All of the order's money went back before it was redeemed."""

    code = "order_refunded"


class OrderNotReopenable(Conflict):
    """The order is still open, or is completed."""

    code = "order_not_reopenable"


class PaymentRequired(Conflict):
    """Something is left to pay, and no payment of this order has succeeded."""

    code = "payment_required"


class TooMany(Conflict):
    """A bound that keeps everything fast is reached."""

    code = "too_many"


class DistributionNotRunning(Conflict):
    """The distribution is paused, or has ended."""

    code = "distribution_not_running"


class DistributionOutOfTurn(Conflict):
    """These are not the next rows of the distribution."""

    code = "distribution_out_of_turn"


class ClockRunsForwardOnly(Conflict):
    """The business clock is already past that."""

    code = "clock_runs_forward_only"


class ClockBehindHistory(Conflict):
    """The realm holds events that are later than this; a business clock starts at or after its last event."""

    code = "clock_behind_history"
