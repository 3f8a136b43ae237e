"""Settlement arithmetic: what coupons take off an order and off each of its lines, and what refunds take back.

Pure integer arithmetic; the same functions serve quote, hold and simulation. To add a kind of discount, add its
calculator to :data:`CALCULATORS`: it says how much comes off, never from which line.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from command.domain.budget import Room
from contracts.money import format_money
from contracts.orders import (
    CouponCredit,
    CouponRefusal,
    FrozenLine,
    HeldCoupon,
    LineDiscount,
    OrderLine,
    RefundLine,
    ReturnedLine,
)
from contracts.refusals import (
    BudgetExhausted,
    CurrencyMismatch,
    MinimumSpendNotReached,
    NotApplicable,
    NotCombinable,
    Refusal,
)
from contracts.terms import BASIS_POINTS, AmountOff, PercentOff, Scope, Selector, Terms

Rounding = Literal["half_even", "half_up"]


class Candidate(NamedTuple):
    """A coupon that its user may use now, with the terms it was claimed under."""

    coupon_id: str
    terms: Terms


class Applied(NamedTuple):
    """What one coupon takes off, and off which lines (only those that get something)."""

    coupon_id: str
    discount_minor: int
    lines: tuple[LineDiscount, ...]


@dataclass(frozen=True, slots=True)
class Priced:
    """An order with its discounts: ``total_minor`` is goods and shipping before them, refusals in request order."""

    lines: tuple[FrozenLine, ...]
    total_minor: int
    discount_minor: int
    payable_minor: int
    applied: tuple[Applied, ...]
    refusals: tuple[CouponRefusal, ...]


# Discounts ------------------------------------------------------------------------------------------------------------


class Applicable(NamedTuple):
    """What a coupon applies to: these lines, and what is left of each after the coupons before it (minor units)."""

    lines: Sequence[OrderLine]
    running: Sequence[int]

    @property
    def initial_minor(self) -> int:
        """What the lines cost before any coupon: a minimum spend looks at this, so it depends on no order."""
        return sum(line.amount_minor for line in self.lines)

    @property
    def running_minor(self) -> int:
        """What is left of the lines: the most that a coupon can take off."""
        return sum(self.running)


def _amount_off(discount: AmountOff, _: Applicable, __: Rounding) -> int:
    return discount.amount_minor


def _percent_off(discount: PercentOff, applicable: Applicable, rounding: Rounding) -> int:
    return divide(applicable.running_minor * discount.percent_bp, BASIS_POINTS, rounding)


# How much a discount would take off, before its cap and before what is left of the lines bound it.
CALCULATORS: Final[dict[type, Callable[[Any, Applicable, Rounding], int]]] = {
    AmountOff: _amount_off,
    PercentOff: _percent_off,
}


def price(
    lines: Sequence[OrderLine],
    shipping_minor: int,
    currency: str,
    candidates: Sequence[Candidate],
    rooms: Mapping[str, Room] | None = None,
) -> Priced:
    """Apply the coupons that can be applied and say of every other one why not.

    Coupons go by stacking priority, then in request order; each sees the lines as the earlier ones left them.
    ``rooms`` is what may be taken of each budget that the terms name; coupons on one budget share its room.
    """
    state = _Pricing(lines, currency, dict(rooms or {}))
    by_priority = sorted(candidates, key=lambda candidate: candidate.terms.stacking.priority)
    refused: dict[str, CouponRefusal] = {}
    for candidate in by_priority:
        try:
            state.apply(candidate)
        except Refusal as refusal:
            refused[candidate.coupon_id] = coupon_refusal(candidate.coupon_id, refusal)
    discount_minor = sum(applied.discount_minor for applied in state.applied)
    total_minor = sum(line.amount_minor for line in lines) + shipping_minor
    return Priced(
        lines=tuple(
            FrozenLine(
                line_id=line.line_id,
                quantity=line.quantity,
                amount_minor=line.amount_minor,
                discount_minor=line.amount_minor - left,
            )
            for line, left in zip(lines, state.running, strict=True)
        ),
        total_minor=total_minor,
        discount_minor=discount_minor,
        payable_minor=total_minor - discount_minor,
        applied=tuple(state.applied),
        refusals=tuple(refused[it.coupon_id] for it in candidates if it.coupon_id in refused),
    )


def coupon_refusal(coupon_id: str | None, refusal: Refusal) -> CouponRefusal:
    """A refusal as the reason why one coupon cannot be used."""
    missing = refusal.data.get("missing_minor")
    return CouponRefusal(coupon_id=coupon_id, code=refusal.code, detail=refusal.detail, missing_minor=missing)


class _Pricing:
    """The running amounts while coupons are applied one after the other."""

    def __init__(self, lines: Sequence[OrderLine], currency: str, rooms: dict[str, Room]) -> None:
        self.lines = lines
        self.currency = currency
        self.running = [line.amount_minor for line in lines]
        self.rooms = rooms
        self.applied: list[Applied] = []
        self.exclusive = False

    def apply(self, candidate: Candidate) -> None:
        """Take one coupon's discount off its lines, or raise the reason why not."""
        terms = candidate.terms
        if terms.currency != self.currency:
            raise CurrencyMismatch(f"The coupon is in {terms.currency}, the order in {self.currency}.")
        applies_to = in_scope(terms.scope)
        indices = [index for index, line in enumerate(self.lines) if applies_to(line)]
        applicable = Applicable([self.lines[i] for i in indices], [self.running[i] for i in indices])
        if applicable.initial_minor == 0:
            raise NotApplicable
        _require_minimum_spend(terms, applicable)
        if self.exclusive or (terms.stacking.exclusive and self.applied):
            raise NotCombinable
        discount_minor = self._granted(terms, _discount(terms, applicable))
        shares = allocate(discount_minor, applicable.running)
        for index, share in zip(indices, shares, strict=True):
            self.running[index] -= share
        self._spend(terms, discount_minor)
        self.exclusive = terms.stacking.exclusive
        line_discounts = tuple(
            LineDiscount(line_id=line.line_id, discount_minor=share)
            for line, share in zip(applicable.lines, shares, strict=True)
            if share
        )
        self.applied.append(Applied(candidate.coupon_id, discount_minor, line_discounts))

    def _granted(self, terms: Terms, wanted_minor: int) -> int:
        """What the budgets allow: each of them pays the whole discount, so the tightest one decides."""
        rooms = [self.rooms[budget_id] for budget_id in terms.budget_ids if budget_id in self.rooms]
        remainders = [room.available_minor for room in rooms if room.when_short == "grant_remainder"]
        granted = min([wanted_minor, *remainders])
        available = min((room.available_minor for room in rooms), default=granted)
        if granted == 0 or granted > available:
            raise BudgetExhausted
        return granted

    def _spend(self, terms: Terms, discount_minor: int) -> None:
        for budget_id in terms.budget_ids:
            if (room := self.rooms.get(budget_id)) is not None:
                self.rooms[budget_id] = room.less(discount_minor)


