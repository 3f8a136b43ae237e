"""Codes over HTTP: batches out as streams, single codes in. The text of a code is opened here and goes no further."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeVar

import structlog
from pydantic import ValidationError
from starlette.responses import Response, StreamingResponse

from command.ports import EventLog
from contracts.commands import AssignCodes, Command, GenerateCodes, UseCode, VoidCode, VoidCodes
from contracts.commands.code import BatchToGenerate, CodesToVoid, CodeToUse
from contracts.envelope import Answer, CommandEnvelope
from contracts.events import CodeBatchGenerated
from contracts.identity import Realm
from contracts.refusals import CodeKeyGone, UnknownCode, UnknownCodeBatch
from contracts.values import StrictValue
from infra.codes.batches import BatchRecord, batches_before, find_batch
from infra.codes.export import FORMATS, export_pieces
from infra.codes.ring import CodeRing, Found
from infra.codes.sealer import Sealer
from infra.entry.bodies import malformed, problem_of
from infra.entry.problems import FieldError, Problem
from infra.http.bodies import parse_command, read_body
from infra.http.edge import Exchange
from query.ports import Page, View
from query.readers.cursors import decode_cursor, encode_cursor

logger = structlog.get_logger(__name__)

BODY_BYTES_MAX: Final = 1_048_576
_NO_FIELDS: Final[frozenset[str]] = frozenset()
_EXPORT_FIELDS: Final = frozenset({"format"})

B = TypeVar("B", bound=StrictValue)


class CodeObserver(Protocol):
    """Whoever counts codes that were refused."""

    def code_refused(self, reason: str) -> None:
        """``unreadable``, ``unopened`` (both before any decision), or the refusal's code."""
        ...


class Commands(Protocol):
    """What sends commands and answers them."""

    async def ask(self, exchange: Exchange, command: Command) -> tuple[CommandEnvelope, Answer]:
        """The accepted answer. Raises Problem for a refusal."""
        ...

    def answered(self, envelope: CommandEnvelope, answer: Answer, status: HTTPStatus, **members: Any) -> Response:
        """The response that tells it."""
        ...


@dataclass(frozen=True)
class CodeParts:
    """What codes need: keys, which log a batch lies in, and (both block) a realm's present key and all it ever had.

    ``key_ids``: the latest first, deleted ones, too.
    """

    ring: CodeRing
    log_of: Callable[[Realm, str], EventLog]
    present_key: Callable[[Realm], str]
    blocking: Executor
    observer: CodeObserver
    key_ids: Callable[[Realm], Sequence[str]]


class StoredBatches:
    """Implements :class:`query.ports.CodeBatches`, straight from the log."""

    def __init__(self, parts: CodeParts) -> None:
        self._parts = parts

    async def one(self, realm: Realm, batch_id: str) -> View | None:
        """One batch. Raises StoreUnavailable."""
        record = await self._run(find_batch, self._parts.log_of(realm, batch_id), realm, batch_id)
        return None if record is None else record.view

    async def page(self, realm: Realm, *, cursor: str | None, limit: int) -> Page:
        """All batches. Raises BadCursor, StoreUnavailable."""
        name = f"code-batches:{realm.key}"
        before = None if cursor is None else decode_cursor(name, cursor, (str, int))
        key_ids = await self._run(self._parts.key_ids, realm)
        if not key_ids:
            return Page((), None)
        log = self._parts.log_of(realm, key_ids[0])
        records = await self._run(batches_before, log, realm, key_ids, before, limit + 1)
        shown = records[:limit]
        last = shown[-1].generated if len(records) > limit else None
        return Page([each.view for each in shown], last and encode_cursor(name, (last.key_id, last.number)))

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._parts.blocking, function, *args)


