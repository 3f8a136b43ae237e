"""ClickHouse's HTTP interface over one `chdb` folder, as an ASGI application."""

import asyncio
import json
import os
import re
import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from infra.embedded.clickhouse import PROCESS_HEADER
from infra.embedded.clickhouse_body import TEXT_BYTES_MAX, Body, BodyTooLarge, form_fields
from infra.embedded.clickhouse_codec import BodyError, Encoder, UnknownEncoding, accepted, encoder
from infra.embedded.clickhouse_engine import ChdbEngine, Job, Result, StatementFailed
from infra.embedded.clickhouse_statement import Statement

STATEMENTS_AT_ONCE_MAX = 8  # More only slows all of them down; the others wait in line.
SLOT_WAIT_SECONDS = 60.0
CANCEL_ATTEMPTS_MAX = 100
CANCEL_PAUSE_SECONDS = 0.2
SEND_TIMEOUT_SECONDS = 60.0  # For a client that stopped reading, per piece of a streamed answer.
SMALL_BYTES_MAX = 16 * 1024  # Below this, handing work to a thread costs more than doing it.

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Headers = list[tuple[str, str]]

_OURS = frozenset({"127.0.0.1", "localhost", "::1"})
# Blocks of these formats make a whole when they are put one after the other.
_STREAMABLE = frozenset(
    ["Native", "RowBinary", "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV", "JSONEachRow"]
)
_CONTENT_TYPES = (  # The first that the format's name begins with.
    ("JSONEachRow", "application/x-ndjson; charset=UTF-8"),
    ("JSONCompactEachRow", "application/x-ndjson; charset=UTF-8"),
    ("JSON", "application/json; charset=UTF-8"),
    ("CSV", "text/csv; charset=UTF-8; header=absent"),
    ("T", "text/tab-separated-values; charset=UTF-8"),
    ("Pretty", "text/plain; charset=UTF-8"),
    ("", "application/octet-stream"),
)
# Parameters of the interface; all others are settings of the statement.
_NO_SETTINGS = frozenset(
    """query query_id database default_database user password default_format session_id session_timeout session_check
    quota_key role compress decompress wait_end_of_query buffer_size client_protocol_version stacktrace close_session
    enable_http_compression http_zlib_compression_level send_progress_in_http_headers
    http_headers_progress_interval_ms cancel_http_readonly_queries_on_client_close add_http_cors_header""".split()  # noqa: SIM905 - one per line would fill a screen.
)
# As ClickHouse's own HTTP handler maps them; everything else is 500.
_STATUS_BY_CODE = {
    **dict.fromkeys((6, 25, 26, 27, 36, 38, 41, 53, 62, 72, 117, 456), 400),
    **dict.fromkeys((164, 497, 516), 403),
    **dict.fromkeys((46, 47, 50, 56, 60, 73, 81, 115), 404),
    **dict.fromkeys((202,), 503),
    **dict.fromkeys((48,), 501),
    **dict.fromkeys((307,), 413),
}


