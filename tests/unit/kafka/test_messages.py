"""Messages on Kafka: what was encoded is decoded, the published schema holds, and what nobody wrote stops a reader."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.envelope import Metadata, Recorded
from contracts.events import ALL_EVENTS, ClockAdvanced
from contracts.events.base import Event
from contracts.position import Position
from contracts.registry import EVENTS, EventRegistry, UnknownEventType
from infra import schemas
from infra.kafka.messages import (
    Message,
    Published,
    UnreadableMessage,
    Watermark,
    decode,
    encode,
    encode_watermark,
    told,
)
from tests.golden.release import FOLDER
from tests.unit.kafka.anything import events_like, metadatas, streams

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Arrived:
    """A record as a Kafka client hands it over."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    topic: str = "coupon-event-topic"
    partition: int = 3
    offset: int = 41


def arrived(message: Message, **changes: Any) -> Arrived:
    """What becomes of a message on its way, and of these parts of it."""
    return replace(Arrived(*message), **changes)


def without(message: Message, name: str) -> Arrived:
    """The same without a header."""
    return arrived(message, headers=[header for header in message.headers if header[0] != name])


def instead(message: Message, name: str, value: bytes) -> Arrived:
    """The same with another value of a header."""
    headers = [(known, value if known == name else former) for known, former in message.headers]
    return arrived(message, headers=headers)


def recorded(event: Event | None = None, **metadata: str) -> Recorded:
    """Some event of some clock."""
    about = Metadata("e1", NOON, NOON, "key:k", "c1", "corr", **metadata)
    return Recorded(7, "acme/shop%2F1/clock/main", 2, event or ClockAdvanced(to=NOON), about)


def message_of(event: Recorded) -> Message:
    """As shard 1 publishes it."""
    return encode(told(event), shard=1, epoch="abcd0123", previous=5)


@pytest.mark.parametrize("name", sorted(event.type for event in ALL_EVENTS))
@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
def test_every_event_arrives_as_it_was_recorded(name: str, data: st.DataObject) -> None:
    event = data.draw(events_like(name))
    offset, version, shard, previous = data.draw(st.tuples(*[st.integers(0, 2**40)] * 4))
    sent = Recorded(offset, data.draw(streams), version, event, data.draw(metadatas))
    message = encode(told(sent), shard=shard, epoch="abcd0123", previous=previous)
    assert decode(arrived(message)) == Published(Position(shard, "abcd0123", offset), previous, sent)
    assert encode(told(sent), shard=shard, epoch="abcd0123", previous=previous) == message  # Repeated byte for byte.
    assert message.value == event.model_dump_json().encode()


@pytest.mark.parametrize("name", sorted(event.type for event in ALL_EVENTS))
def test_a_value_fits_the_published_schema_of_its_type(name: str) -> None:
    schema = json.loads((schemas.FOLDER / "events" / f"{name}.json").read_text())
    event = EVENTS.load(name, json.loads((FOLDER / f"{name}.json").read_text()))
    jsonschema.Draft202012Validator(schema).validate(json.loads(message_of(recorded(event)).value))


def test_a_message_says_everything_about_its_event_in_text() -> None:
    message = message_of(recorded(causation_id="fact-1", traceparent="00-a-b-01"))
    assert message.key == b"acme/shop%2F1/clock/main"
    assert message.value == b'{"to":"2026-03-01T12:00:00Z"}'
    assert dict(message.headers) == {
        "event-id": b"e1",
        "type": b"clock.advanced.v1",
        "version": b"2",
        "position": Position(1, "abcd0123", 7).token().encode(),
        "previous": b"5",
        "tenant": b"acme",
        "app": b"shop/1",
        "occurred-at": b"2026-03-01T12:00:00.000000Z",
        "recorded-at": b"2026-03-01T12:00:00.000000Z",
        "actor": b"key:k",
        "command-id": b"c1",
        "correlation": b"corr",
        "causation": b"fact-1",
        "traceparent": b"00-a-b-01",
    }


def test_what_an_event_has_not_got_has_no_header() -> None:
    assert {"causation", "traceparent"}.isdisjoint(dict(message_of(recorded()).headers))


def test_instants_are_told_in_utc_whatever_their_zone() -> None:
    summer = datetime(2026, 7, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    event = recorded()
    message = message_of(replace(event, metadata=event.metadata._replace(occurred_at=summer)))
    assert dict(message.headers)["occurred-at"] == b"2026-07-01T12:00:00.000000Z"


def test_a_watermark_says_up_to_where_its_lane_is_complete() -> None:
    position = Position(1, "abcd0123", 900)
    assert decode(arrived(encode_watermark(position, previous=7))) == Watermark(position, 7)


@pytest.mark.parametrize("value", [b'{"to":"2026-03-01T12:00:00Z"}', b"{}"])
def test_a_type_from_the_future_stops_the_reader_even_when_its_payload_is_odd(value: bytes) -> None:
    record = replace(instead(message_of(recorded()), "type", b"clock.advanced.v9"), value=value)
    with pytest.raises(UnknownEventType, match=r"clock\.advanced\.v9.*upgrade"):
        decode(record)


def test_a_former_type_is_lifted_as_it_is_when_read_from_the_log() -> None:
    registry = EventRegistry((ClockAdvanced,), {"clock.set.v1": lambda old: ("clock.advanced.v1", {"to": old["at"]})})
    record = instead(message_of(recorded()), "type", b"clock.set.v1")
    found = decode(replace(record, value=b'{"at":"2026-03-01T12:00:00Z"}'), registry)
    assert isinstance(found, Published)
    assert found.recorded.event == ClockAdvanced(to=NOON)


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b"{}", b'{"to":"soon"}', b'"\xff"'])
def test_an_unreadable_payload_stops_the_reader_and_says_where(value: bytes | None) -> None:
    with pytest.raises(UnreadableMessage, match="offset 41 of coupon-event-topic, partition 3") as caught:
        decode(arrived(message_of(recorded()), value=value))
    assert "Only the relay may write" in str(caught.value)


NEEDED = sorted(dict(message_of(recorded()).headers))


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_header_stops_the_reader_and_is_named(name: str) -> None:
    with pytest.raises(UnreadableMessage, match=f"it has no header '{name}'"):
        decode(without(message_of(recorded()), name))


@pytest.mark.parametrize("name", ["type", "position", "previous"])
def test_so_does_one_that_a_watermark_lacks(name: str) -> None:
    with pytest.raises(UnreadableMessage, match=f"it has no header '{name}'"):
        decode(without(encode_watermark(Position(0, "e", 1), previous=0), name))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("position", b"elsewhere"),
        ("previous", b"before"),
        ("version", b"newest"),
        ("occurred-at", b"at noon"),
        ("recorded-at", b"2026-03-01T12:00:00"),
        ("tenant", b"somebody else"),
        ("actor", b"\xff"),
        ("actor", None),
    ],
)
def test_a_header_that_no_relay_writes_stops_the_reader(name: str, value: bytes) -> None:
    with pytest.raises(UnreadableMessage):
        decode(instead(message_of(recorded()), name, value))


@pytest.mark.parametrize("key", [None, b"", b"acme/shop/clock", b"\xff"])
def test_a_key_that_is_no_stream_stops_the_reader(key: bytes | None) -> None:
    with pytest.raises(UnreadableMessage):
        decode(arrived(message_of(recorded()), key=key))
