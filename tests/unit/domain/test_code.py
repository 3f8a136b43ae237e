"""Codes: used once, by one user, as a claim; void, ended and unknown ones are refused alike."""

from datetime import timedelta

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from command.domain.code import CODE_BATCH, Counted
from contracts.commands import (
    ActivateTemplate,
    AssignCodes,
    Command,
    CreateTemplate,
    GenerateCodes,
    PauseTemplate,
    UseCode,
    VoidCode,
    VoidCodes,
)
from contracts.events import (
    CodeAssigned,
    CodeBatchAssigned,
    CodeBatchGenerated,
    CodeBatchVoided,
    CodeUsed,
    CodeVoided,
    CouponClaimed,
    TemplateCouponIssued,
)
from contracts.terms import AmountOff, Terms, ValidityAfterClaim
from tests.gwt import NOON, Given, World, given

BATCH = "k1-1"


def terms(stock: int | None = None, per_user: int | None = None) -> Terms:
    return Terms(
        name="Ten off",
        campaign_id="spring",
        currency="EUR",
        discount=AmountOff(amount_minor=1_000),
        stock=stock,
        claims_per_user_max=per_user,
        claim_from=NOON - timedelta(days=1),
        claim_until=NOON + timedelta(days=30),
        validity=ValidityAfterClaim(duration_seconds=86_400),
    )


def batch(count: int = 10, *, stock: int | None = None, hours: int | None = None) -> list[Command]:
    until = None if hours is None else NOON + timedelta(hours=hours)
    return [
        CreateTemplate(template_id="t1", terms=terms(stock)),
        ActivateTemplate(template_id="t1"),
        GenerateCodes(template_id="t1", count=count, key_id="k1", valid_until=until),
    ]


def use(index: int = 0, user: str = "ann") -> UseCode:
    return UseCode(batch_id=BATCH, index=index, user_id=user)


def counts(world: World) -> dict[str, int]:
    return {each.name: world.counts.get(each.key(BATCH), 0) for each in Counted}


def test_a_batch_of_any_size_is_one_event() -> None:
    made = given(batch()[:2]).when(GenerateCodes(template_id="t1", count=10_000_000, key_id="k1"))
    made.then([CodeBatchGenerated]).then_answered(batch_id=BATCH, count=10_000_000)


def test_batches_of_a_key_are_numbered() -> None:
    more = GenerateCodes(template_id="t1", count=1, key_id="k1")
    given(batch()).when(more).then_answered(batch_id="k1-2")
    given(batch()).when(more.model_copy(update={"key_id": "k2"})).then_answered(batch_id="k2-1")


def test_codes_of_nothing_and_of_the_past_are_refused() -> None:
    given(()).when(GenerateCodes(template_id="t1", count=1, key_id="k1")).then_refused("unknown_template")
    ended = GenerateCodes(template_id="t1", count=1, key_id="k1", valid_until=NOON)
    given(batch()).when(ended).then_refused("ended")


def test_using_a_code_claims_its_coupon_for_the_user() -> None:
    used = given(batch()).when(use())
    used.then([TemplateCouponIssued, CouponClaimed, CodeUsed]).then_answered(batch_id=BATCH, user_id="ann")
    _, claimed, code = used.events
    assert isinstance(claimed, CouponClaimed)
    assert isinstance(code, CodeUsed)
    assert (claimed.channel, claimed.reference) == ("code", BATCH)
    assert code.coupon_id == claimed.coupon_id
    assert counts(used.world) == {"ASSIGNED": 0, "USED": 1, "VOIDED": 0}


def test_a_code_is_used_once_ever() -> None:
    again = given([*batch(), use()]).when(use()).then_refused("code_used")
    assert again.refusal is not None
    assert again.refusal.data == {"coupon_id": again.world.events(CodeUsed)[0].coupon_id}
    other = given([*batch(), use()]).when(use(user="bob")).then_refused("code_used")
    assert other.refusal is not None
    assert other.refusal.data == {}, "whose coupon it became is nobody else's business"


def test_a_claim_that_is_refused_leaves_the_code_as_it_was() -> None:
    world = given([*batch(), PauseTemplate(template_id="t1")]).when(use()).then_refused("paused").world
    assert counts(world)["USED"] == 0
    given([*batch(stock=1), use(0)]).when(use(1, "bob")).then_refused("template_exhausted")


