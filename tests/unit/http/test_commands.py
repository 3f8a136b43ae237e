"""Commands over HTTP: one effect per idempotency key, typed refusals, batches, dry runs, orders that wait."""

import asyncio
from typing import Any

import httpx
import pytest

from command.engine import Busy, EngineSettings
from command.ports import StoreUnavailable
from contracts.access import ROLES, Scope
from contracts.position import Position
from tests.unit.http.conftest import ACME, STOCK, Key, World, key_header
from tests.unit.http.test_bad_input import CLAIMS, problem
from tests.upstreams import REFUSED, TAKEN

ORDER: dict[str, Any] = {
    "order_id": 4711,
    "currency": "EUR",
    "lines": [{"line_id": "1", "sku": "tea", "unit_price_minor": 500, "quantity": 2}],
}


async def test_a_claim_is_answered_after_it_is_stored(client: httpx.AsyncClient, world: World) -> None:
    response = await client.post(CLAIMS, json={"user_id": "u1"}, headers={"Idempotency-Key": "k1"})
    assert response.status_code == 201
    body = response.json()
    assert (body["command_id"], body["status"], body["data"]["coupon_id"]) == ("k1", "accepted", "c-u1")
    assert Position.parse(body["position"]).epoch == "e1"
    assert response.headers["idempotency-key"] == "k1"
    assert world.stored_answers == 1


async def test_without_a_key_one_is_made_and_told(client: httpx.AsyncClient) -> None:
    first = await client.post(CLAIMS, json={"user_id": "u1"})
    made = first.headers["idempotency-key"]
    assert first.json()["command_id"] == made
    again = await client.post(CLAIMS, json={"user_id": "u1"}, headers={"Idempotency-Key": made})
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


async def test_the_same_key_with_other_content_is_refused_for_good(client: httpx.AsyncClient, world: World) -> None:
    headers = {"Idempotency-Key": "k1"}
    await client.post(CLAIMS, json={"user_id": "u1"}, headers=headers)
    other = await client.post(CLAIMS, json={"user_id": "u2"}, headers=headers)
    told = problem(other)
    assert (other.status_code, told["code"], told["retryable"]) == (422, "command_id_reused", False)
    assert "idempotency-replayed" not in other.headers
    assert world.stored_answers == 1


