"""The application: routes of both sides, guarded by the edge, documented by FastAPI, run without its overhead."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from command.api import code_router, command_router
from contracts.access import Door, Scope
from infra.entry.bridge import AnswerBridge, CommandQueue
from infra.entry.first_steps import FirstStep, no_first_step
from infra.entry.problems import Problem
from infra.http.access import KeyRing
from infra.http.codes import CodeParts, HttpCodes, StoredBatches
from infra.http.commands import (
    CheckoutOutcomes,
    CommandLimits,
    HttpCommands,
    StartsDistributions,
)
from infra.http.dispatch import Dispatcher
from infra.http.dry_runs import DryRun
from infra.http.edge import Edge, Exchange, GuardedRoute
from infra.http.health import Readiness
from infra.http.hints import ClaimHints
from infra.http.openapi import document
from infra.http.reads import HttpReads, PlacedPositions, Positions, ReadLimits
from infra.http.reply import JsonReply
from infra.telemetry.metrics import CONTENT_TYPE, Metrics
from infra.telemetry.tracing import Tracing
from query.api import query_router
from query.ports import Distributions, Histories, ReadModels, Reports

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class HttpParts:
    """Everything that the application needs, made elsewhere. ``blocking`` runs what must not block the event loop."""

    queue: CommandQueue
    dry_run: DryRun
    outcomes: CheckoutOutcomes
    keys: KeyRing
    models: ReadModels
    reports: Reports
    histories: Histories
    distributions: Distributions
    start_distribution: StartsDistributions
    codes: CodeParts
    positions: Positions
    readiness: Readiness
    metrics: Metrics
    blocking: Executor
    tracing: Tracing = field(default_factory=Tracing)
    command_limits: CommandLimits = field(default_factory=CommandLimits)
    read_limits: ReadLimits = field(default_factory=ReadLimits)
    lifespan: Lifespan | None = None
    hints: ClaimHints | None = None
    first_step: FirstStep = no_first_step
    placed_positions: PlacedPositions | None = None


class Application(FastAPI):
    """FastAPI with a door of our own: nothing gets around the edge, and what is not found gets a problem."""

    def __init__(self, parts: HttpParts) -> None:
        super().__init__(lifespan=parts.lifespan, openapi_url=None, docs_url=None, redoc_url=None)
        self._commands = HttpCommands(
            AnswerBridge(parts.queue),
            parts.dry_run,
            parts.outcomes,
            parts.blocking,
            parts.command_limits,
            hints=parts.hints,
            first_step=parts.first_step,
            start_distribution=parts.start_distribution,
        )
        self.metrics = parts.metrics
        self._reads = HttpReads(parts.positions, parts.read_limits, parts.placed_positions)
        # Straight into one flat list: nothing here needs what nested routers can do.
        self.router.routes.extend(command_router(self._commands).routes)
        self.router.routes.extend(code_router(HttpCodes(parts.codes, self._commands)).routes)
        self.router.routes.extend(
            query_router(
                self._reads,
                parts.models,
                parts.reports,
                parts.histories,
                parts.distributions,
                StoredBatches(parts.codes),
            ).routes
        )
        self.router.routes.extend(_public_router(parts, self).routes)
        self._edge = Edge(parts.keys, parts.tracing, parts.metrics)
        self._dispatcher = Dispatcher(guarded_routes(self))

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = document(self)
        return self.openapi_schema

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer HTTP requests ourselves; leave the life span to FastAPI, and refuse everything else."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        method = scope["method"]
        found = self._dispatcher.find(scope.get("raw_path") or scope["path"].encode())
        if found is None:
            route, ids = _UNKNOWN_ROUTE, _NO_IDS
        else:
            # HEAD is GET without the body, which the server leaves out.
            route = found.routes.get("GET" if method == "HEAD" else method) or _not_allowed(sorted(found.routes))
            ids = found.path_ids
        await self._edge.serve(route, ids, scope, receive, send)


def create_app(parts: HttpParts) -> Application:
    """The application over these parts."""
    return Application(parts)


def guarded_routes(app: FastAPI) -> list[GuardedRoute]:
    """Every route with the scope that it states. Raises ValueError for one that states none."""
    return [
        GuardedRoute(method, route.path, stated_scope(route), route.endpoint)
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
    ]


def stated_scope(route: APIRoute) -> Scope | Door:
    """The scope that a route states. Raises ValueError."""
    stated = (route.openapi_extra or {}).get("x-scope")
    if stated in set(Door):
        return Door(stated)
    if stated in set(Scope):
        return Scope(stated)
    raise ValueError(f"{route.path} does not state its scope")


def _public_router(parts: HttpParts, app: FastAPI) -> APIRouter:
    router = APIRouter(tags=["operations"])

    async def live(_exchange: Exchange) -> Response:
        return JsonReply({"status": "UP"})

    async def ready(_exchange: Exchange) -> Response:
        is_ready, report = await parts.readiness.report()
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        body = {"status": "UP" if is_ready else "DOWN", "parts": report}
        return JsonReply(body, status)

    async def metrics(_exchange: Exchange) -> Response:
        # Some values are asked of the stores.
        text = await asyncio.get_running_loop().run_in_executor(parts.blocking, parts.metrics.exposition)
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def openapi(_exchange: Exchange) -> Response:
        return JsonReply(app.openapi())

    for path, endpoint, summary in (
        ("/health/live", live, "Does the process answer?"),
        ("/health/ready", ready, "Can it do its work; which part cannot, and since when?"),
        ("/metrics", metrics, "Prometheus metrics."),
        ("/openapi.json", openapi, "This document."),
    ):
        extra = {"x-scope": Door.PUBLIC.value}
        name = path.strip("/").replace("/", "_").removesuffix(".json")
        router.add_api_route(path, endpoint, methods=["GET"], operation_id=name, summary=summary, openapi_extra=extra)
    return router


async def _nothing_here(_exchange: Exchange) -> Response:
    raise Problem("route_unknown", "there is no such route")


_NO_IDS: Final[Mapping[str, str]] = MappingProxyType({})
_UNKNOWN_ROUTE: Final = GuardedRoute("ANY", "(unknown)", Door.PUBLIC, _nothing_here)


def _not_allowed(methods: list[str]) -> GuardedRoute:
    async def refuse(_exchange: Exchange) -> Response:
        allowed = ", ".join(methods)
        raise Problem("method_not_allowed", f"this route takes {allowed}", headers={"allow": allowed})

    return GuardedRoute("ANY", "(method not allowed)", Door.PUBLIC, refuse)
