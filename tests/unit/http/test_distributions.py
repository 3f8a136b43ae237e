"""Lists of users come in as JSON or CSV and are answered with 202; refused rows go out as a file."""

from typing import Any

import httpx
import pytest

from contracts.access import ROLES
from tests.unit.http.conftest import Key, World, key_header

CSV = {"Content-Type": "text/csv"}


async def start(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    key = {"Idempotency-Key": body.pop("key", "k1")}
    return await client.post("/v1/distributions", json={"template_id": "t1", **body}, headers=key)


async def test_a_json_list_is_accepted_and_says_where_it_stands(client: httpx.AsyncClient, world: World) -> None:
    response = await start(client, distribution_id="d 1", user_ids=["ann", 7])
    assert response.status_code == 202, response.text
    assert response.headers["location"] == "/v1/distributions/d%201"
    assert world.distributions.lists == {"d 1": ["ann", "7"]}
    echo = {"distribution_id": "d 1", "template_id": "t1", "users": 2, "users_sha256": None}
    assert response.json()["data"]["echo"] == echo
    shown = await client.get(response.headers["location"])
    assert shown.json()["data"]["users"] == 2


async def test_a_csv_list_names_its_template_in_the_query(client: httpx.AsyncClient, world: World) -> None:
    address = "/v1/distributions?template_id=t1&distribution_id=d1"
    response = await client.post(address, content="user_id\nann\nbob\n", headers=CSV)
    assert response.status_code == 202, response.text
    assert world.distributions.lists == {"d1": ["ann", "bob"]}


async def test_without_a_name_the_key_gives_it_one_and_a_retry_is_replayed(
    client: httpx.AsyncClient, world: World
) -> None:
    first, again = [await start(client, user_ids=["ann"]) for _ in range(2)]
    assert first.json()["data"] == again.json()["data"]
    assert again.headers["idempotency-replayed"] == "true"
    assert len(world.distributions.lists) == 1


async def test_a_name_that_stands_for_another_list_is_a_conflict(client: httpx.AsyncClient) -> None:
    await start(client, distribution_id="d1", user_ids=["ann"])
    response = await start(client, distribution_id="d1", user_ids=["bob"], key="k2")
    assert (response.status_code, response.json()["code"]) == (409, "already_exists")


async def test_a_dry_run_stores_no_list(client: httpx.AsyncClient, world: World) -> None:
    response = await client.post("/v1/distributions?dry_run=true", json={"template_id": "t1", "user_ids": ["ann"]})
    assert (response.status_code, response.json()["dry_run"]) == (200, True)
    assert world.distributions.lists == {}


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "/user_ids", "missing"),
        ({"user_ids": ["ann", ""]}, "/user_ids/1", "malformed_user_id"),
        ({"user_ids": []}, "/user_ids", "malformed_list"),
        ({"user_ids": "ann"}, "/user_ids", "malformed_list"),
        ({"user_ids": ["ann"], "colour": "red"}, "/colour", "unknown_field"),
        ({"user_ids": ["ann"], "template_id": ""}, "/template_id", "wrong_length"),
        ({"user_ids": ["ann"], "distribution_id": 1.5}, "/distribution_id", "wrong_type"),
    ],
)
async def test_a_list_that_cannot_be_meant_is_refused_by_its_place(
    client: httpx.AsyncClient, world: World, body: dict[str, Any], pointer: str, code: str
) -> None:
    response = await start(client, **body)
    assert response.status_code == 422, response.text
    assert (response.json()["errors"][0]["pointer"], response.json()["errors"][0]["code"]) == (pointer, code)
    assert world.distributions.lists == {}


