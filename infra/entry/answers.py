"""Answers to commands as they are told, whichever way the command came: accepted, refused, or on their way."""

from typing import Any

from contracts.envelope import Answer
from infra.entry.problems import Problem


def answer_body(command_id: str, answer: Answer) -> dict[str, Any]:
    """The members that every accepted answer has."""
    return {
        "command_id": command_id,
        "status": answer.status,
        "position": answer.position.token(),
        "data": dict(answer.data),
    }


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


def in_flight(command_id: str) -> Problem:
    """Nothing was decided about this request: the same id is on its way already."""
    detail = "a command with this id is being decided right now; retry to learn its answer"
    return Problem("command_in_flight", detail, extra={"command_id": command_id})
