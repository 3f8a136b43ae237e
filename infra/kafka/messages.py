"""What the relay puts on Kafka and what followers take from it: events of the log, and watermarks between them.

The value is the event's payload by its published schema; all that surrounds it travels in headers, as text:
``event-id``, ``type``, ``version`` (in its stream), ``position`` (a token: shard, epoch, offset), ``previous``,
``tenant``, ``app``, ``occurred-at``, ``recorded-at``, ``actor``, ``command-id``, ``correlation`` and, where there are
any, ``causation`` and ``traceparent``. The key is the stream.

A *lane* is one partition of one topic. ``previous`` chains what a shard published to a lane: the offset (in the log) of
the event before this one there, 0 for the first. A follower that is not as far as ``previous`` has missed something and
reads it from the log. A *watermark* says that every event of its shard up to its position that belongs in its lane
precedes it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

import orjson

from contracts.envelope import Metadata, Recorded
from contracts.identity import parse_stream
from contracts.position import Position
from contracts.registry import EVENTS, EventRegistry, UnknownEventType
from contracts.topics import WATERMARK

INSTANTS_REMEMBERED_MAX: Final = 1_024


class UnreadableMessage(Exception):
    """A record on one of our topics is not what the relay writes.

    A follower passes over it when it does not say where in the log it is, and else halts there. Nothing is lost: the
    log has every event.
    """

    def __init__(self, record: "Record", why: str) -> None:
        super().__init__(
            f"the record at offset {record.offset} of {record.topic}, partition {record.partition}, was not written by "
            f"a relay, or was damaged: {why}. Only the relay may write to this topic (see its ACLs); "
            f"to go past a record at which a follower halts, let it read the store until it is past its position "
            f"(TESSERA_FOLLOWER_FEED=store)"
        )


class Record(Protocol):
    """What a Kafka client hands over, as far as it is needed here. ``offset`` is Kafka's own, not the log's."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Message(NamedTuple):
    """A record to be sent. The same event makes the same message, whenever and however often it is made.

    It has no time-stamp of its own: retention counts from when it was published, not from when it happened.
    """

    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]  # As aiokafka wants them.


class Published(NamedTuple):
    """An event that came over Kafka, and the link to the one before it in its lane."""

    position: Position
    previous: int
    recorded: Recorded


class Watermark(NamedTuple):
    """All of a shard's events up to ``position`` that belong in this lane precede it; ``previous`` is the last one."""

    position: Position
    previous: int


class Told(NamedTuple):
    """Everything about an event that its message says, but where in a lane it stands. Instants as headers have them."""

    offset: int
    stream: str
    version: int
    type: str
    payload: bytes
    tenant: str
    app: str
    event_id: str
    occurred_at: bytes
    recorded_at: bytes
    actor: str
    command_id: str
    correlation_id: str
    causation_id: str | None
    traceparent: str | None


def told(recorded: Recorded) -> Told:
    """What the message of an event says."""
    realm, metadata = recorded.realm, recorded.metadata
    return Told(
        recorded.offset,
        recorded.stream,
        recorded.version,
        recorded.event.type,
        recorded.event.model_dump_json().encode(),
        realm.tenant_id,
        realm.app_id,
        metadata.event_id,
        instant_text(metadata.occurred_at),
        instant_text(metadata.recorded_at),
        *metadata[3:],
    )


def encode(event: Told, *, shard: int, epoch: str, previous: int) -> Message:
    """The message of one event. ``previous``: the offset of the shard's event before it in its lane, or 0."""
    headers = [
        ("event-id", event.event_id.encode()),
        ("type", event.type.encode()),
        ("version", b"%d" % event.version),
        ("position", Position(shard, epoch, event.offset).token().encode()),
        ("previous", b"%d" % previous),
        ("tenant", event.tenant.encode()),
        ("app", event.app.encode()),
        ("occurred-at", event.occurred_at),
        ("recorded-at", event.recorded_at),
        ("actor", event.actor.encode()),
        ("command-id", event.command_id.encode()),
        ("correlation", event.correlation_id.encode()),
    ]
    if event.causation_id is not None:
        headers.append(("causation", event.causation_id.encode()))
    if event.traceparent is not None:
        headers.append(("traceparent", event.traceparent.encode()))
    return Message(event.stream.encode(), event.payload, headers)


def encode_watermark(position: Position, *, previous: int) -> Message:
    """A watermark for one lane. ``previous``: the offset of the shard's last event there, or 0."""
    headers = [
        ("type", WATERMARK.encode()),
        ("position", position.token().encode()),
        ("previous", b"%d" % previous),
    ]
    return Message(None, b"{}", headers)


def decode(record: Record, registry: EventRegistry = EVENTS) -> Published | Watermark:
    """What a record of one of the relay's topics says.

    Raises UnknownEventType for an event that this version does not know, UnreadableMessage for anything that the relay
    did not write.
    """
    try:
        headers = {name: value.decode() for name, value in record.headers}
        position = Position.parse(headers["position"])
        previous = int(headers["previous"])
        if headers["type"] == WATERMARK:
            return Watermark(position, previous)
        return Published(position, previous, _recorded(record, headers, position.offset, registry))
    except UnknownEventType:
        raise
    except KeyError as error:
        raise UnreadableMessage(record, f"it has no header {error}") from error
    except (AttributeError, TypeError, ValueError) as error:  # pydantic's and orjson's errors are ValueErrors.
        raise UnreadableMessage(record, str(error)) from error


def _recorded(record: Record, headers: dict[str, str], offset: int, registry: EventRegistry) -> Recorded:
    if record.key is None or record.value is None:
        raise ValueError("it has no key or no value")
    stream = record.key.decode()
    realm = parse_stream(stream).realm
    if realm != (headers["tenant"], headers["app"]):
        raise ValueError(f"its key is of {realm.key}, its headers say {headers['tenant']!r} and {headers['app']!r}")
    return Recorded(
        offset=offset,
        stream=stream,
        version=int(headers["version"]),
        event=registry.load(headers["type"], orjson.loads(record.value)),
        metadata=Metadata(
            event_id=headers["event-id"],
            occurred_at=_instant(headers["occurred-at"]),
            recorded_at=_instant(headers["recorded-at"]),
            actor=headers["actor"],
            command_id=headers["command-id"],
            correlation_id=headers["correlation"],
            causation_id=headers.get("causation"),
            traceparent=headers.get("traceparent"),
        ),
    )


# Events that were appended together share their instants.
@lru_cache(INSTANTS_REMEMBERED_MAX)
def instant_text(at: datetime) -> bytes:
    """As headers have it: RFC 3339, UTC, microseconds."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z").encode()


@lru_cache(INSTANTS_REMEMBERED_MAX)
def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} does not say its zone")
    return at.astimezone(UTC)
