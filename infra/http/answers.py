"""Answers to commands as responses and problems: accepted, refused, foreseen, or on their way."""

from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from contracts.envelope import Answer, CommandEnvelope
from infra.http.problems import RETRY_AFTER_SECONDS, WORDS, Problem
from infra.http.reply import JsonReply


def answer_body(command_id: str, answer: Answer) -> dict[str, Any]:
    """The members that every accepted answer has."""
    return {
        "command_id": command_id,
        "status": answer.status,
        "position": answer.position.token(),
        "data": dict(answer.data),
    }


def accepted(
    envelope: CommandEnvelope,
    answer: Answer,
    status: HTTPStatus,
    *,
    location: str | None = None,
    **members: Any,
) -> Response:
    """The response that tells an accepted answer; ``members`` go into its body."""
    body = {**answer_body(envelope.command_id, answer), **members}
    headers = {b"idempotency-key": envelope.command_id.encode()}
    if location is not None:
        headers[b"location"] = location.encode()
    if answer.replayed:
        headers[b"idempotency-replayed"] = b"true"
    return JsonReply(body, status, headers)


def refused(command_id: str, answer: Answer, **members: Any) -> Problem:
    """The problem that tells a refusal; it is final, and says so by its code."""
    headers = {"idempotency-key": command_id}
    if answer.replayed and answer.code != "command_id_reused":
        headers["idempotency-replayed"] = "true"
    extra = {
        "command_id": command_id,
        "position": answer.position.token(),
        "data": dict(answer.data),
        **members,
    }
    return Problem(answer.code, answer.detail, extra=extra, headers=headers)


def hinted(command_id: str, code: str) -> Problem:
    """A refusal that nobody decided: not stored, not final."""
    detail = (
        f"{WORDS[code]} This is a hint, nothing was decided: retry with the same Idempotency-Key to have it decided"
    )
    headers = {"idempotency-key": command_id, "retry-after": str(RETRY_AFTER_SECONDS)}
    extra = {"hint": True, "command_id": command_id, "data": {}}
    return Problem(code, detail, extra=extra, headers=headers, retryable=True)


def in_flight(command_id: str) -> Problem:
    """Nothing was decided about this request: the same id is on its way already."""
    detail = "a command with this id is being decided right now; retry to learn its answer"
    return Problem("command_in_flight", detail, extra={"command_id": command_id})
