"""Reads: bounded waits for a position, cursors, honest absence; and what operators look at."""

import asyncio
import io
import json
import logging
from typing import Any

import httpx
import pytest

from contracts.position import Position
from infra.telemetry.logs import configure_logs
from query.ports import ReadModelUnavailable
from tests.unit.http.conftest import ACME, World
from tests.unit.http.test_bad_input import CLAIMS, problem


def token(offset: int, epoch: str = "e1") -> str:
    """A position as callers hold it."""
    return Position(0, epoch, offset).token()


async def test_an_item_says_which_position_it_shows(client: httpx.AsyncClient, world: World) -> None:
    world.models.things[ACME, "o1"] = {"order_id": "o1", "step": "locked"}
    world.models.at = Position(0, "e1", 7)
    response = await client.get("/v1/orders/o1")
    assert response.json() == {"data": {"order_id": "o1", "step": "locked"}, "position": token(7)}


async def test_a_read_waits_until_the_model_shows_what_was_written(client: httpx.AsyncClient, world: World) -> None:
    world.models.things[ACME, "c1"] = {"coupon_id": "c1"}
    reading = asyncio.create_task(client.get("/v1/coupons/c1", params={"min_position": token(5)}))
    await asyncio.sleep(0)
    world.models.at = Position(0, "e1", 5)
    response = await reading
    assert (response.status_code, response.json()["position"]) == (200, token(5))


async def test_the_wait_may_be_asked_for_by_header(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/coupons/c1", headers={"Min-Position": token(5)})
    assert response.status_code == 503


async def test_a_position_that_is_not_reached_in_time_is_retryable(client: httpx.AsyncClient, world: World) -> None:
    world.models.at = Position(0, "e1", 4)
    response = await client.get("/v1/coupons/c1", params={"min_position": token(5)})
    told = problem(response)
    assert (response.status_code, told["code"], told["retryable"]) == (503, "position_not_reached", True)
    assert (told["position"], response.headers["retry-after"]) == (token(4), "1")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("nonsense", "malformed_position"),
        (token(1) + "A", "malformed_position"),
        (token(1, "other"), "position_of_another_history"),
    ],
)
async def test_a_position_that_is_none_is_told_apart(client: httpx.AsyncClient, value: str, code: str) -> None:
    response = await client.get("/v1/coupons/c1", params={"min_position": value})
    assert (response.status_code, problem(response)["code"]) == (422, code)


async def test_a_list_is_walked_by_cursor(client: httpx.AsyncClient, world: World) -> None:
    for number in range(5):
        world.models.things[ACME, f"t{number}"] = {"template_id": f"t{number}"}
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await client.get("/v1/templates", params=params)).json()
        seen += [item["template_id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert (seen, cursor) == ([f"t{number}" for number in range(5)], None)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "out_of_range"),
        ("limit=101", "out_of_range"),
        ("limit=ten", "out_of_range"),
        ("limit=%D9%A3", "out_of_range"),
        ("cursor=x", "malformed_cursor"),
        ("kind=x", "unknown_field"),
    ],
)
async def test_a_list_is_asked_for_within_bounds(client: httpx.AsyncClient, query: str, code: str) -> None:
    response = await client.get(f"/v1/templates?{query}")
    assert (response.status_code, problem(response)["code"]) == (422, code)


