"""The write side's routes: a table of contents. How a request becomes a command is the edge's business."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from fastapi import APIRouter

from contracts import commands as c
from contracts.access import Door, Scope
from contracts.commands import Command

BATCH_COMMANDS_MAX: Final = 1_000

Endpoint = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class CommandRoute:
    """A POST that is one command. Path parameters are named like the command's fields that they fill."""

    path: str
    command: type[Command]
    scope: Scope
    creates: bool = False  # Answered with 201.
    awaits_checkout: bool = False  # Answered with the checkout's outcome, if it comes soon enough.


T, B, D = "/v1/templates", "/v1/budgets", "/v1/distributions"
_TEMPLATES, _USE, _ORDERS = Scope.TEMPLATES_WRITE, Scope.COUPONS_USE, Scope.ORDERS_WRITE

COMMAND_ROUTES: Final = (
    CommandRoute(f"{T}/{{template_id}}/claims", c.ClaimCoupon, Scope.COUPONS_CLAIM, creates=True),
    CommandRoute(T, c.CreateTemplate, _TEMPLATES, creates=True),
    CommandRoute(f"{T}/{{template_id}}/activate", c.ActivateTemplate, _TEMPLATES),
    CommandRoute(f"{T}/{{template_id}}/pause", c.PauseTemplate, _TEMPLATES),
    CommandRoute(f"{T}/{{template_id}}/resume", c.ResumeTemplate, _TEMPLATES),
    CommandRoute(f"{T}/{{template_id}}/increase-stock", c.IncreaseTemplateStock, _TEMPLATES),
    CommandRoute(f"{T}/{{template_id}}/shorten", c.ShortenTemplate, _TEMPLATES),
    CommandRoute(f"{T}/{{template_id}}/revise", c.ReviseTemplate, _TEMPLATES),
    CommandRoute(f"{T}/{{template_id}}/reserve", c.ReserveTemplateStock, _TEMPLATES),
    CommandRoute(f"{T}/{{template_id}}/confirm", c.ConfirmTemplateReservation, _TEMPLATES),
    CommandRoute(f"{T}/{{template_id}}/cancel", c.CancelTemplateReservation, _TEMPLATES),
    CommandRoute(f"{T}/{{template_id}}/terminate", c.TerminateTemplate, _TEMPLATES),
    CommandRoute("/v1/coupons/{coupon_id}/lock", c.LockCoupon, _USE),
    CommandRoute("/v1/coupons/{coupon_id}/redeem", c.RedeemCoupon, _USE),
    CommandRoute("/v1/coupons/{coupon_id}/release", c.ReleaseCoupon, _USE),
    CommandRoute("/v1/coupons/{coupon_id}/revoke", c.RevokeCoupon, Scope.COUPONS_REVOKE),
    CommandRoute("/v1/orders", c.PlaceOrder, _ORDERS, creates=True, awaits_checkout=True),
    CommandRoute("/v1/orders/{order_id}/cancel", c.CancelOrder, _ORDERS),
    CommandRoute("/v1/orders/{order_id}/reopen", c.ReopenOrder, _ORDERS, awaits_checkout=True),
    CommandRoute("/v1/payments", c.ReportPayment, _ORDERS, creates=True),
    CommandRoute("/v1/refunds", c.ReportRefund, _ORDERS, creates=True),
    CommandRoute("/v1/adjustments", c.ReportAdjustment, _ORDERS, creates=True),
    CommandRoute(B, c.CreateBudget, Scope.BUDGETS_WRITE, creates=True),
    CommandRoute(f"{B}/{{budget_id}}/top-up", c.TopUpBudget, Scope.BUDGETS_WRITE),
    CommandRoute(f"{B}/{{budget_id}}/share", c.ShareBudget, Scope.BUDGETS_WRITE),
    CommandRoute(f"{B}/{{budget_id}}/unshare", c.UnshareBudget, Scope.BUDGETS_WRITE),
    CommandRoute(f"{D}/{{distribution_id}}/pause", c.PauseDistribution, Scope.COUPONS_DISTRIBUTE),
    CommandRoute(f"{D}/{{distribution_id}}/resume", c.ResumeDistribution, Scope.COUPONS_DISTRIBUTE),
    CommandRoute(f"{D}/{{distribution_id}}/cancel", c.CancelDistribution, Scope.COUPONS_DISTRIBUTE),
    CommandRoute("/v1/clock", c.AdvanceClock, Scope.CLOCK_ADVANCE),
)

