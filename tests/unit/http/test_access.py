"""Who may do what: keys, their end, their scopes, and the wall between tenants."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi.routing import APIRoute

from command.api import COMMAND_ROUTES, SCOPE_OF_COMMAND
from contracts.access import ROLES, Door, Scope
from contracts.commands import ALL_COMMANDS
from infra.entry.problems import Problem
from infra.http.access import KeyRing
from infra.http.app import guarded_routes, stated_scope
from tests.unit.http.conftest import GLOBEX, SECRET, Key, World, key_header
from tests.unit.http.test_bad_input import CLAIMS, problem

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        "Bearer tsk_acme",
        "Bearer tsk_acme_",
        "Basic dXNlcjpwYXNz",
        f"Bearer tsk_acme_{SECRET}x",
        f"Bearer tsk_nobody_{SECRET}",
        f"Bearer tsk_{'a' * 300}_{SECRET}",
        f"Bearer tsk_ac me_{SECRET}",
    ],
)
async def test_without_a_good_key_nothing_is_answered_but_401(world: World, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(world.app), base_url="http://edge") as client:
        response = await client.post(CLAIMS, json={"user_id": "u"}, headers=headers)
    assert (response.status_code, problem(response)["code"]) == (401, "unauthenticated")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert world.stored_answers == 0


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (Key(revoked_at=NOW), "key_revoked"),
        (Key(expires_at=datetime.now(UTC) - timedelta(seconds=1)), "key_expired"),
    ],
)
async def test_a_key_that_ended_says_how(client: httpx.AsyncClient, world: World, key: Key, code: str) -> None:
    world.keys["acme"] = key
    response = await client.post(CLAIMS, json={"user_id": "u"})
    assert (response.status_code, problem(response)["code"]) == (401, code)
    # Only to whoever has the secret: to others it is a key like any that does not exist.
    other = await client.post(CLAIMS, json={"user_id": "u"}, headers=key_header("acme", "guess"))
    assert problem(other)["code"] == "unauthenticated"


async def test_a_key_without_the_scope_is_refused_and_told_which(client: httpx.AsyncClient, world: World) -> None:
    response = await client.post(CLAIMS, json={"user_id": "u"}, headers=key_header("analyst"))
    told = problem(response)
    assert (response.status_code, told["code"], told["scope"]) == (403, "scope_missing", "coupons:claim")
    assert "which key:test does not have; a key of the role order_system, merchant or admin" in told["detail"]
    assert world.stored_answers == 0


async def test_another_tenants_things_look_like_unknown_things(client: httpx.AsyncClient, world: World) -> None:
    world.models.things[GLOBEX, "c1"] = {"coupon_id": "c1"}
    mine, theirs = await client.get("/v1/coupons/c2"), await client.get("/v1/coupons/c1")
    assert mine.status_code == theirs.status_code == 404
    assert {**problem(mine), "request_id": ""} == {**problem(theirs), "request_id": ""}
    assert (await client.get("/v1/coupons/c1", headers=key_header("globex"))).status_code == 200


async def test_the_same_command_id_of_two_tenants_is_two_commands(client: httpx.AsyncClient, world: World) -> None:
    for prefix in ("acme", "globex"):
        headers = {**key_header(prefix), "Idempotency-Key": "k1"}
        response = await client.post(CLAIMS, json={"user_id": "u"}, headers=headers)
        assert (response.status_code, "idempotency-replayed" in response.headers) == (201, False)
    assert world.stored_answers == 2


async def test_each_part_of_a_batch_needs_its_own_scope(client: httpx.AsyncClient, world: World) -> None:
    world.keys["acme"] = Key(scopes=frozenset({Scope.COUPONS_CLAIM}))
    commands = [
        {"type": "claim_coupon", "data": {"template_id": "t1", "user_id": "u"}},
        {"type": "advance_clock", "data": {"to": "2026-01-01T00:00:00Z"}},
    ]
    response = await client.post("/v1/commands", json={"commands": commands})
    first, second = response.json()["answers"]
    assert first["status"] == "accepted"
    assert (second["status"], second["code"]) == (403, "scope_missing")
    assert world.stored_answers == 1


def test_every_route_states_its_scope(world: World) -> None:
    routes = [route for route in world.app.routes if isinstance(route, APIRoute)]
    stated = {route.path: stated_scope(route) for route in routes}
    assert len(guarded_routes(world.app)) == len(world.app.routes) > 40
    public = {path for path, scope in stated.items() if scope is Door.PUBLIC}
    assert public == {"/health/live", "/health/ready", "/metrics", "/openapi.json"}


def test_a_route_without_a_scope_stops_the_start(world: World) -> None:
    world.app.add_api_route("/v1/forgotten", lambda: None)
    with pytest.raises(ValueError, match="/v1/forgotten does not state its scope"):
        guarded_routes(world.app)


async def test_every_route_but_the_public_ones_is_closed_without_a_key(world: World) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(world.app), base_url="http://edge") as client:
        for route in guarded_routes(world.app):
            response = await client.request(route.method, route.path.replace("{", "").replace("}", ""))
            assert (response.status_code == 401) == (route.scope is not Door.PUBLIC), route.path


def test_every_command_and_every_scope_has_its_place() -> None:
    assert set(SCOPE_OF_COMMAND) == set(ALL_COMMANDS)
    assert ROLES["admin"] == frozenset(Scope)
    assert set(ROLES) == {"order_system", "merchant", "analyst", "operator", "admin"}
    # Only an admin turns the clock; nobody who only reads can write anything.
    assert [role for role, scopes in ROLES.items() if Scope.CLOCK_ADVANCE in scopes] == ["admin"]
    assert all(scope.value.endswith(":read") for scope in ROLES["analyst"])
    assert {route.scope for route in COMMAND_ROUTES}.isdisjoint(ROLES["analyst"])


async def test_a_revocation_acts_once_the_memory_is_over() -> None:
    keys = {"acme": Key()}
    remembering, forgetful = KeyRing(keys.get, memory_seconds=60.0), KeyRing(keys.get, memory_seconds=0.0)
    header = f"Bearer tsk_acme_{SECRET}".encode()
    assert (await remembering.caller(header)).actor == "key:test"
    keys["acme"] = replace(keys["acme"], revoked_at=NOW)
    assert (await remembering.caller(header)).actor == "key:test"
    with pytest.raises(Problem, match="revoked"):
        await forgetful.caller(header)


async def test_many_requests_with_an_unremembered_key_ask_the_store_once() -> None:
    asked: list[str] = []
    arrived, release = threading.Event(), threading.Event()

    def find(prefix: str) -> Key:
        asked.append(prefix)
        arrived.set()
        release.wait(5)
        return Key()

    ring = KeyRing(find)
    header = f"Bearer tsk_acme_{SECRET}".encode()
    waiting = [asyncio.create_task(ring.caller(header)) for _ in range(20)]
    await asyncio.to_thread(arrived.wait, 5)
    release.set()
    callers = await asyncio.gather(*waiting)
    assert {caller.actor for caller in callers} == {"key:test"}
    assert asked == ["acme"]


async def test_a_store_that_fails_to_look_a_key_up_is_no_401_and_is_asked_again() -> None:
    attempts: Iterator[Exception | Key] = iter([ConnectionError("away"), Key()])

    def find(_prefix: str) -> Key:
        outcome = next(attempts)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    ring = KeyRing(find)
    header = f"Bearer tsk_acme_{SECRET}".encode()
    with pytest.raises(ConnectionError):
        await ring.caller(header)
    assert (await ring.caller(header)).actor == "key:test"