async def test_a_refusal_is_final_typed_and_replayed(client: httpx.AsyncClient) -> None:
    for user in range(STOCK):
        await client.post(CLAIMS, json={"user_id": f"u{user}"})
    headers = {"Idempotency-Key": "late"}
    first = await client.post(CLAIMS, json={"user_id": "late"}, headers=headers)
    told = problem(first)
    assert (first.status_code, told["code"], told["retryable"]) == (409, "template_exhausted", False)
    assert (told["command_id"], told["data"]) == ("late", {"stock": STOCK})
    again = await client.post(CLAIMS, json={"user_id": "late"}, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert {**problem(again), "request_id": ""} == {**told, "request_id": ""}


async def test_an_unknown_coupon_is_404(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/coupons/nope/lock", json={"order_id": "o1"})
    assert (response.status_code, problem(response)["code"]) == (404, "unknown_coupon")


async def test_a_key_that_is_on_its_way_is_told_to_retry(client: httpx.AsyncClient, world: World) -> None:
    headers = {"Idempotency-Key": "k1"}
    with world.log.appending():  # The first one cannot commit while somebody else appends.
        first = asyncio.create_task(client.post(CLAIMS, json={"user_id": "u1"}, headers=headers))
        while not world.app._commands._in_flight:  # noqa: ASYNC110 - nothing tells that a request came this far.
            await asyncio.sleep(0)
        second = await client.post(CLAIMS, json={"user_id": "u1"}, headers=headers)
        told = problem(second)
        assert (second.status_code, told["code"], told["retryable"]) == (409, "command_in_flight", True)
    assert (await first).status_code == 201
    assert (await client.post(CLAIMS, json={"user_id": "u1"}, headers=headers)).json() == (await first).json()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(Busy("full"), 503, "busy"), (StoreUnavailable("postgresql://u:pw@host is away"), 503, "store_unavailable")],
)
async def test_busy_and_unavailable_are_no_answers(
    client: httpx.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def refuse(_envelopes: Any) -> None:
        raise error

    monkeypatch.setattr(world.engine, "submit_to", refuse)
    response = await client.post(CLAIMS, json={"user_id": "u1"}, headers={"Idempotency-Key": "k1"})
    told = problem(response)
    assert (response.status_code, told["code"], told["retryable"]) == (status, code, True)
    assert response.headers["retry-after"] == "1"
    assert "pw" not in response.text
    monkeypatch.undo()
    retried = await client.post(CLAIMS, json={"user_id": "u1"}, headers={"Idempotency-Key": "k1"})
    assert retried.status_code == 201


async def test_a_commit_of_unknown_fate_is_answered_by_asking_the_log(client: httpx.AsyncClient, world: World) -> None:
    world.log.lose_next_commit(landed=True)
    response = await client.post(CLAIMS, json={"user_id": "u1"}, headers={"Idempotency-Key": "k1"})
    assert (response.status_code, world.stored_answers) == (201, 1)


async def test_after_the_engine_stopped_callers_are_sent_elsewhere(client: httpx.AsyncClient, world: World) -> None:
    world.engine.stop()
    response = await client.post(CLAIMS, json={"user_id": "u1"})
    assert (response.status_code, problem(response)["code"]) == (503, "stopping")


async def test_a_dry_run_answers_and_stores_nothing(client: httpx.AsyncClient, world: World) -> None:
    response = await client.post(f"{CLAIMS}?dry_run=true", json={"user_id": "u1"})
    assert (response.status_code, response.json()["dry_run"]) == (200, True)
    assert response.json()["data"]["coupon_id"] == "c-u1"
    assert world.stored_answers == 0


async def test_a_dry_run_at_another_time_decides_as_of_then(client: httpx.AsyncClient) -> None:
    then = "2031-05-01T12:00:00+00:00"
    response = await client.post(CLAIMS, params={"dry_run": "true", "at": then}, json={"user_id": "u1"})
    assert response.json()["data"]["business_time"] == then
    unescaped = await client.post(f"{CLAIMS}?dry_run=true&at={then}", json={"user_id": "u1"})
    assert unescaped.json()["data"]["business_time"] == then


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("dry_run=yes", "not_one_of"),
        ("at=2031-05-01T12:00:00Z", "not_one_of"),
        ("dry_run=true&at=2031-05-01T12:00:00", "time_without_zone"),
        ("dry_run=true&at=soon", "not_a_time"),
        ("dry_run=true&at=9999-12-31T23:59:59-14:00", "out_of_range"),
        ("dry_run=true&at=9999-12-31T23:00:00Z", "out_of_range"),
        ("dry_run=true&dry_run=true", "malformed_query"),
    ],
)
async def test_a_dry_run_must_be_asked_for_clearly(
    client: httpx.AsyncClient, world: World, query: str, code: str
) -> None:
    response = await client.post(f"{CLAIMS}?{query}", json={"user_id": "u1"})
    assert (response.status_code, problem(response)["code"]) == (422, code)
    assert world.stored_answers == 0


async def test_a_quote_stores_nothing(client: httpx.AsyncClient, world: World) -> None:
    body = {"currency": "EUR", "lines": ORDER["lines"]}
    response = await client.post("/v1/orders/quote", json=body)
    assert (response.status_code, response.json()["data"]["echo"]["lines"][0]["amount_minor"]) == (200, 1_000)
    assert world.stored_answers == 0


# Batches.


