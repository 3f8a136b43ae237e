"""Bodies and answers at once: whoever is served sees the very bytes that uvicorn itself would have sent."""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from infra.http import protocol
from infra.http.reply import JsonReply
from infra.processes import wait_until
from tests.integration.http.conftest import serving

ANSWER_SECONDS = 30
LARGE_BYTES = 8_000_000
HEADERS = {"/last": {b"connection": b"close"}, "/forged": {b"x-told": b"a\r\nx-forged: 1"}}


class Echo:
    """Answers with what was asked; what is asked of ``/late`` it answers when it may."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.may_answer = threading.Event()
        self.failures: list[Exception] = []
        self.heard: list[str] = []  # After an answer.
        self.taken: list[bool] = []  # Of each body, whether it was taken at once.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        body = b"" if path == "/unread" else await self._body(receive)
        if path == "/late":
            self.asked.set()
            await asyncio.to_thread(self.may_answer.wait, ANSWER_SECONDS)
        said = "x" * LARGE_BYTES if path == "/large" else f"{scope['method']} {path} {body!r}"
        watch: asyncio.Future[Message] | None = None
        if path == "/watched":
            watch = asyncio.ensure_future(receive())
            await asyncio.sleep(0)  # It waits by now.
        try:
            reply = JsonReply({"said": said}, 201, HEADERS.get(path))
            if not protocol.answered_at_once(reply, send):
                await reply(scope, receive, send)
        except Exception as error:
            self.failures.append(error)
            raise
        if path in {"/unread", "/watched"}:
            self.heard.append((await (watch or receive()))["type"])

    async def _body(self, receive: Receive) -> bytes:
        whole = protocol.taken_at_once(receive)
        self.taken.append(whole is not None)
        if whole is not None:
            return whole
        pieces: list[bytes] = []
        while True:
            piece = await receive()
            pieces.append(piece["body"])
            if not piece["more_body"]:
                return b"".join(pieces)


@pytest.fixture
def echo(caplog: pytest.LogCaptureFixture) -> Echo:
    """The application."""
    # pytest listens to every logger, whoever is served; in production nobody listens to this one.
    caplog.set_level(logging.WARNING, "uvicorn.access")
    return Echo()


@pytest.fixture
def port(echo: Echo) -> Iterator[int]:
    """Where it is served as in production."""
    with serving(echo) as url:
        yield port_of(url)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each answer that might be written at once, whether it was."""
    told: list[bool] = []
    write = protocol._wrote_at_once

    def wrote(*given: object) -> bool:
        told.append(write(*given))  # type: ignore[arg-type]
        return told[-1]

    monkeypatch.setattr(protocol, "_wrote_at_once", wrote)
    return told


def port_of(url: str) -> int:
    """The port of an address."""
    port = urlsplit(url).port
    assert port is not None
    return port


def connected(port: int) -> socket.socket:
    """A connection to the server."""
    return socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)


def said(port: int, sent: bytes) -> bytes:
    """All that the server says to this until it closes the connection."""
    with connected(port) as connection:
        connection.sendall(sent)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """Everything up to the end of a connection."""
    came = bytearray()
    while piece := connection.recv(1_000_000):
        came += piece
    return bytes(came)


def asked(method: bytes, path: bytes, body: bytes = b"", *headers: bytes, version: bytes = b"1.1") -> bytes:
    """A request as bytes."""
    length = [b"content-length: %d" % len(body)] if body else []
    return b"\r\n".join([b"%b %b HTTP/%b" % (method, path, version), b"host: test", *headers, *length, b"", body])


CLOSE = b"connection: close"
LAST = asked(b"GET", b"/b", b"", CLOSE)
EXCHANGES = {
    "a body and a goodbye": asked(b"POST", b"/a", b"{}", CLOSE),
    "one behind the other": asked(b"POST", b"/a", b"one") + asked(b"GET", b"/c") + LAST,
    "no body for HEAD": asked(b"HEAD", b"/a") + LAST,
    "an old client": asked(b"GET", b"/a", version=b"1.0"),
    "an old client that stays": asked(b"GET", b"/a", b"", b"connection: keep-alive", version=b"1.0"),
    "a client that waits for leave to send": asked(b"POST", b"/a", b"{}", b"expect: 100-continue", CLOSE),
    "a client that gets an answer instead": asked(b"POST", b"/unread", b"{}", b"expect: 100-continue", CLOSE),
    "a body that nobody read": asked(b"POST", b"/unread", b"{}") + LAST,
    "large answers, one behind the other": asked(b"GET", b"/large") * 3 + LAST,
    "an answer that says goodbye": asked(b"GET", b"/last"),
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_bytes_are_those_of_uvicorn(
    port: int, echo: Echo, at_once: list[bool], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ours = said(port, EXCHANGES[name])
    assert any(at_once) is (name != "an answer that says goodbye")
    monkeypatch.setattr(protocol, "_IS_COMPARED", False)
    at_once.clear()
    assert said(port, EXCHANGES[name]) == ours
    assert at_once == []  # Those were uvicorn's own.
    assert echo.failures == []


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("a body and a goodbye", [True]),
        ("a client that waits for leave to send", [False]),
    ],
)
def test_a_body_that_came_with_its_head_is_taken_at_once(port: int, echo: Echo, name: str, taken: list[bool]) -> None:
    said(port, EXCHANGES[name])
    assert echo.taken == taken