class HttpCodes:
    """The endpoints of codes."""

    def __init__(self, parts: CodeParts, commands: Commands) -> None:
        self._parts = parts
        self._commands = commands

    async def generate(self, exchange: Exchange) -> Response:
        """A batch under the realm's present key."""
        body = await _body(exchange, BatchToGenerate)
        key_id = await self._run(self._parts.present_key, exchange.caller.realm)
        command = GenerateCodes(**dict(body), key_id=key_id)
        envelope, answer = await self._commands.ask(exchange, command)
        return self._commands.answered(envelope, answer, HTTPStatus.CREATED)

    async def export(self, exchange: Exchange) -> Response:
        """Every code of a batch, in pieces; what was exported once is exported again the same."""
        wanted = exchange.query(_EXPORT_FIELDS).get("format", "csv")
        if wanted not in FORMATS:
            raise malformed([FieldError("?format", "not_one_of", f"must be {' or '.join(FORMATS)}")])
        caller = exchange.caller
        record = await self._batch(caller.realm, exchange.path_ids["batch_id"])
        if record is None:
            raise _no_batch()
        sealer = await self._sealer(caller.realm, record.generated)
        batch = record.generated
        logger.info("codes_exported", batch_id=batch.batch_id, codes=batch.count, actor=caller.actor)
        return StreamingResponse(self._pieces(sealer, batch, wanted), media_type=FORMATS[wanted])

    async def assign(self, exchange: Exchange) -> Response:
        """Codes for a list of users: the answer, and only the answer, tells them."""
        raw = await read_body(exchange.raw_headers, exchange.receive, BODY_BYTES_MAX)
        exchange.query(_NO_FIELDS)
        command = parse_command(AssignCodes, raw, {})
        realm = exchange.caller.realm
        record = await self._batch(realm, command.batch_id)
        if record is None:
            raise _no_batch()
        sealer = await self._sealer(realm, record.generated)  # First: nobody gets a code that cannot be told.
        envelope, answer = await self._commands.ask(exchange, command)
        number, indices = record.generated.number, answer.data["indices"]
        codes = [
            {"user_id": user_id, "index": index, "code": sealer.seal(number, index)}
            for user_id, index in zip(command.user_ids, indices, strict=True)
        ]
        return self._commands.answered(envelope, answer, HTTPStatus.OK, codes=codes)

    async def use(self, exchange: Exchange) -> Response:
        """Claim a code's coupon. Whatever is not a living code of this realm gets one and the same answer."""
        body = await _body(exchange, CodeToUse)
        found = await self._open(exchange, body.code)
        command = UseCode(batch_id=found.batch_id, index=found.index, user_id=body.user_id)
        envelope, answer = await self._ask(exchange, command)
        return self._commands.answered(envelope, answer, HTTPStatus.CREATED)

    async def void(self, exchange: Exchange) -> Response:
        """One code, a range, or the whole batch."""
        body = await _body(exchange, CodesToVoid)
        batch_id = exchange.path_ids["batch_id"]
        if body.code is not None:
            found = await self._open(exchange, body.code)
            if found.batch_id != batch_id:
                raise self._refused(exchange, "other_batch")
            one = VoidCode(batch_id=batch_id, index=found.index, reason=body.reason)
            envelope, answer = await self._ask(exchange, one)
        else:
            first, last = body.first_index or 0, body.last_index
            many = VoidCodes(batch_id=batch_id, first_index=first, last_index=last, reason=body.reason)
            envelope, answer = await self._commands.ask(exchange, many)
        return self._commands.answered(envelope, answer, HTTPStatus.OK)

    async def _batch(self, realm: Realm, batch_id: str) -> BatchRecord | None:
        record: BatchRecord | None = await self._run(find_batch, self._parts.log_of(realm, batch_id), realm, batch_id)
        return record

    async def _open(self, exchange: Exchange, typed: str) -> Found:
        found = await self._parts.ring.find(exchange.caller.realm, typed)
        if found is None:
            raise self._refused(exchange, "unopened")
        return found

    async def _ask(self, exchange: Exchange, command: Command) -> tuple[CommandEnvelope, Answer]:
        try:
            return await self._commands.ask(exchange, command)
        except Problem as problem:
            if problem.code == UnknownCode.code:
                raise self._refused(exchange, problem.code) from None
            self._parts.observer.code_refused(problem.code)
            raise

    def _refused(self, exchange: Exchange, reason: str) -> Problem:
        """The one answer to what is no living code here; the reason is for metrics only."""
        self._parts.observer.code_refused(reason)
        return Problem(UnknownCode.code, UnknownCode().detail)

    async def _sealer(self, realm: Realm, batch: CodeBatchGenerated) -> Sealer:
        if (sealer := await self._parts.ring.sealer(realm, batch.key_id)) is None:
            raise Problem(CodeKeyGone.code, CodeKeyGone().detail)
        return sealer

    async def _pieces(self, sealer: Sealer, batch: CodeBatchGenerated, wanted: str) -> AsyncIterator[bytes]:
        pieces = export_pieces(sealer, batch, wanted)
        while (piece := await self._run(next, pieces, None)) is not None:
            yield piece

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._parts.blocking, function, *args)


async def _body(exchange: Exchange, kind: type[B]) -> B:
    raw = await read_body(exchange.raw_headers, exchange.receive, BODY_BYTES_MAX)
    exchange.query(_NO_FIELDS)
    try:
        return kind.model_validate_json(raw or b"{}")
    except ValidationError as error:
        raise problem_of(error, raw) from None


def _no_batch() -> Problem:
    return Problem(UnknownCodeBatch.code, UnknownCodeBatch().detail)


BODIES: Final[Mapping[str, type[StrictValue]]] = {
    "BatchToGenerate": BatchToGenerate,
    "CodeToUse": CodeToUse,
    "CodesToVoid": CodesToVoid,
}
