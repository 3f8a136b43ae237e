"""Codes over HTTP: told once, used once, and nobody learns from an answer whether a code ever existed."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from command.handlers import HANDLERS
from contracts.access import ROLES
from contracts.position import Position
from infra.codes.sealer import Sealer
from tests.fakes import InMemoryEventLog
from tests.unit.http.conftest import ACME, Key, World, caller, code_secrets, edge, key_header
from tests.unit.http.test_bad_input import problem

NOW = datetime.now(UTC)
TERMS: dict[str, Any] = {
    "name": "Ten off",
    "campaign_id": "spring",
    "currency": "EUR",
    "discount": {"kind": "amount_off", "amount_minor": 1_000},
    "claim_from": (NOW - timedelta(days=1)).isoformat(),
    "claim_until": (NOW + timedelta(days=30)).isoformat(),
    "validity": {"kind": "after_claim", "duration_seconds": 86_400},
}


@pytest.fixture
def world() -> Iterator[World]:
    """An edge with production's handlers."""
    with edge(InMemoryEventLog(), HANDLERS) as made:
        yield made


@pytest.fixture
async def batch(client: httpx.AsyncClient) -> str:
    """A batch of 30,000 codes."""
    return await generated(client)


async def generated(client: httpx.AsyncClient, count: int = 30_000, **more: Any) -> str:
    await client.post("/v1/templates", json={"template_id": "t1", "terms": TERMS})
    await client.post("/v1/templates/t1/activate")
    response = await client.post("/v1/code-batches", json={"template_id": "t1", "count": count, **more})
    assert response.status_code == 201, response.text
    batch_id: str = response.json()["data"]["batch_id"]
    return batch_id


async def exported(client: httpx.AsyncClient, batch_id: str) -> list[str]:
    text = (await client.get(f"/v1/code-batches/{batch_id}/codes")).text
    head, *rows = text.splitlines()
    assert head == "index,code"
    assert [int(row.split(",")[0]) for row in rows] == list(range(len(rows)))
    return [row.split(",")[1] for row in rows]


async def used(client: httpx.AsyncClient, code: str, user: str = "ann", **headers: str) -> httpx.Response:
    return await client.post("/v1/codes/use", json={"code": code, "user_id": user}, headers=headers)


async def test_a_batch_is_exported_whole_and_the_same_every_time(client: httpx.AsyncClient, batch: str) -> None:
    codes = await exported(client, batch)
    assert len(set(codes)) == 30_000
    assert await exported(client, batch) == codes
    lines = (await client.get(f"/v1/code-batches/{batch}/codes?format=ndjson")).text.splitlines()
    assert lines[7] == f'{{"index":7,"code":"{codes[7]}"}}'
    assert len(lines) == 30_000


async def test_a_code_claims_its_coupon_and_only_once(client: httpx.AsyncClient, batch: str) -> None:
    codes = await exported(client, batch)
    first = await used(client, codes[12_345].lower().replace("-", " "), **{"Idempotency-Key": "k1"})
    assert first.status_code == 201
    coupon_id = first.json()["data"]["coupon_id"]
    replay = await used(client, codes[12_345], **{"Idempotency-Key": "k1"})
    assert (replay.status_code, replay.json()) == (201, first.json())
    again = await used(client, codes[12_345])
    assert (again.status_code, problem(again)["code"]) == (409, "code_used")
    assert problem(again)["data"] == {"coupon_id": coupon_id}
    assert problem(await used(client, codes[12_345], "bob"))["data"] == {}
    shown = (await client.get(f"/v1/code-batches/{batch}")).json()["data"]
    assert (shown["generated"], shown["assigned"], shown["used"], shown["voided"]) == (30_000, 0, 1, 0)


