"""A coupon template: its life cycle, its terms by version, its stock and what is reserved of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, NamedTuple

from command.domain.budget import Budget
from command.domain.calendar import NO_INSTANT, period_of
from command.domain.sorted_map import SortedMap
from command.unit_of_work import Kind
from contracts.events import (
    Event,
    TemplateActivated,
    TemplateCouponIssued,
    TemplateCouponsIssued,
    TemplateCreated,
    TemplateEnded,
    TemplateOpened,
    TemplatePaused,
    TemplateReservationCancelled,
    TemplateReservationConfirmed,
    TemplateResumed,
    TemplateRevised,
    TemplateShortened,
    TemplateStockIncreased,
    TemplateStockReserved,
)
from contracts.refusals import (
    AlreadyExists,
    CurrencyMismatch,
    Ended,
    NotActive,
    NotPaused,
    NotStarted,
    Paused,
    PeriodLimitReached,
    TemplateExhausted,
    TermsFixed,
    TooMany,
    UnknownBudget,
    UnknownReservation,
    UnknownTemplate,
    UserLimitReached,
)
from contracts.terms import FixedValidity, Terms

# They are part of the state, so their number needs a bound of its own.
RESERVATIONS_OPEN_MAX: Final = 10_000
TERMS_VERSIONS_MAX: Final = 1_000

_Issued = TemplateCouponIssued | TemplateCouponsIssued


@dataclass(frozen=True, slots=True)
class Reservation:
    """Stock set aside for one user; ``period`` is the limit period that it counts in."""

    user_id: str
    quantity: int
    period: str


@dataclass(frozen=True, slots=True)
class Template:
    """What decisions need to know of a template. ``claim_until`` is the end as it stands, shortened or not."""

    status: Literal["none", "draft", "active", "paused", "ended"] = "none"
    template_id: str = ""
    terms_version: int = 0
    terms: dict[int, Terms] = field(default_factory=dict)
    stock: int | None = None
    claim_until: datetime = NO_INSTANT
    opened: bool = False
    claimed: int = 0
    reserved: int = 0
    reservations: SortedMap[str, Reservation] = field(default_factory=SortedMap)

    @property
    def current(self) -> Terms:
        """The terms of coupons claimed from now on."""
        return self.terms[self.terms_version]

    @property
    def remaining(self) -> int | None:
        """How many may still be claimed or reserved; None when the stock is unlimited."""
        return None if self.stock is None else self.stock - self.claimed - self.reserved


class Taken(NamedTuple):
    """How many coupons of the template one user has already claimed or reserved: in all, and in this period."""

    total: int
    in_period: int


def evolve(template: Template, event: Event) -> Template:  # noqa: C901, PLR0911 - one case per event
    """Fold one event of the template's stream."""
    match event:
        case TemplateCouponIssued() | TemplateCouponsIssued():
            return replace(template, claimed=event.claimed)
        case TemplateCreated():
            return replace(
                template,
                status="draft",
                template_id=event.template_id,
                terms_version=1,
                terms={1: event.terms},
                stock=event.terms.stock,
                claim_until=event.terms.claim_until,
            )
        case TemplateActivated() | TemplateResumed():
            return replace(template, status="active")
        case TemplatePaused():
            return replace(template, status="paused")
        case TemplateOpened():
            return replace(template, opened=True)
        case TemplateEnded():
            return replace(template, status="ended")
        case TemplateStockIncreased():
            return replace(template, stock=event.stock)
        case TemplateShortened():
            return replace(template, claim_until=event.claim_until)
        case TemplateRevised():
            terms = {**template.terms, event.terms_version: event.terms}
            return replace(
                template, terms_version=event.terms_version, terms=terms, claim_until=event.terms.claim_until
            )
        case TemplateStockReserved():
            reservation = Reservation(event.user_id, event.quantity, event.period)
            opened = template.reservations.plus(event.reservation_id, reservation)
            return replace(template, reserved=event.reserved, reservations=opened)
        case TemplateReservationConfirmed() | TemplateReservationCancelled():
            left = template.reservations.minus(event.reservation_id)
            return replace(template, reserved=event.reserved, reservations=left)
    return template