def in_scope(scope: Scope) -> Callable[[OrderLine], bool]:
    """A test of lines: whether a coupon applies. Included (or nothing is), and not excluded."""
    included, excluded = _selects(scope.include), _selects(scope.exclude)
    everything = scope.include == Selector()
    return lambda line: (everything or included(line)) and not excluded(line)


def _selects(selector: Selector) -> Callable[[OrderLine], bool]:
    # Sets, because an order of 2,000 lines may meet a list of 1,000 SKUs.
    skus, categories, shops = frozenset(selector.skus), frozenset(selector.categories), frozenset(selector.shops)
    return lambda line: line.sku in skus or line.category in categories or line.shop_id in shops


def _require_minimum_spend(terms: Terms, applicable: Applicable) -> None:
    missing = terms.minimum_spend_minor - applicable.initial_minor
    if missing > 0:
        raise MinimumSpendNotReached(f"{format_money(missing, terms.currency)} more.", missing_minor=missing)


def _discount(terms: Terms, applicable: Applicable) -> int:
    wanted = CALCULATORS[type(terms.discount)](terms.discount, applicable, terms.rounding)
    bounds = [wanted, applicable.running_minor]
    if terms.discount_max_minor is not None:
        bounds.append(terms.discount_max_minor)
    if (discount := min(bounds)) <= 0:
        raise NotApplicable("Nothing is left to take off.")
    return discount


