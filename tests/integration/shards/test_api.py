"""One API process over two stores: callers see one Tessera, and each tenant's facts lie where they were placed."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import psycopg
import pytest

from contracts.access import ROLES
from contracts.identity import Realm
from contracts.position import Position
from infra.bootstrap.stores import create_key, router_beside, write_side
from infra.sagas.worker import SagaWorker
from infra.settings import Settings
from tests.engines import Corners
from tests.integration.http.conftest import Server, api
from tests.integration.http.test_orders import order
from tests.integration.http.test_serving import active_template
from tests.integration.shards.world import ON_0, ON_1

PLACED: dict[str, Any] = {
    "tenant_shards": {"zero": 0, "one": 1},
    "spread_tenants": {"giant": {0: "0-511", 1: "512-1023"}},
}

BUDGET = {"budget_id": "pot", "currency": "EUR", "limit_minor": 1_000}
TENANTS = ("zero", "one", "giant")
APPS = itertools.count(1)


class Callers(NamedTuple):
    """Of each tenant one, with its own key, all for one app that nobody else uses."""

    app: str
    zero: httpx.AsyncClient
    one: httpx.AsyncClient
    giant: httpx.AsyncClient


@contextmanager
def api_over_two(corners: Corners, **given: Any) -> Iterator[Server]:
    """An API whose own shard is 0."""
    with (
        corners.postgres() as zero,
        corners.postgres() as one,
        api(zero, shard_dsns={1: one}, **PLACED, **given) as running,
    ):
        yield running


def caller_of(server: Server, tenant: str, app: str = "shop") -> httpx.AsyncClient:
    """A tenant's caller. Keys are kept in the store of the process's own shard, whosever they are."""
    token = create_key(server.settings, Realm(tenant, app), role="admin", scopes=ROLES["admin"], label="test")
    return httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)


@pytest.fixture(scope="module")
def server(corners: Corners) -> Iterator[Server]:
    """An API that waits long enough for orders' sagas."""
    with api_over_two(corners, order_wait_ms=10_000) as running:
        yield running


@pytest.fixture
async def callers(server: Server) -> AsyncIterator[Callers]:
    """Of each tenant one."""
    async with AsyncExitStack() as stack:
        app = f"shop{next(APPS)}"
        clients = [await stack.enter_async_context(caller_of(server, tenant, app)) for tenant in TENANTS]
        yield Callers(app, *clients)


@contextmanager
def saga_worker(settings: Settings) -> Iterator[None]:
    """The sagas of one shard, as a process of their own would run them."""
    with write_side(settings) as side, router_beside(settings, side) as router:
        worker = SagaWorker(settings.postgres_dsn, side.log, side.engine, router=router)
        worker.start()
        try:
            yield
        finally:
            assert worker.stop()
            assert worker.halted is None


@pytest.fixture
def sagas(server: Server) -> Iterator[None]:
    """The sagas of both shards."""
    with ExitStack() as stack:
        for shard in server.settings.stores:
            stack.enter_context(saga_worker(server.settings.at_shard(shard)))
        yield


def tenants_on(settings: Settings, shard: int, app: str) -> set[str]:
    """Whose facts a store holds, of one app."""
    tenants = "SELECT DISTINCT split_part(originator_id, '/', 1) FROM stored_events WHERE originator_id LIKE %s"
    with psycopg.connect(settings.stores[shard]) as connection:
        return {tenant for (tenant,) in connection.execute(tenants, (f"%/{app}/%",)).fetchall()}


async def claimed(client: httpx.AsyncClient, template_id: str, user: str = "u1") -> dict[str, Any]:
    """A claim's whole answer."""
    response = await client.post(f"/v1/templates/{template_id}/claims", json={"user_id": user})
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


def shard_of(answer: dict[str, Any]) -> int:
    """Which shard decided."""
    return Position.parse(answer["position"]).shard