def merge(first: Event, second: Event) -> Event | None:
    """Coupons that were taken out of the stock in one batch are one event, however many claims a rush brings."""
    before, more = _claims_in(first), _claims_in(second)
    if not before or not more:
        return None
    assert isinstance(first, _Issued)
    assert isinstance(second, _Issued)
    if first.terms_version != second.terms_version:
        return None
    return TemplateCouponsIssued(
        template_id=second.template_id,
        terms_version=second.terms_version,
        quantity=before + more,
        claimed=second.claimed,
    )


def _claims_in(event: Event) -> int:
    """How many claims took their coupons out of the stock; those of reservations and distributions do not count."""
    match event:
        case TemplateCouponIssued(reservation_id=None):
            return 1
        case TemplateCouponsIssued(distribution_id=None):
            return event.quantity
    return 0


def _size(template: Template) -> int:
    return len(template.reservations)


TEMPLATE: Final = Kind("template", Template, Template(), evolve, merge, size=_size)


# Life cycle -----------------------------------------------------------------------------------------------------------


def create(template: Template, template_id: str, terms: Terms, budgets: Sequence[Budget]) -> tuple[Event, ...]:
    """Draft a template. ``budgets`` are the states of ``terms.budget_ids``, in that order."""
    if template.status != "none":
        if template.terms[1] == terms:
            return ()
        raise AlreadyExists(f"There is another template {template_id}.")
    _require_budgets(terms, budgets)
    return (TemplateCreated(template_id=template_id, terms=terms),)


def activate(template: Template, *, now: datetime) -> tuple[Event, ...]:
    """Let a draft be claimed from."""
    _require_not_ended(template, now)
    if template.status != "draft":
        return ()
    if now >= template.claim_until:
        raise Ended("The claim window is over already.")
    return (
        TemplateActivated(
            template_id=template.template_id,
            claim_from=template.current.claim_from,
            claim_until=template.claim_until,
        ),
    )


def pause(template: Template, reason: str, *, now: datetime) -> tuple[Event, ...]:
    """Refuse claims until it is resumed."""
    _require_not_ended(template, now)
    match template.status:
        case "draft":
            raise NotActive
        case "active":
            return (TemplatePaused(template_id=template.template_id, reason=reason),)
    return ()


def resume(template: Template, *, now: datetime) -> tuple[Event, ...]:
    """Accept claims again."""
    _require_not_ended(template, now)
    match template.status:
        case "draft":
            raise NotPaused("A draft is activated, not resumed.")
        case "paused":
            return (TemplateResumed(template_id=template.template_id),)
    return ()


def terminate(template: Template, reason: str, *, now: datetime) -> tuple[Event, ...]:
    """End it for ever, at once; a window that is over already ended it earlier."""
    _require_known(template)
    if template.status == "ended":
        return ()
    if is_over(template, now):
        return close(template, now=now)
    return (TemplateEnded(template_id=template.template_id, cause="terminated", reason=reason, ended_at=now),)


def open_window(template: Template, *, now: datetime) -> tuple[Event, ...]:
    """Record that the claim window began; nothing when it did not (yet), or was recorded."""
    _require_known(template)
    began = template.status in {"active", "paused"} and template.current.claim_from <= now < template.claim_until
    if template.opened or not began:
        return ()
    return (TemplateOpened(template_id=template.template_id, opened_at=template.current.claim_from),)


def close(template: Template, *, now: datetime) -> tuple[Event, ...]:
    """Record that the claim window ended; nothing when it did not (yet), or was recorded."""
    _require_known(template)
    if template.status not in {"active", "paused"} or now < template.claim_until:
        return ()
    return (
        TemplateEnded(
            template_id=template.template_id, cause="window_closed", reason="", ended_at=template.claim_until
        ),
    )


