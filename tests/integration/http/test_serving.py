"""Commands over a real server and a real PostgreSQL: stored once, answered after the commit, closed to strangers."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from contracts.access import ROLES
from contracts.identity import Realm
from infra.bootstrap.stores import create_key
from infra.postgres import api_keys
from infra.postgres.connections import transaction
from tests.integration.http.conftest import Server, api

TERMS: dict[str, Any] = {
    "name": "Ten off",
    "campaign_id": "spring",
    "currency": "EUR",
    "discount": {"kind": "amount_off", "amount_minor": 1_000},
    "claim_from": (datetime.now(UTC) - timedelta(days=1)).isoformat(),
    "claim_until": (datetime.now(UTC) + timedelta(days=30)).isoformat(),
    "validity": {"kind": "after_claim", "duration_seconds": 86_400},
}


async def active_template(client: httpx.AsyncClient, template_id: str, **terms: Any) -> None:
    """Create a template and let it be claimed from."""
    created = await client.post("/v1/templates", json={"template_id": template_id, "terms": {**TERMS, **terms}})
    assert created.status_code == 201, created.text
    activated = await client.post(f"/v1/templates/{template_id}/activate")
    assert activated.status_code == 200, activated.text


def counted(dsn: str, query: str) -> int:
    """One number by plain SQL."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


async def test_a_rush_gives_out_exactly_the_stock_and_answers_everybody(
    client: httpx.AsyncClient, server: Server
) -> None:
    await active_template(client, "rush", stock=50, claims_per_user_max=1)
    gate = asyncio.Semaphore(64)

    async def claim(user: int) -> tuple[int, str]:
        async with gate:
            response = await client.post("/v1/templates/rush/claims", json={"user_id": f"u{user}"})
        return response.status_code, response.json().get("code", "ok")

    outcomes = Counter(await asyncio.gather(*(claim(user % 250) for user in range(300))))
    assert outcomes[201, "ok"] == 50
    assert set(outcomes) <= {(201, "ok"), (409, "template_exhausted"), (409, "user_limit_reached")}
    assert outcomes.total() == 300
    dsn = server.settings.postgres_dsn
    assert counted(dsn, "SELECT count(*) FROM stored_events WHERE topic = 'coupon.claimed.v1'") == 50
    assert counted(dsn, "SELECT count(*) FROM command_log WHERE command_type = 'claim_coupon'") == 300


async def test_an_answer_survives_the_process_that_gave_it(postgres_dsn: str) -> None:
    headers = {"Idempotency-Key": "k1"}
    with api(postgres_dsn) as first:
        async with httpx.AsyncClient(base_url=first.url, headers=first.headers) as client:
            await active_template(client, "t1")
            before = await client.post("/v1/templates/t1/claims", json={"user_id": "u1"}, headers=headers)
    with api(postgres_dsn) as second:
        async with httpx.AsyncClient(base_url=second.url, headers=first.headers) as client:
            after = await client.post("/v1/templates/t1/claims", json={"user_id": "u1"}, headers=headers)
    assert (before.status_code, after.status_code) == (201, 201)
    assert after.json() == before.json()
    assert after.headers["idempotency-replayed"] == "true"


async def test_two_processes_race_for_one_stock_and_give_out_no_more(postgres_dsn: str) -> None:
    with api(postgres_dsn) as one, api(postgres_dsn) as other:
        async with (
            httpx.AsyncClient(base_url=one.url, headers=one.headers, timeout=30) as left,
            httpx.AsyncClient(base_url=other.url, headers=other.headers, timeout=30) as right,
        ):
            await active_template(left, "t1", stock=20)
            claims = [
                client.post("/v1/templates/t1/claims", json={"user_id": f"u{user}"})
                for user in range(30)
                for client in (left, right)
            ]
            statuses = Counter(response.status_code for response in await asyncio.gather(*claims))
    assert statuses == {201: 20, 409: 40}


