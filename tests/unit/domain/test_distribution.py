"""A distribution decides rows by the rules of claims, each row once, in order, and stops when it is told to."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from command.domain.coupon import COUPON
from command.domain.distribution import DISTRIBUTION
from command.domain.template import TEMPLATE
from contracts.commands import (
    CancelDistribution,
    ClaimCoupon,
    Command,
    IssueDistributionChunk,
    PauseDistribution,
    PauseTemplate,
    ReserveTemplateStock,
    ResumeDistribution,
    ReviseTemplate,
    StartDistribution,
    TerminateTemplate,
)
from contracts.events import (
    CouponClaimed,
    DistributionAdvanced,
    DistributionCancelled,
    DistributionCompleted,
    DistributionPaused,
    DistributionResumed,
    DistributionStarted,
    DistributionUsersRefused,
    TemplateCouponsIssued,
)
from contracts.refusals import (
    AlreadyExists,
    DistributionNotRunning,
    DistributionOutOfTurn,
    Ended,
    NotActive,
    NotStarted,
    Refusal,
    UnknownDistribution,
    UnknownTemplate,
)
from contracts.terms import PeriodLimit
from tests.builders import claim, coupon_of, template, terms
from tests.gwt import NOON, Given, World, given


def start(users: int, distribution_id: str = "d1", users_sha256: str | None = None) -> StartDistribution:
    return StartDistribution(distribution_id=distribution_id, template_id="t1", users=users, users_sha256=users_sha256)


def chunk(*user_ids: str, first_row: int = 1, distribution_id: str = "d1") -> IssueDistributionChunk:
    return IssueDistributionChunk(distribution_id=distribution_id, first_row=first_row, user_ids=user_ids)


PAUSE, RESUME, CANCEL = (
    PauseDistribution(distribution_id="d1"),
    ResumeDistribution(distribution_id="d1"),
    CancelDistribution(distribution_id="d1"),
)


def started(users: int, *before: Command, **changes: Any) -> Given:
    """A distribution to so many users of a template with one coupon a user, unless told otherwise."""
    return given([*template(**({"claims_per_user_max": 1} | changes)), *before, start(users)])


def refused(world: World) -> dict[int, tuple[str, str]]:
    """Row -> (user, code)."""
    return {
        row: (user, each.code)
        for event in world.events(DistributionUsersRefused)
        for each in event.refused
        for row, user in zip(each.rows, each.user_ids, strict=True)
    }


def test_every_row_of_a_chunk_gets_a_coupon_in_one_go() -> None:
    when = started(3).when(chunk("ann", "bob"))
    when.then([TemplateCouponsIssued, CouponClaimed, CouponClaimed, DistributionAdvanced])
    when.then_answered(status="running", next_row=3, issued=2, refused=0)
    bulk, first, second, _ = when.events
    assert isinstance(bulk, TemplateCouponsIssued)
    assert (bulk.quantity, bulk.claimed, bulk.distribution_id) == (2, 2, "d1")
    assert isinstance(first, CouponClaimed)
    assert isinstance(second, CouponClaimed)
    assert (first.coupon_id, first.about.user_id) == (coupon_of("ann"), "ann")
    assert (second.coupon_id, second.about.user_id) == (coupon_of("bob"), "bob")
    assert (first.channel, first.reference) == ("distribution", "d1")


def test_the_last_chunk_completes_it() -> None:
    when = started(1).when(chunk("ann"))
    when.then([TemplateCouponsIssued, CouponClaimed, DistributionAdvanced, DistributionCompleted])
    when.then_answered(status="completed", next_row=2, issued=1)


def test_a_chunk_of_refusals_issues_nothing_and_names_every_row() -> None:
    when = started(3, claim("ann"), claim("bob")).when(chunk("ann", "bob"))
    when.then([DistributionUsersRefused, DistributionAdvanced])
    assert refused(when.world) == {1: ("ann", "user_limit_reached"), 2: ("bob", "user_limit_reached")}


def test_a_user_listed_twice_is_refused_the_second_time_within_a_chunk_and_across_chunks() -> None:
    world = started(4).when(chunk("ann", "bob", "ann"), chunk("bob", first_row=4)).world
    assert refused(world) == {3: ("ann", "user_limit_reached"), 4: ("bob", "user_limit_reached")}
    assert len(world.events(CouponClaimed)) == 2


def test_a_user_listed_twice_gets_two_where_the_terms_allow_it() -> None:
    world = started(2, claims_per_user_max=2).when(chunk("ann", "ann")).world
    assert [event.coupon_id for event in world.events(CouponClaimed)] == [coupon_of("ann"), coupon_of("ann", nth=2)]


def test_stock_that_ends_midway_refuses_the_rest() -> None:
    when = started(4, stock=2).when(chunk("ann", "bob", "cid", "dan"))
    when.then_answered(status="completed", issued=2, refused=2)
    assert refused(when.world) == {3: ("cid", "template_exhausted"), 4: ("dan", "template_exhausted")}


def test_reserved_stock_is_not_given_away() -> None:
    reserve = ReserveTemplateStock(template_id="t1", reservation_id="r1", user_id="zoe", quantity=1)
    world = started(3, reserve, stock=2).when(chunk("ann", "bob", "zoe")).world
    assert refused(world) == {2: ("bob", "template_exhausted"), 3: ("zoe", "template_exhausted")}


def test_a_reservation_counts_towards_its_users_limit() -> None:
    reserve = ReserveTemplateStock(template_id="t1", reservation_id="r1", user_id="zoe", quantity=1)
    world = started(1, reserve, stock=5).when(chunk("zoe")).world
    assert refused(world) == {1: ("zoe", "user_limit_reached")}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (PauseTemplate(template_id="t1", reason=""), "paused"),
        (TerminateTemplate(template_id="t1", reason=""), "ended"),
    ],
    ids=["paused", "ended"],
)
def test_what_refuses_a_claim_refuses_the_rows_of_a_chunk(change: Command, code: str) -> None:
    world = started(2).and_given(change).when(chunk("ann", "bob")).world
    assert refused(world) == {1: ("ann", code), 2: ("bob", code)}


def test_the_window_ends_for_a_distribution_at_its_instant() -> None:
    world = started(1).when(chunk("ann"), after=86_400).world
    assert refused(world) == {1: ("ann", "ended")}


def test_coupons_of_later_chunks_follow_revised_terms() -> None:
    history = started(2).and_given(chunk("ann"))
    history.and_given(ReviseTemplate(template_id="t1", terms=terms(claims_per_user_max=1, name="Better")))
    world = history.when(chunk("bob", first_row=2)).world
    assert [event.about.terms_version for event in world.events(CouponClaimed)] == [1, 2]


# Life cycle.


def test_it_starts_once_and_telling_it_again_changes_nothing() -> None:
    given(template()).when(start(5)).then([DistributionStarted])
    started(5).when(start(5)).then_nothing()
    started(5).when(start(6)).then_refused(AlreadyExists)


def test_a_started_distribution_is_another_one_when_its_list_is() -> None:
    def of(digit: str) -> StartDistribution:
        return start(5, users_sha256=digit * 64)

    given([*template(), of("a")]).when(of("a")).then_nothing()
    given([*template(), of("a")]).when(of("b")).then_refused(AlreadyExists)
    given([*template(), of("a")]).when(start(5)).then_nothing()  # It does not say which list it means.
    given([*template(), start(5)]).when(of("b")).then_nothing()  # Started by a version that did not record it.


@pytest.mark.parametrize(
    ("history", "code"),
    [
        ([], UnknownTemplate),
        (template()[:1], NotActive),
        (template(claim_from=NOON + timedelta(hours=1)), NotStarted),
        ([*template(), TerminateTemplate(template_id="t1", reason="")], Ended),
    ],
    ids=["unknown", "draft", "not begun", "ended"],
)
def test_it_does_not_start_when_every_row_would_be_refused(history: list[Command], code: type[Refusal]) -> None:
    given(history).when(start(5)).then_refused(code)


def test_pause_holds_chunks_back_and_resume_lets_them_go_on() -> None:
    paused = started(2).and_given(PAUSE)
    paused.when(chunk("ann")).then_refused(DistributionNotRunning)
    paused.when(RESUME).then([DistributionResumed]).then_answered(runs=2)
    paused.when(chunk("ann")).then_answered(next_row=2)


def test_pause_resume_and_cancel_told_twice_change_nothing_more() -> None:
    going = started(2)
    going.when(RESUME).then_nothing()
    going.when(PAUSE).then([DistributionPaused])
    going.when(PAUSE).then_nothing()
    going.when(CANCEL).then([DistributionCancelled])
    going.when(CANCEL).then_nothing()


@pytest.mark.parametrize("end", [CANCEL, chunk("ann")], ids=["cancelled", "completed"])
@pytest.mark.parametrize("command", [PAUSE, RESUME], ids=["pause", "resume"])
def test_what_is_over_is_neither_paused_nor_resumed(end: Command, command: Command) -> None:
    started(1).and_given(end).when(command).then_refused(DistributionNotRunning)


def test_a_cancelled_distribution_keeps_what_it_issued_and_issues_no_more() -> None:
    world = (
        started(2)
        .and_given([chunk("ann"), CANCEL])
        .when(chunk("bob", first_row=2))
        .then_refused(DistributionNotRunning)
        .world
    )
    assert len(world.events(CouponClaimed)) == 1


def test_nobody_has_heard_of_a_distribution_that_was_not_started() -> None:
    for command in (PAUSE, RESUME, CANCEL, chunk("ann")):
        given(template()).when(command).then_refused(UnknownDistribution)


def test_rows_that_were_decided_are_not_decided_again() -> None:
    going = started(3).and_given(chunk("ann", "bob"))
    going.when(chunk("ann", "bob")).then_nothing().then_answered(next_row=3, issued=2)
    going.when(chunk("bob", first_row=2)).then_nothing()


@pytest.mark.parametrize("ahead", [chunk("cid", first_row=3), chunk("x", "y", "z", first_row=1)], ids=["gap", "beyond"])
def test_rows_that_are_not_the_next_ones_are_refused(ahead: Command) -> None:
    started(2).when(ahead).then_refused(DistributionOutOfTurn)


@pytest.mark.parametrize("user_ids", [(), ("",), (" ann",), ("a\nb",), ("x" * 129,), ("ann",) * 1_001])
def test_a_chunk_names_one_to_a_thousand_users_by_proper_ids(user_ids: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="user_ids"):
        chunk(*user_ids)


# The same as claims.

USERS = st.lists(st.sampled_from(["ann", "bob", "cid", "d:an/é%", "e{v}e"]), min_size=1, max_size=12)
LIMITS = st.fixed_dictionaries(
    {
        "stock": st.none() | st.integers(1, 8),
        "claims_per_user_max": st.none() | st.integers(1, 3),
        "claims_per_period": st.none() | st.just(PeriodLimit(period="day", claims_max=1)),
    }
)


def _claimed_one_by_one(history: Sequence[Command], users: Sequence[str]) -> tuple[World, dict[int, tuple[str, str]]]:
    """The same rows as single claims, and which were refused."""
    world, refusals = given(history).world, {}
    for row, user in enumerate(users, 1):
        try:
            world.send(ClaimCoupon(template_id="t1", user_id=user, channel="distribution", reference="d1"))
        except Refusal as refusal:
            refusals[row] = (user, refusal.code)
    return world, refusals


@examples(users=USERS, limits=LIMITS, before=USERS, size=st.integers(1, 12))
def test_a_distribution_gives_the_same_coupons_as_single_claims(
    users: list[str], limits: dict[str, Any], before: list[str], size: int
) -> None:
    claimed_before, _ = _claimed_one_by_one(template(**limits), before)
    history = [*template(**limits)]
    single, refusals = _claimed_one_by_one(history, [*before, *users])
    bulk = claimed_before
    bulk.send(start(len(users)))
    for first in range(0, len(users), size):
        bulk.send(chunk(*users[first : first + size], first_row=first + 1))
    assert bulk.events(CouponClaimed) == single.events(CouponClaimed)
    assert bulk.counts == single.counts
    assert bulk.state(TEMPLATE, "t1") == single.state(TEMPLATE, "t1")
    assert refused(bulk) == {row - len(before): told for row, told in refusals.items() if row > len(before)}
    assert bulk.state(DISTRIBUTION, "d1").status == "completed"
    assert all(bulk.state(COUPON, each.coupon_id).status == "claimed" for each in bulk.events(CouponClaimed))
