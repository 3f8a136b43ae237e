"""A rush for few coupons: everyone is answered, every store counts the same, and kill -9 loses nothing."""

import asyncio
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clickhouse_connect
import orjson
import psycopg
import pytest
import redis

from infra.demo.client import Api, gather_bounded
from tests.e2e.conftest import Up, up
from tests.e2e.test_up import TERMS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# The full size (10,000 for 1,000) is `make test-long`, and every `make demo`.
LONG = os.environ.get("TESSERA_TEST_EFFORT") == "long"
USERS, STOCK = (10_000, 1_000) if LONG else (2_000, 200)
ANSWERS_BEFORE_THE_KILL = USERS // 4


@dataclass
class Rush:
    """What the callers of a rush were told, by user: (code, coupon id)."""

    template_id: str
    answers: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    unanswered: int = 0

    @property
    def codes(self) -> Counter[str]:
        """How often which answer was given."""
        return Counter(code for code, _ in self.answers.values())


async def publish(api: Api, template_id: str) -> None:
    terms = TERMS | {"stock": STOCK, "claims_per_user_max": 1}
    await api.must("/v1/templates", {"template_id": template_id, "terms": terms}, key=f"create-{template_id}")
    await api.must(f"/v1/templates/{template_id}/activate", key=f"activate-{template_id}")


async def claim_all(api: Api, rush: Rush, after_answer: Any = lambda _count: None) -> None:
    async def claim(user: str) -> None:
        try:
            path = f"/v1/templates/{rush.template_id}/claims"
            reply = await api.post(path, {"user_id": user}, key=f"{rush.template_id}-{user}")
        except OSError:
            rush.unanswered += 1
            return
        coupon_id = reply.body["data"]["coupon_id"] if reply.ok else None
        rush.answers[user] = (reply.code, coupon_id)
        after_answer(len(rush.answers))

    users = [f"user-{number}" for number in range(USERS)]
    await gather_bounded(users, claim, workers=api.connections_max)


def play(
    running: Up, rush: Rush, *, first: bool = True, retries_lost: bool = True, after: Any = lambda _: None
) -> None:
    async def run() -> None:
        async with Api(running.url, running.token, retries_lost=retries_lost) as api:
            if first:
                await publish(api, rush.template_id)
            await claim_all(api, rush, after)

    asyncio.run(run())


def counts(running: Up, template_id: str) -> dict[str, int]:
    """Claims of a template, by each store's own means."""
    with psycopg.connect(running.facts["postgres_dsn"]) as connection:
        row = connection.execute(
            "SELECT count(*), count(DISTINCT data -> 'about' ->> 'user_id') FROM events"
            " WHERE type = 'coupon.claimed.v1' AND data -> 'about' ->> 'template_id' = %s",
            (template_id,),
        ).fetchone()
    assert row is not None
    facts = clickhouse_connect.get_client(dsn=running.facts["clickhouse_url"])
    sql = f"SELECT count() FROM coupon_facts FINAL WHERE template_id = '{template_id}' AND kind = 'claimed'"
    in_facts = int(str(facts.command(sql)))
    facts.close()
    with redis.Redis.from_url(running.facts["redis_url"]) as server:
        active = server.hget("coupon:control", "active")
        assert isinstance(active, bytes)
        keys = list(server.scan_iter(match=f"coupon:v{active.decode()}:*", count=1_000))
        documents = [orjson.loads(server.hget(key, "doc") or b"")["doc"] for key in keys]
    in_redis = sum(document["template_id"] == template_id for document in documents)
    return {"PostgreSQL": row[0], "users": row[1], "ClickHouse": in_facts, "Redis": in_redis}


def log_of(running: Up, template_id: str) -> dict[str, list[tuple[str, str | None]]]:
    """What the command log holds for each user of a rush."""
    logged: dict[str, list[tuple[str, str | None]]] = {}
    with psycopg.connect(running.facts["postgres_dsn"]) as connection:
        rows = connection.execute(
            "SELECT command_id, code, data ->> 'coupon_id' FROM command_log WHERE starts_with(command_id, %s)",
            (f"{template_id}-user-",),
        )
        for command_id, code, coupon_id in rows:
            logged.setdefault(command_id.removeprefix(f"{template_id}-"), []).append((code, coupon_id))
    return logged


def test_everyone_is_answered_and_every_store_counts_exactly_the_stock(stack: Up) -> None:
    rush = Rush("rush")
    play(stack, rush)
    assert rush.codes == {"ok": STOCK, "template_exhausted": USERS - STOCK}
    report = stack.run("verify")  # Waits until the stores stand still, and compares them.
    assert report["holds"], report["violations"]
    expected = {"PostgreSQL": STOCK, "users": STOCK, "ClickHouse": STOCK, "Redis": STOCK}
    assert counts(stack, "rush") == expected


@pytest.mark.faults
def test_kill_9_in_the_middle_of_a_rush_loses_no_answer_and_gives_none_twice(tmp_path: Path) -> None:
    rush = Rush("crash")
    with up(tmp_path) as running:

        def strike(answers: int) -> None:
            if answers == ANSWERS_BEFORE_THE_KILL:
                running.process.kill()

        play(running, rush, retries_lost=False, after=strike)
        running.kill()
    assert len(rush.answers) >= ANSWERS_BEFORE_THE_KILL
    assert rush.unanswered > 0, "the kill came too late to hit anybody"
    told_before = dict(rush.answers)
    with up(tmp_path) as running:
        logged = log_of(running, "crash")
        lost = {user: answer for user, answer in told_before.items() if logged.get(user) != [answer]}
        assert not lost, f"told, but not in the log just so: {dict(list(lost.items())[:5])}"
        again = Rush("crash")
        play(running, again, first=False)
        assert again.codes == {"ok": STOCK, "template_exhausted": USERS - STOCK}
        assert {user: again.answers[user] for user in told_before} == told_before
        report = running.run("verify")
        assert report["holds"], report["violations"]
        assert counts(running, "crash")["PostgreSQL"] == STOCK
