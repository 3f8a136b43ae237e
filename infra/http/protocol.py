"""Writes a whole answer at once where uvicorn serves, instead of piece by piece through its ASGI interface.

For a head, and again for a body, uvicorn goes through a coroutine, looks at every header, and writes: the kernel then
sends from two buffers. Ours nearly always has the whole answer, with headers of its own making. Everything else stays
uvicorn's: parsing, keeping alive, pipelining, 100-continue, shutting down. What is unusual goes the way of ASGI.

It leans on names inside of uvicorn, so it is done with the releases that it was compared with only.
"""

import logging
import re
from collections.abc import Sequence
from typing import Final

import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from infra.http.reply import JsonReply

# The releases beside which the tests saw the same bytes.
COMPARED_WITH: Final = "0.54."
_IS_COMPARED: Final = uvicorn.__version__.startswith(COMPARED_WITH)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # What would end a header, and begin another.


async def answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response: at once where that can be done, else as ASGI has it."""
    # `send` is a method of the server's own object for this request, unless somebody stands in between.
    cycle = getattr(send, "__self__", None)
    if (
        type(cycle) is RequestResponseCycle
        and _IS_COMPARED
        and isinstance(response, JsonReply)
        and _wrote_at_once(cycle, response.status_code, response.raw_headers, bytes(response.body))
    ):
        return
    await response(scope, receive, send)


def _wrote_at_once(
    cycle: RequestResponseCycle, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> bool:
    """What ``cycle.send`` does for a head and then for the whole body. False, and nothing done, when it is unusual.

    ``headers`` have lower-case names, and tell the body's length. Raises RuntimeError for one with control characters.
    """
    is_logged = cycle.access_log and cycle.access_logger.isEnabledFor(logging.INFO)
    if is_logged or cycle.disconnected or cycle.flow.write_paused:
        return False
    pieces = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        if name == b"connection":
            return False
        pieces += (name, b": ", value, b"\r\n")
    if _CONTROL.search(b"".join(pieces[3::4])):
        raise RuntimeError("a header's value holds a control character")
    pieces.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
    if cycle.scope["method"] != "HEAD":
        pieces.append(body)
    cycle.response_started = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join(pieces))
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
