"""A caller of the HTTP API with few keep-alive connections: bounded, patient when told to wait, safe to retry."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import urlsplit

import httptools
import orjson

BATCH_COMMANDS_MAX: Final = 1_000
ATTEMPTS_MAX: Final = 60
RETRY_AFTER_SECONDS_MAX: Final = 2.0
ANSWER_TIMEOUT_SECONDS: Final = 60.0
_BUSY: Final = frozenset({429, 503})

T = TypeVar("T")
R = TypeVar("R")


class ApiError(RuntimeError):
    """The API gave an answer that the caller cannot go on with; the message holds the problem document."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. ``body`` is the parsed JSON, None when there was none."""

    status: int
    body: Any
    retry_after_seconds: float

    @property
    def ok(self) -> bool:
        """Whether it is one of the 2xx."""
        return 200 <= self.status < 300

    @property
    def code(self) -> str:
        """``ok``, or the problem's stable code."""
        return "ok" if self.ok else str((self.body or {}).get("code", self.status))


class _Connection(asyncio.Protocol):
    """One request at a time over one connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._retry_after_seconds = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Reply:
        """Raises OSError when the connection is lost, TimeoutError when no answer comes."""
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                return await self._waiter
        except (TimeoutError, asyncio.CancelledError):
            self._transport.abort()
            raise

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance.

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionResetError("the API closed the connection"))

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and value.isdigit():
            self._retry_after_seconds = float(value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        text = b"".join(self._body)
        reply = Reply(status, orjson.loads(text) if text else None, self._retry_after_seconds)
        self._reset()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(reply)


class Api:
    """The API as one key's holder sees it. Use as ``async with``.

    Every POST carries an idempotency key and is retried under it, after a lost connection too: an effect happens
    once. Errors: ApiError after ATTEMPTS_MAX, OSError when nobody listens.
    """

    def __init__(self, url: str, token: str, *, connections_max: int = 64, retries_lost: bool = True) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._head = f"Host: {self._host}:{self._port}\r\nAuthorization: Bearer {token}\r\n".encode()
        self._connections_max = connections_max
        self._retries_lost = retries_lost
        self._free: asyncio.LifoQueue[_Connection | None] = asyncio.LifoQueue()

    async def __aenter__(self) -> Self:
        for _ in range(self._connections_max):
            self._free.put_nowait(None)
        return self

    async def __aexit__(self, *_: object) -> None:
        while not self._free.empty():
            if (connection := self._free.get_nowait()) is not None:
                connection.close()

    @property
    def connections_max(self) -> int:
        """How many requests may be under way."""
        return self._connections_max

    async def get(self, path: str) -> Reply:
        """Read. Busy answers are waited out."""
        return await self._patiently(b"GET " + path.encode() + b" HTTP/1.1\r\n" + self._head + b"\r\n")

    async def post(self, path: str, body: Mapping[str, Any] | None = None, *, key: str) -> Reply:
        """Change something, under an idempotency key. A refusal is a reply, not an exception."""
        content = orjson.dumps(body or {})
        return await self._patiently(
            b"POST %b HTTP/1.1\r\n%bIdempotency-Key: %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (path.encode(), self._head, key.encode(), len(content), content)
        )

    async def must(self, path: str, body: Mapping[str, Any] | None = None, *, key: str) -> Any:
        """As post, for what cannot be refused; returns the answer's body."""
        reply = await self.post(path, body, key=key)
        if not reply.ok:
            raise ApiError(f"POST {path} was answered {reply.status}: {reply.body}")
        return reply.body

    async def _patiently(self, request: bytes) -> Reply:
        for attempt in range(ATTEMPTS_MAX):
            try:
                reply = await self._ask(request)
            except OSError:
                if not self._retries_lost:
                    raise
                await asyncio.sleep(0.05 * (attempt + 1))
                continue
            if reply.status not in _BUSY:
                return reply
            await asyncio.sleep(min(reply.retry_after_seconds or 0.1, RETRY_AFTER_SECONDS_MAX))
        raise ApiError(f"no final answer after {ATTEMPTS_MAX} attempts: {request.partition(b' HTTP')[0].decode()}")

    async def _ask(self, request: bytes) -> Reply:
        async with self._connection() as connection:
            return await connection.ask(request)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        connection = await self._free.get()
        try:
            if connection is None or not connection.is_open:
                connection = None
                _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
            yield connection
        finally:
            self._free.put_nowait(connection)


async def gather_bounded(
    items: Iterable[T], work: Callable[[T], Awaitable[R]], *, workers: int, done: Callable[[], None] = lambda: None
) -> list[R]:
    """Work on every item with so many workers at a time; results in the items' order. The first error ends it."""
    numbered = enumerate(items)
    results: dict[int, R] = {}

    async def worker() -> None:
        for number, item in numbered:
            results[number] = await work(item)
            done()

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
    return [results[number] for number in range(len(results))]


def chunks(items: Sequence[T], size: int = BATCH_COMMANDS_MAX) -> list[Sequence[T]]:
    """Consecutive pieces of at most ``size``."""
    return [items[start : start + size] for start in range(0, len(items), size)]
