"""What surrounds every endpoint: request id, key, scope, trace, metrics and log, and problems instead of exceptions."""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from contracts.access import Caller, Door, Scope
from infra.entry.commands import require_scope
from infra.entry.failures import problem_for
from infra.entry.problems import FieldError, Problem
from infra.http.access import KeyRing
from infra.http.problems import problem_response
from infra.http.protocol import answered_at_once
from infra.telemetry.ids import new_id
from infra.telemetry.tracing import Tracing

logger = structlog.get_logger(__name__)

QUERY_FIELDS_MAX: Final = 20
_NOT_LOGGED: Final = frozenset({"user_id"})  # Whose it is, is nobody's business in a log.
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,100}")


class Exchange(Request):
    """One request at an endpoint: who calls, under which ids, with which path and query parameters.

    ``caller`` is there behind every door but the public one. A Request only to FastAPI, which registers the endpoints;
    it begins with what every request needs, and no more.
    """

    caller: Caller
    traceparent: str | None

    def __init__(
        self, scope: AsgiScope, receive: Receive, headers: Mapping[bytes, bytes], path_ids: Mapping[str, str]
    ) -> None:
        self.scope = scope
        self._receive = receive
        self.raw_headers = headers
        self.path_ids = path_ids
        self.command_id: str | None = None
        told = told_request_id(headers)
        # Where the caller names none, request, trace and command go by one id that we made: each leads to the others.
        self.made_id = new_id() if told is None else None
        self.request_id: str = told or self.made_id or ""

    def query(self, allowed: frozenset[str]) -> dict[str, str]:
        """The query parameters. Raises Problem for one that this route does not know, or that comes twice."""
        text = self.scope["query_string"]
        if not text:
            return {}
        try:
            pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
        except ValueError:
            raise Problem("malformed_query", "the query string cannot be read") from None
        values = dict(pairs)
        if unknown := sorted(values.keys() - allowed):
            message = f"this route has no query parameter {unknown[0]!r}"
            raise Problem("unknown_field", message, errors=[FieldError(f"?{unknown[0]}", "unknown_field", message)])
        if len(values) != len(pairs):
            raise Problem("malformed_query", "a query parameter must not come twice")
        return values


Endpoint = Callable[[Exchange], Awaitable[Response]]


class RequestObserver(Protocol):
    """Whoever counts requests."""

    def request_served(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request was answered."""
        ...

    def command_answered_with(self, code: str) -> None:
        """The edge answered a problem of its own, or a refusal."""
        ...


@dataclass(frozen=True, slots=True)
class GuardedRoute:
    """An endpoint behind the door, and what the door asks for."""

    method: str
    path: str
    scope: Scope | Door
    endpoint: Endpoint


class Edge:
    """Runs guarded routes."""

    def __init__(self, keys: KeyRing, tracing: Tracing, observer: RequestObserver) -> None:
        self._keys = keys
        self._tracing = tracing
        self._observer = observer
        self._tells_all = logging.getLogger(__name__).isEnabledFor(logging.DEBUG)  # Asked once: it is asked for often.

    async def serve(
        self, route: GuardedRoute, path_ids: Mapping[str, str], scope: AsgiScope, receive: Receive, send: Send
    ) -> None:
        """Answer one request. Never raises: what goes wrong becomes a problem, and our own defects are logged."""
        started = perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        exchange = Exchange(scope, receive, headers, path_ids)
        if self._tracing.enabled:
            with self._tracing.server_span(f"{route.method} {route.path}", headers.get(b"traceparent")) as span:
                exchange.traceparent = span.traceparent
                response = await self._answer(route, exchange)
                span.set_status(response.status_code)
        else:
            exchange.traceparent = self._tracing.traceparent_of(headers.get(b"traceparent"), exchange.made_id)
            response = await self._answer(route, exchange)
        response.raw_headers.append((b"x-request-id", exchange.request_id.encode()))
        if not answered_at_once(response, send):
            await response(scope, receive, send)
        seconds = perf_counter() - started
        self._observer.request_served(route.path, route.method, response.status_code, seconds)
        if self._tells_all:
            ids = _ids(route, exchange)
            logger.debug("request_served", status=response.status_code, seconds=round(seconds, 6), **ids)

    async def _answer(self, route: GuardedRoute, exchange: Exchange) -> Response:
        try:
            if route.scope is not Door.PUBLIC:
                authorization = exchange.raw_headers.get(b"authorization")
                exchange.caller = self._keys.known(authorization) or await self._keys.caller(authorization)
                if isinstance(route.scope, Scope):
                    require_scope(exchange.caller, route.scope)
            return await route.endpoint(exchange)
        except Exception as error:  # noqa: BLE001 - no exception leaves: each is a problem, unknown ones are logged.
            # Told elsewhere: a problem that is a local of a frame in its own traceback is garbage with all that the
            # request was, and in a rush for what is sold out so is every answer.
            return self._refused(route, exchange, problem_for(error))

    def _refused(self, route: GuardedRoute, exchange: Exchange, problem: Problem) -> Response:
        if problem.code == "internal":
            logger.error("request_failed", exc_info=problem.__cause__, **_ids(route, exchange))
        self._observer.command_answered_with(problem.code)
        return problem_response(problem, exchange.request_id)


def told_request_id(headers: Mapping[bytes, bytes]) -> str | None:
    """The caller's own request id, if it is harmless in a log."""
    told = headers.get(b"x-request-id")
    return told.decode() if told is not None and _REQUEST_ID.fullmatch(told) else None


def _ids(route: GuardedRoute, exchange: Exchange) -> dict[str, Any]:
    caller: Caller | None = getattr(exchange, "caller", None)
    return {
        "request_id": exchange.request_id,
        "command_id": exchange.command_id,
        **{name: value for name, value in exchange.path_ids.items() if name not in _NOT_LOGGED},
        "route": route.path,
        "method": route.method,
        "tenant_id": caller.realm.tenant_id if caller else None,
        "app_id": caller.realm.app_id if caller else None,
        "actor": caller.actor if caller else None,
    }
