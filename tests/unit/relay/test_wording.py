"""Rows told to Kafka: in the text that was stored where that is what a reader would write, else written anew."""

import json
from datetime import UTC, datetime
from typing import Any, ClassVar

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.ports import NewEvent
from contracts.envelope import Metadata, Recorded
from contracts.events import ALL_EVENTS, CouponClaimed
from contracts.events.base import Event
from contracts.registry import EVENTS, EventRegistry, UnknownEventType
from contracts.values import Value
from infra.kafka.messages import Told, told
from infra.postgres.mapper import EventMapper, UnreadableEvent
from infra.postgres.recorder import StoredRow
from infra.relay import wording
from infra.relay.wording import Wording
from tests.golden.release import FOLDER
from tests.unit.kafka.anything import events_like, metadatas, streams

STREAM = "acme/shop/bell/b1"
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Tower(Value):
    """Where a bell hangs."""

    name: str
    height_m: int | None = None  # Gained later.


class BellRung(Event):
    """As it is today."""

    type: ClassVar[str] = "bell.rung.v2"

    strokes: int
    tower: Tower | None = None
    by: str | None = None  # Gained later.


BELLS = EventRegistry((BellRung,), {"bell.rung.v1": lambda old: ("bell.rung.v2", {"strokes": old["times"]})})


def row_of(event: NewEvent, offset: int = 7) -> StoredRow:
    """As it is in the log."""
    stored = EventMapper().to_stored_event(event)
    return StoredRow(offset, event.stream, event.version, stored.topic, stored.state)


def row(data: str, name: str = "bell.rung.v2", **members: Any) -> StoredRow:
    """Some bell's, with a payload as somebody once wrote it."""
    about = {"id": "e1", "at": "2026-03-01T12:00:00Z", "rec": "2026-03-01T12:00:00.5Z", "by": "key:k", "cmd": "c1"}
    head = json.dumps({**about, "corr": "corr", "tenant": "acme", "app": "shop", **members}, separators=(",", ":"))
    return StoredRow(7, STREAM, 2, name, f'{head[:-1]},"data":{data}}}'.encode())


class Counting(EventMapper):
    """Says how many rows were read."""

    count = 0

    def to_domain_event(self, stored_event: Any) -> Any:
        self.count += 1
        return super().to_domain_event(stored_event)


def counted(registry: EventRegistry = BELLS) -> tuple[Wording, Counting]:
    """A wording, and what reads for it."""
    worded, mapper = Wording(registry), Counting(registry)
    worded._mapper = mapper
    return worded, mapper


@given(data=st.data(), name=st.sampled_from(sorted(event.type for event in ALL_EVENTS)))
def test_what_is_told_is_what_somebody_who_reads_it_would_tell(data: st.DataObject, name: str) -> None:
    worded = Wording()
    for _ in range(3):  # The first of a shape is read; those behind it are passed on.
        about, stream = data.draw(metadatas), data.draw(streams)
        new = NewEvent(stream, 3, data.draw(events_like(name)), about)
        assert worded.told(row_of(new)) == told(Recorded(7, stream, 3, new.event, about))


def test_events_of_a_shape_that_is_known_are_not_read_any_more() -> None:
    worded, mapper = counted(EVENTS)
    golden = json.loads((FOLDER / "coupon.claimed.v1.json").read_text())
    about = Metadata("e1", NOON, NOON, "key:k", "c1", "corr")
    for number in range(5):
        event = CouponClaimed.model_validate(golden | {"nth": number + 1})
        payload = worded.told(row_of(NewEvent(STREAM, 1, event, about))).payload
        assert payload == event.model_dump_json().encode()
    assert mapper.count == 1


@pytest.mark.parametrize(
    ("stored", "today"),
    [
        ('{"strokes":1,"tower":null}', '{"strokes":1,"tower":null,"by":null}'),
        (
            '{"strokes":1,"tower":{"name":"t"},"by":null}',
            '{"strokes":1,"tower":{"name":"t","height_m":null},"by":null}',
        ),
        ('{"strokes": 1, "tower": null, "by": null}', '{"strokes":1,"tower":null,"by":null}'),
    ],
)
def test_what_was_written_before_its_type_gained_a_member_is_told_with_it(stored: str, today: str) -> None:
    worded, mapper = counted()
    whole = row('{"strokes":2,"tower":{"name":"t","height_m":3},"by":"me"}')
    for _ in range(2):
        assert worded.told(whole).payload == b'{"strokes":2,"tower":{"name":"t","height_m":3},"by":"me"}'
        assert worded.told(row(stored)).payload == today.encode()
    assert mapper.count == 3


def test_a_former_version_is_told_as_todays() -> None:
    worded = Wording(BELLS)
    for _ in range(2):
        event = worded.told(row('{"times":3}', "bell.rung.v1"))
        assert (event.type, event.payload) == ("bell.rung.v2", b'{"strokes":3,"tower":null,"by":null}')


def test_a_row_whose_members_stand_in_another_order_is_told_all_the_same() -> None:
    worded = Wording(BELLS)
    usual = row('{"strokes":1,"tower":null,"by":null}')
    members = orjson.loads(usual.state)
    turned = usual._replace(state=json.dumps({"data": members.pop("data"), **members}).encode())
    assert worded.told(usual) == worded.told(turned) == worded.told(usual)


def test_a_text_that_looks_like_a_payload_is_none() -> None:
    worded = Wording(BELLS)
    for _ in range(2):
        event = worded.told(row('{"strokes":1,"tower":null,"by":null}', by=',"data":{"strokes":9}}'))
        assert (event.actor, event.payload) == (',"data":{"strokes":9}}', b'{"strokes":1,"tower":null,"by":null}')


def test_headers_have_instants_to_the_microsecond() -> None:
    worded = Wording(BELLS)
    for _ in range(2):
        event = worded.told(row('{"strokes":1,"tower":null,"by":null}'))
        assert event.occurred_at == b"2026-03-01T12:00:00.000000Z"
        assert event.recorded_at == b"2026-03-01T12:00:00.500000Z"


def test_an_unknown_type_stops_it() -> None:
    with pytest.raises(UnknownEventType, match=r"bell\.rung\.v9.*upgrade"):
        Wording(BELLS).told(row("{}", "bell.rung.v9"))


@pytest.mark.parametrize("state", [b"", b"{", b"[]", b"{}", b'{"data":{"strokes":1}}', b'{"id":"e1","data":7}'])
def test_a_state_that_nobody_wrote_stops_it_and_is_named(state: bytes) -> None:
    worded = Wording(BELLS)
    damaged = row("{}")._replace(state=state)
    with pytest.raises(UnreadableEvent, match="acme/shop/bell/b1 version 2 at offset 7"):
        worded.told(damaged)


def test_what_it_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "SHAPES_MAX", 1)
    worded, mapper = counted()
    one, other = (
        row('{"strokes":1,"tower":null,"by":null}'),
        row('{"strokes":1,"tower":{"name":"t","height_m":1},"by":null}'),
    )
    said: list[Told] = [worded.told(each) for each in (one, other, one, other)]
    assert said[:2] == said[2:]
    assert (len(worded._as_stored), mapper.count) == (1, 3)