# Arithmetic -----------------------------------------------------------------------------------------------------------


def divide(dividend: int, divisor: int, rounding: Rounding = "half_even") -> int:
    """``dividend / divisor`` to the nearest integer; both non-negative, the divisor not zero."""
    quotient, remainder = divmod(dividend, divisor)
    twice = 2 * remainder
    if twice > divisor or (twice == divisor and (rounding == "half_up" or quotient % 2 == 1)):
        return quotient + 1
    return quotient


def allocate(amount: int, weights: Sequence[int]) -> list[int]:
    """Split an amount pro rata by largest remainder (ties: the earlier one); sums exactly.

    With ``amount <= sum(weights)`` no share exceeds its weight. All weights zero: nothing to split over, all zero.
    """
    total = sum(weights)
    if total == 0:
        return [0] * len(weights)
    shares = [amount * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: -(amount * weights[index] % total))
    for index in by_remainder[: amount - sum(shares)]:
        shares[index] += 1
    return shares


# Refunds --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Returned:
    """What refunds took back so far: pieces and net money by line, shipping, and credits by coupon and line."""

    pieces: dict[str, int] = field(default_factory=dict)
    net_minor: dict[str, int] = field(default_factory=dict)
    shipping_minor: int = 0
    credited_minor: dict[str, dict[str, int]] = field(default_factory=dict)

    def plus(self, lines: Sequence[ReturnedLine], shipping_minor: int, credits: Sequence[CouponCredit]) -> "Returned":
        """The same after one more refund."""
        pieces, net, credited = dict(self.pieces), dict(self.net_minor), dict(self.credited_minor)
        for line in lines:
            pieces[line.line_id] = pieces.get(line.line_id, 0) + line.quantity
            net[line.line_id] = net.get(line.line_id, 0) + line.net_minor
        for credit in credits:
            by_line = dict(credited.get(credit.coupon_id, {}))
            for share in credit.lines:
                by_line[share.line_id] = by_line.get(share.line_id, 0) + share.discount_minor
            credited[credit.coupon_id] = by_line
        return Returned(pieces, net, self.shipping_minor + shipping_minor, credited)


class RefundOutcome(NamedTuple):
    """What one refund takes back. ``full``: nothing of any line is left with the buyer, or none of the money paid."""

    lines: tuple[ReturnedLine, ...]
    shipping_minor: int
    credits: tuple[CouponCredit, ...]
    full: bool

    @property
    def credited_minor(self) -> int:
        """What it gives back of all discounts."""
        return sum(credit.discount_minor for credit in self.credits)


def refund_credit(
    lines: Sequence[FrozenLine],
    shipping_minor: int,
    coupons: Sequence[HeldCoupon],
    so_far: Returned,
    refunded: Sequence[RefundLine],
    *,
    amount_minor: int,
    paid_left_minor: int,
) -> RefundOutcome:
    """What a refund takes back of a frozen order: by its lines when it names any, else by its amount.

    ``paid_left_minor`` is what was paid less what went back before; more than that credits nothing. All shares are
    taken of what is not yet returned, so the last refund takes the remainder and no credit exceeds its discount.
    """
    left = [_Left.of(line, so_far) for line in lines]
    if refunded:
        return _refund_lines(left, coupons, so_far, refunded)
    shipping_left = shipping_minor - so_far.shipping_minor
    pool = sum(line.net_minor for line in left) + shipping_left
    amount = min(amount_minor, paid_left_minor)
    # After refunds of lines, what the upstream paid back may differ from our net by its rounding: all the money back
    # is everything back.
    if amount >= pool or amount == paid_left_minor > 0:
        everything = [RefundLine(line_id=line.line_id) for line in left if line.pieces]
        return _refund_lines(left, coupons, so_far, everything)._replace(shipping_minor=shipping_left)
    return _refund_amount(left, shipping_left, coupons, so_far, amount)