class ClickHouseHttp:
    """GET and POST `/` run one statement; `/ping` answers whatever else goes on.

    Stateless: every request has a session of its own, so `session_id` is accepted but keeps neither temporary tables
    nor SET. Not spoken: external tables, and ClickHouse's native block compression (`compress=1`, `decompress=1`).
    Only callers from this machine that know its own name get an answer: a web page that a browser here has open
    could otherwise reach the port.
    """

    def __init__(self, engine: ChdbEngine, spool_folder: Path) -> None:
        self._engine = engine
        self._spool_folder = spool_folder
        self._slots = asyncio.Semaphore(STATEMENTS_AT_ONCE_MAX)
        self._threads = ThreadPoolExecutor(STATEMENTS_AT_ONCE_MAX, thread_name_prefix="statement")

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        request = _Request.of(scope)
        if not request.is_from_here:
            await _answer(send, 403, [], b"Only programs on this machine may ask.\n")
        elif request.path in {"/ping", "/replicas_status"} or request.is_bare_get:
            headers = [("Content-Type", "text/html; charset=UTF-8"), (PROCESS_HEADER, str(os.getpid()))]
            await _answer(send, 200, headers, b"Ok.\n")
        elif request.path != "/" or request.method not in {"GET", "POST"}:
            await _answer(send, 404, [], f"There is no handle {request.method} {request.path}\n".encode())
        else:
            await self._statement(request, receive, send)

    async def _statement(self, request: "_Request", receive: _Receive, send: _Send) -> None:
        body: Body | None = None
        try:
            if request.is_form:
                await _read_form(request, receive)
            body = Body(request.params.get("query", ""), request.content_encoding, self._spool_folder / request.tag)
            if not request.is_form:
                await _fill(body, receive)
            statement = await asyncio.to_thread(body.finish)
            await self._execute(request, body, statement, receive, send)
        except (_ClientGone, TimeoutError):
            pass  # Nobody is there to answer, or nobody who reads.
        except StatementFailed as failure:
            await self._refuse(request, send, failure)
        except BodyError as error:
            await self._refuse(request, send, _bad_body(error))
        finally:
            if body is not None:
                body.discard()

    async def _execute(
        self, request: "_Request", body: Body, statement: Statement, receive: _Receive, send: _Send
    ) -> None:
        job = _job(request, body, statement)
        async with self._slot(), _disconnect(receive) as gone:
            if statement.only_reads and request.wants_stream and job.format in _STREAMABLE:
                await self._stream(request, job, gone, send)
            else:
                result = await self._run(request, job, statement, gone)
                headers = [*self._headers(request), ("X-ClickHouse-Summary", _summary(result))]
                if statement.has_result:
                    headers += _format_headers(job.format)
                await _answer(send, 200, [*headers, *request.encoding_headers], await _encoded(request, result.data))

    async def _run(self, request: "_Request", job: Job, statement: Statement, gone: "asyncio.Task[None]") -> Result:
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, lambda: self._engine.run(job, tag=request.tag))
        either: list[asyncio.Future[Any]] = [work, gone]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if statement.only_reads:  # What writes is finished even if nobody waits for it any more.
            await self._cancel(request.tag, work)
        return await work

    async def _cancel(self, tag: str, work: "asyncio.Future[Result]") -> None:
        """Again and again: a statement that has not begun yet does not hear it."""
        for _ in range(CANCEL_ATTEMPTS_MAX):
            if work.done():
                return
            await asyncio.to_thread(self._engine.cancel, tag)
            await asyncio.wait({work}, timeout=CANCEL_PAUSE_SECONDS)

    async def _stream(self, request: "_Request", job: Job, gone: "asyncio.Task[None]", send: _Send) -> None:
        """Answer in constant memory. An error before the first block is an answer; a later one is appended."""
        blocks = self._engine.stream(job, tag=request.tag)
        try:
            block = await self._next(blocks)
            exception_tag = secrets.token_hex(8)
            headers = [*self._headers(request), *_format_headers(job.format), *request.encoding_headers]
            await _begin(send, 200, [*headers, ("X-ClickHouse-Exception-Tag", exception_tag)])
            packer = request.encoder()
            while block is not None and not gone.done():
                await _piece(send, packer.compress(block))
                try:
                    block = await self._next(blocks)
                except StatementFailed as failure:
                    await _piece(send, packer.compress(_exception_block(exception_tag, failure)))
                    break
            await _piece(send, packer.flush(), last=True)
        finally:
            await asyncio.get_running_loop().run_in_executor(self._threads, _close, blocks)

    async def _next(self, blocks: Iterator[bytes]) -> bytes | None:
        return await asyncio.get_running_loop().run_in_executor(self._threads, next, blocks, None)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            await asyncio.wait_for(self._slots.acquire(), SLOT_WAIT_SECONDS)
        except TimeoutError:
            message = f"Too many simultaneous queries. Maximum: {STATEMENTS_AT_ONCE_MAX}"
            raise StatementFailed.named(202, message, "TOO_MANY_SIMULTANEOUS_QUERIES") from None
        try:
            yield
        finally:
            self._slots.release()

    async def _refuse(self, request: "_Request", send: _Send, failure: StatementFailed) -> None:
        text = f"{failure.text} (version {self._engine.version})\n".encode()
        headers = [*self._headers(request), ("X-ClickHouse-Exception-Code", str(failure.code))]
        headers.append(("Content-Type", "text/plain; charset=UTF-8"))
        await _answer(send, _STATUS_BY_CODE.get(failure.code, 500), headers, text)

    def _headers(self, request: "_Request") -> _Headers:
        return [
            ("X-ClickHouse-Server-Display-Name", self._engine.host_name),
            ("X-ClickHouse-Query-Id", request.query_id),
            ("X-ClickHouse-Timezone", self._engine.timezone),
        ]


@dataclass
class _Request:
    """What a request says, apart from its body."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    query_id: str
    tag: str = field(default_factory=lambda: f"http-{uuid.uuid4()}")

    @classmethod
    def of(cls, scope: _Scope) -> "_Request":
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        params = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        query_id = params.get("query_id") or str(uuid.uuid4())
        return cls(scope["method"], scope["path"], params, headers, _header_safe(query_id))

    @property
    def is_from_here(self) -> bool:
        """The names by which the caller knows us, and the page that it came from, are this machine's."""
        host = urlsplit("//" + self.headers.get("host", "localhost")).hostname
        origin = self.headers.get("origin")
        return host in _OURS and (origin is None or urlsplit(origin).hostname in _OURS)

    @property
    def is_bare_get(self) -> bool:
        return self.method == "GET" and self.path == "/" and "query" not in self.params

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "")

    @property
    def is_form(self) -> bool:
        return self.content_type.startswith("multipart/form-data")

    @property
    def content_encoding(self) -> str:
        return self.headers.get("content-encoding", "")

    @property
    def wants_stream(self) -> bool:
        return self.params.get("wait_end_of_query", "0") != "1"

    @property
    def answer_encoding(self) -> str:
        wanted = self.params.get("enable_http_compression", "0") == "1"
        return accepted(self.headers.get("accept-encoding", "")) if wanted else "identity"

    @property
    def encoding_headers(self) -> _Headers:
        return [] if self.answer_encoding == "identity" else [("Content-Encoding", self.answer_encoding)]

    def encoder(self) -> Encoder:
        return encoder(self.answer_encoding)


