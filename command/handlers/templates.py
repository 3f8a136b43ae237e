"""Templates: drafting, life cycle, terms, stock and reservations."""

from typing import Final

from command.domain import template as templates
from command.domain.budget import BUDGET
from command.domain.coupon import Origin
from command.domain.ids import derived_id, guard_key
from command.domain.template import TEMPLATE, Taken, Template
from command.handlers.claims import count_in_period, counters, issue_coupon, taken_by
from command.handlers.handler import Data, require_time
from command.unit_of_work import UnitOfWork
from contracts.commands import (
    ActivateTemplate,
    CancelTemplateReservation,
    CloseTemplate,
    ConfirmTemplateReservation,
    CreateTemplate,
    IncreaseTemplateStock,
    OpenTemplate,
    PauseTemplate,
    ReserveTemplateStock,
    ResumeTemplate,
    ReviseTemplate,
    ShortenTemplate,
    TerminateTemplate,
)
from contracts.events import Event
from contracts.refusals import AlreadyExists

# What a reservation's guard counter says once it is no longer open; the template's state forgets it then.
RESERVED: Final = 1
CONFIRMED: Final = 2
CANCELLED: Final = 3


def create(uow: UnitOfWork, command: CreateTemplate) -> Data:
    """Draft a template; without an id it gets one that follows from the command's."""
    template_id = command.template_id or derived_id("t", uow.realm, uow.command_id)
    template = uow.load(TEMPLATE, template_id)
    budgets = uow.load_all(BUDGET, command.terms.budget_ids)
    return _record(uow, template_id, templates.create(template, template_id, command.terms, budgets))


def activate(uow: UnitOfWork, command: ActivateTemplate) -> Data:
    """Draft -> active."""
    template = uow.load(TEMPLATE, command.template_id)
    return _record(uow, command.template_id, templates.activate(template, now=uow.now))


def pause(uow: UnitOfWork, command: PauseTemplate) -> Data:
    """Active -> paused."""
    template = uow.load(TEMPLATE, command.template_id)
    return _record(uow, command.template_id, templates.pause(template, command.reason, now=uow.now))


def resume(uow: UnitOfWork, command: ResumeTemplate) -> Data:
    """Paused -> active."""
    template = uow.load(TEMPLATE, command.template_id)
    return _record(uow, command.template_id, templates.resume(template, now=uow.now))


def terminate(uow: UnitOfWork, command: TerminateTemplate) -> Data:
    """Any -> ended."""
    template = uow.load(TEMPLATE, command.template_id)
    return _record(uow, command.template_id, templates.terminate(template, command.reason, now=uow.now))


def open_window(uow: UnitOfWork, command: OpenTemplate) -> Data:
    """A timer's: the claim window began."""
    template = uow.load(TEMPLATE, command.template_id)
    if template.status in {"active", "paused"} and not template.opened:
        require_time(uow, template.current.claim_from)
    return _record(uow, command.template_id, templates.open_window(template, now=uow.now))


def close(uow: UnitOfWork, command: CloseTemplate) -> Data:
    """A timer's: the claim window ended."""
    template = uow.load(TEMPLATE, command.template_id)
    if template.status in {"active", "paused"}:
        require_time(uow, template.claim_until)
    return _record(uow, command.template_id, templates.close(template, now=uow.now))


def increase_stock(uow: UnitOfWork, command: IncreaseTemplateStock) -> Data:
    """Stock only goes up."""
    template = uow.load(TEMPLATE, command.template_id)
    return _record(uow, command.template_id, templates.increase_stock(template, command.by, now=uow.now))


def shorten(uow: UnitOfWork, command: ShortenTemplate) -> Data:
    """The end only comes earlier."""
    template = uow.load(TEMPLATE, command.template_id)
    return _record(uow, command.template_id, templates.shorten(template, command.claim_until, now=uow.now))


def revise(uow: UnitOfWork, command: ReviseTemplate) -> Data:
    """Any other change makes a new terms version."""
    template = uow.load(TEMPLATE, command.template_id)
    budgets = uow.load_all(BUDGET, command.terms.budget_ids)
    return _record(uow, command.template_id, templates.revise(template, command.terms, budgets, now=uow.now))


def reserve(uow: UnitOfWork, command: ReserveTemplateStock) -> Data:
    """Set stock aside; it counts towards stock and limits from here on."""
    template = uow.load(TEMPLATE, command.template_id)
    guard = _guard(command.template_id, command.reservation_id)
    if uow.count(guard) > RESERVED:
        raise AlreadyExists(f"Reservation {command.reservation_id} was confirmed or cancelled.")
    taken = taken_by(uow, template, command.user_id) if template.status != "none" else Taken(0, 0)
    events = templates.reserve(template, command.reservation_id, command.user_id, command.quantity, taken, now=uow.now)
    if events:
        uow.add(guard, RESERVED)
        _count_reserved(uow, template, command.user_id, templates.limit_period(template, uow.now), command.quantity)
    return _record(uow, command.template_id, events) | {"reservation_id": command.reservation_id}


def reservation_counters(uow: UnitOfWork, command: ReserveTemplateStock) -> list[str]:
    """The guard counters that a reservation will look at."""
    return [_guard(command.template_id, command.reservation_id), *counters(uow, command)]


def confirm(uow: UnitOfWork, command: ConfirmTemplateReservation) -> Data:
    """Claim what was reserved; it moves from the reserved to the claimed counts, and stays within both."""
    template = uow.load(TEMPLATE, command.template_id)
    guard = _guard(command.template_id, command.reservation_id)
    answer = {"template_id": command.template_id, "reservation_id": command.reservation_id}
    if uow.count(guard) == CONFIRMED:
        return answer
    reservation = templates.require_reservation(template, command.reservation_id)
    uow.record(TEMPLATE, command.template_id, templates.confirm(template, command.reservation_id, now=uow.now))
    uow.add(guard, CONFIRMED - RESERVED)
    uow.add(guard_key("reserved", command.template_id, reservation.user_id), -reservation.quantity)
    origin = Origin("reservation", command.reservation_id)
    coupon_ids = [
        issue_coupon(uow, command.template_id, reservation.user_id, origin, command.reservation_id, place).coupon_id
        for place in range(reservation.quantity)
    ]
    return answer | {"coupon_ids": coupon_ids}


def cancel(uow: UnitOfWork, command: CancelTemplateReservation) -> Data:
    """Give reserved stock back, and its place in the user's limits."""
    template = uow.load(TEMPLATE, command.template_id)
    guard = _guard(command.template_id, command.reservation_id)
    if uow.count(guard) == CANCELLED:
        return {"template_id": command.template_id, "reservation_id": command.reservation_id}
    reservation = templates.require_reservation(template, command.reservation_id)
    events = templates.cancel(template, command.reservation_id, command.reason)
    uow.add(guard, CANCELLED - RESERVED)
    _count_reserved(uow, template, reservation.user_id, reservation.period, -reservation.quantity)
    return _record(uow, command.template_id, events) | {"reservation_id": command.reservation_id}


def _record(uow: UnitOfWork, template_id: str, events: tuple[Event, ...]) -> Data:
    template = uow.record(TEMPLATE, template_id, events)
    return {"template_id": template_id, "status": template.status}


def _guard(template_id: str, reservation_id: str) -> str:
    return guard_key("reservation", template_id, reservation_id)


def _count_reserved(uow: UnitOfWork, template: Template, user_id: str, period: str, by: int) -> None:
    uow.add(guard_key("reserved", template.template_id, user_id), by)
    count_in_period(uow, template, user_id, period, by)