# Commands without a route of their own may come in a batch; sagas, timers and reconciliation send them otherwise.
_BATCH_ONLY: Final[dict[type[Command], Scope]] = {
    c.NoteOrder: Scope.ORDERS_WRITE,
    c.QuoteOrder: Scope.ORDERS_WRITE,
    c.OpenBreak: Scope.RECONCILIATION_WRITE,
    c.CloseBreak: Scope.RECONCILIATION_WRITE,
    c.SetRowsAside: Scope.RECONCILIATION_WRITE,
    c.GenerateCodes: Scope.PROCESSES_WRITE,  # With whichever key; the edge's own route takes the present one.
    c.AssignCodes: Scope.PROCESSES_WRITE,
    c.UseCode: Scope.PROCESSES_WRITE,  # Without the code's text: only the edge, who opened it, may say so.
    c.VoidCode: Scope.PROCESSES_WRITE,
    c.VoidCodes: Scope.PROCESSES_WRITE,
    c.IssueDistributionChunk: Scope.PROCESSES_WRITE,
    c.OpenTemplate: Scope.PROCESSES_WRITE,
    c.CloseTemplate: Scope.PROCESSES_WRITE,
    c.ExpireCoupon: Scope.PROCESSES_WRITE,
    c.EndCouponLock: Scope.PROCESSES_WRITE,
    c.GrantBudgetLease: Scope.PROCESSES_WRITE,
    c.SettleBudgetLease: Scope.PROCESSES_WRITE,
    c.OpenBudgetLease: Scope.PROCESSES_WRITE,
    c.CloseBudgetLease: Scope.PROCESSES_WRITE,
    c.HoldForOrder: Scope.PROCESSES_WRITE,
    c.RedeemForOrder: Scope.PROCESSES_WRITE,
    c.ReleaseForOrder: Scope.PROCESSES_WRITE,
    c.EndOrderLock: Scope.PROCESSES_WRITE,
    c.RefundForOrder: Scope.PROCESSES_WRITE,
    c.LendCoupons: Scope.PROCESSES_WRITE,
    c.AnswerLoan: Scope.PROCESSES_WRITE,
    c.TellLender: Scope.PROCESSES_WRITE,
}

# More than their command: without what else the route takes, nobody could carry them out.
ROUTE_ONLY: Final[Mapping[type[Command], str]] = MappingProxyType({c.StartDistribution: D})

SCOPE_OF_COMMAND: Final[Mapping[type[Command], Scope]] = MappingProxyType(
    {route.command: route.scope for route in COMMAND_ROUTES}
    | _BATCH_ONLY
    | {c.StartDistribution: Scope.COUPONS_DISTRIBUTE}
)


class CommandEndpoints(Protocol):
    """What the edge supplies: endpoints that parse, authorize, send and answer."""

    def command(self, route: CommandRoute) -> Endpoint:
        """One command per request."""
        ...

    async def batch(self, request: Any) -> Any:
        """Up to BATCH_COMMANDS_MAX commands, answered one by one; each needs its own scope."""
        ...

    async def quote(self, request: Any) -> Any:
        """What placing this order would give; nothing is stored."""
        ...

    async def start_distribution(self, request: Any) -> Any:
        """A list of users, to be given one template each in the background."""
        ...

    async def upstream_event(self, request: Any) -> Any:
        """An order or payment service's own event, translated."""
        ...


