"""The AsyncAPI document: it holds together, and whoever knows nothing else can read what is on the topics."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema

from contracts.envelope import Metadata, Recorded
from contracts.events import ALL_EVENTS
from contracts.identity import Realm, stream_id
from contracts.position import Position
from contracts.registry import EVENTS
from contracts.topics import ALL_TOPICS, COMMANDS, EVENT_TOPICS, REPLIES, TAKEN_IN, topic_of
from infra import schemas
from infra.asyncapi import document, kind_of
from infra.kafka.messages import Message, encode, encode_watermark, told
from tests.golden.release import FOLDER
from tests.published import NotAsPublished, PublishedContract

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NAMES = sorted(event.type for event in ALL_EVENTS)


@pytest.fixture(scope="module")
def published() -> PublishedContract:
    return PublishedContract(schemas.FOLDER)


def references(part: Any) -> Iterator[dict[str, str]]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def message_of(name: str) -> Message:
    event = EVENTS.load(name, json.loads((FOLDER / f"{name}.json").read_text()))
    about = Metadata("e1", NOON, NOON, "key:k", "c1", "corr", "caused", None)
    stream = stream_id(Realm("acme", "shop"), kind_of(name), "k1")
    return encode(told(Recorded(7, stream, 2, event, about)), shard=0, epoch="e", previous=3)


def test_it_is_an_asyncapi_document_to_those_who_read_them() -> None:
    parsed = ApplicationSchema.model_validate(document())
    assert parsed.asyncapi == "3.0.0"
    assert set(parsed.channels) == {topic.name for topic in ALL_TOPICS}
    assert len(parsed.operations) == len(ALL_TOPICS)


def test_everything_that_it_refers_to_is_there(published: PublishedContract) -> None:
    found = [published.resolve(each) for each in references(published.document)]
    assert len(found) > 300


def test_a_channel_says_how_its_topic_is_made(published: PublishedContract) -> None:
    for topic in ALL_TOPICS:
        kafka = published.topics[topic.name]["bindings"]["kafka"]
        assert kafka["partitions"] == 4
        assert kafka["topicConfiguration"]["retention.ms"] == topic.retention_ms
        assert kafka["topicConfiguration"]["cleanup.policy"] == [topic.cleanup_policy]


def test_what_we_take_in_is_received_and_answered_and_all_else_is_sent(published: PublishedContract) -> None:
    operations = published.document["operations"]
    assert published.topics_sent() == {topic.name for topic in ALL_TOPICS if topic not in TAKEN_IN}
    for topic in TAKEN_IN:
        reply = operations[f"receive-{topic.name}"]["reply"]["channel"]
        assert published.resolve(reply)["address"].endswith(REPLIES.name)


def test_every_event_has_one_topic(published: PublishedContract) -> None:
    on_topics = [name for topic in EVENT_TOPICS for name in published.topics[topic.name]["messages"]]
    assert sorted(name for name in on_topics if name != "watermark.v1") == NAMES


def test_a_command_that_only_processes_send_is_not_offered(published: PublishedContract) -> None:
    offered = published.topics[COMMANDS.name]["messages"]
    assert {"claim_coupon", "redeem_coupon", "place_order"} <= offered.keys()
    assert not {"expire_coupon", "open_template", "advance_clock", "start_distribution"} & offered.keys()


@pytest.mark.parametrize("name", NAMES)
def test_whoever_knows_the_documents_alone_reads_what_is_published(name: str, published: PublishedContract) -> None:
    message = message_of(name)
    read = published.read(topic_of(kind_of(name)).name, message.key, message.headers, message.value)
    assert (read.name, read.headers["version"]) == (name, "2")
    assert read.value == json.loads(message.value)


@pytest.mark.parametrize("topic", EVENT_TOPICS, ids=lambda topic: topic.name)
def test_a_watermark_is_told_from_an_event(topic: Any, published: PublishedContract) -> None:
    message = encode_watermark(Position(0, "e", 9), previous=7)
    assert published.read(topic.name, message.key, message.headers, message.value).name == "watermark.v1"


def test_what_was_not_published_is_not_read(published: PublishedContract) -> None:
    key, value, headers = message_of("coupon.claimed.v1")
    for topic, said, content in (
        ("budget-event-topic", headers, value),
        ("coupon-event-topic", [each for each in headers if each[0] != "position"], value),
        ("coupon-event-topic", headers, b"{}"),
    ):
        with pytest.raises(NotAsPublished):
            published.read(topic, key, said, content)
