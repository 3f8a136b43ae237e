"""The AsyncAPI document: what travels over which topic, from the declarations of topics, events and commands alone.

Payloads are not repeated in it: they are references to the schemas published beside it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from command.api import ROUTE_ONLY, SCOPE_OF_COMMAND
from command.upstream_names import UPSTREAM_EVENTS
from contracts.access import Scope
from contracts.commands import ALL_COMMANDS, Command
from contracts.events import ALL_EVENTS
from contracts.topics import (
    ALL_TOPICS,
    COMMANDS,
    DEAD_LETTERS,
    EVENT_HEADERS,
    EVENT_TOPICS,
    MARK_HEADERS,
    ORDER_FACTS,
    PARTITIONS,
    PAYMENT_FACTS,
    REPLIES,
    REPLY_HEADERS,
    TAKEN_IN,
    TAKEN_IN_HEADERS,
    WATERMARK,
    WATERMARK_HEADERS,
    Header,
    Topic,
    topic_of,
)
from infra.intake.decoding import COMMAND_SCOPES

JSON_SCHEMA: Final = "application/schema+json;version=2020-12"
BINDING_VERSION: Final = "0.5.0"
MARK: Final = "dead-letter-mark"
_ANSWERED: Final = "command-answered"
_REFUSED: Final = "command-refused"
_JSON: Final = "application/json"

# Under which name the headers of a message are described.
_HEADERS: Final = {
    "event-headers": EVENT_HEADERS,
    "watermark-headers": WATERMARK_HEADERS,
    "taken-in-headers": TAKEN_IN_HEADERS,
    "reply-headers": REPLY_HEADERS,
    "dead-letter-headers": DEAD_LETTERS[0].headers,
    "dead-letter-mark-headers": MARK_HEADERS,
}

Document = dict[str, Any]


def document() -> Document:
    """The whole document. Channels are topics; their addresses have the installation's prefix as a parameter."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tessera",
            "version": "1",
            "description": (
                "Events are published from the store's log, keyed by stream, in their order; each may come more than "
                "once, and `event-id` says so. Consumers ignore members that they do not know. Commands and facts are "
                "taken in; what cannot be understood goes to the topic's dead letters."
            ),
        },
        "defaultContentType": _JSON,
        "channels": {topic.name: _channel(topic) for topic in ALL_TOPICS},
        "operations": dict(_operation(topic) for topic in ALL_TOPICS),
        "components": {
            "messages": dict(_messages()),
            "schemas": {name: _headers(headers) for name, headers in _HEADERS.items()},
        },
    }


def _channel(topic: Topic) -> Document:
    return {
        "address": "{prefix}" + topic.name,
        "description": topic.about,
        "parameters": {"prefix": {"default": "", "description": "TESSERA_KAFKA_PREFIX of the installation."}},
        "messages": {name: _ref(f"components/messages/{name}") for name in _names_of(topic)},
        "bindings": {
            "kafka": {
                "partitions": PARTITIONS,
                "topicConfiguration": {
                    "cleanup.policy": [topic.cleanup_policy],
                    "retention.ms": topic.retention_ms,
                    "max.message.bytes": topic.message_bytes_max,
                },
                "bindingVersion": BINDING_VERSION,
            }
        },
    }


def _operation(topic: Topic) -> tuple[str, Document]:
    action = "receive" if topic in TAKEN_IN else "send"
    channel = f"channels/{topic.name}"
    operation: Document = {
        "action": action,
        "channel": _ref(channel),
        "messages": [_ref(f"{channel}/messages/{name}") for name in _names_of(topic)],
    }
    if topic in TAKEN_IN:
        operation["reply"] = {
            "channel": _ref(f"channels/{REPLIES.name}"),
            "messages": [_ref(f"channels/{REPLIES.name}/messages/{name}") for name in _names_of(REPLIES)],
        }
    return f"{action}-{topic.name}", operation


def _names_of(topic: Topic) -> list[str]:
    """The messages of a topic, by their names in the components."""
    if topic in EVENT_TOPICS:
        return [*(event.type for event in ALL_EVENTS if topic_of(kind_of(event.type)) == topic), WATERMARK]
    if topic in DEAD_LETTERS:
        return [_letter_name(topic), MARK]
    if topic == REPLIES:
        return [_ANSWERED, _REFUSED]
    return [*(command.type for command in _commands_of(topic)), *_upstreams_of(topic)]


def kind_of(event_type: str) -> str:
    """The kind of stream that an event is of: its name begins with it."""
    return event_type.partition(".")[0]


def _commands_of(topic: Topic) -> list[type[Command]]:
    """What upstreams may ask for by a topic: orders, payments, or anything that they and merchants may."""
    allowed = [each for each in ALL_COMMANDS if SCOPE_OF_COMMAND[each] in COMMAND_SCOPES and each not in ROUTE_ONLY]
    facts = [each for each in allowed if SCOPE_OF_COMMAND[each] is Scope.ORDERS_WRITE]
    if topic == ORDER_FACTS:
        return [each for each in facts if not each.type.startswith("report_")]
    return [each for each in facts if each.type.startswith("report_")] if topic == PAYMENT_FACTS else allowed


