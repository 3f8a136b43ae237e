"""From one Kafka record to one command, by itself: nothing that a record holds can hinder the one beside it.

A record may take two forms, and its names tell which:

- *A command*: ``{"type", "command_id", "data"}`` as in a batch over HTTP. ``type`` and ``command_id`` may stand in the
  headers ``type`` and ``command-id`` instead; a value with neither ``type`` nor ``data`` in it is all data.
- *An upstream's event* under its own name: ``{"event", "id", "data"}`` as over HTTP, or the event's data as the value
  with the name in the header ``type`` and its id in ``event-id``.

Tenant and app come from the headers ``tenant`` and ``app``, else from the installation's default.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from command.upstream_names import UPSTREAM_EVENTS
from contracts.access import ROLES, Caller, Scope
from contracts.commands import Command
from contracts.envelope import CommandEnvelope
from contracts.identity import REALMS_REMEMBERED_MAX, Realm
from contracts.topics import COMMANDS
from contracts.values import ID_LENGTH_MAX, Id
from infra.entry.bodies import malformed, object_at, parse_json, text_at
from infra.entry.commands import a_key_with, command_of, reported_event, require_scope
from infra.entry.ids import callers_id
from infra.entry.problems import FieldError, Problem
from infra.kafka.messages import Record

# Whom a topic's ACLs let write to it may do what order systems and merchants may do; nobody's process, no operator.
COMMAND_SCOPES: Final = ROLES["order_system"] | ROLES["merchant"]
FACT_SCOPES: Final = frozenset({Scope.ORDERS_WRITE})
DEFAULT_CURRENCY: Final = "USD"

_NAME: Final = TypeAdapter(Id)
_CORRELATION: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}")


@dataclass(frozen=True, slots=True)
class Door:
    """What comes in by one topic: who is said to have sent it, what he may ask for, and for whom by default."""

    actor: str
    scopes: frozenset[Scope]
    default_realm: Realm | None = None
    default_currency: str = DEFAULT_CURRENCY


def decode(record: Record, door: Door) -> CommandEnvelope:
    """The command of a record. Raises Problem: why it can never be taken in, with the codes of HTTP.

    Its ``traceparent`` is as the header says it, whatever that is.
    """
    headers = _Headers(record.headers)
    realm = _realm(headers, door)
    body = _body(record.value)
    caller = Caller(realm, door.actor, door.scopes)
    try:
        if _is_event(headers, body):
            require_scope(caller, Scope.ORDERS_WRITE)
            command, command_id = reported_event(_event(headers, body), default_currency=door.default_currency)
        else:
            command, command_id = _command(headers, body, caller)
    except Problem as problem:
        if problem.code != "scope_missing":
            raise
        raise _not_by_topic(Scope(problem.extra["scope"]), record.topic, door) from None
    told = headers.text("correlation")
    return CommandEnvelope(
        realm=realm,
        command_id=command_id,
        command=command,
        actor=door.actor,
        correlation_id=told if told is not None and _CORRELATION.fullmatch(told) else command_id,
        traceparent=headers.text("traceparent"),
    )


def _not_by_topic(scope: Scope, topic: str, door: Door) -> Problem:
    """The refusal for want of a scope, for those who write to topics: they have no key that could be given more."""
    elsewhere = f"to {COMMANDS.name}, or " if scope in COMMAND_SCOPES else ""
    detail = (
        f"this needs the scope {scope.value}, and whoever writes to {topic} ({door.actor}) has "
        f"{', '.join(sorted(door.scopes))}: no more can be granted to a topic. "
        f"Send it {elsewhere}over HTTP with {a_key_with(scope)}"
    )
    return Problem("scope_missing", detail, extra={"scope": scope.value})


class _Headers:
    """The headers that we know, as text; of several of one name the last counts, as everywhere in Kafka."""

    def __init__(self, pairs: Sequence[tuple[str, bytes]]) -> None:
        self._values: Mapping[str, bytes | None] = dict(pairs)

    def text(self, name: str) -> str | None:
        """None when it is absent or null. Raises Problem when it is no UTF-8."""
        raw = self._values.get(name)
        if raw is None:
            return None
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise malformed([FieldError(f"headers/{name}", "wrong_format", "must be UTF-8 text")]) from None


def _realm(headers: _Headers, door: Door) -> Realm:
    tenant, app = headers.text("tenant"), headers.text("app")
    if tenant is None and app is None and door.default_realm is not None:
        return door.default_realm
    return _realm_of(tenant, app)


@lru_cache(REALMS_REMEMBERED_MAX)  # Those that are none raise, and are looked at each time.
def _realm_of(tenant: str | None, app: str | None) -> Realm:
    return Realm(_realm_part("tenant", tenant), _realm_part("app", app))


def _realm_part(name: str, value: str | None) -> str:
    if value is None:
        raise malformed([FieldError(f"headers/{name}", "missing", "must be there: it says whose this is")])
    try:
        return _NAME.validate_python(value)
    except ValidationError:
        rule = f"must be 1 to {ID_LENGTH_MAX} printable characters without surrounding white space"
        raise malformed([FieldError(f"headers/{name}", "wrong_format", rule)]) from None


def _body(value: bytes | None) -> Mapping[str, Any]:
    if not value:
        raise malformed([FieldError("", "missing", "the value must be there")])
    return object_at(parse_json(value), "", None)


def _is_event(headers: _Headers, body: Mapping[str, Any]) -> bool:
    return "event" in body or headers.text("type") in UPSTREAM_EVENTS


def _event(headers: _Headers, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """An upstream's event in the form that HTTP takes."""
    if "event" not in body:
        event_id = headers.text("event-id")
        if event_id is None:
            raise malformed(
                [FieldError("headers/event-id", "missing", "must be there: it makes hearing twice harmless")]
            )
        body = {"event": headers.text("type"), "id": event_id, "data": body}
    members = ("event", "id", "data")
    return object_at(body, "", set(members), required=members)


def _command(headers: _Headers, body: Mapping[str, Any], caller: Caller) -> tuple[Command, str]:
    if "type" not in body and "data" not in body:
        body = {"data": body}
    item = dict(object_at(body, "", {"type", "command_id", "data"}))
    for member, header in (("type", "type"), ("command_id", "command-id")):
        _fill_in(item, member, header, headers.text(header))
    command_id = callers_id(caller, text_at(item["command_id"], "/command_id"), "/command_id")
    return command_of(caller, item), command_id


def _fill_in(item: dict[str, Any], member: str, header: str, told: str | None) -> None:
    """Take a member from a header where the value does not have it. Raises Problem when neither or both say it."""
    if item.get(member) is None:
        if told is None:
            message = f"must be there, or the header {header}"
            raise malformed([FieldError(f"/{member}", "missing", message)])
        item[member] = told
    elif told is not None and str(item[member]) != told:
        message = f"the header {header} already says {told!r}"
        raise malformed([FieldError(f"/{member}", "contradicts_header", message)])
