"""The checkout saga, told as stories: what each fact leads to in each step, and nothing twice."""

import pytest

from contracts.events import Event, OrderNoted, RefundSucceeded, TemplatePaused
from sagas.checkout import CURRENT, REFUNDS_OPEN_MAX, SOURCES_MAX, VERSIONS, Step, route
from sagas.process import MemoryIsFull
from tests.unit.sagas.stories import (
    CANCELLED,
    GBP,
    ORDER,
    PLACED,
    REJECTED,
    UNREDEEMED,
    completed,
    credit,
    failed,
    given,
    hold,
    paid,
    ready,
    redeem,
    refund,
    refunded,
    refused,
    release,
    released,
    reopened,
)


def test_every_fact_of_an_order_is_heard_by_that_orders_saga() -> None:
    heard: list[Event] = [PLACED, CANCELLED, reopened(), paid(), failed(), refund(), ready(), refused(), released()]
    assert {route(event) for event in (*heard, completed(), UNREDEEMED, refunded())} == {ORDER}


def test_facts_that_concern_no_order_are_heard_by_nobody() -> None:
    orphan = RefundSucceeded(refund_id="r9", order_id=None, amount_minor=1, currency=GBP)
    assert route(orphan) is None
    assert route(OrderNoted(order_id=ORDER, status="accepted")) is None
    assert route(TemplatePaused(template_id="t", reason="")) is None


# The plain course.


def test_a_placed_order_is_held() -> None:
    given().when(PLACED).then(Step.HOLDING, hold())


def test_a_held_order_waits_for_its_payment() -> None:
    given(PLACED).when(ready()).then(Step.HELD)


def test_a_refused_order_holds_nothing() -> None:
    given(PLACED).when(refused()).then(Step.REFUSED)


def test_a_payment_redeems_what_is_held() -> None:
    given(PLACED, ready()).when(paid()).then(Step.REDEEMING, redeem())


def test_an_order_with_nothing_to_pay_is_redeemed_without_a_payment() -> None:
    given(PLACED).when(ready(payable_minor=0)).then(Step.REDEEMING, redeem(None))


def test_a_redeemed_order_is_completed() -> None:
    given(PLACED, ready(), paid()).when(completed()).then(Step.COMPLETED)


def test_a_failed_payment_releases_what_is_held() -> None:
    given(PLACED, ready()).when(failed()).then(Step.RELEASING, release("payment_failed"))
    given(PLACED, ready(), failed()).when(released()).then(Step.RELEASED)


def test_a_payment_that_fails_during_the_hold_releases_whatever_the_hold_brings() -> None:
    given(PLACED).when(failed()).then(Step.RELEASING, release("payment_failed"))
    given(PLACED, failed()).when(ready()).then(Step.RELEASING)
    given(PLACED, failed()).when(refused()).then(Step.REFUSED)


def test_a_cancelled_order_releases_what_is_held() -> None:
    given(PLACED, ready()).when(CANCELLED).then(Step.CANCELLED, release("order_cancelled"))
    given(PLACED, ready(), CANCELLED).when(released(cause="order_cancelled")).then(Step.CANCELLED)


def test_a_rejected_order_says_so_when_it_releases() -> None:
    given(PLACED, ready()).when(REJECTED).then(Step.CANCELLED, release("order_rejected"))


def test_the_end_of_the_lock_releases_by_itself() -> None:
    given(PLACED, ready()).when(released(cause="lock_ended")).then(Step.RELEASED)


def test_a_refund_of_a_completed_order_is_credited() -> None:
    given(PLACED, ready(), paid(), completed()).when(refund()).then(Step.REFUNDING, credit())
    given(PLACED, ready(), paid(), completed(), refund()).when(refunded()).then(Step.PARTLY_REFUNDED)
    given(PLACED, ready(), paid(), completed(), refund()).when(refunded(full=True)).then(Step.REFUNDED)


# Race 1: the payment comes after the lock ended.


def test_a_payment_after_the_lock_ended_tries_to_redeem_all_the_same() -> None:
    given(PLACED, ready(), released(cause="lock_ended")).when(paid()).then(Step.REDEEMING, redeem())


def test_an_order_with_nothing_to_pay_whose_lock_ended_first_waits_for_nothing() -> None:
    given(PLACED, ready(payable_minor=0)).when(released(cause="lock_ended")).then(Step.RELEASED)


def test_a_lock_that_ends_while_the_redemption_is_on_its_way_changes_nothing() -> None:
    given(PLACED, ready(), paid()).when(released(cause="lock_ended")).then(Step.REDEEMING)


