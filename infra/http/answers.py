"""Answers to commands as responses: accepted, or foreseen to be refused."""

from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from contracts.envelope import Answer, CommandEnvelope
from infra.entry.answers import answer_body
from infra.entry.problems import WORDS, Problem
from infra.http.problems import RETRY_AFTER_SECONDS
from infra.http.reply import JsonReply


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


def hinted(command_id: str, code: str) -> Problem:
    """A refusal that nobody decided: not stored, not final."""
    detail = (
        f"{WORDS[code]} This is a hint, nothing was decided: retry with the same Idempotency-Key to have it decided"
    )
    headers = {"idempotency-key": command_id, "retry-after": str(RETRY_AFTER_SECONDS)}
    extra = {"hint": True, "command_id": command_id, "data": {}}
    return Problem(code, detail, extra=extra, headers=headers, retryable=True)