async def test_of_fifty_users_with_one_code_one_gets_the_coupon(
    client: httpx.AsyncClient, world: World, batch: str
) -> None:
    code = (await exported(client, batch))[0]
    answers = await asyncio.gather(*(used(client, code, f"u{nth}") for nth in range(50)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 49
    claimed = [event for event in world.log._state.events if event.event.type == "coupon.claimed.v1"]
    assert len(claimed) == 1


async def test_every_code_that_is_not_alive_gets_the_same_answer(client: httpx.AsyncClient, world: World) -> None:
    batch = await generated(client, 100)
    codes = await exported(client, batch)
    over = await generated(client, 5, valid_until=(NOW + timedelta(hours=1)).isoformat())
    expired = (await exported(client, over))[0]
    async with caller(world, "globex") as globex:
        foreign = (await exported(globex, await generated(globex, 5)))[0]
    voided = {"code": codes[1], "reason": "lost"}
    assert (await client.post(f"/v1/code-batches/{batch}/void", json=voided)).status_code == 200
    some = {"first_index": 2, "last_index": 3, "reason": "lost"}
    assert (await client.post(f"/v1/code-batches/{batch}/void", json=some)).status_code == 200
    beyond = Sealer.of(ACME, "k1", code_secrets(ACME)["k1"]).seal(1, 100)
    world.log._clock = lambda: NOW + timedelta(hours=1)
    wrong = codes[0][:-1] + ("0" if codes[0][-1] != "0" else "1")
    tried = [wrong, "no code", "0" * 17, foreign, expired, codes[1], codes[3], beyond]
    answers = [
        await used(client, code, **{"Idempotency-Key": "same", "X-Request-ID": f"r{nth}"})
        if nth < 4
        else await used(client, code, **{"X-Request-ID": f"r{nth}"})
        for nth, code in enumerate(tried)
    ]
    bodies = {answer.content.replace(f'"r{nth}"'.encode(), b'""') for nth, answer in enumerate(answers)}
    assert len(bodies) == 1, bodies
    headers = [{name for name in answer.headers if name != "x-request-id"} for answer in answers]
    assert all(each == headers[0] for each in headers)
    assert {answer.status_code for answer in answers} == {404}
    assert problem(answers[0])["code"] == "unknown_code"
    text = (world.metrics.exposition()).decode()
    assert 'tessera_codes_refused_total{reason="unopened"} 4.0' in text
    assert 'tessera_codes_refused_total{reason="unknown_code"} 4.0' in text


async def test_what_does_not_open_never_reaches_the_store(client: httpx.AsyncClient, world: World) -> None:
    before = world.stored_answers
    await used(client, "7KQ4-M2XP-9HTR-W3VNC")
    await used(client, "rubbish")
    assert world.stored_answers == before


async def test_another_tenant_cannot_use_see_or_void_a_batch(client: httpx.AsyncClient, world: World) -> None:
    batch = await generated(client, 10)
    code = (await exported(client, batch))[0]
    async with caller(world, "globex") as globex:
        assert (await used(globex, code)).status_code == 404
        assert (await globex.get(f"/v1/code-batches/{batch}")).status_code == 404
        assert (await globex.get(f"/v1/code-batches/{batch}/codes")).status_code == 404
        all_of_it = {"all": True, "reason": "mine"}
        assert (await globex.post(f"/v1/code-batches/{batch}/void", json=all_of_it)).status_code == 404
    assert (await used(client, code)).status_code == 201


async def test_assigned_codes_are_told_in_the_answer_and_again_in_its_replay(client: httpx.AsyncClient) -> None:
    batch = await generated(client, 10)
    codes = await exported(client, batch)
    body, key = {"batch_id": batch, "user_ids": ["ann", "bob"]}, {"Idempotency-Key": "give"}
    told = await client.post("/v1/codes/assign", json=body, headers=key)
    expected = [{"user_id": user, "index": nth, "code": codes[nth]} for nth, user in enumerate(("ann", "bob"))]
    assert told.json()["codes"] == expected
    assert (await client.post("/v1/codes/assign", json=body, headers=key)).json() == told.json()
    stolen = await used(client, codes[0], "bob")
    assert (stolen.status_code, problem(stolen)["code"]) == (409, "not_owner")
    assert (await used(client, codes[0], "ann")).status_code == 201


async def test_the_text_of_a_code_is_in_no_event_answer_or_log(
    client: httpx.AsyncClient, world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = await generated(client, 10)
    codes = await exported(client, batch)
    await client.post("/v1/codes/assign", json={"batch_id": batch, "user_ids": ["ann"]})
    await used(client, codes[5])
    await client.post(f"/v1/code-batches/{batch}/void", json={"code": codes[6], "reason": "lost"})
    kept = repr(world.log._state) + caplog.text + "".join(capsys.readouterr())
    for code in codes:
        assert code not in kept
        assert code.replace("-", "") not in kept
    assert code_secrets(ACME)["k1"].hex() not in kept


async def test_a_code_voided_through_another_batch_is_unknown_there(client: httpx.AsyncClient) -> None:
    one, other = await generated(client, 5), await generated(client, 5)
    code = (await exported(client, one))[0]
    response = await client.post(f"/v1/code-batches/{other}/void", json={"code": code, "reason": "lost"})
    assert (response.status_code, problem(response)["code"]) == (404, "unknown_code")
    assert (await used(client, code)).status_code == 201


@pytest.mark.parametrize(
    "body",
    [{}, {"all": True, "code": "x"}, {"first_index": 3}, {"first_index": 3, "last_index": 2}, {"last_index": 3}],
)
async def test_what_is_to_be_voided_is_named_once(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    response = await client.post("/v1/code-batches/k1-1/void", json={**body, "reason": "lost"})
    assert response.status_code == 422


async def test_each_route_needs_its_own_scope(client: httpx.AsyncClient, world: World) -> None:
    batch = await generated(client, 5)
    world.keys["orders"] = Key(scopes=ROLES["order_system"])
    world.keys["shop"] = Key(scopes=ROLES["merchant"])
    for name, method, path, allowed in (
        ("orders", "GET", f"/v1/code-batches/{batch}/codes", False),
        ("analyst", "GET", f"/v1/code-batches/{batch}/codes", False),
        ("analyst", "GET", f"/v1/code-batches/{batch}", True),
        ("shop", "GET", f"/v1/code-batches/{batch}/codes", True),
        ("orders", "POST", "/v1/code-batches", False),
    ):
        response = await client.request(method, path, headers=key_header(name), json={} if method == "POST" else None)
        assert (response.status_code != 403) is allowed, (name, path)


async def test_codes_cannot_be_used_by_their_index(client: httpx.AsyncClient, world: World) -> None:
    await generated(client, 5)
    world.keys["orders"] = Key(scopes=ROLES["order_system"])
    item = {"type": "use_code", "data": {"batch_id": "k1-1", "index": 0, "user_id": "ann"}}
    response = await client.post("/v1/commands", json={"commands": [item]}, headers=key_header("orders"))
    assert response.json()["answers"][0]["code"] == "scope_missing"


async def test_a_deleted_key_ends_its_codes(
    client: httpx.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await generated(client, 5)
    code = (await exported(client, batch))[0]
    ring = world.code_ring
    monkeypatch.setattr(ring, "_secrets", lambda _realm: {})
    ring._remembered.clear()
    assert (await used(client, code)).status_code == 404
    export = await client.get(f"/v1/code-batches/{batch}/codes")
    assert (export.status_code, problem(export)["code"]) == (409, "code_key_gone")


async def test_batches_are_listed_page_by_page_the_latest_first(client: httpx.AsyncClient, world: World) -> None:
    made = [await generated(client, 10) for _ in range(5)]
    codes = await exported(client, made[-1])
    assert (await used(client, codes[0])).status_code == 201
    first = (await client.get("/v1/code-batches?limit=2")).json()
    second = (await client.get(f"/v1/code-batches?limit=2&cursor={first['next_cursor']}")).json()
    third = (await client.get(f"/v1/code-batches?limit=2&cursor={second['next_cursor']}")).json()
    shown = [*first["items"], *second["items"], *third["items"]]
    assert third["next_cursor"] is None
    assert [each["batch_id"] for each in shown] == made[::-1]
    assert [each["used"] for each in shown] == [1, 0, 0, 0, 0]
    wrong = await client.get("/v1/code-batches?cursor=xyz")
    assert (wrong.status_code, wrong.json()["code"]) == (422, "malformed_cursor")
    foreign = (await client.get("/v1/code-batches", headers=key_header("globex"))).json()
    assert (foreign["items"], foreign["next_cursor"]) == ([], None)


async def test_reads_of_batches_say_what_position_they_show_and_wait_for_the_callers(
    client: httpx.AsyncClient, world: World, batch: str
) -> None:
    for address in ("/v1/code-batches", f"/v1/code-batches/{batch}"):
        shown = await client.get(address)
        assert shown.json()["position"] == world.models.at.token()
        ahead = await client.get(f"{address}?min_position={Position(0, 'e1', 99).token()}")
        assert (ahead.status_code, ahead.json()["code"]) == (503, "position_not_reached")
    unknown = await client.get("/v1/code-batches/k1-99")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_code_batch")
