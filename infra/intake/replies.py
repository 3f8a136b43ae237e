"""Answers as messages of the reply topic: the body that HTTP answers one command with, and whose it is."""

from typing import Any

import orjson

from contracts.envelope import Answer, CommandEnvelope
from infra.entry.answers import answer_body, refused
from infra.intake.messages import VALUE_BYTES_MAX, Outgoing


def reply(topic: str, envelope: CommandEnvelope, answer: Answer) -> Outgoing:
    """The answer to a command. However often the command comes, the value is the same: ``replayed`` is a header.

    Several tenants may share a topic, and each may have a command of the same id: the value names the realm, too.
    """
    command_id, realm = envelope.command_id, envelope.realm
    headers = {
        "command-id": command_id,
        "tenant": realm.tenant_id,
        "app": realm.app_id,
        "correlation": envelope.correlation_id,
        "code": answer.code,
        "replayed": "true" if answer.replayed else "false",
    }
    if envelope.traceparent is not None:
        headers["traceparent"] = envelope.traceparent
    raw = tuple((name, value.encode()) for name, value in headers.items())
    return Outgoing(topic, command_id.encode(), _value(envelope, answer), raw)


def _value(envelope: CommandEnvelope, answer: Answer) -> bytes:
    body = _body(envelope, answer)
    value = _json(body)
    if len(value) > VALUE_BYTES_MAX:
        # A message that no broker takes would hold its partition up for good. HTTP tells the whole answer.
        value = _json({**body, "data": {}, "data_left_out": True})
    return value


def _json(body: dict[str, Any]) -> bytes:
    """The same bytes for the same answer: fresh or from the command log, which keeps no order of members."""
    return orjson.dumps(body, default=str, option=orjson.OPT_SORT_KEYS)


def _body(envelope: CommandEnvelope, answer: Answer) -> dict[str, Any]:
    command_id, realm = envelope.command_id, envelope.realm
    if answer.accepted:
        body = answer_body(command_id, answer)
    else:
        body = refused(command_id, answer).body(envelope.correlation_id)
    return {**body, "tenant": realm.tenant_id, "app": realm.app_id}