async def test_reports_take_their_own_filters(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/reports/funnel?template_id=t1&from=2026-01-01")
    assert response.json()["items"] == [{"template_id": "t1", "from": "2026-01-01"}]
    assert (await client.get("/v1/reconciliation/breaks?status=open")).json()["items"] == [{"status": "open"}]


async def test_a_read_model_that_is_away_is_503_without_its_address(
    client: httpx.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise ReadModelUnavailable("the wallet is being rebuilt")

    monkeypatch.setattr(world.models, "position", away)
    world.app._reads._positions = {"models": away}  # type: ignore[dict-item]
    response = await client.get("/v1/coupons/c1")
    assert (response.status_code, problem(response)["code"]) == (503, "read_model_unavailable")


async def test_readiness_names_the_part_that_is_not_and_since_when(client: httpx.AsyncClient, world: World) -> None:
    assert (await client.get("/health/ready")).json() == {
        "status": "UP",
        "parts": {"store": {"ready": True}, "models": {"ready": True}},
    }
    world.parts_ready["models"] = False
    first = await client.get("/health/ready")
    second = await client.get("/health/ready")
    assert (first.status_code, first.json()["status"]) == (503, "DOWN")
    down = first.json()["parts"]["models"]
    assert (down["ready"], down["why"]) == (False, "ConnectionError")
    assert second.json()["parts"]["models"]["since"] == down["since"]
    assert "hidden" not in first.text
    assert (await client.get("/health/live")).json() == {"status": "UP"}
    world.parts_ready["models"] = True
    assert (await client.get("/health/ready")).status_code == 200


async def test_metrics_count_commands_refusals_batches_and_requests(client: httpx.AsyncClient) -> None:
    for user in range(4):
        await client.post(CLAIMS, json={"user_id": f"u{user}"})
    text = (await client.get("/metrics")).text
    assert 'tessera_commands_total{outcome="accepted",type="claim_coupon"} 3.0' in text
    assert 'tessera_refusals_total{code="template_exhausted",type="claim_coupon"} 1.0' in text
    assert "tessera_append_batch_commands_count 4.0" in text
    assert "tessera_append_batch_seconds_bucket" in text
    route = "/v1/templates/{template_id}/claims"
    assert f'tessera_http_requests_total{{method="POST",route="{route}",status="201"}} 3.0' in text
    assert 'tessera_http_problems_total{code="template_exhausted"} 1.0' in text


async def test_a_metric_source_that_fails_hides_no_other(client: httpx.AsyncClient, world: World) -> None:
    from infra.telemetry.metrics import Sample

    def away() -> list[Sample]:
        raise ConnectionError

    world.metrics.add_source(away)
    labels = (("shard", "0"), ("follower", "wallet"))
    world.metrics.add_source(lambda: [Sample("tessera_follower_lag_events", labels, 12)])
    text = (await client.get("/metrics")).text
    assert 'tessera_follower_lag_events{follower="wallet",shard="0"} 12.0' in text
    assert "tessera_metric_sources_failed 1.0" in text


async def test_a_request_keeps_its_id_when_it_is_harmless(client: httpx.AsyncClient) -> None:
    kept = await client.get("/health/live", headers={"X-Request-ID": "order-77"})
    assert kept.headers["x-request-id"] == "order-77"
    replaced = await client.get("/health/live", headers={"X-Request-ID": 'a" onload="'})
    assert replaced.headers["x-request-id"] != 'a" onload="'
    assert len(replaced.headers["x-request-id"]) == 32


async def test_the_openapi_document_is_served(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["paths"]["/v1/orders/quote"]["post"]["x-scope"] == "orders:write"
    assert "template_id" not in document["components"]["schemas"]["ClaimCouponBody"]["properties"]


async def test_requests_are_logged_with_their_ids_and_without_secrets(client: httpx.AsyncClient, world: World) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logs(level="DEBUG", stream=stream)
    world.app._edge._tells_all = True
    try:
        headers = {"X-Request-ID": "r1", "Idempotency-Key": "k1"}
        assert (await client.post("/v1/coupons/c1/revoke", json={"reason": "x"}, headers=headers)).status_code == 500
        await client.get("/v1/users/jane/coupons")
    finally:
        root.handlers[:], root.level = handlers, level
    lines = [line for line in map(json.loads, stream.getvalue().splitlines()) if line["logger"].startswith("infra.")]
    (failed,) = [line for line in lines if line["event"] == "request_failed"]
    told = {name: failed[name] for name in ("request_id", "command_id", "coupon_id", "tenant_id", "app_id", "actor")}
    assert told == {
        "request_id": "r1",
        "command_id": "k1",
        "coupon_id": "c1",
        "tenant_id": "acme",
        "app_id": "shop",
        "actor": "key:test",
    }
    assert "HandlerFailed" in failed["exception"]
    assert "hidden" not in stream.getvalue()
    assert [line["status"] for line in lines if line["event"] == "request_served"] == [500, 200]
    assert "jane" not in str(lines)