class _ClientGone(Exception):
    """The client closed the connection before its request was complete."""


def _job(request: _Request, body: Body, statement: Statement) -> Job:
    params = request.params
    if statement.touches_server_files:
        raise StatementFailed.named(48, "INTO OUTFILE and FROM INFILE work in clients only", "NOT_IMPLEMENTED")
    if "1" in {params.get("compress"), params.get("decompress")}:
        raise StatementFailed.named(48, "native compression is not spoken here; use HTTP's", "NOT_IMPLEMENTED")
    insert = statement.insert
    try:
        sql = body.text.decode()
    except UnicodeDecodeError as error:
        raise BodyError(f"the statement is no UTF-8: {error}") from error
    if insert is not None:
        sql = f"{insert.target} FROM INFILE '{_escaped(str(body.rows_path))}' {insert.settings} FORMAT {insert.format}"
    asked_format = params.get("default_format") or request.headers.get("x-clickhouse-format") or "TabSeparated"
    return Job(
        sql=sql,
        format=(statement.format if insert is None else None) or asked_format,
        database=params.get("database") or request.headers.get("x-clickhouse-database") or "default",
        settings={k: v for k, v in params.items() if k not in _NO_SETTINGS and not k.startswith("param_")},
        parameters={k.removeprefix("param_"): v for k, v in params.items() if k.startswith("param_")},
        read_only=request.method == "GET",
    )


async def _read_form(request: _Request, receive: _Receive) -> None:
    """Move the fields of a form to the parameters."""
    data = bytearray()
    async for piece in _pieces(receive):
        data += piece
        if len(data) > TEXT_BYTES_MAX:
            raise BodyTooLarge(f"the form is larger than {TEXT_BYTES_MAX} bytes")
    values, files = await asyncio.to_thread(form_fields, request.content_type, bytes(data))
    if files:
        raise StatementFailed.named(48, f"External tables are not spoken here ({files[0]})", "NOT_IMPLEMENTED")
    request.params.update(values)


async def _fill(body: Body, receive: _Receive) -> None:
    async for data in _pieces(receive):
        if len(data) > SMALL_BYTES_MAX:
            await asyncio.to_thread(body.feed, data)
        else:
            body.feed(data)


async def _pieces(receive: _Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        yield message.get("body", b"")
        more = message.get("more_body", False)


@asynccontextmanager
async def _disconnect(receive: _Receive) -> AsyncIterator["asyncio.Task[None]"]:
    """A task that ends when the client goes away."""

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(until_gone())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _encoded(request: _Request, data: bytes) -> bytes:
    packer = request.encoder()
    if len(data) <= SMALL_BYTES_MAX:
        return packer.compress(data) + packer.flush()
    return await asyncio.to_thread(lambda: packer.compress(data) + packer.flush())


async def _answer(send: _Send, status: int, headers: _Headers, body: bytes) -> None:
    await _begin(send, status, [*headers, ("Content-Length", str(len(body)))])
    await _piece(send, body, last=True)


async def _begin(send: _Send, status: int, headers: _Headers) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _piece(send: _Send, data: bytes, *, last: bool = False) -> None:
    async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
        await send({"type": "http.response.body", "body": data, "more_body": not last})


def _close(blocks: Iterator[bytes]) -> None:
    close = getattr(blocks, "close", None)
    if close is not None:
        close()


def _format_headers(format_name: str) -> _Headers:
    content_type = next(kind for prefix, kind in _CONTENT_TYPES if format_name.startswith(prefix))
    return [("Content-Type", content_type), ("X-ClickHouse-Format", format_name)]


def _summary(result: Result) -> str:
    counts = {
        "read_rows": result.read_rows,
        "read_bytes": result.read_bytes,
        "written_rows": result.written_rows,
        "written_bytes": result.written_bytes,
        "elapsed_ns": result.elapsed_ns,
    }
    return json.dumps({name: str(count) for name, count in counts.items()})


def _exception_block(tag: str, failure: StatementFailed) -> bytes:
    """How ClickHouse says, inside an answer that has begun, that it could not be finished."""
    message = f"{failure.text}\n"
    return f"__exception__\r\n{tag}\r\n{message}{len(message.encode())} {tag}\r\n__exception__\r\n".encode()


def _bad_body(error: BodyError) -> StatementFailed:
    if isinstance(error, BodyTooLarge):
        return StatementFailed.named(307, str(error), "TOO_MANY_BYTES")
    if isinstance(error, UnknownEncoding):
        return StatementFailed.named(48, str(error), "NOT_IMPLEMENTED")
    return StatementFailed.named(117, f"Cannot read the request's body: {error}", "INCORRECT_DATA")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _header_safe(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text)
