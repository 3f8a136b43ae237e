"""Distributions: one template to many users, a chunk of rows in one decision."""

from collections.abc import Sequence

from command.domain import coupon as coupons
from command.domain import distribution as distributions
from command.domain import template as templates
from command.domain.coupon import COUPON, Origin
from command.domain.distribution import DISTRIBUTION, Distribution, Holdings
from command.domain.ids import coupon_ids, guard_key, guard_keys
from command.domain.template import TEMPLATE, Template
from command.handlers.handler import Data
from command.unit_of_work import UnitOfWork
from contracts.commands import (
    CancelDistribution,
    IssueDistributionChunk,
    PauseDistribution,
    ResumeDistribution,
    StartDistribution,
)
from contracts.events import Event


def start(uow: UnitOfWork, command: StartDistribution) -> Data:
    """Set it going; its rows are staged already."""
    state = uow.load(DISTRIBUTION, command.distribution_id)
    template = uow.load(TEMPLATE, command.template_id)
    return _recorded(
        uow,
        command.distribution_id,
        distributions.start(state, template, command.distribution_id, command.users, now=uow.now),
    )


def pause(uow: UnitOfWork, command: PauseDistribution) -> Data:
    """No chunk is decided after this."""
    state = uow.load(DISTRIBUTION, command.distribution_id)
    return _recorded(uow, command.distribution_id, distributions.pause(state, command.reason))


def resume(uow: UnitOfWork, command: ResumeDistribution) -> Data:
    """Chunks go on."""
    state = uow.load(DISTRIBUTION, command.distribution_id)
    return _recorded(uow, command.distribution_id, distributions.resume(state))


def cancel(uow: UnitOfWork, command: CancelDistribution) -> Data:
    """No chunk is decided ever after."""
    state = uow.load(DISTRIBUTION, command.distribution_id)
    return _recorded(uow, command.distribution_id, distributions.cancel(state, command.reason))


def issue_chunk(uow: UnitOfWork, command: IssueDistributionChunk) -> Data:
    """Give the next rows' users their coupons. Whatever is the same for all of them is looked at once."""
    state = uow.load(DISTRIBUTION, command.distribution_id)
    if distributions.is_decided(state, command.first_row, len(command.user_ids)):
        return _data(state)
    template = uow.load(TEMPLATE, state.template_id)
    holdings = _holdings(uow, template, command.user_ids)
    allotment = distributions.allot(template, command.user_ids, holdings, command.first_row, now=uow.now)
    if allotment.claims:
        _issue(uow, template, allotment.claims, command.distribution_id)
    return _recorded(uow, command.distribution_id, distributions.advance(state, len(command.user_ids), allotment))


def counters(uow: UnitOfWork, command: IssueDistributionChunk) -> list[str]:
    """The guard counters that a chunk will look at."""
    state = uow.load(DISTRIBUTION, command.distribution_id)
    if state.status != "running":
        return []
    template = uow.load(TEMPLATE, state.template_id)
    users = list(dict.fromkeys(command.user_ids))
    keys = guard_keys("claims", state.template_id, users)
    if template.reserved:
        keys += guard_keys("reserved", state.template_id, users)
    if period := templates.limit_period(template, uow.now):
        keys += [guard_key("claims", state.template_id, user_id, period) for user_id in users]
    return keys


def _holdings(uow: UnitOfWork, template: Template, user_ids: Sequence[str]) -> Holdings:
    """What the users hold and have reserved: each counter once, however often a user is listed."""
    users, template_id = list(dict.fromkeys(user_ids)), template.template_id
    reserved = in_period = {}
    claimed = _counts(uow, users, guard_keys("claims", template_id, users))
    if template.reserved:
        reserved = _counts(uow, users, guard_keys("reserved", template_id, users))
    if period := templates.limit_period(template, uow.now):
        in_period = _counts(uow, users, [guard_key("claims", template_id, user_id, period) for user_id in users])
    return Holdings(claimed, reserved, in_period)


def _counts(uow: UnitOfWork, users: Sequence[str], keys: Sequence[str]) -> dict[str, int]:
    return {user_id: uow.count(key) for user_id, key in zip(users, keys, strict=True)}


def _issue(uow: UnitOfWork, template: Template, claims: Sequence[tuple[str, int]], distribution_id: str) -> None:
    """One event on the template for all of them, one on each coupon's own new stream, and the counters."""
    template_id = template.template_id
    uow.record(TEMPLATE, template_id, templates.issue_many(template, len(claims), distribution_id))
    ids = coupon_ids(uow.realm, template_id, claims)
    origin = Origin("distribution", distribution_id)
    for coupon_id, events in coupons.claim_each(template, ids, claims, origin, now=uow.now):
        uow.create(COUPON, coupon_id, events)
    users = [user_id for user_id, _ in claims]
    for key in guard_keys("claims", template_id, users):
        uow.add(key, 1)
    if period := templates.limit_period(template, uow.now):
        for user_id in users:
            uow.add(guard_key("claims", template_id, user_id, period), 1)


def _recorded(uow: UnitOfWork, distribution_id: str, events: Sequence[Event]) -> Data:
    return _data(uow.record(DISTRIBUTION, distribution_id, events))


def _data(state: Distribution) -> Data:
    return {
        "distribution_id": state.distribution_id,
        "template_id": state.template_id,
        "status": state.status,
        "users": state.users,
        "next_row": state.next_row,
        "issued": state.issued,
        "refused": state.refused,
        "runs": state.runs,
    }
