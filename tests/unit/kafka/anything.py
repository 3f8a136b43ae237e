"""Any event that there can be, for properties that hold of all of them."""

import json
from datetime import UTC
from typing import Any

from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.envelope import Metadata
from contracts.events.base import Event
from contracts.identity import Realm, stream_id
from contracts.registry import EVENTS
from tests.golden.release import FOLDER

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
instants = st.datetimes(timezones=st.just(UTC))
metadatas = st.builds(
    Metadata,
    event_id=texts,
    occurred_at=instants,
    recorded_at=instants,
    actor=texts,
    command_id=texts,
    correlation_id=texts,
    causation_id=st.none() | texts,
    traceparent=st.none() | texts,
)
streams = st.builds(stream_id, st.builds(Realm, texts, texts), st.sampled_from(["coupon", "clock"]), texts)


@st.composite
def payloads(draw: st.DrawFn, payload: Any) -> Any:
    """A payload with other texts, numbers and flags wherever the drawing says so."""
    match payload:
        case dict():
            return {name: draw(payloads(value)) for name, value in payload.items()}
        case list():
            return [draw(payloads(value)) for value in payload]
        case bool():
            return draw(st.booleans())
        case int():
            return draw(st.just(payload) | st.integers(0, 10**15))
        case str():
            return draw(st.just(payload) | texts)
        case _:
            return payload


def events_like(name: str) -> st.SearchStrategy[Event]:
    """The golden example of an event, and whatever valid event is like it."""
    golden = json.loads((FOLDER / f"{name}.json").read_text())

    def load(payload: Any) -> Event:
        try:
            return EVENTS.load(name, payload)
        except ValidationError:
            return EVENTS.load(name, golden)

    return payloads(golden).map(load)
