"""Distributions: one template to many users, a chunk of rows in one decision."""

from collections.abc import Sequence
from typing import NamedTuple

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
    return _recorded(uow, command.distribution_id, distributions.start(state, template, command, now=uow.now))


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
    keys = _keys_of(uow, template, command.user_ids)
    holdings = Holdings(*(dict(zip(each, uow.counts(each.values()), strict=True)) for each in keys))
    allotment = distributions.allot(template, command.user_ids, holdings, command.first_row, now=uow.now)
    if allotment.claims:
        _issue(uow, template, allotment.claims, command.distribution_id)
        for each in (keys.claimed, keys.in_period) if keys.in_period else (keys.claimed,):
            uow.add_one_each([each[user_id] for user_id, _ in allotment.claims])
    return _recorded(uow, command.distribution_id, distributions.advance(state, len(command.user_ids), allotment))


def counters(uow: UnitOfWork, command: IssueDistributionChunk) -> list[str]:
    """The guard counters that a chunk will look at."""
    state = uow.load(DISTRIBUTION, command.distribution_id)
    if state.status != "running":
        return []
    keys = _keys_of(uow, uow.load(TEMPLATE, state.template_id), command.user_ids)
    return [key for each in keys for key in each.values()]


class _Keys(NamedTuple):
    """The guard counters of a chunk, by user: each once, however often a user is listed."""

    claimed: dict[str, str]
    reserved: dict[str, str]
    in_period: dict[str, str]


def _keys_of(uow: UnitOfWork, template: Template, user_ids: Sequence[str]) -> _Keys:
    """What counts towards the limits; nothing where nobody has reserved, or the terms limit no period."""
    users, template_id = list(dict.fromkeys(user_ids)), template.template_id
    claimed = dict(zip(users, guard_keys("claims", template_id, users), strict=True))
    reserved = dict(zip(users, guard_keys("reserved", template_id, users), strict=True)) if template.reserved else {}
    period = templates.limit_period(template, uow.now)
    in_period = {user: guard_key("claims", template_id, user, period) for user in users} if period else {}
    return _Keys(claimed, reserved, in_period)


def _issue(uow: UnitOfWork, template: Template, claims: Sequence[tuple[str, int]], distribution_id: str) -> None:
    """One event on the template for all of them, one on each coupon's own new stream."""
    uow.record(TEMPLATE, template.template_id, templates.issue_many(template, len(claims), distribution_id))
    ids = coupon_ids(uow.realm, template.template_id, claims)
    origin = Origin("distribution", distribution_id)
    uow.create_each(COUPON, ids, coupons.claim_each(template, ids, claims, origin, now=uow.now))


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
