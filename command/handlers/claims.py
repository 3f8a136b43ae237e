"""Claims: counting what a user has of a template, and giving out the next coupon."""

from collections.abc import Sequence

from command.domain import coupon as coupons
from command.domain import template as templates
from command.domain.coupon import COUPON, Origin
from command.domain.ids import coupon_id as nth_coupon_id
from command.domain.ids import coupon_ids, guard_key, guard_keys
from command.domain.template import TEMPLATE, Taken, Template
from command.handlers.handler import Data
from command.unit_of_work import UnitOfWork
from contracts.commands import ClaimCoupon, ReserveTemplateStock
from contracts.commands.coupon import ClaimChannel
from contracts.events import CouponClaimed


def claim(uow: UnitOfWork, command: ClaimCoupon) -> Data:
    """Take one coupon of a template for a user."""
    return take_coupon(uow, command.template_id, command.user_id, Origin(command.channel, command.reference))


def take_coupon(uow: UnitOfWork, template_id: str, user_id: str, origin: Origin) -> Data:
    """A user's next coupon of a template, however they came to claim it: within window, stock and limits."""
    template, now = uow.load(TEMPLATE, template_id), uow.now
    templates.require_claimable(template, now=now)
    templates.require_stock(template)
    templates.require_within_limits(template, taken_by(uow, template, user_id))
    claimed = issue_coupon(uow, template_id, user_id, origin)
    count_in_period(uow, template, user_id, templates.limit_period(template, now), 1)
    return {
        "coupon_id": claimed.coupon_id,
        "template_id": template_id,
        "user_id": user_id,
        "valid_from": claimed.valid_from.isoformat(),
        "valid_until": claimed.valid_until.isoformat(),
    }


def counters(uow: UnitOfWork, command: ClaimCoupon | ReserveTemplateStock) -> list[str]:
    """The guard counters that a claim or a reservation will look at; none when it will be refused before."""
    return claim_counters(uow, command.template_id, command.user_id)


def claim_counters(uow: UnitOfWork, template_id: str, user_id: str) -> list[str]:
    """As :func:`counters`, however it is claimed."""
    template, now = uow.load(TEMPLATE, template_id), uow.now
    if template.status != "active" or templates.is_over(template, now) or template.remaining == 0:
        return []
    keys = [guard_key("claims", template_id, user_id)]
    if template.reserved:
        keys.append(guard_key("reserved", template_id, user_id))
    if period := templates.limit_period(template, now):
        keys.append(guard_key("claims", template_id, user_id, period))
    return keys


def offer_of(command: ClaimCoupon) -> tuple[str, ClaimChannel, str | None]:
    """Claims of the same offer may be decided together."""
    return command.template_id, command.channel, command.reference


def claim_together(uow: UnitOfWork, commands: Sequence[ClaimCoupon]) -> list[Data] | None:
    """Claims of one offer, when everybody gets a coupon and only the limit in all has to be looked at.

    One event of the template, as :func:`command.domain.template.merge` would make of one for each.
    """
    template_id, channel, reference = offer_of(commands[0])
    user_ids = [command.user_id for command in commands]
    template, now = uow.load(TEMPLATE, template_id), uow.now
    templates.require_claimable(template, now=now)
    if template.reserved or templates.limit_period(template, now) or len(set(user_ids)) < len(user_ids):
        return None
    keys = guard_keys("claims", template_id, user_ids)
    before = uow.counts(keys)
    templates.require_stock(template, len(commands))
    templates.require_within_limits(template, Taken(max(before), 0))
    claims = [(user_id, taken + 1) for user_id, taken in zip(user_ids, before, strict=True)]
    ids = coupon_ids(uow.realm, template_id, claims, uow.command_ids)
    events = coupons.claim_each(template, ids, claims, Origin(channel, reference), now=now)
    uow.record(TEMPLATE, template_id, templates.issue_many(template, len(claims)))
    uow.create_by_each(COUPON, ids, events)
    uow.add_one_each(keys)
    valid_from, valid_until = (each.isoformat() for each in coupons.validity(template.current, now))
    return [
        {
            "coupon_id": coupon_id,
            "template_id": template_id,
            "user_id": user_id,
            "valid_from": valid_from,
            "valid_until": valid_until,
        }
        for coupon_id, user_id in zip(ids, user_ids, strict=True)
    ]


def rush_counters(uow: UnitOfWork, commands: Sequence[ClaimCoupon]) -> list[str]:
    """As :func:`counters`, of all of them."""
    first = claim_counters(uow, commands[0].template_id, commands[0].user_id)
    if len(first) != 1:  # None, or more than the claims in all.
        return [*first, *(key for command in commands[1:] for key in counters(uow, command))]
    return guard_keys("claims", commands[0].template_id, [command.user_id for command in commands])


def issue_coupon(
    uow: UnitOfWork,
    template_id: str,
    user_id: str,
    origin: Origin,
    reservation_id: str | None = None,
    place: int = 0,
) -> CouponClaimed:
    """Take the next coupon out of the stock. ``place``: among those that this command takes."""
    template = uow.load(TEMPLATE, template_id)
    claims = guard_key("claims", template_id, user_id)
    nth = uow.count(claims) + 1
    coupon_id = nth_coupon_id(uow.realm, template_id, user_id, nth, uow.command_id, place)
    uow.record(TEMPLATE, template_id, templates.issue(template, coupon_id, user_id, reservation_id))
    events = coupons.claim(template, coupon_id, user_id, nth, origin, now=uow.now)
    uow.create(COUPON, coupon_id, events)
    uow.add(claims, 1)
    return events[0]


def taken_by(uow: UnitOfWork, template: Template, user_id: str) -> Taken:
    """What counts towards the user's limits: claims, and reservations that are still open."""
    terms = template.current
    total = in_period = 0
    if terms.claims_per_user_max is not None:
        total = uow.count(guard_key("claims", template.template_id, user_id))
        if template.reserved:  # Else nobody has a reservation: one look-up less for every claim of a rush.
            total += uow.count(guard_key("reserved", template.template_id, user_id))
    if period := templates.limit_period(template, uow.now):
        in_period = uow.count(guard_key("claims", template.template_id, user_id, period))
    return Taken(total, in_period)


def count_in_period(uow: UnitOfWork, template: Template, user_id: str, period: str, by: int) -> None:
    """Count claims (and reservations) of a user in a limit period, when the terms limit any."""
    if period:
        uow.add(guard_key("claims", template.template_id, user_id, period), by)