async def test_a_batch_is_answered_one_by_one_in_order(client: httpx.AsyncClient, world: World) -> None:
    commands = [{"type": "claim_coupon", "data": {"template_id": "t1", "user_id": f"u{n}"}} for n in range(STOCK + 1)]
    commands.insert(1, {"type": "claim_coupon", "data": {"template_id": "t1", "user_id": 1.5}})
    commands.insert(2, {"type": "no_such_command", "data": {}})
    response = await client.post("/v1/commands", json={"commands": commands}, headers={"Idempotency-Key": "b1"})
    assert response.status_code == 200
    answers = response.json()["answers"]
    assert [answer["command_id"] for answer in answers] == [f"b1:{n}" for n in range(6)]
    assert [answer["status"] for answer in answers] == ["accepted", 422, 422, "accepted", "accepted", 409]
    assert [answer.get("code") for answer in answers[1:3]] == ["wrong_type", "unknown_command"]
    assert answers[1]["errors"][0]["pointer"] == "/data/user_id"
    assert answers[5]["code"] == "template_exhausted"
    assert world.stored_answers == STOCK + 1


async def test_a_repeated_batch_repeats_its_answers(client: httpx.AsyncClient, world: World) -> None:
    commands = [{"type": "claim_coupon", "data": {"template_id": "t1", "user_id": f"u{n}"}} for n in range(2)]
    headers = {"Idempotency-Key": "b1"}
    first = await client.post("/v1/commands", json={"commands": commands}, headers=headers)
    again = await client.post("/v1/commands", json={"commands": commands}, headers=headers)
    assert [answer["replayed"] for answer in again.json()["answers"]] == [True, True]
    assert [answer["data"] for answer in again.json()["answers"]] == [
        answer["data"] for answer in first.json()["answers"]
    ]
    assert world.stored_answers == 2


async def test_one_id_twice_in_a_batch_is_one_command(client: httpx.AsyncClient, world: World) -> None:
    same = {"type": "claim_coupon", "command_id": "k", "data": {"template_id": "t1", "user_id": "u"}}
    other = {"type": "claim_coupon", "command_id": "k", "data": {"template_id": "t1", "user_id": "v"}}
    response = await client.post("/v1/commands", json={"commands": [same, same, other]})
    first, second, third = response.json()["answers"]
    assert (first["replayed"], second["replayed"]) == (False, True)
    assert (third["status"], third["code"]) == (422, "command_id_reused")
    assert world.stored_answers == 1


async def test_a_defect_in_one_command_of_a_batch_spoils_no_other(client: httpx.AsyncClient, world: World) -> None:
    commands = [
        {"type": "claim_coupon", "data": {"template_id": "t1", "user_id": "u"}},
        {"type": "revoke_coupon", "data": {"coupon_id": "c", "reason": "r"}},
        {"type": "claim_coupon", "data": {"template_id": "t1", "user_id": "v"}},
    ]
    response = await client.post("/v1/commands", json={"commands": commands})
    assert [answer["status"] for answer in response.json()["answers"]] == ["accepted", 500, "accepted"]
    assert world.stored_answers == 2


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({}, "missing", "/commands"),
        ({"commands": []}, "wrong_length", "/commands"),
        ({"commands": {}}, "wrong_type", "/commands"),
        ({"commands": [{}], "atomic": True}, "unknown_field", "/atomic"),
        ({"commands": [{"type": "claim_coupon"}] * 1_001}, "wrong_length", "/commands"),
    ],
)
async def test_a_batch_must_look_like_one(
    client: httpx.AsyncClient, world: World, body: dict[str, Any], code: str, pointer: str
) -> None:
    response = await client.post("/v1/commands", json=body)
    told = problem(response)
    assert (response.status_code, told["code"], told["errors"][0]["pointer"]) == (422, code, pointer)
    assert world.stored_answers == 0