async def test_each_tenants_facts_lie_in_its_own_store_only(callers: Callers, server: Server) -> None:
    for client, shard in ((callers.zero, 0), (callers.one, 1)):
        await active_template(client, "t1")
        assert shard_of(await claimed(client, "t1")) == shard
    assert [tenants_on(server.settings, shard, callers.app) for shard in (0, 1)] == [{"zero"}, {"one"}]


async def test_one_command_id_of_two_tenants_is_two_commands(callers: Callers) -> None:
    headers = {"Idempotency-Key": "k1"}
    coupons = []
    for client in (callers.zero, callers.one):
        await active_template(client, "t1")
        claim = await client.post("/v1/templates/t1/claims", json={"user_id": "u1"}, headers=headers)
        again = await client.post("/v1/templates/t1/claims", json={"user_id": "u1"}, headers=headers)
        assert (claim.status_code, again.headers.get("idempotency-replayed")) == (201, "true")
        assert "idempotency-replayed" not in claim.headers
        coupons.append(claim.json()["data"]["coupon_id"])
    assert coupons[0] != coupons[1]


async def test_a_spread_tenants_claims_are_decided_where_their_template_lies(callers: Callers) -> None:
    for tag, shard in ((ON_0, 0), (ON_1, 1)):
        await active_template(callers.giant, f"{tag}-ten-off")
        answer = await claimed(callers.giant, f"{tag}-ten-off")
        assert shard_of(answer) == shard
        history = await callers.giant.get(f"/v1/coupons/{answer['data']['coupon_id']}/history")
        assert [entry["type"] for entry in history.json()["items"]] == ["coupon.claimed.v1"]
        assert shard_of(history.json()) == shard


async def coupons_of_both_shards(giant: httpx.AsyncClient) -> list[str]:
    """A claimed coupon on each shard, ten off each."""
    for tag in (ON_0, ON_1):
        await active_template(giant, f"{tag}-ten-off")
    return [(await claimed(giant, f"{tag}-ten-off"))["data"]["coupon_id"] for tag in (ON_0, ON_1)]


@pytest.mark.usefixtures("sagas")
@pytest.mark.parametrize("tag", [ON_0, ON_1])
async def test_an_order_with_coupons_of_both_shards_is_answered_when_both_are_held(callers: Callers, tag: str) -> None:
    coupons = await coupons_of_both_shards(callers.giant)
    placed = await callers.giant.post("/v1/orders", json=order(f"{tag}-o", *coupons))
    assert placed.status_code == 201, placed.text
    checkout = placed.json()["checkout"]
    assert (checkout["status"], checkout["discount_minor"], checkout["payable_minor"]) == ("ready", 2_000, 4_000)
    paid = {"payment_id": "p", "order_id": f"{tag}-o", "status": "succeeded", "currency": "EUR", "amount_minor": 4_000}
    payments = {"commands": [{"type": "report_payment", "data": paid}]}
    answers = (await callers.giant.post("/v1/commands", json=payments)).json()["answers"]
    assert [answer["status"] for answer in answers] == ["accepted"], answers
    for coupon_id in coupons:
        await redeemed(callers.giant, coupon_id)


async def redeemed(client: httpx.AsyncClient, coupon_id: str) -> None:
    """Wait until the coupon's shard has heard that its order was paid."""
    async with asyncio.timeout(30):
        while True:
            history = (await client.get(f"/v1/coupons/{coupon_id}/history")).json()
            if history["items"][-1]["type"] == "coupon.redeemed.v1":
                return


async def test_an_order_that_has_to_ask_another_shard_is_left_to_its_saga(corners: Corners) -> None:
    with api_over_two(corners, order_wait_ms=0) as server:
        async with caller_of(server, "giant") as giant:
            coupons = await coupons_of_both_shards(giant)
            over_both = await giant.post("/v1/orders", json=order(f"{ON_0}-both", *coupons))
            assert (over_both.status_code, over_both.headers["location"][:11]) == (202, "/v1/orders/")
            on_one = await giant.post("/v1/orders", json=order(f"{ON_1}-one", coupons[1]))
            assert (on_one.status_code, on_one.json()["checkout"]["status"]) == (201, "ready")