async def test_a_coupons_history_says_what_happened_and_who_did_it(client: httpx.AsyncClient) -> None:
    await active_template(client, "t1")
    claimed = (await client.post("/v1/templates/t1/claims", json={"user_id": "u1"})).json()
    coupon_id = claimed["data"]["coupon_id"]
    locked = await client.post(f"/v1/coupons/{coupon_id}/lock", json={"order_id": "o1", "discount_minor": 5})
    assert locked.status_code == 200, locked.text
    first = (await client.get(f"/v1/coupons/{coupon_id}/history", params={"limit": 1})).json()
    second = (await client.get(f"/v1/coupons/{coupon_id}/history", params={"cursor": first["next_cursor"]})).json()
    events = first["items"] + second["items"]
    assert [(event["type"], event["version"]) for event in events] == [
        ("coupon.claimed.v1", 1),
        ("coupon.locked.v1", 2),
    ]
    assert events[0]["actor"].startswith("key:")
    assert events[0]["command_id"] == claimed["command_id"]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/coupons/%00/history", 200), (f"/v1/coupons/c1/history?cursor={'9' * 5_000}", 422)]
)
async def test_a_history_that_cannot_be_is_no_failure(client: httpx.AsyncClient, path: str, status: int) -> None:
    response = await client.get(path)
    assert response.status_code == status
    assert response.json().get("items", []) == []


async def test_another_tenants_coupon_is_as_unknown_as_no_coupon(client: httpx.AsyncClient, server: Server) -> None:
    await active_template(client, "t1")
    coupon_id = (await client.post("/v1/templates/t1/claims", json={"user_id": "u1"})).json()["data"]["coupon_id"]
    token = create_key(server.settings, Realm("globex", "shop"), role="admin", scopes=ROLES["admin"], label="other")
    foreign = {"Authorization": f"Bearer {token}"}
    answers = [
        await client.post(f"/v1/coupons/{each}/lock", json={"order_id": "o1"}, headers=foreign)
        for each in (coupon_id, "no-such-coupon")
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "unknown_coupon")] * 2
    stored = "SELECT count(*) FROM stored_events WHERE originator_id LIKE 'globex/%' AND topic LIKE 'coupon.%'"
    assert counted(server.settings.postgres_dsn, stored) == 0


async def test_a_revoked_key_is_refused(client: httpx.AsyncClient, server: Server) -> None:
    token = create_key(server.settings, Realm("acme", "shop"), role="analyst", scopes=ROLES["analyst"], label="short")
    with transaction(server.settings.postgres_dsn, name="test") as cursor:
        assert api_keys.revoke(cursor, token.split("_")[1])
    response = await client.get("/v1/coupons/c1/history", headers={"Authorization": f"Bearer {token}"})
    assert (response.status_code, response.json()["code"]) == (401, "key_revoked")


async def test_a_quote_and_a_dry_run_leave_no_trace(client: httpx.AsyncClient, server: Server) -> None:
    await active_template(client, "t1", stock=1)
    coupon_id = (await client.post("/v1/templates/t1/claims", json={"user_id": "u1"})).json()["data"]["coupon_id"]
    before = counted(server.settings.postgres_dsn, "SELECT count(*) FROM stored_events")
    quote = await client.post(
        "/v1/orders/quote",
        json={
            "user_id": "u1",
            "currency": "EUR",
            "coupon_ids": [coupon_id],
            "lines": [
                {"line_id": "a", "sku": "tea", "unit_price_minor": 5_000},
                {"line_id": "b", "sku": "cup", "unit_price_minor": 1_000},
            ],
        },
    )
    assert quote.status_code == 200, quote.text
    assert quote.json()["data"]["discount_minor"] == 1_000
    dry = await client.post("/v1/templates/t1/claims?dry_run=true", json={"user_id": "u2"})
    assert (dry.status_code, dry.json()["code"]) == (409, "template_exhausted")
    past = await client.post(
        "/v1/templates/t1/claims", params={"dry_run": "true", "at": "2020-01-01T00:00:00Z"}, json={"user_id": "u2"}
    )
    assert past.status_code == 404  # There was no such template then.
    with psycopg.connect(server.settings.postgres_dsn) as connection:  # As when the server was restarted since.
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'tessera glance'"
        ).fetchall()
    assert (True,) in ended
    again = await client.post("/v1/templates/t1/claims?dry_run=true", json={"user_id": "u2"})
    assert (again.status_code, again.json()["code"]) == (409, "template_exhausted")
    assert counted(server.settings.postgres_dsn, "SELECT count(*) FROM stored_events") == before


async def test_the_service_says_that_it_is_ready(client: httpx.AsyncClient) -> None:
    response = await client.get("/health/ready")
    assert response.json() == {"status": "UP", "parts": {"store": {"ready": True}, "engine": {"ready": True}}}
    assert "tessera_engine_queue_commands 0.0" in (await client.get("/metrics")).text
