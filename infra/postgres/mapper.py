"""Between events as the system knows them and the rows that the ``eventsourcing`` recorders store.

The stored state is one JSON object::

    {"id", "at" (occurred_at), "rec" (recorded_at), "by" (actor), "cmd", "corr", "cause", "trace",
     "tenant", "app", "data": {...the event's payload...}}

and the topic is the event's stored name (``coupon.redeemed.v1``), never a Python path.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any, cast

import orjson
from eventsourcing.persistence import JSONTranscoder, Mapper, Notification, StoredEvent

from command.ports import NewEvent, NewSeries, parts_of
from contracts.envelope import Metadata, Recorded
from contracts.events.series import Form, blank_for
from contracts.identity import unescape
from contracts.registry import EVENTS, EventRegistry, UnknownEventType


class UnreadableEvent(Exception):
    """A stored event of a known type does not parse: the row was damaged, or written by something else."""

    def __init__(self, stored: StoredEvent, why: Exception) -> None:
        place = f" at offset {stored.id}" if isinstance(stored, Notification) else ""
        super().__init__(
            f"{stored.originator_id} version {stored.originator_version}{place} ({stored.topic}) does not parse: {why}"
        )
        self.stored = stored


class EventMapper(Mapper[Any]):
    """The library's mapper for our envelope: pydantic writes and checks the payload, orjson the rest.

    Former names are lifted to current ones by the registry's upcasters. Holds no state: safe in any thread.
    """

    def __init__(self, registry: EventRegistry = EVENTS) -> None:
        super().__init__(JSONTranscoder())  # Required by the base class; nothing here goes through it.
        self._registry = registry

    def to_stored_event(self, domain_event: NewEvent) -> StoredEvent:  # type: ignore[override]
        """The row to insert. The base class asks for its own event protocol; ours keeps payload and place apart."""
        (state,) = self.states_of((domain_event,))
        return StoredEvent(domain_event.stream, domain_event.version, domain_event.event.type, state)

    def states_of(self, events: Collection[NewEvent]) -> list[bytes]:
        """The states to store. What a command's events have in common is encoded once, as they follow each other."""
        states: list[bytes] = []
        frames: dict[tuple[Any, ...], bytes] = {}  # Few: who asks, when and where is the same for most of a batch.
        for part in parts_of(events):
            if isinstance(part, NewSeries):
                states += _states_of(part)
                continue
            stream, _, event, (event_id, at, rec, actor, *told) = part
            tenant, app, _ = stream.split("/", 2)
            if (frame := frames.get(about := (tenant, app, at, rec, actor))) is None:
                frame = frames[about] = _frame(tenant, app, part.metadata)
            values = map(orjson.dumps, (event_id, *told))
            states.append(frame % (*values, event.to_json()))
        return states

    def to_domain_event(self, stored_event: StoredEvent) -> Recorded:  # type: ignore[override]
        """The event as followers see it; its offset is 0 when the row did not come with one.

        Raises UnknownEventType for a name that this version does not know, UnreadableEvent for a broken state.
        """
        try:
            state = orjson.loads(stored_event.state)
            event = self._registry.load(stored_event.topic, state["data"])
            return Recorded(
                offset=stored_event.id if isinstance(stored_event, Notification) else 0,
                stream=cast(str, stored_event.originator_id),
                version=stored_event.originator_version,
                event=event,
                metadata=_metadata(state),
            )
        except UnknownEventType:
            raise
        except (KeyError, TypeError, ValueError) as error:  # pydantic's and orjson's errors are ValueErrors.
            raise UnreadableEvent(stored_event, error) from error


def payload_text(state: bytes) -> bytes | None:
    """The payload of a state as it was written, if that was by us: its last member, without any white space."""
    _, name, rest = state.partition(_PAYLOAD)
    return rest[:-1] if name and rest.endswith(b"}}") else None


_PAYLOAD = b',"data":'  # Within a text its quotes would be escaped, and no member before it is an object.
_UTC = orjson.OPT_UTC_Z  # `Z`, as pydantic writes it, instead of `+00:00`.


def _frame(tenant: str, app: str, metadata: Metadata) -> bytes:
    """The state of an event, with a blank for its id, for what is told of its command, and for its payload."""
    told = dict.fromkeys(_OF_COMMAND)
    common = orjson.dumps({"id": None, **_members(tenant, app, metadata), **told, "data": None}, None, _UTC)
    frame = common.replace(b"%", b"%%")
    for name in ("id", *_OF_COMMAND, "data"):
        member = b'"%s":' % name.encode()
        frame = frame.replace(member + b"null", member + b"%s", 1)
    return frame


def _members(tenant: str, app: str, metadata: Metadata) -> dict[str, Any]:
    return {
        "at": metadata.occurred_at,
        "rec": metadata.recorded_at,
        "by": metadata.actor,
        "cmd": metadata.command_id,
        "corr": metadata.correlation_id,
        "cause": metadata.causation_id,
        "trace": metadata.traceparent,
        "tenant": unescape(tenant),
        "app": unescape(app),
    }


_OF_COMMAND = ("cmd", "corr", "cause", "trace")  # In this order among the members, as in the metadata.
_OF_CAUSE = ("by", "cmd", "corr", "cause", "trace")  # As CommandEnvelope.described has them.


def _states_of(series: NewSeries) -> list[bytes]:
    """The states of a series: one text, and what differs filled in."""
    payload, columns = series.events.form()
    common, of_causes = _common_form(series)
    blank, event_ids = blank_for(series.event_ids)
    text = f'{{"id":{blank},{common},"data":{payload}}}'
    return [(text % values).encode() for values in zip(event_ids, *of_causes, *columns, strict=True)]


def _common_form(series: NewSeries) -> Form:
    """What is common to all of a series, with blanks for what is not when each event has a cause of its own."""
    tenant, app, _ = series.streams[0].split("/", 2)
    members = _members(tenant, app, series.metadata)
    told = dict(zip(_OF_CAUSE, zip(*(cause.described() for cause in series.causes), strict=True), strict=False))
    texts, columns = [], []
    for name, value in members.items():
        column = told.get(name, (value,))
        if all(each == column[0] for each in column):
            texts.append(orjson.dumps({name: column[0]}, None, _UTC)[1:-1].decode().replace("%", "%%"))
        else:
            blank, filled = blank_for(column)
            texts.append(f'"{name}":{blank}')
            columns.append(filled)
    return Form(",".join(texts), columns)


def _metadata(state: dict[str, Any]) -> Metadata:
    return Metadata(
        event_id=state["id"],
        occurred_at=datetime.fromisoformat(state["at"]),
        recorded_at=datetime.fromisoformat(state["rec"]),
        actor=state["by"],
        command_id=state["cmd"],
        correlation_id=state["corr"],
        causation_id=state.get("cause"),
        traceparent=state.get("trace"),
    )
