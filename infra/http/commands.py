"""Commands over HTTP: one per request or many, each sent under an idempotency key and answered after its commit."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response

from command.api import BATCH_COMMANDS_MAX, CommandRoute
from command.domain.ids import derived_id
from command.ports import CommandKey
from command.tickets import Busy
from contracts.commands import ClaimCoupon, Command, PlaceOrder, QuoteOrder
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.refusals import AlreadyExists
from contracts.values import BusinessTime
from infra.entry.answers import answer_body, in_flight, refused
from infra.entry.bodies import malformed, object_at, parse_json, text_at
from infra.entry.bridge import AnswerBridge
from infra.entry.commands import command_of, reported_event
from infra.entry.failures import problem_for
from infra.entry.first_steps import FirstStep, leave_alone, no_first_step, queued
from infra.entry.ids import callers_id
from infra.entry.problems import FieldError, Problem
from infra.http.answers import accepted, hinted
from infra.http.bodies import parse_command, read_body
from infra.http.command_ids import command_id_of
from infra.http.distributions import Uploads
from infra.http.dry_runs import DryRun
from infra.http.edge import Endpoint, Exchange
from infra.http.hints import ClaimHints
from infra.http.reply import JsonReply

BATCH_BODY_FACTOR: Final = 8
_DRY_RUN_FIELDS: Final = frozenset({"dry_run", "at"})
_QUOTE_FIELDS: Final = frozenset({"at"})
_NO_FIELDS: Final[frozenset[str]] = frozenset()
_BUSINESS_TIME: Final = TypeAdapter(BusinessTime)
_AT_CODES: Final = {"timezone_aware": "time_without_zone", "time_out_of_range": "out_of_range"}


class StartsDistributions(Protocol):
    """Stores a list of users and starts its distribution. Blocks."""

    def __call__(self, envelope: CommandEnvelope, user_ids: Sequence[str]) -> Answer:
        """Raises AlreadyExists, and as the engine does."""
        ...


class CheckoutOutcomes(Protocol):
    """Whoever hears how the checkout of an order went."""

    def expect(self, realm: Realm, order_id: str, attempt: int) -> "asyncio.Future[Mapping[str, Any]]":
        """Resolves when an outcome is recorded from now on. Ask, then look for an earlier one; cancel when done."""
        ...

    def recorded(self, realm: Realm, order_id: str, attempt: int) -> Mapping[str, Any] | None:
        """The checkout as it stands, once this attempt was decided. Blocks."""
        ...


@dataclass(frozen=True, slots=True)
class CommandLimits:
    """Bounds of the command endpoints."""

    body_bytes_max: int = 1_048_576
    order_wait_ms: int = 2_000


@dataclass(slots=True)
class _Item:
    """One command of a batch: ready to be sent, or a problem of its own."""

    command_id: str
    envelope: CommandEnvelope | None = None
    problem: Problem | None = None
    answer: "asyncio.Future[Answer] | None" = None


class HttpCommands:
    """The endpoints of the write side."""

    def __init__(  # noqa: PLR0913 - all that the write side is made of
        self,
        bridge: AnswerBridge,
        dry_run: DryRun,
        outcomes: CheckoutOutcomes,
        blocking: Executor,
        limits: CommandLimits,
        *,
        hints: ClaimHints | None = None,
        first_step: FirstStep = no_first_step,
        start_distribution: StartsDistributions,
        upstream_currency: Callable[[Realm], str] = lambda _realm: "USD",
    ) -> None:
        self._bridge = bridge
        self._dry_run = dry_run
        self._outcomes = outcomes
        self._blocking = blocking
        self._limits = limits
        self._hints = hints
        self._first_step = first_step
        self._upstream_currency = upstream_currency
        self._start_distribution = start_distribution
        self._uploads = Uploads(blocking)
        self._in_flight: set[CommandKey] = set()

    def command(self, route: CommandRoute) -> Endpoint:
        """The endpoint of one route."""
        send = self._send_and_await_checkout if route.awaits_checkout else self._send
        created = HTTPStatus.CREATED if route.creates else HTTPStatus.OK
        hints = self._hints if route.command is ClaimCoupon else None

        async def endpoint(exchange: Exchange) -> Response:
            raw = await read_body(exchange.raw_headers, exchange.receive, self._limits.body_bytes_max)
            query = exchange.query(_DRY_RUN_FIELDS)
            command = parse_command(route.command, raw, exchange.path_ids)
            envelope = _envelope(exchange, command, command_id_of(exchange))
            if query:
                return await self._dry(envelope, query)
            if hints is not None:
                await self._require_no_hint(hints, envelope, is_new=envelope.command_id == exchange.made_id)
            return await send(envelope, created)

        return endpoint

    async def quote(self, exchange: Exchange) -> Response:
        """What placing this order would give, now or ``at`` another time."""
        raw = await read_body(exchange.raw_headers, exchange.receive, self._limits.body_bytes_max)
        query = exchange.query(_QUOTE_FIELDS)
        command = parse_command(QuoteOrder, raw, {})
        return await self._dry(_envelope(exchange, command, command_id_of(exchange)), {"dry_run": "true", **query})

    async def upstream_event(self, exchange: Exchange) -> Response:
        """An upstream's event under its own name. Its id is the command id: hearing it twice does nothing twice."""
        raw = await read_body(exchange.raw_headers, exchange.receive, self._limits.body_bytes_max)
        exchange.query(_NO_FIELDS)
        body = object_at(parse_json(raw), "", {"event", "id", "data"}, required=("event", "id", "data"))
        default = self._upstream_currency(exchange.caller.realm)
        command, command_id = reported_event(body, default_currency=default)
        envelope = _envelope(exchange, command, command_id)
        if isinstance(command, PlaceOrder):
            return await self._send_and_await_checkout(envelope, HTTPStatus.CREATED)
        return await self._send(envelope, HTTPStatus.OK)

    async def start_distribution(self, exchange: Exchange) -> Response:
        """A list of users: stored, then worked off in the background; ``Location`` says where it stands."""
        with self._uploads.turn():
            upload = await self._uploads.read(exchange)
            command_id = command_id_of(exchange)
            command = upload.command(derived_id("d", exchange.caller.realm, command_id))
            envelope = _envelope(exchange, command, command_id)
            if upload.query:
                return await self._dry(envelope, upload.query)
            loop = asyncio.get_running_loop()
            start = self._start_distribution
            try:
                answer = await loop.run_in_executor(self._blocking, start, envelope, upload.user_ids)
            except AlreadyExists as refusal:
                raise Problem(refusal.code, refusal.detail, extra={"command_id": command_id}) from None
        if not answer.accepted:
            raise refused(command_id, answer)
        address = f"/v1/distributions/{quote(command.distribution_id, safe='')}"
        return accepted(envelope, answer, HTTPStatus.ACCEPTED, location=address)

    async def batch(self, exchange: Exchange) -> Response:
        """Many commands, queued together in their order, answered one by one; a wrong one does not spoil the others."""
        limit = self._limits.body_bytes_max * BATCH_BODY_FACTOR
        raw = await read_body(exchange.raw_headers, exchange.receive, limit)
        exchange.query(_NO_FIELDS)
        body = object_at(parse_json(raw), "", {"commands"}, required=("commands",))
        entries = body["commands"]
        if not isinstance(entries, list):
            raise malformed([FieldError("/commands", "wrong_type", "must be an array")])
        if not 0 < len(entries) <= BATCH_COMMANDS_MAX:
            message = f"must hold 1 to {BATCH_COMMANDS_MAX} commands, not {len(entries)}"
            raise malformed([FieldError("/commands", "wrong_length", message)])
        batch_id = command_id_of(exchange)
        items = [self._item(exchange, entry, f"{batch_id}:{index}") for index, entry in enumerate(entries)]
        await self._send_items(items)
        answers = [await self._item_answer(exchange, item) for item in items]
        return JsonReply({"answers": answers}, HTTPStatus.OK, {b"idempotency-key": batch_id.encode()})

    async def ask(self, exchange: Exchange, command: Command) -> tuple[CommandEnvelope, Answer]:
        """The accepted answer to a command that another endpoint made. Raises Problem for a refusal."""
        envelope = _envelope(exchange, command, command_id_of(exchange))
        answer, _ = await self._answer_of(envelope)
        return envelope, answer

    def answered(self, envelope: CommandEnvelope, answer: Answer, status: HTTPStatus, **members: Any) -> Response:
        """The response that tells an accepted answer."""
        return accepted(envelope, answer, status, **members)

    # One command.

    async def _send(self, envelope: CommandEnvelope, created: HTTPStatus) -> Response:
        answer, _ = await self._answer_of(envelope)
        return accepted(envelope, answer, created)

    async def _send_and_await_checkout(self, envelope: CommandEnvelope, created: HTTPStatus) -> Response:
        """Send, and tell the checkout's outcome: the one decided with it, or what the saga makes of it soon enough."""
        answer, step = await self._answer_of(envelope)
        command: Any = envelope.command
        order_id: str = command.order_id
        attempt = int(answer.data.get("attempt", 1))
        outcome = None if answer.replayed else await _decided_with_it(step)
        if outcome is None:
            outcome = await self._outcome(envelope.realm, order_id, attempt)
        address = f"/v1/orders/{quote(order_id, safe='')}"
        if outcome is None:
            return accepted(envelope, answer, HTTPStatus.ACCEPTED, location=address)
        status = HTTPStatus.OK if answer.replayed else created
        return accepted(envelope, answer, status, location=address, checkout=outcome)

    async def _outcome(self, realm: Realm, order_id: str, attempt: int) -> Mapping[str, Any] | None:
        """What is recorded by now or within the time that an order may wait; None when the caller has to ask later."""
        loop = asyncio.get_running_loop()

        def look() -> Awaitable[Mapping[str, Any] | None]:
            return loop.run_in_executor(self._blocking, self._outcomes.recorded, realm, order_id, attempt)

        expected = self._outcomes.expect(realm, order_id, attempt)
        try:
            if (recorded := await look()) is not None:  # Before we began to listen.
                return recorded
            await asyncio.wait([expected], timeout=self._limits.order_wait_ms / 1_000)
            return await look()  # However we were woken: what stands now is told.
        finally:
            expected.cancel()

    async def _answer_of(self, envelope: CommandEnvelope) -> tuple[Answer, "asyncio.Future[Answer] | None"]:
        """The final answer, and that of its saga's first step, if that was sent with it.

        Raises Problem for a refusal, and for an id that is on its way already.
        """
        key = CommandKey(envelope.realm, envelope.command_id)
        if key in self._in_flight:
            raise in_flight(envelope.command_id)
        self._in_flight.add(key)
        try:
            future, step = self._sent_with_first_step(envelope)
            answer = await future
        finally:
            self._in_flight.discard(key)
        if self._hints is not None:
            self._hints.heard(envelope, answer)
        if not answer.accepted:
            raise refused(envelope.command_id, answer)
        return answer, step

    def _sent_with_first_step(
        self, envelope: CommandEnvelope
    ) -> tuple["asyncio.Future[Answer]", "asyncio.Future[Answer] | None"]:
        """Both queued together, or the command alone when there is room for one only: its saga asks for the rest."""
        if (following := self._first_step(envelope)) is not None:
            with suppress(Busy):
                future, step = self._bridge.submit((envelope, following))
                leave_alone((step,))
                return future, step
        return self._bridge.ask(envelope), None

    async def _require_no_hint(self, hints: ClaimHints, envelope: CommandEnvelope, *, is_new: bool) -> None:
        """Raises Problem for a claim that would be refused; one that is on its way already is no matter of hints."""
        if CommandKey(envelope.realm, envelope.command_id) in self._in_flight:
            return
        if (code := await hints.foresee(envelope, is_new=is_new)) is not None:
            raise hinted(envelope.command_id, code)

    async def _dry(self, envelope: CommandEnvelope, query: Mapping[str, str]) -> Response:
        """``dry_run=true`` (and ``at=``): the answer that would be given, marked as such."""
        dry_run, at = query.get("dry_run", "false"), query.get("at")
        if dry_run != "true":
            message = "must be true when it is given, and is needed for at"
            raise malformed([FieldError("?dry_run", "not_one_of", message)])
        instant = _instant(at) if at is not None else None
        answer = await self._dry_run(envelope, instant)
        if not answer.accepted:
            raise refused(envelope.command_id, answer, dry_run=True)
        return accepted(envelope, answer, HTTPStatus.OK, dry_run=True)

    # Many commands.

    def _item(self, exchange: Exchange, entry: object, default_id: str) -> _Item:
        item = _Item(default_id)
        try:
            body = object_at(entry, "", {"type", "command_id", "data"}, required=("type",))
            if body.get("command_id") is not None:
                told = text_at(body["command_id"], "/command_id")
                item.command_id = callers_id(exchange.caller, told, "/command_id")
            command = command_of(exchange.caller, body)
            key = CommandKey(exchange.caller.realm, item.command_id)
            if key in self._in_flight:
                raise in_flight(item.command_id)
            item.envelope = _envelope(exchange, command, item.command_id)
        except Problem as problem:
            item.problem = problem
        return item

    async def _send_items(self, items: Sequence[_Item]) -> None:
        """Queue all good items together and wait until each has its outcome."""
        ready = [(item, item.envelope) for item in items if item.envelope is not None]
        if not ready:
            return
        keys = {CommandKey(envelope.realm, envelope.command_id) for _, envelope in ready}
        self._in_flight |= keys
        try:
            answers = queued(self._bridge, self._first_step, [envelope for _, envelope in ready])
            for (item, _), answer in zip(ready, answers, strict=True):
                item.answer = answer
            await asyncio.wait([item.answer for item, _ in ready if item.answer is not None])
        finally:
            self._in_flight -= keys

    async def _item_answer(self, exchange: Exchange, item: _Item) -> dict[str, Any]:
        if item.problem is not None:
            return {"command_id": item.command_id, **item.problem.body(exchange.request_id)}
        assert item.answer is not None
        if (error := item.answer.exception()) is not None:
            problem = problem_for(error if isinstance(error, Exception) else RuntimeError(str(error)))
            return {"command_id": item.command_id, **problem.body(exchange.request_id)}
        answer = item.answer.result()
        if self._hints is not None and item.envelope is not None:
            self._hints.heard(item.envelope, answer)
        if not answer.accepted:
            return refused(item.command_id, answer).body(exchange.request_id)
        return {**answer_body(item.command_id, answer), "replayed": answer.replayed}


async def _decided_with_it(step: "asyncio.Future[Answer] | None") -> Mapping[str, Any] | None:
    """The outcome that a saga's first step came to; None when it has none, or did not come off."""
    if step is None:
        return None
    await asyncio.wait([step])
    if step.cancelled() or step.exception() is not None or step.result().replayed:
        return None  # A stored answer tells how it was when it was decided, not how the checkout stands.
    outcome: Mapping[str, Any] | None = step.result().data.get("checkout")
    return outcome


def _envelope(exchange: Exchange, command: Command, command_id: str) -> CommandEnvelope:
    caller = exchange.caller
    exchange.command_id = command_id
    return CommandEnvelope(
        realm=caller.realm,
        command_id=command_id,
        command=command,
        actor=caller.actor,
        correlation_id=exchange.request_id,
        traceparent=exchange.traceparent,
    )


def _instant(text: str) -> datetime:
    try:
        return _BUSINESS_TIME.validate_strings(text.replace(" ", "+"))  # A bare + in a query string reads as a blank.
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        code = _AT_CODES.get(first["type"], "not_a_time")
        message = first["msg"] if code == "out_of_range" else "must be an RFC 3339 time with a zone"
        raise malformed([FieldError("?at", code, message)]) from None