# Terms ----------------------------------------------------------------------------------------------------------------


def increase_stock(template: Template, by: int, *, now: datetime) -> tuple[Event, ...]:
    """Let more be claimed. Told twice under two command ids, it adds twice: "by" has no other key."""
    _require_not_ended(template, now)
    if template.stock is None:
        raise TermsFixed("The stock is unlimited.")
    return (TemplateStockIncreased(template_id=template.template_id, by=by, stock=template.stock + by),)


def shorten(template: Template, claim_until: datetime, *, now: datetime) -> tuple[Event, ...]:
    """End the claim window earlier, but not in the past: what was claimed was claimed in time."""
    _require_not_ended(template, now)
    if claim_until == template.claim_until:
        return ()
    if claim_until > template.claim_until:
        raise TermsFixed("The end may only come earlier; revise the terms to make it later.")
    if claim_until <= max(now, template.current.claim_from):
        raise TermsFixed("The end must be in the future and after the beginning; terminate to end it now.")
    return (TemplateShortened(template_id=template.template_id, claim_until=claim_until),)


def revise(template: Template, terms: Terms, budgets: Sequence[Budget], *, now: datetime) -> tuple[Event, ...]:
    """Give new terms to coupons claimed from now on; a claimed coupon keeps the terms it was claimed under."""
    _require_not_ended(template, now)
    if terms == template.current and terms.claim_until == template.claim_until:
        return ()
    if terms.currency != template.current.currency:
        raise TermsFixed("The currency stays as it is.")
    if terms.stock != template.stock:
        raise TermsFixed(f"The stock stays as it is, {template.stock}; increase it instead.")
    if terms.claim_until <= now:
        raise TermsFixed("The new window is over already; terminate to end it now.")
    if template.terms_version >= TERMS_VERSIONS_MAX:
        raise TooMany(f"At most {TERMS_VERSIONS_MAX} versions of terms; create another template.")
    _require_budgets(terms, budgets)
    return (TemplateRevised(template_id=template.template_id, terms_version=template.terms_version + 1, terms=terms),)


def is_over(template: Template, now: datetime) -> bool:
    """Whether no coupon can be claimed any more: from the window's end itself, recorded or not."""
    return template.status == "ended" or (template.status in {"active", "paused"} and now >= template.claim_until)


# Claims and reservations ----------------------------------------------------------------------------------------------


def limit_period(template: Template, now: datetime) -> str:
    """The calendar period that a claim at ``now`` counts in; ``""`` when there is no limit per period."""
    terms = template.current
    limit = terms.claims_per_period
    return "" if limit is None else period_of(now, limit.period, terms.zone)


def require_claimable(template: Template, *, now: datetime) -> None:
    """Refuse unless coupons can be claimed at ``now``, apart from stock and limits."""
    _require_not_ended(template, now)
    match template.status:
        case "draft":
            raise NotActive
        case "paused":
            raise Paused
    terms = template.current
    if now < terms.claim_from:
        raise NotStarted("The claim window has not begun.", claim_from=terms.claim_from.isoformat())
    if isinstance(terms.validity, FixedValidity) and now >= terms.validity.valid_until:
        raise Ended("What would be claimed is no longer valid.")


def require_stock(template: Template, quantity: int = 1) -> None:
    """Refuse when not so many are left."""
    remaining = template.remaining
    if remaining is not None and remaining < quantity:
        raise TemplateExhausted(remaining=remaining)


def require_within_limits(template: Template, taken: Taken, quantity: int = 1) -> None:
    """Refuse when the user would have more than the terms allow."""
    limit = template.current.claims_per_user_max
    if limit is not None and taken.total + quantity > limit:
        raise UserLimitReached(limit=limit, taken=taken.total)
    per_period = template.current.claims_per_period
    if per_period is not None and taken.in_period + quantity > per_period.claims_max:
        raise PeriodLimitReached(limit=per_period.claims_max, taken=taken.in_period, period=per_period.period)


