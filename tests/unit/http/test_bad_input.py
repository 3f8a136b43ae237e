"""Bad input gets its own clear error, writes nothing and breaks nothing."""

import json
from typing import Any

import httpx
import pytest

from command.engine import HandlerFailed, StreamClosed
from contracts.registry import UnknownEventType
from infra.entry.failures import problem_for
from tests.unit.http.conftest import BODY_BYTES_MAX, World, key_header

CLAIMS = "/v1/templates/t1/claims"
LINE: dict[str, Any] = {"line_id": "1", "sku": "s", "unit_price_minor": 100}
TERMS: dict[str, Any] = {
    "name": "Ten off",
    "campaign_id": "spring",
    "currency": "EUR",
    "discount": {"kind": "amount_off", "amount_minor": 1_000},
    "claim_from": "2026-01-01T00:00:00Z",
    "claim_until": "2026-02-01T00:00:00Z",
    "validity": {"kind": "after_claim", "duration_seconds": 86_400},
}


def problem(response: httpx.Response) -> dict[str, Any]:
    """The problem of a response, checked for what every problem has."""
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "code", "retryable", "errors", "request_id"} <= body.keys()
    assert body["status"] == response.status_code
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return body


async def rejected(client: httpx.AsyncClient, world: World, path: str, body: bytes | Any) -> tuple[int, str, list[str]]:
    """Post a body that must be rejected: (status, code, pointers of the errors); nothing may have been stored."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await client.post(path, content=content)
    told = problem(response)
    assert world.stored_answers == 0
    return response.status_code, told["code"], [error["pointer"] for error in told["errors"]]


async def test_malformed_json_is_told_with_its_position(client: httpx.AsyncClient, world: World) -> None:
    response = await client.post(CLAIMS, content=b'{"user_id": "u1",\n  oops}')
    assert response.status_code == 400
    told = problem(response)
    assert told["code"] == "malformed_json"
    # The position is one in the caller's text, whatever we do with it before we parse it.
    assert "line 2 column 3" in told["detail"]
    assert world.stored_answers == 0


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "pointers"),
    [
        (CLAIMS, b"[]", 422, "wrong_type", [""]),
        (CLAIMS, b'"text"', 422, "wrong_type", [""]),
        (CLAIMS, b"\xff\xfe\x00", 400, "malformed_json", []),
        (CLAIMS, b"", 422, "missing", ["/user_id"]),
        (CLAIMS, {}, 422, "missing", ["/user_id"]),
        (CLAIMS, {"user_id": "u", "tenant_id": "globex"}, 422, "unknown_field", ["/tenant_id"]),
        (CLAIMS, {"user_id": 1.5}, 422, "wrong_type", ["/user_id"]),
        (CLAIMS, {"user_id": True}, 422, "wrong_type", ["/user_id"]),
        (CLAIMS, {"user_id": "u" * 129}, 422, "wrong_length", ["/user_id"]),
        (CLAIMS, {"user_id": "u", "channel": "fax"}, 422, "not_one_of", ["/channel"]),
        (CLAIMS, {"user_id": "u", "template_id": "t2"}, 422, "contradicts_path", ["/template_id"]),
        (CLAIMS, {"user_id": "u", "x": 1, "user_ids": []}, 422, "unknown_field", ["/x", "/user_ids"]),
        (CLAIMS, {"channel": "fax", "x": 1}, 422, "malformed", ["/user_id", "/channel", "/x"]),
        ("/v1/budgets", {"currency": "XXX", "limit_minor": 5}, 422, "unknown_currency", ["/currency"]),
        ("/v1/budgets", {"currency": "EUR", "limit_minor": -5}, 422, "negative_amount", ["/limit_minor"]),
        ("/v1/budgets", {"currency": "EUR", "limit_minor": 10**40}, 422, "out_of_range", ["/limit_minor"]),
        ("/v1/budgets", {"currency": "EUR", "limit_minor": "5"}, 422, "wrong_type", ["/limit_minor"]),
        ("/v1/budgets", {"currency": "EUR", "limit_minor": 5.0}, 422, "wrong_type", ["/limit_minor"]),
        ("/v1/budgets", {"currency": "EUR", "limit_minor": 5, "zone": "Mars/Base"}, 422, "unknown_zone", ["/zone"]),
        ("/v1/budgets", b'{"currency":"EUR","limit_minor":1e999}', 422, "wrong_type", ["/limit_minor"]),
        ("/v1/budgets", b'{"currency":"EUR","limit_minor":NaN}', 400, "malformed_json", []),
        ("/v1/budgets", b'{"currency":"EUR","limit_minor":' + b"9" * 5_000 + b"}", 400, "malformed_json", []),
        ("/v1/clock", {"to": "2026-01-01T00:00:00"}, 422, "time_without_zone", ["/to"]),
        ("/v1/clock", {"to": "yesterday"}, 422, "not_a_time", ["/to"]),
        ("/v1/clock", {"to": 1_767_225_600}, 422, "wrong_type", ["/to"]),
        ("/v1/clock", {"to": "0001-01-01T00:00:00+14:00"}, 422, "out_of_range", ["/to"]),
        ("/v1/clock", {"to": "9999-12-31T23:59:59-14:00"}, 422, "out_of_range", ["/to"]),
        ("/v1/clock", {"to": "1969-12-31T23:59:59Z"}, 422, "out_of_range", ["/to"]),
        ("/v1/clock", {"to": "9999-12-31T00:00:00Z"}, 422, "out_of_range", ["/to"]),
        (
            "/v1/templates",
            {"terms": {**TERMS, "discount": {"kind": "percent_off", "percent_bp": 20_000}}},
            422,
            "out_of_range",
            ["/terms/discount/percent_bp"],
        ),
        ("/v1/templates", {"terms": {**TERMS, "discount": {"kind": "gift"}}}, 422, "not_one_of", ["/terms/discount"]),
        (
            "/v1/payments",
            {"payment_id": 1, "order_id": 2, "status": "succeeded", "amount_minor": -1, "currency": "EUR"},
            422,
            "negative_amount",
            ["/amount_minor"],
        ),
        (
            "/v1/orders",
            {"order_id": 1, "currency": "EUR", "lines": [{**LINE, "unit_price_minor": 10**15}], "shipping_minor": 1},
            422,
            "invalid",
            [""],
        ),
        (
            "/v1/orders/quote",
            {"currency": "EUR", "lines": [{**LINE, "line_id": str(n), "unit_price_minor": 10**15} for n in range(2)]},
            422,
            "invalid",
            [""],
        ),
        (
            "/v1/orders/quote",
            {"currency": "EUR", "lines": [{**LINE, "unit_price_minor": -1}]},
            422,
            "negative_amount",
            ["/lines/0/unit_price_minor"],
        ),
        ("/v1/orders/quote", {"currency": "EUR"}, 422, "invalid", [""]),
        ("/v1/orders/quote", {"currency": "EUR", "lines": [LINE, LINE]}, 422, "invalid", [""]),
        ("/v1/orders/quote", {"currency": "EUR", "lines": [LINE], "coupon_ids": ["c", "c"]}, 422, "invalid", [""]),
    ],
)
async def test_each_mistake_has_its_own_code_and_place(
    client: httpx.AsyncClient, world: World, path: str, body: Any, status: int, code: str, pointers: list[str]
) -> None:
    assert await rejected(client, world, path, body) == (status, code, pointers)


@pytest.mark.parametrize("depth", [33, 150, 5_000])
async def test_json_nested_too_deeply_is_refused_at_any_depth(
    client: httpx.AsyncClient, world: World, depth: int
) -> None:
    body = b'{"user_id": "u", "x": ' + b"[" * depth + b"]" * depth + b"}"
    assert (await rejected(client, world, CLAIMS, body))[:2] == (400, "too_deep")


@pytest.mark.parametrize("announced", [str(BODY_BYTES_MAX + 1), "9" * 30, "-1", "ten"])
async def test_a_body_that_says_it_is_too_large_is_not_read_at_all(world: World, announced: str) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("somebody reads the body")

    async def send(message: Any) -> None:
        sent.append(message)

    headers = {**key_header("acme"), "Content-Length": announced}
    scope = {
        "type": "http",
        "method": "POST",
        "path": CLAIMS,
        "raw_path": CLAIMS.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await world.app(scope, receive, send)
    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (413, "body_too_large")
    assert (b"connection", b"close") in sent[0]["headers"]
    assert world.stored_answers == 0


async def test_a_body_that_does_not_say_how_large_it_is_is_read_no_further_than_the_limit(
    client: httpx.AsyncClient, world: World
) -> None:
    chunks_sent = 0

    async def endless() -> Any:
        nonlocal chunks_sent
        for _ in range(1_000):
            chunks_sent += 1
            yield b" " * 1_000

    response = await client.post(CLAIMS, content=endless())
    assert (response.status_code, problem(response)["code"]) == (413, "body_too_large")
    assert chunks_sent <= BODY_BYTES_MAX // 1_000 + 1
    assert world.stored_answers == 0


async def test_the_path_may_be_repeated_in_the_body(client: httpx.AsyncClient) -> None:
    response = await client.post(CLAIMS, json={"user_id": "u", "template_id": "t1"})
    assert response.status_code == 201


@pytest.mark.parametrize(("path", "name"), [("/v1/templates?limt=5", "?limt"), (f"{CLAIMS}?dry-run=true", "?dry-run")])
async def test_an_unknown_query_parameter_is_refused(client: httpx.AsyncClient, path: str, name: str) -> None:
    response = await (client.post(path, json={"user_id": "u"}) if "claims" in path else client.get(path))
    told = problem(response)
    assert (response.status_code, told["code"], told["errors"][0]["pointer"]) == (422, "unknown_field", name)


@pytest.mark.parametrize("key", ["", " spaced ", "x" * 129, "ümlaut"])
async def test_an_unusable_idempotency_key_is_refused(client: httpx.AsyncClient, world: World, key: str) -> None:
    response = await client.post(CLAIMS, json={"user_id": "u"}, headers={b"Idempotency-Key": key.encode("latin-1")})
    assert (response.status_code, problem(response)["code"]) == (422, "malformed_command_id")
    assert world.stored_answers == 0


async def test_an_unknown_path_and_a_wrong_method_are_told_apart(client: httpx.AsyncClient) -> None:
    nowhere = await client.get("/v1/nowhere")
    assert (nowhere.status_code, problem(nowhere)["code"]) == (404, "route_unknown")
    wrong = await client.delete("/v1/templates")
    assert (wrong.status_code, problem(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET, POST"


async def test_a_defect_of_ours_shows_no_trace_and_no_secret(
    client: httpx.AsyncClient, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    response = await client.post("/v1/coupons/c1/revoke", json={"reason": "test"})
    told = problem(response)
    assert (response.status_code, told["code"]) == (500, "internal")
    assert "RuntimeError" not in response.text
    assert "hidden" not in response.text
    assert world.stored_answers == 0
    # The next request is served as if nothing had been.
    assert (await client.post(CLAIMS, json={"user_id": "u"})).status_code == 201


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StreamClosed("coupon.teleported.v9"), (503, "newer_version_needed", True)),
        (UnknownEventType("coupon.teleported.v9"), (503, "newer_version_needed", True)),
        (HandlerFailed("a defect"), (500, "internal", True)),
    ],
)
def test_what_only_a_newer_version_can_read_is_no_defect(error: Exception, told: tuple[int, str, bool]) -> None:
    found = problem_for(error)
    assert (found.status, found.code, found.retryable) == told
