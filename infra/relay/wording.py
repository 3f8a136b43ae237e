"""Stored rows as they are told to Kafka: passed on as they were written, wherever that is what a reader would write."""

from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import orjson
from eventsourcing.persistence import Notification

from contracts.registry import EVENTS, EventRegistry, UnknownEventType
from infra.kafka.messages import INSTANTS_REMEMBERED_MAX, Told, instant_text, told
from infra.postgres.mapper import EventMapper, UnreadableEvent, payload_text
from infra.postgres.recorder import StoredRow

SHAPES_MAX: Final = 4_096

Shape = tuple[Any, ...]


class Wording:
    """Words one event after the other. Belongs to one thread.

    An event that is read and written anew costs more than all the rest of publishing it. So its payload is passed on in
    the very text that was stored, if events of its type with the same members are known to be written so. The first of
    each shape is read, and what comes of it compared: a former version, or one from before its type gained a member,
    comes out in another text. Those are read and written anew, each of them: readers get what the schemas say.
    """

    def __init__(self, registry: EventRegistry = EVENTS) -> None:
        self._mapper = EventMapper(registry)
        self._as_stored: dict[Shape, bool] = {}

    def told(self, row: StoredRow) -> Told:
        """What the message of a row says. Raises UnknownEventType, UnreadableEvent."""
        try:
            state, text = orjson.loads(row.state), payload_text(row.state)
            shape = (row.type, *shape_of(state["data"]))
            if text is None or not self._as_stored.get(shape):
                return self._told_anew(row, shape, text)
            return Told(
                row.offset,
                row.stream,
                row.version,
                row.type,
                text,
                state["tenant"],
                state["app"],
                state["id"],
                _as_header(state["at"]),
                _as_header(state["rec"]),
                state["by"],
                state["cmd"],
                state["corr"],
                state.get("cause"),
                state.get("trace"),
            )
        except (UnknownEventType, UnreadableEvent):
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnreadableEvent(_notification(row), error) from error

    def _told_anew(self, row: StoredRow, shape: Shape, text: bytes | None) -> Told:
        anew = told(self._mapper.to_domain_event(_notification(row)))
        if text is not None and len(self._as_stored) < SHAPES_MAX:
            self._as_stored[shape] = (anew.type, anew.payload) == (row.type, text)
        return anew


def shape_of(value: Any) -> Shape:
    """Which members a payload has, all the way down; and of what kind they are, where they say so.

    Of a list it counts which shapes there are, not how often.
    """
    if type(value) is dict:
        return (*value, value.get("kind"), *[shape_of(each) for each in value.values() if type(each) in _PARTED])
    return tuple(dict.fromkeys(shape_of(each) for each in value if type(each) in _PARTED))


_PARTED: Final = frozenset((dict, list))


@lru_cache(INSTANTS_REMEMBERED_MAX)
def _as_header(text: str) -> bytes:
    return instant_text(datetime.fromisoformat(text))


def _notification(row: StoredRow) -> Notification:
    return Notification(
        id=row.offset,
        originator_id=row.stream,
        originator_version=row.version,
        topic=row.type,
        state=row.state,
    )