class _Left(NamedTuple):
    """What the buyer still has of one line."""

    line_id: str
    pieces: int
    net_minor: int

    @classmethod
    def of(cls, line: FrozenLine, so_far: Returned) -> "_Left":
        return cls(
            line.line_id,
            line.quantity - so_far.pieces.get(line.line_id, 0),
            line.amount_minor - line.discount_minor - so_far.net_minor.get(line.line_id, 0),
        )


def _refund_lines(
    left: Sequence[_Left], coupons: Sequence[HeldCoupon], so_far: Returned, refunded: Sequence[RefundLine]
) -> RefundOutcome:
    """Each line by its share of the pieces (or of the money) that are not yet returned. Unknown lines take nothing."""
    by_id = {line.line_id: line for line in left}
    parts: dict[str, tuple[int, int]] = {}
    returned: list[ReturnedLine] = []
    for refund in refunded:
        line = by_id.get(refund.line_id)
        if line is None or line.pieces == 0:
            continue
        part, whole = _share_of_line(line, refund)
        parts[line.line_id] = (part, whole)
        pieces = line.pieces if part == whole else _pieces(refund)
        net = divide(line.net_minor * part, whole)
        returned.append(ReturnedLine(line_id=line.line_id, quantity=pieces, net_minor=net))
    credits = []
    for coupon in coupons:
        open_minor = _uncredited(coupon, so_far)
        shares = [
            divide(open_minor.get(line.line_id, 0) * parts[line.line_id][0], parts[line.line_id][1])
            for line in returned
        ]
        credits.append(_credit(coupon, [line.line_id for line in returned], shares))
    back = {line.line_id: line.quantity for line in returned}
    full = all(line.pieces == back.get(line.line_id, 0) for line in left)
    return RefundOutcome(tuple(returned), 0, _given(credits), full)


def _share_of_line(line: _Left, refund: RefundLine) -> tuple[int, int]:
    """Which share of what is left of the line comes back, as a fraction."""
    if refund.quantity is not None:
        return min(refund.quantity, line.pieces), line.pieces
    if refund.amount_minor is not None and refund.amount_minor < line.net_minor:
        return refund.amount_minor, line.net_minor
    return 1, 1


def _pieces(refund: RefundLine) -> int:
    # Money back for a part of a line returns no piece of it: the last piece goes with the last of the money.
    return refund.quantity or 0


def _refund_amount(
    left: Sequence[_Left], shipping_left: int, coupons: Sequence[HeldCoupon], so_far: Returned, amount_minor: int
) -> RefundOutcome:
    """Spread over everything that is still paid for, shipping included, in the frozen proportions."""
    paid = [*(line.net_minor for line in left), shipping_left]
    *line_shares, shipping_share = allocate(amount_minor, paid)
    returned = [
        ReturnedLine(line_id=line.line_id, quantity=0, net_minor=share)
        for line, share in zip(left, line_shares, strict=True)
        if share
    ]
    credits = []
    for coupon in coupons:
        open_minor = _uncredited(coupon, so_far)
        total = divide(sum(open_minor.values()) * amount_minor, sum(paid))
        credits.append(_credit(coupon, list(open_minor), allocate(total, list(open_minor.values()))))
    return RefundOutcome(tuple(returned), shipping_share, _given(credits), full=False)


def _uncredited(coupon: HeldCoupon, so_far: Returned) -> dict[str, int]:
    credited = so_far.credited_minor.get(coupon.coupon_id, {})
    return {share.line_id: share.discount_minor - credited.get(share.line_id, 0) for share in coupon.lines}


def _credit(coupon: HeldCoupon, line_ids: Sequence[str], shares: Sequence[int]) -> CouponCredit:
    lines = tuple(
        LineDiscount(line_id=line_id, discount_minor=share)
        for line_id, share in zip(line_ids, shares, strict=True)
        if share
    )
    return CouponCredit(coupon_id=coupon.coupon_id, discount_minor=sum(shares), lines=lines)


def _given(credits: Sequence[CouponCredit]) -> tuple[CouponCredit, ...]:
    return tuple(credit for credit in credits if credit.discount_minor)