def test_a_body_that_comes_in_pieces_is_waited_for(port: int, echo: Echo) -> None:
    request = asked(b"POST", b"/a", b"piece by piece", CLOSE)
    with connected(port) as connection:
        connection.sendall(request[:-5])
        assert wait_until(lambda: echo.taken == [False], timeout_seconds=ANSWER_SECONDS)
        connection.sendall(request[-5:])
        assert rest(connection).endswith(b"POST /a b'piece by piece'\"}")


def test_a_large_body_is_the_same_either_way(port: int, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    """So large that the server stopped reading for a while."""
    request = asked(b"POST", b"/a", b"x" * LARGE_BYTES, CLOSE)
    ours = said(port, request)
    monkeypatch.setattr(protocol, "_IS_COMPARED", False)
    assert said(port, request) == ours
    assert len(ours) > LARGE_BYTES


def test_an_answer_waits_for_a_client_that_does_not_read(port: int, at_once: list[bool]) -> None:
    with connected(port) as connection:
        connection.sendall(asked(b"GET", b"/large") * 2 + LAST)
        assert wait_until(lambda: len(at_once) > 1, timeout_seconds=ANSWER_SECONDS)
        assert at_once == [True, False]
        assert rest(connection).count(b"HTTP/1.1 201") == 3


@pytest.mark.parametrize(("path", "headers"), [(b"/unread", [b"expect: 100-continue"]), (b"/watched", [])])
def test_whoever_listens_on_after_the_answer_hears_that_it_is_over(
    port: int, echo: Echo, path: bytes, headers: list[bytes]
) -> None:
    with connected(port) as connection:
        connection.sendall(asked(b"POST", path, b"{}", *headers))
        assert wait_until(lambda: bool(echo.heard), timeout_seconds=ANSWER_SECONDS)
        assert echo.heard == ["http.disconnect"]
        connection.sendall(LAST)
        answers = rest(connection)
    assert (answers.count(b"HTTP/1.1 201"), answers.count(b"HTTP/1.1 ")) == (2, 2)


def test_headers_that_the_server_adds_are_there(echo: Echo, at_once: list[bool]) -> None:
    with serving(echo, server_header=True) as url:
        assert b"\r\nserver: uvicorn\r\n" in said(port_of(url), LAST)
    assert at_once == [True]


def test_whoever_hung_up_harms_nobody(port: int, echo: Echo) -> None:
    with connected(port) as connection:
        connection.sendall(asked(b"GET", b"/late"))
        assert echo.asked.wait(ANSWER_SECONDS)
    said(port, LAST)  # By now the server knows that the connection is gone.
    echo.may_answer.set()
    assert said(port, LAST).startswith(b"HTTP/1.1 201 Created\r\n")
    assert echo.failures == []


def test_what_is_under_way_is_answered_with_a_goodbye_when_the_server_stops(echo: Echo, at_once: list[bool]) -> None:
    answers: list[bytes] = []

    def answer_and_read() -> None:
        wait_until(lambda: refuses(port), timeout_seconds=ANSWER_SECONDS)
        echo.may_answer.set()
        answers.append(rest(connection))

    with serving(echo) as url:
        port = port_of(url)
        connection = connected(port)
        connection.sendall(asked(b"GET", b"/late"))
        assert echo.asked.wait(ANSWER_SECONDS)
        reader = threading.Thread(target=answer_and_read, daemon=True)
        reader.start()
    reader.join(ANSWER_SECONDS)
    connection.close()
    assert at_once == [True]
    assert b"\r\nconnection: close\r\n" in answers[0]
    assert answers[0].endswith(b"/late b''\"}")


def refuses(port: int) -> bool:
    """Whether nobody new is let in."""
    try:
        connected(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_no_value_can_begin_another_header(port: int, echo: Echo) -> None:
    answer = said(port, asked(b"GET", b"/forged"))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"forged" not in answer
    assert [str(failure) for failure in echo.failures] == ["a header's value holds a control character"]


def test_this_uvicorn_is_one_that_was_compared() -> None:
    """After an upgrade: name the new release in ``COMPARED_WITH``, and see what the tests above say."""
    assert uvicorn.__version__.startswith(protocol.COMPARED_WITH)