async def test_a_read_waits_for_the_shard_that_the_position_is_of(callers: Callers) -> None:
    for client in (callers.zero, callers.one):
        await active_template(client, "t1")
    here, there = [await claimed(client, "t1") for client in (callers.zero, callers.one)]
    path = f"/v1/coupons/{there['data']['coupon_id']}/history"
    shown = await callers.one.get(path, params={"min_position": there["position"]})
    assert (shown.status_code, shard_of(shown.json())) == (200, 1)
    other = await callers.one.get(path, params={"min_position": here["position"]})
    assert (other.status_code, shard_of(other.json())) == (200, 0)
    reached = Position.parse(there["position"])
    late = await callers.one.get(path, params={"min_position": reached._replace(offset=10_000).token()})
    assert (late.status_code, late.json()["code"]) == (503, "position_not_reached")
    assert shard_of(late.json()) == 1


@pytest.mark.parametrize(
    ("path", "position", "code", "words"),
    [
        ("/v1/coupons/c/history", Position(7, "e", 1), "position_of_unknown_shard", "this shows shard 0, 1"),
        ("/v1/coupons/c/history", Position(1, "e", 1), "position_of_another_history", "another history of the store"),
        ("/v1/coupons/c", Position(7, "e", 1), "position_of_unknown_shard", "this shows shard 0"),
    ],
)
async def test_a_position_that_no_shard_here_will_reach_is_refused_at_once(
    callers: Callers, path: str, position: Position, code: str, words: str
) -> None:
    refused = await callers.zero.get(path, params={"min_position": position.token()})
    (error,) = refused.json()["errors"]
    assert (refused.status_code, error["code"], words in error["message"]) == (422, code, True)


async def test_commands_of_one_batch_go_each_to_its_shard(callers: Callers) -> None:
    for tag in (ON_0, ON_1):
        await active_template(callers.giant, f"{tag}-ten-off")
    claims = [
        {"type": "claim_coupon", "data": {"template_id": f"{tag}-ten-off", "user_id": f"u{number}"}}
        for number, tag in enumerate((ON_0, ON_1, ON_0, ON_1))
    ]
    claims.insert(2, {"type": "report_refund", "data": {"refund_id": "r", "amount_minor": 1, "currency": "EUR"}})
    answers = (await callers.giant.post("/v1/commands", json={"commands": claims})).json()["answers"]
    assert [shard_of(answer) for answer in answers if answer.get("status") == "accepted"] == [0, 1, 0, 1]
    assert (answers[2]["status"], answers[2]["code"]) == (422, "not_placeable")


async def test_what_cannot_be_placed_is_refused_and_says_what_would_help(callers: Callers) -> None:
    coupons = await coupons_of_both_shards(callers.giant)
    asked = {key: value for key, value in order("o", *coupons).items() if key != "order_id"}
    refused = await callers.giant.post("/v1/orders/quote", json=asked)
    assert (refused.status_code, refused.json()["code"]) == (422, "not_placeable")
    assert "one shard at a time" in refused.json()["detail"]