def _messages() -> Iterator[tuple[str, Document]]:
    for event in ALL_EVENTS:
        topic = topic_of(kind_of(event.type))
        payload = _json_schema({"$ref": f"./events/{event.type}.json"})
        headers = _with("event-headers", type={"const": event.type})
        yield event.type, _message(event.type, _summary(event), headers, payload, topic.key)
    yield WATERMARK, _watermark()
    for command in _commands_of(COMMANDS):
        body = _command_body(command)
        yield command.type, _message(command.type, _summary(command), _ref_to("taken-in-headers"), body, COMMANDS.key)
    for topic in (ORDER_FACTS, PAYMENT_FACTS):
        for name in _upstreams_of(topic):
            about = f"An upstream's own event. {UPSTREAM_EVENTS[name].about}"
            yield name, _message(name, about, _ref_to("taken-in-headers"), _upstream_body(name), topic.key)
    yield _ANSWERED, _reply(_ANSWERED, "Accepted: what the command did.", "Answer", {"const": "ok"})
    yield _REFUSED, _reply(_REFUSED, "Refused, finally: why.", "Problem", {"not": {"const": "ok"}})
    for topic in DEAD_LETTERS:
        name = _letter_name(topic)
        yield name, _message(name, topic.about, _ref_to("dead-letter-headers"), {}, topic.key)
    yield MARK, _mark()


def _watermark() -> Document:
    about = "Says how far a partition is complete; carries no event, and has no key."
    headers = _with("watermark-headers", type={"const": WATERMARK})
    return _message(WATERMARK, about, headers, _json_schema({"type": "object"}), None)


def _mark() -> Document:
    about = "What became of a letter: its value is null."
    nothing = _json_schema({"type": "null"})
    return _message(MARK, about, _ref_to("dead-letter-mark-headers"), nothing, "as the letter's")


def _command_body(command: type[Command]) -> Document:
    members = {
        "type": {"const": command.type},
        "command_id": {"type": "string", "description": "Unique within tenant and app."},
        "data": {"$ref": f"./commands/{command.type}.json"},
    }
    return _json_schema(_object(members, required=["type", "command_id", "data"], closed=True))


def _upstreams_of(topic: Topic) -> list[str]:
    """The upstreams' own names for what comes in by a topic: those of orders; those of payments and refunds."""
    if topic not in (ORDER_FACTS, PAYMENT_FACTS):
        return []
    return sorted(name for name in UPSTREAM_EVENTS if (kind_of(name) == "order") == (topic == ORDER_FACTS))


def _upstream_body(name: str) -> Document:
    members = {
        "event": {"const": name},
        "id": {
            "type": ["string", "integer"],
            "description": "The upstream's id of this event: hearing it twice is once.",
        },
        "data": {"$ref": f"./upstream/{name}.json"},
    }
    return _json_schema(_object(members, required=["event", "id", "data"], closed=True))


def _reply(name: str, about: str, body: str, code: Document) -> Document:
    realm = _object({"tenant": {"type": "string"}, "app": {"type": "string"}}, required=["tenant", "app"])
    payload = _json_schema({"allOf": [{"$ref": f"./openapi.json#/components/schemas/{body}"}, realm]})
    message = _message(name, about, _with("reply-headers", code=code), payload, REPLIES.key)
    return {**message, "correlationId": {"location": "$message.header#/command-id"}}


def _letter_name(topic: Topic) -> str:
    return topic.name.removesuffix("-topic")


def _message(name: str, about: str, headers: Document, payload: Document, key: str | None) -> Document:
    told = {"name": name, "title": name, "summary": about, "contentType": _JSON, "headers": headers, "payload": payload}
    if key is not None:
        told["bindings"] = {"kafka": {"key": {"type": "string", "description": key}, "bindingVersion": BINDING_VERSION}}
    return told


def _headers(headers: tuple[Header, ...]) -> Document:
    """Header values are UTF-8 text; one that may be absent is not required."""
    members = {each.name: {"type": "string", "description": each.about} for each in headers}
    return _object(members, required=[each.name for each in headers if each.always])


def _with(headers: str, **known: Document) -> Document:
    """The headers, some of which tell this message from others."""
    return {"allOf": [_ref_to(headers), {"properties": known}]}


def _ref_to(schema: str) -> Document:
    return _ref(f"components/schemas/{schema}")


def _object(members: Mapping[str, Any], *, required: list[str], closed: bool = False) -> Document:
    told: Document = {"type": "object", "required": required, "properties": dict(members)}
    return {**told, "additionalProperties": False} if closed else told


def _json_schema(schema: Document) -> Document:
    return {"schemaFormat": JSON_SCHEMA, "schema": schema}


def _ref(path: str) -> Document:
    return {"$ref": f"#/{path}"}


def _summary(described: type) -> str:
    return (described.__doc__ or "").strip().partition("\n")[0]
