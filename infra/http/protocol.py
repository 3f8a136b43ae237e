"""Takes a whole body and writes a whole answer at once where uvicorn serves, past its ASGI interface.

For a head, and again for a body, uvicorn goes through a coroutine, looks at every header, and writes: the kernel then
sends from two buffers. Ours nearly always has the whole answer, with headers of its own making. A request's body nearly
always came with its head, and uvicorn gives it by way of two coroutines and an event. Everything else stays uvicorn's:
parsing, keeping alive, pipelining, 100-continue, shutting down. What is unusual goes the way of ASGI.

It leans on names inside of uvicorn, so it is done with the releases that it was compared with only.
"""

import logging
import re
from collections.abc import Sequence
from typing import Final

import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from infra.http.reply import JsonReply

# The releases beside which the tests saw the same bytes.
COMPARED_WITH: Final = "0.54."
_IS_COMPARED: Final = uvicorn.__version__.startswith(COMPARED_WITH)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # What would end a header, and begin another.


def taken_at_once(receive: Receive) -> bytes | None:
    """The whole body, if it is there; None, and nothing done, when ``receive`` has to be asked."""
    cycle = _cycle_of(receive)
    if cycle is None or cycle.more_body or cycle.disconnected or cycle.response_complete:
        return None
    if cycle.waiting_for_100_continue or cycle.flow.read_paused:
        return None
    body, cycle.body = bytes(cycle.body), bytearray()
    cycle.message_event.clear()  # Whoever asks from here on waits for the end of the connection.
    return body


def answered_at_once(response: Response, send: Send) -> bool:
    """Whether a response was sent; nothing was done when it has to go the way of ASGI."""
    cycle = _cycle_of(send)
    return (
        cycle is not None
        and isinstance(response, JsonReply)
        and _wrote_at_once(cycle, response.status_code, response.raw_headers, bytes(response.body))
    )


def _cycle_of(method: Receive | Send) -> RequestResponseCycle | None:
    """The server's own object for this request, whose method this is unless somebody stands in between."""
    cycle = getattr(method, "__self__", None)
    return cycle if type(cycle) is RequestResponseCycle and _IS_COMPARED else None


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