async def test_a_distribution_is_stored_and_shown_where_its_template_lies(callers: Callers) -> None:
    for tag, shard in ((ON_0, 0), (ON_1, 1)):
        name = f"{tag}-round"
        await active_template(callers.giant, f"{tag}-ten-off")
        upload = {"template_id": f"{tag}-ten-off", "distribution_id": name, "user_ids": ["ann", "bob"]}
        started = await callers.giant.post("/v1/distributions", json=upload)
        assert (started.status_code, shard_of(started.json())) == (202, shard), started.text
        shown = (await callers.giant.get(f"/v1/distributions/{quote(name, safe='')}")).json()["data"]
        assert (shown["distribution_id"], shown["users"]) == (name, 2)
    names: list[str] = []
    cursor: str | None = None
    while cursor is not None or not names:
        params = {"limit": "1", **({"cursor": cursor} if cursor else {})}
        shown = (await callers.giant.get("/v1/distributions", params=params)).json()
        names += [item["distribution_id"] for item in shown["items"]]
        cursor = shown["next_cursor"]
    assert names == [f"{ON_0}-round", f"{ON_1}-round"]
    for other in ("7.", "x", "0.x", "."):
        page = await callers.giant.get("/v1/distributions", params={"cursor": other})
        assert (page.status_code, page.json()["code"]) == (422, "malformed_cursor")
    apart = {"template_id": f"{ON_0}-ten-off", "distribution_id": f"{ON_1}-round-2", "user_ids": ["ann"]}
    refused = await callers.giant.post("/v1/distributions", json=apart)
    assert (refused.status_code, refused.json()["code"]) == (422, "not_placeable")


async def test_codes_of_a_tenant_are_generated_and_used_on_its_shard(callers: Callers, server: Server) -> None:
    await active_template(callers.one, "t1")
    batch = await callers.one.post("/v1/code-batches", json={"template_id": "t1", "count": 3})
    assert (batch.status_code, shard_of(batch.json())) == (201, 1), batch.text
    batch_id = batch.json()["data"]["batch_id"]
    export = await callers.one.get(f"/v1/code-batches/{batch_id}/codes")
    code = export.text.split("\r\n")[1].split(",")[1]
    used = await callers.one.post("/v1/codes/use", json={"code": code, "user_id": "u1"})
    assert (used.status_code, shard_of(used.json())) == (201, 1), used.text
    assert tenants_on(server.settings, 0, callers.app) == set()
    assert [codes_keyed_on(server.settings, shard, callers.app) for shard in (0, 1)] == [[], ["one"]]


def codes_keyed_on(settings: Settings, shard: int, app: str) -> list[str]:
    """Whose codes are sealed with keys of a store, of one app."""
    with psycopg.connect(settings.stores[shard]) as connection:
        rows = connection.execute("SELECT tenant_id FROM code_keys WHERE app_id = %s", (app,)).fetchall()
    return [tenant for (tenant,) in rows]


async def test_a_spread_tenant_cannot_generate_codes(callers: Callers) -> None:
    await active_template(callers.giant, f"{ON_1}-ten-off")
    batch = await callers.giant.post("/v1/code-batches", json={"template_id": f"{ON_1}-ten-off", "count": 3})
    assert (batch.status_code, batch.json()["code"]) == (422, "not_placeable")


async def test_readiness_names_the_store_and_the_engine_of_each_shard(callers: Callers) -> None:
    ready = await callers.zero.get("/health/ready")
    assert (ready.status_code, set(ready.json()["parts"])) == (200, {"store_0", "engine_0", "store_1", "engine_1"})


async def test_metrics_tell_of_each_store(callers: Callers) -> None:
    text = (await callers.zero.get("/metrics")).text
    for shard in (0, 1):
        assert f'tessera_distribution_rows_left{{shard="{shard}"}} ' in text
    assert "tessera_metric_sources_failed 0.0" in text


async def test_a_shard_that_is_away_is_named_and_takes_nobody_with_it(corners: Corners) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    with corners.postgres() as zero, api(zero, shard_dsns={1: nowhere}, **PLACED) as server:
        async with caller_of(server, "zero") as here, caller_of(server, "one") as there:
            parts = (await here.get("/health/ready")).json()["parts"]
            assert [name for name, part in parts.items() if not part["ready"]] == ["store_1"]
            answers = [await client.post("/v1/budgets", json=BUDGET) for client in (here, there)]
            text = (await here.get("/metrics")).text
    assert [answer.status_code for answer in answers] == [201, 503]
    assert answers[1].json()["code"] == "store_unavailable"
    shown = [f'tessera_distribution_rows_left{{shard="{shard}"}}' in text for shard in (0, 1)]
    assert (shown, "tessera_metric_sources_failed 1.0" in text) == ([True, False], True)
