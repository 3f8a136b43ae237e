"""Routes are found by path: literals before parameters, ids as they came over the wire, nothing by accident."""

import pytest
from starlette.responses import Response

from contracts.access import Door
from infra.http.dispatch import Dispatcher
from infra.http.edge import Exchange, GuardedRoute


async def _nothing(_exchange: Exchange) -> Response:
    return Response()


def route(method: str, path: str) -> GuardedRoute:
    """A route that does nothing."""
    return GuardedRoute(method, path, Door.PUBLIC, _nothing)


ROUTES = Dispatcher(
    [
        route("GET", "/v1/orders/{order_id}"),
        route("POST", "/v1/orders/quote"),
        route("POST", "/v1/orders/{order_id}/cancel"),
        route("POST", "/v1/orders"),
        route("GET", "/v1/orders"),
        route("GET", "/v1/{kind}/all/{part}"),
    ]
)


@pytest.mark.parametrize(
    ("raw_path", "methods", "ids"),
    [
        (b"/v1/orders", {"GET", "POST"}, {}),
        (b"/v1/orders/o1", {"GET"}, {"order_id": "o1"}),
        (b"/v1/orders/quote", {"POST"}, {}),
        (b"/v1/orders/quote/cancel", {"POST"}, {"order_id": "quote"}),
        (b"/v1/orders/o%2F1/cancel", {"POST"}, {"order_id": "o/1"}),
        (b"/v1/orders/%E2%82%AC", {"GET"}, {"order_id": "€"}),
        (b"/v1/orders/%ff", set(), {}),
        (b"/v1/orders/", set(), {}),
        (b"/v1/orders//cancel", set(), {}),
        (b"/v1/Orders", set(), {}),
        (b"/v1/orders/all/cancel", {"POST"}, {"order_id": "all"}),
        (b"/v1/orders/all/lines", {"GET"}, {"kind": "orders", "part": "lines"}),
        (b"/v1", set(), {}),
        (b"", set(), {}),
        (b"/" * 5_000, set(), {}),
    ],
)
def test_a_path_finds_its_routes(raw_path: bytes, methods: set[str], ids: dict[str, str]) -> None:
    found = ROUTES.find(raw_path)
    assert (set(found.routes), found.path_ids) == (methods, ids) if found else methods == set()


def test_one_place_has_one_name_for_its_parameter() -> None:
    with pytest.raises(ValueError, match="names its parameters differently"):
        Dispatcher([route("GET", "/v1/orders/{order_id}"), route("POST", "/v1/orders/{id}")])