UNKNOWN: dict[str, tuple[Given, UseCode]] = {
    "another batch": (given(batch()), UseCode(batch_id="k1-9", index=0, user_id="ann")),
    "beyond the batch": (given(batch(10)), use(10)),
    "voided": (given([*batch(), VoidCode(batch_id=BATCH, index=0, reason="lost")]), use()),
    "in a voided range": (given([*batch(), VoidCodes(batch_id=BATCH, last_index=3, reason="lost")]), use(3)),
    "of a voided batch": (given([*batch(), VoidCodes(batch_id=BATCH, reason="lost")]), use(9)),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_codes_that_are_not_alive_are_refused_alike(case: str) -> None:
    history, command = UNKNOWN[case]
    refused = history.when(command).then_refused("unknown_code")
    assert refused.refusal is not None
    assert (refused.refusal.detail, refused.refusal.data) == ("There is no such code.", {})


def test_a_batch_ends_from_the_instant_itself() -> None:
    given(batch(hours=1)).when(use(), after=3_599).then([TemplateCouponIssued, CouponClaimed, CodeUsed])
    given(batch(hours=1)).when(use(), after=3_600).then_refused("unknown_code")


def test_users_get_the_next_codes_that_nobody_has() -> None:
    history = [*batch(), use(1), VoidCodes(batch_id=BATCH, first_index=2, last_index=4, reason="lost")]
    made = given(history).when(AssignCodes(batch_id=BATCH, user_ids=("ann", "bob", "cem")))
    made.then([CodeBatchAssigned, CodeAssigned, CodeAssigned, CodeAssigned]).then_answered(indices=[0, 5, 6])
    next_ones = made.world.send(AssignCodes(batch_id=BATCH, user_ids=("dee",)))
    assert next_ones["indices"] == [7]
    assert counts(made.world) == {"ASSIGNED": 4, "USED": 1, "VOIDED": 0}


def test_an_assigned_code_is_for_its_user_alone() -> None:
    history = [*batch(), AssignCodes(batch_id=BATCH, user_ids=("ann",))]
    given(history).when(use(0, "bob")).then_refused("not_owner")
    used = given(history).when(use(0, "ann")).then([TemplateCouponIssued, CouponClaimed, CodeUsed])
    assert counts(used.world) == {"ASSIGNED": 0, "USED": 1, "VOIDED": 0}


def test_no_more_codes_are_given_than_there_are() -> None:
    history = [*batch(3), use(1)]
    given(history).when(AssignCodes(batch_id=BATCH, user_ids=("a", "b", "c"))).then_refused("codes_exhausted")
    given(history).when(AssignCodes(batch_id=BATCH, user_ids=("a", "b", "c", "d"))).then_refused("codes_exhausted")
    given(history).when(AssignCodes(batch_id=BATCH, user_ids=("a", "b"))).then_answered(indices=[0, 2])


def test_voiding_is_done_once_and_never_to_a_used_code() -> None:
    void = VoidCode(batch_id=BATCH, index=0, reason="lost")
    given(batch()).when(void).then([CodeVoided])
    given([*batch(), void]).when(void).then_nothing()
    given([*batch(), use()]).when(void).then_refused("code_used")
    given(batch(10)).when(VoidCode(batch_id=BATCH, index=10, reason="lost")).then_refused("unknown_code")
    given(()).when(void).then_refused("unknown_code_batch")


def test_a_range_names_only_what_was_not_void_before() -> None:
    first = VoidCodes(batch_id=BATCH, first_index=3, last_index=4, reason="lost")
    made = given([*batch(10), first]).when(VoidCodes(batch_id=BATCH, reason="all lost"))
    (voided,) = made.events
    assert isinstance(voided, CodeBatchVoided)
    assert [(each.first_index, each.last_index) for each in voided.ranges] == [(0, 2), (5, 9)]
    assert made.world.state(CODE_BATCH, BATCH).voided == ((0, 9),)
    given([*batch(10), first]).when(first).then_nothing()
    given(batch(10)).when(VoidCodes(batch_id=BATCH, last_index=10, reason="lost")).then_refused("unknown_code")


@for_all(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)).map(sorted), max_size=8))
def test_voided_ranges_are_exactly_the_codes_that_were_voided(ranges: list[list[int]]) -> None:
    world = given(batch(30)).world
    for first, last in ranges:
        world.send(VoidCodes(batch_id=BATCH, first_index=first, last_index=last, reason="lost"))
    state = world.state(CODE_BATCH, BATCH)
    expected = {index for first, last in ranges for index in range(first, last + 1)}
    assert {index for index in range(30) if state.is_voided(index)} == expected
    told = [each for event in world.events(CodeBatchVoided) for each in event.ranges]
    assert sum(each.last_index - each.first_index + 1 for each in told) == len(expected)


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0, 24_999, 24_996),  # Everything: the counters of blocks say it.
        (0, 9_999, 9_998),
        (5, 9_999, 9_999 - 5 + 1 - 1),  # Within a block the codes themselves do.
        (10_000, 19_999, 10_000 - 1),
        (12_000, 12_500, 501),
        (20_000, 24_999, 5_000 - 1),  # The last block is short.
        (9_990, 20_010, 10_021 - 2),
    ],
)
def test_a_voided_range_counts_the_codes_that_it_took_out_of_use(first: int, last: int, expected: int) -> None:
    one = VoidCode(batch_id=BATCH, index=20_005, reason="lost")
    before = [*batch(25_000), use(3), use(7_000, "bob"), use(15_000, "cid"), one]
    made = given(before).when(VoidCodes(batch_id=BATCH, first_index=first, last_index=last, reason="lost"))
    (voided,) = made.events
    assert isinstance(voided, CodeBatchVoided)
    assert voided.codes == expected
    assert made.world.state(CODE_BATCH, BATCH).voided_codes == expected


def test_ranges_that_overlap_count_no_code_twice() -> None:
    parts = [
        VoidCodes(batch_id=BATCH, first_index=first, last_index=last, reason="x") for first, last in ((2, 5), (4, 8))
    ]
    made = given([*batch(), use(3), parts[0]]).when(parts[1])
    assert made.world.state(CODE_BATCH, BATCH).voided_codes == 6