def issue(template: Template, coupon_id: str, user_id: str, reservation_id: str | None = None) -> tuple[Event, ...]:
    """Take one coupon out of the stock."""
    return (
        TemplateCouponIssued(
            template_id=template.template_id,
            terms_version=template.terms_version,
            coupon_id=coupon_id,
            user_id=user_id,
            claimed=template.claimed + 1,
            reservation_id=reservation_id,
        ),
    )


def issue_many(template: Template, quantity: int, distribution_id: str | None = None) -> tuple[Event, ...]:
    """Take many coupons out of the stock in one go: of a distribution, or of a rush."""
    return (
        TemplateCouponsIssued(
            template_id=template.template_id,
            terms_version=template.terms_version,
            quantity=quantity,
            claimed=template.claimed + quantity,
            distribution_id=distribution_id,
        ),
    )


def reserve(
    template: Template, reservation_id: str, user_id: str, quantity: int, taken: Taken, *, now: datetime
) -> tuple[Event, ...]:
    """Set stock aside for one user; from here on it counts towards stock and limits."""
    if (known := template.reservations.get(reservation_id)) is not None:
        if (known.user_id, known.quantity) == (user_id, quantity):
            return ()
        raise AlreadyExists(f"Reservation {reservation_id} was made with other content.")
    require_claimable(template, now=now)
    require_stock(template, quantity)
    require_within_limits(template, taken, quantity)
    if len(template.reservations) >= RESERVATIONS_OPEN_MAX:
        raise TooMany(f"At most {RESERVATIONS_OPEN_MAX} reservations of a template are open at a time.")
    return (
        TemplateStockReserved(
            template_id=template.template_id,
            reservation_id=reservation_id,
            user_id=user_id,
            quantity=quantity,
            reserved=template.reserved + quantity,
            period=limit_period(template, now),
        ),
    )


def confirm(template: Template, reservation_id: str, *, now: datetime) -> tuple[Event, ...]:
    """Turn a reservation into claims, which the caller issues. Stock and limits were counted when it was made."""
    reservation = require_reservation(template, reservation_id)
    require_claimable(template, now=now)
    return (
        TemplateReservationConfirmed(
            template_id=template.template_id,
            reservation_id=reservation_id,
            user_id=reservation.user_id,
            quantity=reservation.quantity,
            reserved=template.reserved - reservation.quantity,
        ),
    )


def cancel(template: Template, reservation_id: str, reason: str) -> tuple[Event, ...]:
    """Give reserved stock back, whatever became of the template meanwhile."""
    reservation = require_reservation(template, reservation_id)
    return (
        TemplateReservationCancelled(
            template_id=template.template_id,
            reservation_id=reservation_id,
            user_id=reservation.user_id,
            quantity=reservation.quantity,
            reserved=template.reserved - reservation.quantity,
            reason=reason,
        ),
    )


def require_reservation(template: Template, reservation_id: str) -> Reservation:
    """The open reservation of this name, or a refusal."""
    _require_known(template)
    if (reservation := template.reservations.get(reservation_id)) is None:
        raise UnknownReservation
    return reservation


def _require_known(template: Template) -> None:
    if template.status == "none":
        raise UnknownTemplate


def _require_not_ended(template: Template, now: datetime) -> None:
    _require_known(template)
    if is_over(template, now):
        raise Ended("The template has ended.")


def _require_budgets(terms: Terms, budgets: Sequence[Budget]) -> None:
    for budget_id, budget in zip(terms.budget_ids, budgets, strict=True):
        if not budget.exists:
            raise UnknownBudget(f"There is no budget {budget_id}.")
        if budget.currency != terms.currency:
            raise CurrencyMismatch(f"Budget {budget_id} is in {budget.currency}, the terms are in {terms.currency}.")
