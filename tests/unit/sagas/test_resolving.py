"""What an operator ended by hand: the saga waits for it no more, sends nothing because of it, and hears later facts."""

import pytest

from contracts.events import EndedCommand, Event
from sagas.checkout import CURRENT, WAITING, Step
from tests.unit.sagas.stories import (
    CANCELLED,
    ORDER,
    PLACED,
    Story,
    completed,
    credit,
    given,
    paid,
    ready,
    redeem,
    refund,
    refunded,
    release,
    released,
    reopened,
)


def resolved(story: Story, *commands: str, refund_id: str | None = None) -> Story:
    """The saga after an operator ended these commands of it."""
    payload = {"order_id": ORDER} | ({"refund_id": refund_id} if refund_id is not None else {})
    ended = [
        EndedCommand(command_id=f"saga:e1:{name}", type=name, payload=payload, code="no", detail="No.")
        for name in commands
    ]
    entry = CURRENT.resolve(story.memory, ORDER, ended, "given back by hand")
    story.memory, story.last = CURRENT.evolve(story.memory, entry), None
    return story


@pytest.mark.parametrize(
    ("facts", "command"),
    [
        ((PLACED,), "hold_for_order"),
        ((PLACED, ready(), paid()), "redeem_for_order"),
        ((PLACED, ready(), paid(), completed(), refund("r1")), "refund_for_order"),
    ],
)
def test_a_step_whose_command_was_ended_waits_for_nobody(facts: tuple[Event, ...], command: str) -> None:
    story = given(*facts)
    assert story.memory.step in WAITING
    resolved(story, command, refund_id="r1" if command == "refund_for_order" else None).then(Step.RESOLVED)


def test_a_step_that_waits_for_another_answer_stays() -> None:
    resolved(given(PLACED, ready()), "redeem_for_order").then(Step.HELD)
    story = resolved(given(PLACED, ready(), paid(), refund("r1")), "refund_for_order", refund_id="r1")
    story.then(Step.REDEEMING).when(completed()).then(Step.COMPLETED)


def test_a_refund_that_was_ended_holds_up_no_other() -> None:
    story = given(PLACED, ready(), paid(), completed(), refund("r1"), refund("r2"))
    resolved(story, "refund_for_order", refund_id="r1").then(Step.REFUNDING)
    story.when(refunded("r2", full=False)).then(Step.PARTLY_REFUNDED)


def test_money_that_came_for_nothing_can_still_be_given_back() -> None:
    story = resolved(given(PLACED, ready(), paid()), "redeem_for_order")
    story.when(refund("r1")).then(Step.RESOLVED, credit("r1"))


def test_what_is_held_is_given_back_by_a_cancellation_or_ends_with_its_lock() -> None:
    resolved(given(PLACED, ready(), paid()), "redeem_for_order").when(CANCELLED).then(
        Step.CANCELLED, release("order_cancelled")
    )
    resolved(given(PLACED, ready(), paid()), "redeem_for_order").when(released()).then(Step.RESOLVED)


def test_facts_count_more_than_what_an_operator_said() -> None:
    resolved(given(PLACED, ready(), paid()), "redeem_for_order").when(completed()).then(Step.COMPLETED)
    story = resolved(given(PLACED, ready(), paid()), "redeem_for_order").when(reopened())
    assert (story.memory.step, [sent.type for sent in story.sent][-1]) == (Step.REDEEMING, redeem()[0])