@pytest.mark.parametrize(
    ("item", "code", "pointer"),
    [
        (5, "wrong_type", ""),
        ({"data": {}}, "missing", "/type"),
        ({"type": "claim_coupon", "data": []}, "wrong_type", "/data"),
        ({"type": "claim_coupon", "command_id": "", "data": {}}, "malformed_command_id", "/command_id"),
        ({"type": "claim_coupon", "data": {}, "at": "now"}, "unknown_field", "/at"),
        ({"type": ["claim_coupon"]}, "wrong_type", "/type"),
    ],
)
async def test_a_wrong_item_gets_a_problem_of_its_own(
    client: httpx.AsyncClient, item: Any, code: str, pointer: str
) -> None:
    good = {"type": "claim_coupon", "data": {"template_id": "t1", "user_id": "u"}}
    response = await client.post("/v1/commands", json={"commands": [item, good]})
    wrong, right = response.json()["answers"]
    assert (wrong["status"], wrong["code"], wrong["errors"][0]["pointer"]) == (422, code, pointer)
    assert right["status"] == "accepted"


async def test_a_batch_of_a_thousand_is_taken_in_one_go(client: httpx.AsyncClient, world: World) -> None:
    commands = [{"type": "top_up_budget", "data": {"budget_id": f"b{n}", "by_minor": 1}} for n in range(1_000)]
    response = await client.post("/v1/commands", json={"commands": commands})
    assert {answer["status"] for answer in response.json()["answers"]} == {"accepted"}
    assert world.stored_answers == 1_000
    assert EngineSettings().queue_commands_max >= 1_000


# Orders.


async def test_an_order_is_answered_with_the_outcome_of_its_checkout(client: httpx.AsyncClient, world: World) -> None:
    world.outcomes.at_once = {"status": "ready", "payable_minor": 900}
    response = await client.post("/v1/orders", json=ORDER)
    assert response.status_code == 201
    assert response.json()["checkout"] == {"status": "ready", "payable_minor": 900}
    assert response.headers["location"] == "/v1/orders/4711"
    assert (ACME, "4711", 1) in world.outcomes.expected