async def test_a_csv_list_that_is_wrong_names_its_row(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/distributions?template_id=t1", content="user_id,x\nann,1\n,2\n", headers=CSV)
    assert (response.status_code, response.json()["code"]) == (422, "malformed_list")
    assert "row 2 (line 3 of the file)" in response.json()["detail"]
    (error,) = response.json()["errors"]
    assert (error["pointer"], error["message"][:26]) == ("/1", "row 2 (line 3 of the file)")
    missing = await client.post("/v1/distributions", content="ann\n", headers=CSV)
    assert missing.json()["errors"][0]["pointer"] == "?template_id"


async def test_a_file_of_several_columns_has_to_name_one(client: httpx.AsyncClient, world: World) -> None:
    address, content = "/v1/distributions?template_id=t1&distribution_id=d1", "customer,name\nann,Ann\n"
    response = await client.post(address, content=content, headers=CSV)
    assert (response.status_code, response.json()["code"]) == (422, "unclear_column")
    (error,) = response.json()["errors"]
    assert error["pointer"] == "?column"
    assert "its columns: customer, name" in error["message"]
    named = await client.post(f"{address}&column=customer", content=content, headers=CSV)
    assert named.status_code == 202, named.text
    assert world.distributions.lists == {"d1": ["ann"]}


async def test_refused_rows_are_a_csv_file(client: httpx.AsyncClient) -> None:
    await start(client, distribution_id="d1", user_ids=["ann"])
    response = await client.get("/v1/distributions/d1/refusals")
    assert response.headers["content-type"].startswith("text/csv")
    assert response.text.splitlines() == ["row,user_id,code,detail", "7,ann,paused,Claims are refused."]


async def test_unknown_distributions_are_not_found(client: httpx.AsyncClient) -> None:
    for address in ("/v1/distributions/d9", "/v1/distributions/d9/refusals"):
        response = await client.get(address)
        assert (response.status_code, response.json()["code"]) == (404, "unknown_distribution")


async def test_whoever_only_reads_starts_none_and_sees_no_refused_users(client: httpx.AsyncClient) -> None:
    await start(client, distribution_id="d1", user_ids=["ann"])
    reader = key_header("analyst")
    assert (await client.get("/v1/distributions/d1", headers=reader)).status_code == 200
    assert (await client.get("/v1/distributions", headers=reader)).json()["items"] == [{"distribution_id": "d1"}]
    assert (await client.get("/v1/distributions/d1/refusals", headers=reader)).status_code == 403
    assert (await client.post("/v1/distributions/d1/pause", headers=reader)).status_code == 403
    refused = await client.post("/v1/distributions", json={}, headers=reader)
    assert refused.status_code == 403


async def test_a_distribution_is_paused_resumed_and_cancelled_by_its_address(client: httpx.AsyncClient) -> None:
    for verb in ("pause", "resume", "cancel"):
        response = await client.post(f"/v1/distributions/d1/{verb}")
        assert response.status_code == 200, response.text
        assert response.json()["data"]["echo"]["distribution_id"] == "d1"


async def test_the_ids_of_runners_commands_are_kept_for_them(client: httpx.AsyncClient, world: World) -> None:
    world.keys["shop"] = Key(scopes=ROLES["merchant"])
    headers = {**key_header("shop"), "Idempotency-Key": "distribution:d1:1:1001"}
    response = await client.post("/v1/distributions/d1/pause", headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "malformed_command_id")


async def test_a_list_of_the_wrong_kind_is_told_which_kind_to_send(client: httpx.AsyncClient) -> None:
    for kind in ("text/plain", "application/json"):
        address = "/v1/distributions?template_id=t1"
        response = await client.post(address, content="ann\n", headers={"Content-Type": kind})
        assert response.status_code == 422
        assert "send Content-Type: text/csv" in response.json()["errors"][0]["message"]


async def test_a_batch_cannot_start_a_distribution_because_it_has_no_list(
    client: httpx.AsyncClient, world: World
) -> None:
    start = {"distribution_id": "d1", "template_id": "t1", "users": 5}
    pause = {"distribution_id": "d1"}
    entries = [{"type": "start_distribution", "data": start}, {"type": "pause_distribution", "data": pause}]
    response = await client.post("/v1/commands", json={"commands": entries})
    refused, paused = response.json()["answers"]
    assert (refused["status"], refused["code"]) == (422, "has_its_own_route")
    (error,) = refused["errors"]
    assert (error["pointer"], error["code"]) == ("/type", "has_its_own_route")
    assert "POST /v1/distributions" in error["message"]
    assert paused["status"] == "accepted"
    assert world.stored_answers == 1