def command_router(endpoints: CommandEndpoints) -> APIRouter:
    """All routes that change something, and the quote. Each states its scope where the edge and OpenAPI find it."""
    router = APIRouter(tags=["commands"])

    def add(name: str, path: str, endpoint: Endpoint, scope: Scope | Door, summary: str, **stated: Any) -> None:
        router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            operation_id=name,
            summary=summary,
            openapi_extra={"x-scope": scope.value, **stated},
        )

    for route in COMMAND_ROUTES:
        name, summary = route.command.type, summary_of(route.command)
        add(name, route.path, endpoints.command(route), route.scope, summary, **_stated(route))
    quote = c.QuoteOrder
    add(quote.type, "/v1/orders/quote", endpoints.quote, _ORDERS, summary_of(quote), **{"x-command": quote.type})
    batch = "Up to 1,000 commands in one request, answered one by one."
    add("send_commands", "/v1/commands", endpoints.batch, Door.ANY_KEY, batch, **{"x-body": "CommandBatch"})
    stated = {"x-body": "DistributionRequest", "x-list": True}
    start, summary = c.StartDistribution, "Give one template to a list of users."
    add(start.type, ROUTE_ONLY[start], endpoints.start_distribution, SCOPE_OF_COMMAND[start], summary, **stated)
    upstream, body = "Report an event under the upstream's own name.", {"x-body": "UpstreamEvent"}
    add("report_upstream_event", "/v1/upstream-events", endpoints.upstream_event, _ORDERS, upstream, **body)
    return router


class CodeEndpoints(Protocol):
    """What the edge supplies for codes: only there is a code's text opened or written."""

    async def generate(self, request: Any) -> Any:
        """A batch of codes."""
        ...

    async def export(self, request: Any) -> Any:
        """Every code of a batch, as a stream."""
        ...

    async def assign(self, request: Any) -> Any:
        """Codes for a list of users."""
        ...

    async def use(self, request: Any) -> Any:
        """Claim a code's coupon."""
        ...

    async def void(self, request: Any) -> Any:
        """One code, a range, or the whole batch."""
        ...


def code_router(endpoints: CodeEndpoints) -> APIRouter:
    """All routes of codes. No code is ever part of an address."""
    router = APIRouter(tags=["codes"])
    batch = "/v1/code-batches/{batch_id}"
    for command, path, endpoint, scope, stated in (
        (c.GenerateCodes, "/v1/code-batches", endpoints.generate, Scope.CODES_WRITE, {"x-body": "BatchToGenerate"}),
        (c.AssignCodes, "/v1/codes/assign", endpoints.assign, Scope.CODES_WRITE, {"x-body": "AssignCodes"}),
        (c.UseCode, "/v1/codes/use", endpoints.use, Scope.CODES_USE, {"x-body": "CodeToUse"}),
        (c.VoidCodes, f"{batch}/void", endpoints.void, Scope.CODES_WRITE, {"x-body": "CodesToVoid"}),
    ):
        extra: dict[str, Any] = {"x-scope": scope.value, "x-keyed": True, **stated}
        name, summary = command.type, summary_of(command)
        router.add_api_route(path, endpoint, methods=["POST"], operation_id=name, summary=summary, openapi_extra=extra)
    file = {"x-scope": Scope.CODES_EXPORT.value, "x-file": True, "x-formats": ["csv", "ndjson"]}
    summary = "Every code of a batch: index and code, the same every time."
    router.add_api_route(
        f"{batch}/codes",
        endpoints.export,
        methods=["GET"],
        operation_id="export_codes",
        summary=summary,
        openapi_extra=file,
    )
    return router


def summary_of(command: type[Command]) -> str:
    """The first line of what a command says about itself."""
    return (command.__doc__ or command.type).strip().splitlines()[0]


def _stated(route: CommandRoute) -> dict[str, Any]:
    return {
        "x-command": route.command.type,
        "x-creates": route.creates,
        "x-awaits-checkout": route.awaits_checkout,
    }