def test_a_payment_that_could_not_redeem_completes_the_order_unredeemed() -> None:
    given(PLACED, ready(), released(cause="lock_ended"), paid()).when(UNREDEEMED).then(Step.UNREDEEMED)


def test_a_payment_of_a_refused_order_tries_again_to_hold_and_redeem() -> None:
    given(PLACED, refused()).when(paid()).then(Step.REDEEMING, redeem())


def test_a_payment_after_a_failed_one_redeems() -> None:
    given(PLACED, ready(), failed("p1")).when(paid("p2")).then(Step.REDEEMING, redeem("p2"))
    given(PLACED, ready(), failed("p1"), released()).when(paid("p1")).then(Step.REDEEMING, redeem("p1"))


# Race 2: cancel before, with, or after payment.


def test_a_payment_of_a_cancelled_order_is_told_so_that_money_for_nothing_is_on_record() -> None:
    late = given(PLACED, ready(), CANCELLED, released(cause="order_cancelled"))
    late.when(paid()).then(Step.REDEEMING, redeem()).when(UNREDEEMED).then(Step.UNREDEEMED)
    given(PLACED, ready(), CANCELLED).when(paid()).then(Step.REDEEMING, redeem())


def test_a_cancellation_after_the_redemption_waits_for_the_refund() -> None:
    given(PLACED, ready(), paid(), completed()).when(CANCELLED).then(Step.COMPLETED)


def test_a_cancellation_while_the_redemption_is_on_its_way_waits_for_its_answer() -> None:
    racing = given(PLACED, ready(), paid()).when(CANCELLED).then(Step.REDEEMING)
    racing.when(released(cause="order_cancelled")).then(Step.REDEEMING).when(UNREDEEMED).then(Step.UNREDEEMED)
    given(PLACED, ready(), paid(), CANCELLED).when(completed()).then(Step.COMPLETED)


def test_a_cancellation_of_an_order_with_nothing_to_pay_gives_back_what_is_not_redeemed_yet() -> None:
    racing = given(PLACED, ready(payable_minor=0)).when(CANCELLED).then(Step.CANCELLED, release("order_cancelled"))
    racing.when(completed(None)).then(Step.COMPLETED)


def test_a_cancellation_during_the_hold_releases_whatever_the_hold_brings() -> None:
    given(PLACED).when(CANCELLED).then(Step.CANCELLED, release("order_cancelled"))
    given(PLACED, CANCELLED).when(ready()).then(Step.CANCELLED)
    given(PLACED, CANCELLED).when(refused()).then(Step.CANCELLED)


def test_a_cancellation_after_a_failed_payment_releases_once() -> None:
    given(PLACED, ready(), failed()).when(CANCELLED).then(Step.CANCELLED)


def test_money_for_a_cancelled_order_that_goes_back_is_credited_like_any_other() -> None:
    story = given(PLACED, CANCELLED, paid(), UNREDEEMED).when(refund()).then(Step.REFUNDING, credit())
    story.when(refunded(full=True)).then(Step.REFUNDED)
    given(PLACED, CANCELLED, refund()).when(paid()).then(Step.REDEEMING, redeem(), credit())
    given(CANCELLED, refund(), paid()).when(PLACED).then(Step.REDEEMING, hold(), redeem(), credit())


def test_a_cancellation_that_comes_before_its_order_lets_the_hold_say_so() -> None:
    given(CANCELLED).then(Step.AWAITING_ORDER)
    given(CANCELLED).when(PLACED).then(Step.CANCELLED, hold())
    given(CANCELLED, PLACED).when(refused()).then(Step.CANCELLED)


# Race 3: payment or refund before its order.


def test_a_payment_before_its_order_waits_and_then_redeems_at_once() -> None:
    given().when(paid()).then(Step.AWAITING_ORDER)
    given(paid()).when(PLACED).then(Step.REDEEMING, hold(), redeem())


def test_a_refund_before_its_order_waits_for_order_and_payment() -> None:
    given().when(refund()).then(Step.AWAITING_ORDER)
    given(refund(), PLACED, ready()).when(paid()).then(Step.REDEEMING, redeem(), credit())
    given(refund(), paid()).when(PLACED).then(Step.REDEEMING, hold(), redeem(), credit())


def test_a_failed_payment_before_its_order_lets_go_at_once() -> None:
    given(failed()).when(PLACED).then(Step.RELEASING, hold(), release("payment_failed"))


