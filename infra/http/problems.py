"""Problems as responses."""

from http import HTTPStatus
from typing import Final

import orjson
from starlette.responses import Response

from infra.entry.problems import Problem
from infra.http.reply import JsonReply

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 1
_COME_BACK_LATER: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


def problem_response(problem: Problem, request_id: str) -> Response:
    """The problem as a response."""
    headers = problem.headers
    if problem.status in _COME_BACK_LATER:
        headers = {"retry-after": str(RETRY_AFTER_SECONDS), **headers}
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers = {"www-authenticate": 'Bearer realm="tessera"', **headers}
    raw = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in headers.items()}
    return _ProblemReply(orjson.dumps(problem.body(request_id)), problem.status, raw)


class _ProblemReply(JsonReply):
    kind = (b"content-type", MEDIA_TYPE.encode())
