"""Hints over a real Redis: shared by API processes, and in nobody's way when Redis does not do its part."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import httpx
import psycopg
import pytest
import redis

from contracts.identity import Realm
from infra.redis.hints import HintKey, RedisHints, SharedHint
from tests.integration.http.conftest import api

HINT_MS = 10_000  # Longer than these tests: what ends a hint here is what they do.
USERS, STOCK = 80, 10
TERMS: dict[str, Any] = {
    "name": "Ten off",
    "campaign_id": "spring",
    "currency": "EUR",
    "discount": {"kind": "amount_off", "amount_minor": 1_000},
    "claim_from": "2020-01-01T00:00:00Z",
    "claim_until": "2100-01-01T00:00:00Z",
    "validity": {"kind": "after_claim", "duration_seconds": 86_400},
    "claims_per_user_max": 1,
}


@pytest.fixture
async def hints(redis_url: str) -> AsyncIterator[RedisHints]:
    """What processes tell each other."""
    store = RedisHints.at(redis_url)
    yield store
    await store.close()


async def test_what_one_process_writes_the_others_read_with_the_time_that_is_left(
    hints: RedisHints, redis_url: str
) -> None:
    realm = Realm("acme", "shop")
    template, user = HintKey(realm, "t1"), HintKey(realm, "t1", "ann")
    told = {template: SharedHint("template_exhausted", 9.0), user: SharedHint("user_limit_reached", 8.0)}
    await hints.write(told, [])
    read = await hints.read([template, user, HintKey(realm, "t2")])
    assert {key: hint.code for key, hint in read.items()} == {key: hint.code for key, hint in told.items()}
    assert all(0 < read[key].seconds <= told[key].seconds for key in told)
    # What has no end was not written by us.
    with redis.Redis.from_url(redis_url) as client:
        client.persist(user.name())
        assert set(await hints.read([template, user])) == {template}
        client.flushdb()
    assert await hints.read([template, user]) == {}
    await hints.write(told, [])
    await hints.write({}, [template])
    assert set(await hints.read([template, user])) == {user}


def test_no_two_hints_share_a_name() -> None:
    keys = [
        HintKey(Realm("a", "b"), "t/u"),
        HintKey(Realm("a", "b/t"), "u"),
        HintKey(Realm("a", "b"), "t", "u"),
        HintKey(Realm("a", "b"), "t}:u"),
        HintKey(Realm("a", "b"), "t", "u}:"),
    ]
    assert len({key.name() for key in keys}) == len(keys)


async def prepared(client: httpx.AsyncClient, **terms: Any) -> None:
    """An active template."""
    body = {"template_id": "t1", "terms": {**TERMS, **terms}}
    (await client.post("/v1/templates", json=body)).raise_for_status()
    (await client.post("/v1/templates/t1/activate")).raise_for_status()


async def claim(client: httpx.AsyncClient, user: str, key: str) -> httpx.Response:
    """One request."""
    return await client.post("/v1/templates/t1/claims", json={"user_id": user}, headers={"Idempotency-Key": key})


async def client_of(exits: AsyncExitStack, dsn: str, redis_url: str) -> httpx.AsyncClient:
    """A caller of an API process of its own, with hints."""
    server = exits.enter_context(api(dsn, redis_url=redis_url, claim_hint_ms=HINT_MS))
    return await exits.enter_async_context(httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=30))


@contextmanager
def redis_that_says_nothing() -> Iterator[str]:
    """It takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    kept.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for each in kept:
                each.close()


@pytest.mark.parametrize("kind", ["real", "away", "silent"])
async def test_two_processes_in_a_rush_give_out_the_stock_and_answer_everybody(
    postgres_dsn: str, redis_url: str, kind: str
) -> None:
    async with AsyncExitStack() as exits:
        url = {"real": redis_url, "away": "redis://127.0.0.1:1/0"}.get(kind)
        url = url or exits.enter_context(redis_that_says_nothing())
        clients = [await client_of(exits, postgres_dsn, url) for _ in range(2)]
        await prepared(clients[0], stock=STOCK)
        answers = await asyncio.gather(*(claim(clients[n % 2], f"u{n}", f"k{n}") for n in range(USERS)))
        codes = {each.json().get("code", "ok") for each in answers}
        assert codes == {"ok", "template_exhausted"}
        # Everybody asks again with the same id, until it is decided.
        finals = [await claim(clients[n % 2], f"u{n}", f"k{n}") for n in range(USERS)]
        assert not any("hint" in each.json() for each in finals)
        claimed = [each.json()["data"]["coupon_id"] for each in finals if each.status_code == 201]
        assert len(claimed) == len(set(claimed)) == STOCK
    with psycopg.connect(postgres_dsn) as connection:
        (stored,) = connection.execute(
            "SELECT count(*) FROM stored_events WHERE topic = 'coupon.claimed.v1'"
        ).fetchone() or (0,)
    assert stored == STOCK


async def test_a_retry_at_another_process_gets_its_stored_answer(postgres_dsn: str, redis_url: str) -> None:
    async with AsyncExitStack() as exits:
        one, other = [await client_of(exits, postgres_dsn, redis_url) for _ in range(2)]
        await prepared(one, stock=1)
        first = await claim(one, "ann", "k1")
        assert (await claim(other, "bob", "k2")).json()["code"] == "template_exhausted"
        assert (await claim(other, "cid", "k3")).json()["hint"]
        again = await claim(other, "ann", "k1")
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json()["data"] == first.json()["data"]
