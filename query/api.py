"""The read side's routes: a table of contents. Every answer says which position in the log it shows."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from fastapi import APIRouter

from contracts.access import Scope
from contracts.identity import Realm
from query.ports import CodeBatches, Distributions, Histories, Page, ReadModels, Reports, View

PathIds = Mapping[str, str]
Filters = Mapping[str, str]
Endpoint = Callable[[Any], Awaitable[Any]]

# Which model's position an answer shows: Redis read models, ClickHouse facts, or the log itself.
Shows = Literal["models", "facts", "log"]


@dataclass(frozen=True, slots=True)
class ItemRoute:
    """A GET of one thing; None is answered with 404 and ``unknown``."""

    name: str
    path: str
    scope: Scope
    summary: str
    read: Callable[[Realm, PathIds], Awaitable[View | None]]
    shows: Shows
    unknown: str


@dataclass(frozen=True, slots=True)
class ListRoute:
    """A GET of a page of things; ``filters`` are the query parameters that narrow it."""

    name: str
    path: str
    scope: Scope
    summary: str
    read: Callable[[Realm, PathIds, Filters, str | None, int], Awaitable[Page]]
    shows: Shows
    filters: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class FileRoute:
    """A GET of a CSV file, sent in pieces; None is answered with 404 and ``unknown``."""

    name: str
    path: str
    scope: Scope
    summary: str
    read: Callable[[Realm, PathIds], Awaitable[AsyncIterator[bytes] | None]]
    unknown: str


class ReadEndpoints(Protocol):
    """What the edge supplies: endpoints that wait for ``min_position``, read and answer."""

    def item(self, route: ItemRoute) -> Endpoint:
        """One thing, or 404."""
        ...

    def list(self, route: ListRoute) -> Endpoint:
        """A page of things."""
        ...

    def file(self, route: FileRoute) -> Endpoint:
        """A file, or 404."""
        ...


REPORT_FILTERS: Final = frozenset({"template_id", "campaign_id", "currency", "from", "until"})
BREAK_FILTERS: Final = frozenset({"kind", "status"})


def item_routes(
    models: ReadModels, reports: Reports, distributions: Distributions, batches: CodeBatches
) -> tuple[ItemRoute, ...]:
    """Reads of one thing."""
    return (
        ItemRoute(
            "get_template",
            "/v1/templates/{template_id}",
            Scope.TEMPLATES_READ,
            "Terms, status and availability of a template.",
            lambda realm, ids: models.template(realm, ids["template_id"]),
            "models",
            "unknown_template",
        ),
        ItemRoute(
            "get_coupon",
            "/v1/coupons/{coupon_id}",
            Scope.COUPONS_READ,
            "One coupon.",
            lambda realm, ids: models.coupon(realm, ids["coupon_id"]),
            "models",
            "unknown_coupon",
        ),
        ItemRoute(
            "get_order",
            "/v1/orders/{order_id}",
            Scope.ORDERS_READ,
            "One order: what was told, what is held, where its saga stands and why.",
            lambda realm, ids: models.order(realm, ids["order_id"]),
            "models",
            "unknown_order",
        ),
        ItemRoute(
            "get_budget",
            "/v1/budgets/{budget_id}",
            Scope.BUDGETS_READ,
            "One budget: limit, reserved, committed, credited, available.",
            lambda realm, ids: models.budget(realm, ids["budget_id"]),
            "models",
            "unknown_budget",
        ),
        ItemRoute(
            "get_break",
            "/v1/reconciliation/breaks/{break_id}",
            Scope.RECONCILIATION_READ,
            "One break with the events behind it.",
            lambda realm, ids: reports.a_break(realm, ids["break_id"]),
            "facts",
            "unknown_break",
        ),
        ItemRoute(
            "get_distribution",
            "/v1/distributions/{distribution_id}",
            Scope.COUPONS_READ,
            "One distribution: its status, and how many rows are decided, issued and refused.",
            lambda realm, ids: distributions.one(realm, ids["distribution_id"]),
            "log",
            "unknown_distribution",
        ),
        ItemRoute(
            "get_code_batch",
            "/v1/code-batches/{batch_id}",
            Scope.CODES_READ,
            "How many codes of a batch are assigned, used and void.",
            lambda realm, ids: batches.one(realm, ids["batch_id"]),
            "log",
            "unknown_code_batch",
        ),
    )


def file_routes(distributions: Distributions) -> tuple[FileRoute, ...]:
    """Files to keep."""
    return (
        FileRoute(
            "get_distribution_refusals",
            "/v1/distributions/{distribution_id}/refusals",
            Scope.COUPONS_DISTRIBUTE,
            "The rows that got no coupon: row, user_id, code, detail. As it grows; in the order of the list.",
            lambda realm, ids: distributions.refusals(realm, ids["distribution_id"]),
            "unknown_distribution",
        ),
    )


def list_routes(
    models: ReadModels, reports: Reports, histories: Histories, distributions: Distributions, batches: CodeBatches
) -> tuple[ListRoute, ...]:
    """Reads of many things, by cursor."""
    return (
        ListRoute(
            "list_templates",
            "/v1/templates",
            Scope.TEMPLATES_READ,
            "All templates.",
            lambda realm, _ids, _filters, cursor, limit: models.templates(realm, cursor=cursor, limit=limit),
            "models",
        ),
        ListRoute(
            "list_user_coupons",
            "/v1/users/{user_id}/coupons",
            Scope.COUPONS_READ,
            "A user's coupons, latest claim first.",
            lambda realm, ids, _filters, cursor, limit: models.user_coupons(
                realm, ids["user_id"], cursor=cursor, limit=limit
            ),
            "models",
        ),
        ListRoute(
            "list_coupon_history",
            "/v1/coupons/{coupon_id}/history",
            Scope.COUPONS_READ,
            "What was recorded of a coupon, in order.",
            lambda realm, ids, _filters, cursor, limit: histories.coupon(
                realm, ids["coupon_id"], cursor=cursor, limit=limit
            ),
            "log",
        ),
        ListRoute(
            "report_funnel",
            "/v1/reports/funnel",
            Scope.REPORTS_READ,
            "Claims, locks, redemptions, returns and refusals per template.",
            lambda realm, _ids, filters, cursor, limit: reports.funnel(realm, filters, cursor=cursor, limit=limit),
            "facts",
            REPORT_FILTERS,
        ),
        ListRoute(
            "report_spend",
            "/v1/reports/spend",
            Scope.REPORTS_READ,
            "Discounts given and taken back per campaign, template and currency.",
            lambda realm, _ids, filters, cursor, limit: reports.spend(realm, filters, cursor=cursor, limit=limit),
            "facts",
            REPORT_FILTERS,
        ),
        ListRoute(
            "list_breaks",
            "/v1/reconciliation/breaks",
            Scope.RECONCILIATION_READ,
            "Breaks between the ledgers, oldest first.",
            lambda realm, _ids, filters, cursor, limit: reports.breaks(realm, filters, cursor=cursor, limit=limit),
            "facts",
            BREAK_FILTERS,
        ),
        ListRoute(
            "list_distributions",
            "/v1/distributions",
            Scope.COUPONS_READ,
            "All distributions, the latest first.",
            lambda realm, _ids, _filters, cursor, limit: distributions.page(realm, cursor=cursor, limit=limit),
            "log",
        ),
        ListRoute(
            "list_code_batches",
            "/v1/code-batches",
            Scope.CODES_READ,
            "All batches of codes, of the latest key first.",
            lambda realm, _ids, _filters, cursor, limit: batches.page(realm, cursor=cursor, limit=limit),
            "log",
        ),
    )


def query_router(
    endpoints: ReadEndpoints,
    models: ReadModels,
    reports: Reports,
    histories: Histories,
    distributions: Distributions,
    batches: CodeBatches,
) -> APIRouter:
    """All routes that only read. Each states its scope where the edge and OpenAPI find it."""
    router = APIRouter(tags=["queries"])

    def add(route: ItemRoute | ListRoute, endpoint: Endpoint, **stated: Any) -> None:
        router.add_api_route(
            route.path,
            endpoint,
            methods=["GET"],
            operation_id=route.name,
            summary=route.summary,
            openapi_extra={"x-scope": route.scope.value, "x-shows": route.shows, **stated},
        )

    for item in item_routes(models, reports, distributions, batches):
        add(item, endpoints.item(item))
    for page in list_routes(models, reports, histories, distributions, batches):
        add(page, endpoints.list(page), **{"x-filters": sorted(page.filters)})
    for file in file_routes(distributions):
        router.add_api_route(
            file.path,
            endpoints.file(file),
            methods=["GET"],
            operation_id=file.name,
            summary=file.summary,
            openapi_extra={"x-scope": file.scope.value, "x-file": True},
        )
    return router