# Race 4: the same payment twice; two payments.


def test_two_payments_of_one_order_redeem_once() -> None:
    given(PLACED, ready(), paid("p1")).when(paid("p2")).then(Step.REDEEMING)
    given(PLACED, ready(), paid("p1"), completed()).when(paid("p2")).then(Step.COMPLETED)


def test_a_payment_that_fails_after_another_succeeded_releases_nothing() -> None:
    given(PLACED, ready(), paid("p1")).when(failed("p2")).then(Step.REDEEMING)
    given(PLACED, ready(), paid("p1"), completed()).when(failed("p2")).then(Step.COMPLETED)


# Race 5: refunds.


def test_refunds_that_overtook_their_payment_are_credited_right_behind_it() -> None:
    story = given(PLACED, ready(), refund("r1"), refund("r2"))
    story.when(paid()).then(Step.REDEEMING, redeem(), credit("r1"), credit("r2"))
    assert len({command.command_id for command in story.sent}) == len(story.sent)
    story.when(completed()).then(Step.REFUNDING)
    story.when(refunded("r1")).then(Step.REFUNDING)
    story.when(refunded("r2", full=True)).then(Step.REFUNDED)


def test_a_refund_between_payment_and_redemption_is_credited_behind_it() -> None:
    story = given(PLACED, ready(), paid()).when(refund()).then(Step.REDEEMING, credit())
    story.when(completed()).then(Step.REFUNDING).when(refunded()).then(Step.PARTLY_REFUNDED)


def test_a_refund_of_an_order_with_nothing_to_pay_is_credited_after_its_redemption() -> None:
    given(PLACED, refund(), ready(payable_minor=0)).when(completed(None)).then(Step.REFUNDING, credit())


def test_a_refund_of_an_order_that_completed_unredeemed_is_told_as_well() -> None:
    story = given(PLACED, refused(), paid(), UNREDEEMED).when(refund()).then(Step.REFUNDING, credit())
    story.when(refunded(full=True)).then(Step.REFUNDED)


def test_a_refund_larger_than_what_was_paid_is_asked_for_like_any_other() -> None:
    full = given(PLACED, ready(), paid(), completed(), refund("r1"), refunded("r1", full=True))
    full.when(refund("r2")).then(Step.REFUNDING, credit("r2")).when(refunded("r2")).then(Step.REFUNDED)


def test_a_refund_of_an_order_that_nobody_paid_waits_for_reconciliation_to_show_it() -> None:
    given(PLACED, refused()).when(refund()).then(Step.REFUSED)
    given(PLACED, ready()).when(refund()).then(Step.HELD)


def test_more_refunds_than_a_saga_may_remember_have_to_wait_outside() -> None:
    story = given(PLACED, *(refund(f"r{n}") for n in range(REFUNDS_OPEN_MAX)))
    with pytest.raises(MemoryIsFull):
        story.when(refund("one-too-many"))
    assert len(story.memory.refunds_open) == REFUNDS_OPEN_MAX


# Race 6: reopened.


def test_a_reopened_order_holds_anew() -> None:
    given(PLACED, ready(), CANCELLED, released()).when(reopened(2)).then(Step.HOLDING, hold(2))
    given(PLACED, ready(), released(cause="lock_ended"), reopened(2)).when(ready(2)).then(Step.HELD)


def test_answers_to_an_earlier_attempt_come_too_late() -> None:
    given(PLACED, CANCELLED, reopened(2)).when(ready(1)).then(Step.HOLDING)
    given(PLACED, CANCELLED, reopened(2), ready(1)).when(released(1)).then(Step.HOLDING)
    given(PLACED, CANCELLED, reopened(2), ready(1), released(1)).when(ready(2)).then(Step.HELD)


def test_the_first_of_two_payments_is_the_one_that_counts() -> None:
    given(paid("p1"), paid("p2")).when(PLACED).then(Step.REDEEMING, hold(), redeem("p1"))


def test_a_refund_that_overtook_its_payment_waits_for_it_through_a_reopening() -> None:
    story = given(PLACED, ready(), CANCELLED, released(), refund("r1"), reopened(2), ready(2))
    story.when(paid()).then(Step.REDEEMING, redeem(), credit("r1"))


def test_reopening_while_a_late_payment_is_on_its_way_holds_and_redeems_for_it() -> None:
    lapsed = given(PLACED, ready(), released(cause="lock_ended"), paid())
    lapsed.when(reopened(2)).then(Step.REDEEMING, hold(2), redeem())


