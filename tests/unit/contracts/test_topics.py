"""Topics: each kind of stream has exactly one, and names are built in one place."""

import pytest

from contracts.topics import ALL_TOPICS, COMMANDS, EVENT_TOPICS, TAKEN_IN, dead_letters_of, named, topic_of


def test_the_published_names_are_the_agreed_ones() -> None:
    assert {topic.name for topic in EVENT_TOPICS} == {
        "coupon-event-topic",
        "template-event-topic",
        "checkout-event-topic",
        "settlement-event-topic",
        "budget-event-topic",
        "distribution-event-topic",
        "notification-event-topic",
        "recorded-event-topic",
    }


@pytest.mark.parametrize("kind", ["coupon", "template", "checkout", "settlement", "budget", "distribution"])
def test_the_events_of_a_kind_go_to_the_topic_of_that_name(kind: str) -> None:
    assert topic_of(kind).name == f"{kind}-event-topic"


@pytest.mark.parametrize("kind", ["order", "payment", "refund", "saga", "code", "clock", "a kind of tomorrow"])
def test_every_other_kind_goes_to_the_topic_for_the_rest_never_to_one_that_facts_are_taken_from(kind: str) -> None:
    assert topic_of(kind).name == "recorded-event-topic"


def test_no_two_topics_share_a_name_and_what_we_take_in_we_never_publish() -> None:
    names = [topic.name for topic in ALL_TOPICS]
    assert len(names) == len(set(names))
    assert not set(EVENT_TOPICS) & set(TAKEN_IN)


def test_each_topic_that_is_taken_in_has_its_dead_letters_with_everything_to_understand_them() -> None:
    assert [dead_letters_of(topic).name for topic in TAKEN_IN] == [
        "coupon-command-dead-letter-topic",
        "order-event-dead-letter-topic",
        "payment-event-dead-letter-topic",
    ]
    always = {header.name for header in dead_letters_of(COMMANDS).headers if header.always}
    assert always >= {"origin-topic", "origin-partition", "origin-offset"}


def test_a_prefix_comes_before_the_name() -> None:
    assert named("blue.", COMMANDS) == "blue.coupon-command-topic"
