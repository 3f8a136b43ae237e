"""Stored names and states: what is written, what is lifted from former versions, what stops a reader."""

from datetime import UTC, datetime
from typing import ClassVar

import orjson
import pytest
from eventsourcing.persistence import Notification, StoredEvent

from command.ports import NewEvent
from contracts.envelope import Metadata, Recorded
from contracts.events import ClockAdvanced
from contracts.events.base import Event
from contracts.registry import EventRegistry, Payload, UnknownEventType
from infra.postgres.mapper import EventMapper, UnreadableEvent

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STREAM = "acme/shop%2F1/clock/main"


class BellRung(Event):
    """A current version: it counts its strokes."""

    type: ClassVar[str] = "bell.rung.v3"

    strokes: int


def _lift_v1(payload: Payload) -> tuple[str, Payload]:
    return "bell.rung.v2", {"times": 1 if payload["loud"] else 0}


def _lift_v2(payload: Payload) -> tuple[str, Payload]:
    return "bell.rung.v3", {"strokes": payload["times"]}


BELLS = EventMapper(EventRegistry((BellRung,), {"bell.rung.v1": _lift_v1, "bell.rung.v2": _lift_v2}))


def new_event(**metadata: str) -> NewEvent:
    """Some event."""
    about = Metadata("e1", NOON, NOON, "key:k", "c1", "corr", **metadata)
    return NewEvent(STREAM, 3, ClockAdvanced(to=NOON), about)


def stored(topic: str, data: object) -> Notification:
    """A row as the recorder reads it."""
    state = orjson.loads(EventMapper().to_stored_event(new_event()).state) | {"data": data}
    return Notification(id=7, originator_id=STREAM, originator_version=3, topic=topic, state=orjson.dumps(state))


def test_a_stored_event_is_named_by_its_type_and_says_whose_it_is() -> None:
    row = EventMapper().to_stored_event(new_event(causation_id="fact-1", traceparent="00-a-b-01"))
    assert (row.originator_id, row.originator_version, row.topic) == (STREAM, 3, "clock.advanced.v1")
    assert orjson.loads(row.state) == {
        "id": "e1",
        "at": "2026-03-01T12:00:00Z",
        "rec": "2026-03-01T12:00:00Z",
        "by": "key:k",
        "cmd": "c1",
        "corr": "corr",
        "cause": "fact-1",
        "trace": "00-a-b-01",
        "tenant": "acme",
        "app": "shop/1",
        "data": {"to": "2026-03-01T12:00:00Z"},
    }


@pytest.mark.parametrize("metadata", [{}, {"causation_id": "fact-1"}, {"traceparent": "00-a-b-01"}])
def test_what_was_written_is_read_back(metadata: dict[str, str]) -> None:
    new, mapper = new_event(**metadata), EventMapper()
    assert mapper.to_domain_event(mapper.to_stored_event(new)) == Recorded(0, STREAM, 3, new.event, new.metadata)


def test_optional_metadata_that_an_older_writer_left_out_is_none() -> None:
    row = stored("clock.advanced.v1", {"to": "2026-03-01T12:00:00Z"})
    state = {key: value for key, value in orjson.loads(row.state).items() if key not in {"cause", "trace"}}
    older = Notification(id=7, originator_id=STREAM, originator_version=3, topic=row.topic, state=orjson.dumps(state))
    recorded = EventMapper().to_domain_event(older)
    assert (recorded.offset, recorded.metadata.causation_id, recorded.metadata.traceparent) == (7, None, None)


@pytest.mark.parametrize(
    ("topic", "data", "strokes"),
    [("bell.rung.v1", {"loud": True}, 1), ("bell.rung.v2", {"times": 2}, 2), ("bell.rung.v3", {"strokes": 3}, 3)],
)
def test_former_names_are_lifted_step_by_step(topic: str, data: object, strokes: int) -> None:
    assert BELLS.to_domain_event(stored(topic, data)).event == BellRung(strokes=strokes)


def test_a_name_from_the_future_stops_the_reader() -> None:
    with pytest.raises(UnknownEventType, match=r"bell\.rung\.v4.*upgrade"):
        BELLS.to_domain_event(stored("bell.rung.v4", {}))


@pytest.mark.parametrize("state", [b"", b"{}", b"[]", b'{"data": {"strokes": 1}}', b'{"data": {"strokes": "many"}}'])
def test_a_damaged_state_says_where_it_is(state: bytes) -> None:
    row = Notification(id=7, originator_id=STREAM, originator_version=3, topic="bell.rung.v3", state=state)
    with pytest.raises(UnreadableEvent, match=r"clock/main version 3 at offset 7 \(bell\.rung\.v3\)"):
        BELLS.to_domain_event(row)
    with pytest.raises(UnreadableEvent, match="does not parse"):
        BELLS.to_domain_event(StoredEvent(STREAM, 3, "bell.rung.v3", state))
