"""JSON responses without what Starlette does for every kind of response: the headers are ours, ready-made."""

from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

_JSON = (b"content-type", b"application/json")


class JsonReply(Response):
    """A response with a JSON body. ``headers`` are lower-case names and their values."""

    kind = _JSON

    def __init__(self, body: Any, status: int = HTTPStatus.OK, headers: dict[bytes, bytes] | None = None) -> None:
        self.status_code = int(status)
        self.body = body if isinstance(body, bytes) else orjson.dumps(body, default=str)
        self.raw_headers = [self.kind, (b"content-length", b"%d" % len(self.body)), *(headers or {}).items()]
        self.background = None
