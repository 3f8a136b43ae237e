"""Request bodies: read within bounds and parsed strictly into commands."""

from collections.abc import Mapping
from typing import Final, TypeVar

import orjson
from pydantic import ValidationError
from starlette.types import Receive

from contracts.commands import Command
from infra.entry.bodies import malformed, problem_of
from infra.entry.problems import FieldError, Problem, pointer_to
from infra.http.protocol import taken_at_once

_WHITE_SPACE: Final = b" \t\r\n"

C = TypeVar("C", bound=Command)


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit_bytes: int) -> bytes:
    """The whole body; one that says or shows that it is larger than the limit is refused before it is read in full."""
    announced = headers.get(b"content-length", b"0")
    if not announced.isdigit() or int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    if (whole := taken_at_once(receive)) is not None:  # Nearly always it is all there.
        if len(whole) > limit_bytes:
            raise _too_large(limit_bytes)
        return whole
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem("body_incomplete", "the connection ended before the body did")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def parse_command(command: type[C], raw: bytes, path: Mapping[str, str]) -> C:
    """A command from its body and the ids that the path names. An empty body is an empty object.

    Raises Problem: ``malformed_json`` and ``too_deep`` (400), or the fields' own codes (422).
    """
    try:
        parsed = command.model_validate_json(_with_path(raw, path))
    except ValidationError as error:
        raise problem_of(error, raw) from None
    for field, told in path.items():
        # The body may repeat what the path says, but not contradict it.
        if getattr(parsed, field) != told:
            message = f"the path already says {told!r}"
            raise malformed([FieldError(pointer_to((field,)), "contradicts_path", message)])
    return parsed


def _with_path(raw: bytes, path: Mapping[str, str]) -> bytes:
    """Put the path's ids in front of the body's own members: parsing once is the cheapest way to be strict."""
    body = raw.lstrip(_WHITE_SPACE) or b"{}"
    if not path or not body.startswith(b"{"):
        return body
    rest = body[1:].lstrip(_WHITE_SPACE)
    return orjson.dumps(path)[:-1] + (b"" if rest.startswith(b"}") else b",") + rest


def _too_large(limit_bytes: int) -> Problem:
    # The rest of the body is not wanted: keeping the connection would mean to read it.
    return Problem("body_too_large", f"the body must not exceed {limit_bytes} bytes", headers={"connection": "close"})