async def test_an_order_whose_outcome_is_late_is_accepted_with_its_address(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/orders", json={**ORDER, "order_id": "a/b c"})
    assert (response.status_code, response.headers["location"]) == (202, "/v1/orders/a%2Fb%20c")
    assert "checkout" not in response.json()


async def test_an_outcome_that_the_watch_missed_is_found_in_the_log(client: httpx.AsyncClient, world: World) -> None:
    world.outcomes.in_log = {"status": "refused", "refusals": []}
    response = await client.post("/v1/orders", json=ORDER)
    assert (response.status_code, response.json()["checkout"]["status"]) == (201, "refused")


async def test_a_repeated_order_gets_the_outcome_that_is_recorded(client: httpx.AsyncClient, world: World) -> None:
    world.outcomes.at_once = {"status": "ready"}
    headers = {"Idempotency-Key": "k1"}
    await client.post("/v1/orders", json=ORDER, headers=headers)
    world.outcomes.at_once, world.outcomes.in_log = None, {"status": "completed"}
    again = await client.post("/v1/orders", json=ORDER, headers=headers)
    assert (again.status_code, again.json()["checkout"]["status"]) == (200, "completed")
    assert again.headers["idempotency-replayed"] == "true"


async def test_ids_may_hold_anything_a_path_can_carry(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/orders/a%2Fb%20%E2%82%AC/cancel", json={})
    assert response.json()["data"]["echo"]["order_id"] == "a/b €"


# The upstream's own names.


@pytest.mark.parametrize(
    ("event", "data", "echo"),
    TAKEN,
)
async def test_upstream_events_are_taken_under_their_own_names(
    client: httpx.AsyncClient, event: str, data: dict[str, Any], echo: dict[str, Any]
) -> None:
    response = await client.post("/v1/upstream-events", json={"event": event, "id": "e1", "data": data})
    assert response.status_code in {200, 202}
    told = response.json()
    assert told["command_id"] == f"upstream:{event}:e1"
    assert echo.items() <= told["data"]["echo"].items()
    again = await client.post("/v1/upstream-events", json={"event": event, "id": "e1", "data": data})
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    ("event", "data", "code", "pointer"),
    REFUSED,
)
async def test_an_upstream_event_that_cannot_be_read_says_where(
    client: httpx.AsyncClient, world: World, event: str, data: dict[str, Any], code: str, pointer: str
) -> None:
    response = await client.post("/v1/upstream-events", json={"event": event, "id": "e1", "data": data})
    told = problem(response)
    assert (response.status_code, told["code"], told["errors"][0]["pointer"]) == (422, code, pointer)
    assert world.stored_answers == 0


@pytest.mark.parametrize("kept", ["saga:e1:hold_for_order", "timer:order_lock_end:o1:2026-03-01T12:00:00+00:00:3"])
async def test_ids_of_sagas_and_timers_are_not_to_be_taken_by_others(
    client: httpx.AsyncClient, world: World, kept: str
) -> None:
    world.keys["seller"] = Key(scopes=ROLES["merchant"] | ROLES["order_system"])
    seller = key_header("seller")
    single = await client.post(CLAIMS, json={"user_id": "u1"}, headers={**seller, "Idempotency-Key": kept})
    assert (single.status_code, problem(single)["code"]) == (422, "malformed_command_id")
    entry = {"type": "claim_coupon", "command_id": kept, "data": {"template_id": "t1", "user_id": "u1"}}
    batch = await client.post("/v1/commands", json={"commands": [entry]}, headers=seller)
    assert [answer["code"] for answer in batch.json()["answers"]] == ["malformed_command_id"]
    assert world.stored_answers == 0
    repaired = await client.post(CLAIMS, json={"user_id": "u1"}, headers={"Idempotency-Key": kept})
    assert repaired.status_code == 201


@pytest.mark.parametrize("command_id", ["upstream:payment.completed:7", "import:march:orders:o1"])
async def test_nobody_takes_the_id_of_an_upstream_event_or_of_an_imports_row(
    client: httpx.AsyncClient, world: World, command_id: str
) -> None:
    world.keys["shop"] = Key(scopes=ROLES["order_system"])
    headers = {**key_header("shop"), "Idempotency-Key": command_id}
    response = await client.post("/v1/orders", json=ORDER, headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "malformed_command_id")
    data = {"id": 7, "order_id": 7, "amount": 5, "currency": "GBP"}
    event = {"event": "payment.completed", "id": "7", "data": data}
    assert (await client.post("/v1/upstream-events", json=event)).status_code == 200


# A queue that is small.


def small_queue(world: World, monkeypatch: pytest.MonkeyPatch, commands_max: int) -> None:
    """Let the engine's queue hold that many commands only."""
    monkeypatch.setattr(world.engine._queue, "_commands_max", commands_max)


async def test_a_batch_larger_than_the_queue_is_told_to_become_smaller(
    client: httpx.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_queue(world, monkeypatch, 2)
    commands = [{"type": "top_up_budget", "data": {"budget_id": f"b{n}", "by_minor": 1}} for n in range(3)]
    told = problem(response := await client.post("/v1/commands", json={"commands": commands}))
    assert (response.status_code, told["code"], told["retryable"]) == (413, "batch_too_large", False)
    assert "send smaller batches" in told["detail"]
    assert (await client.post("/v1/commands", json={"commands": commands[:2]})).status_code == 200


async def test_the_prefixes_of_our_own_ids_are_told_as_they_are(client: httpx.AsyncClient, world: World) -> None:
    world.keys["acme"].scopes = ROLES["admin"] - {Scope.PROCESSES_WRITE}
    response = await client.post(CLAIMS, json={"user_id": "u1"}, headers={"Idempotency-Key": "lease:x"})
    message = response.json()["errors"][0]["message"]
    assert "saga:, timer:, distribution:" in message
    assert "because such ids" in message