def test_reopening_what_is_settled_changes_nothing() -> None:
    given(PLACED, ready(), paid(), completed()).when(reopened(2)).then(Step.COMPLETED)


# Memory.


def test_a_fact_heard_twice_is_neither_remembered_nor_answered_again() -> None:
    story = given()
    facts = [story.log.record(event) for event in (PLACED, ready(), failed(), released(), reopened(2), ready(2))]
    for fact in facts:
        story.hear(fact)
    before = story.memory
    for fact in facts:
        assert story.hear(fact) is None
    assert story.memory == before


def test_hearing_a_fact_again_with_an_empty_memory_sends_the_same_command_ids() -> None:
    story, again = given(), given()
    fact = story.log.record(PLACED)
    assert story.hear(fact) == again.hear(fact)
    assert [command.command_id for command in story.sent] == ["saga:e1:hold_for_order"]


def test_a_memory_rebuilt_from_its_stream_is_the_same_and_sends_nothing() -> None:
    story = given(refund("r1"), paid(), PLACED, ready(), completed(), refunded("r1"), refund("r2"))
    rebuilt = CURRENT.initial
    for heard in story.remembered:
        rebuilt = CURRENT.evolve(rebuilt, heard.model_validate_json(heard.model_dump_json()))
    assert rebuilt == story.memory


def test_a_memory_keeps_the_same_few_things_however_many_payments_there_are() -> None:
    story = given(PLACED, *(failed(f"p{n}") for n in range(3 * SOURCES_MAX)))
    assert len(story.memory.heard_of) == SOURCES_MAX


def test_what_is_remembered_of_an_order_does_not_grow_with_its_lines() -> None:
    story = given(PLACED)
    assert "lines" not in story.remembered[0].fact


def test_a_saga_names_the_version_of_the_process_it_runs_on() -> None:
    assert given(PLACED).remembered[0].process_version == CURRENT.version
    assert VERSIONS[CURRENT.version] is CURRENT


# Lanes that overtake each other: heard in this order, though recorded in another.


@pytest.mark.parametrize(
    ("answers", "step", "more"),
    [
        ([ready()], Step.HELD, []),
        ([refused()], Step.REFUSED, []),
        ([ready(), released()], Step.RELEASED, []),
        ([ready(payable_minor=0)], Step.REDEEMING, [redeem(None)]),
    ],
)
def test_a_hold_that_was_answered_before_the_order_was_heard_leads_where_it_would_have(
    answers: list[Event], step: str, more: list[tuple[str, dict[str, object]]]
) -> None:
    given(*answers).when(PLACED).then(step, hold(), *more)


def test_an_answer_of_a_later_attempt_waits_for_that_attempt() -> None:
    story = given(PLACED, ready(), CANCELLED, released(), ready(2))
    story.then(Step.CANCELLED).when(reopened(2)).then(Step.HELD, hold(2))


def test_a_failure_recorded_before_a_reopening_says_nothing_of_it_when_heard_later() -> None:
    story = given(PLACED, ready())
    late = story.log.record(failed())
    story.when(CANCELLED).when(released()).when(reopened(2)).when(ready(2))
    story.hear(late)
    story.then(Step.HELD)


def test_a_failure_recorded_after_a_reopening_ends_it_also_when_heard_before() -> None:
    story = given(PLACED, ready(), CANCELLED, released())
    reopening = story.log.record(reopened(2))
    story.when(failed()).hear(reopening)
    story.then(Step.RELEASING, hold(2), release("payment_failed"))


def test_refunds_that_waited_for_word_of_the_order_are_credited_once_it_is_completed() -> None:
    given(refund(), paid()).when(completed()).then(Step.REFUNDING, credit())
    given(paid(), completed()).when(refund()).then(Step.REFUNDING, credit())
    given(paid(), completed(), refund(), refunded()).when(PLACED).then(Step.PARTLY_REFUNDED)


def test_what_was_remembered_before_places_in_the_log_were_kept_means_what_it_meant() -> None:
    story = given(PLACED, ready(), failed(), released(), reopened(2))
    rebuilt = CURRENT.initial
    for heard in story.remembered:
        old = {key: value for key, value in heard.fact.items() if key not in {"at", "payable_minor"}}
        rebuilt = CURRENT.evolve(rebuilt, heard.model_copy(update={"fact": old}))
    assert (rebuilt.step, rebuilt.payment_failed, rebuilt.attempt) == (Step.HOLDING, False, 2)
