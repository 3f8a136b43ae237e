"""Read models and facts can be thrown away: the same comes back, and readers of a healthy one never notice."""

import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import clickhouse_connect
import httpx
import orjson
import pytest
import redis

from tests.e2e.conftest import Up
from tests.e2e.test_up import client, publish

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TABLES = ("coupon_facts", "template_facts", "order_facts", "checkout_facts", "payment_facts", "settlement_facts")


@pytest.fixture(scope="module")
def business(stack: Up) -> Up:
    """A stack in which something happened, at rest."""
    with client(stack) as api:
        publish(api, "rebuilt", stock=500)
        claims = [{"type": "claim_coupon", "data": {"template_id": "rebuilt", "user_id": f"u{n}"}} for n in range(200)]
        answers = api.post("/v1/commands", json={"commands": claims}).json()["answers"]
        for number, answer in enumerate(answers[:30]):
            line = {"line_id": "1", "sku": "tea", "quantity": 2, "unit_price_minor": 1_200}
            order = {"order_id": f"o{number}", "user_id": f"u{number}", "currency": "EUR", "lines": [line]}
            api.post("/v1/orders", json={**order, "coupon_ids": [answer["data"]["coupon_id"]]})
            paid = {"payment_id": f"p{number}", "order_id": f"o{number}", "status": "succeeded"}
            api.post("/v1/payments", json={**paid, "amount_minor": 1_400, "currency": "EUR"})
    assert stack.run("verify")["holds"]
    return stack


def redis_checksum(running: Up) -> dict[str, str]:
    """What each read model says, computed here: keys without their version, documents without positions."""
    sums: dict[str, str] = {}
    with redis.Redis.from_url(running.facts["redis_url"]) as server:
        for model in ("wallet", "coupon", "template", "templates", "order", "budget", "clock"):
            active = server.hget(f"{model}:control", "active")
            assert isinstance(active, bytes), f"{model} is gone"
            prefix = f"{model}:v{active.decode()}:"
            lines = []
            for key in server.scan_iter(match=f"{prefix}*", count=1_000):
                if key.endswith(b":list"):
                    continue
                fields: Mapping[bytes, bytes] = server.hgetall(key)
                for name, value in fields.items():
                    if name != b"_pos":
                        document = orjson.dumps(orjson.loads(value)["doc"], option=orjson.OPT_SORT_KEYS)
                        lines.append(key.removeprefix(prefix.encode()) + b" " + name + b" " + document)
            sums[model] = f"{len(lines)} {hashlib.sha256(b'|'.join(sorted(lines))).hexdigest()}"
    return sums


def facts_checksum(running: Up) -> dict[str, Any]:
    """Rows and their hash, per table of facts."""
    facts = clickhouse_connect.get_client(dsn=running.facts["clickhouse_url"])
    try:
        sql = "SELECT count(), sum(cityHash64(toString(tuple(*)))) FROM {} FINAL"
        return {table: facts.query(sql.format(table)).result_rows[0] for table in TABLES}
    finally:
        facts.close()


@pytest.mark.faults
def test_after_flushall_drops_and_lies_a_rebuild_brings_the_same_checksums_back(business: Up) -> None:
    before = redis_checksum(business), facts_checksum(business)
    assert before[0]["wallet"].startswith("200 ")
    with redis.Redis.from_url(business.facts["redis_url"]) as server:
        server.flushall()
    facts = clickhouse_connect.get_client(dsn=business.facts["clickhouse_url"])
    facts.command("DROP TABLE settlement_facts SYNC")
    facts.command("TRUNCATE TABLE payment_facts SYNC")
    facts.command(
        "INSERT INTO coupon_facts SELECT * REPLACE ('lie' AS event_id, 7 AS discount_minor) FROM coupon_facts LIMIT 3"
    )
    facts.close()
    rebuilt = business.run("projections", "rebuild", "all")["rebuilt"]
    assert {row["name"] for row in rebuilt} >= {"wallet", "coupon", "template", "order", "budget", "facts"}
    assert (redis_checksum(business), facts_checksum(business)) == before
    assert business.run("verify")["holds"]


@pytest.mark.faults
def test_a_falsified_row_is_named_by_verify_and_mended_by_a_rebuild(business: Up) -> None:
    before = redis_checksum(business)
    with redis.Redis.from_url(business.facts["redis_url"]) as server:
        active = server.hget("template:control", "active")
        assert isinstance(active, bytes)
        key = f"template:v{active.decode()}:{{demo/shop/rebuilt}}"
        entry = orjson.loads(server.hget(key, "doc") or b"")
        entry["doc"]["claimed"] = 1
        server.hset(key, "doc", orjson.dumps(entry, option=orjson.OPT_SORT_KEYS))
    report = business.run("verify", code=3)
    assert [(each["invariant"], each["subject"]) for each in report["violations"]] == [
        ("I8", "demo/shop/template/rebuilt claimed")
    ]
    assert [each["kind"] for each in business.run("reconcile", "run", code=3)["breaks"]] == ["store_drift"]
    (row,) = business.run("projections", "rebuild", "template")["rebuilt"]
    assert row["content"] == "differs"
    assert redis_checksum(business) == before
    assert business.run("verify")["holds"]
    assert business.run("reconcile", "run")["closed"] == 1
    business.run("projections", "drop", "template", "--yes")


class Reader(threading.Thread):
    """Reads one wallet again and again, and notes everything that a reader must not see."""

    def __init__(self, running: Up) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.reads = 0
        self.complaints: list[str] = []
        self._running = running

    def run(self) -> None:
        seen = 0
        with client(self._running) as api:
            while not self.stop.is_set():
                reply = api.get("/v1/users/reader/coupons", params={"limit": 100})
                held = len(reply.json().get("items", ())) if reply.status_code == 200 else -1
                if held < seen:
                    self.complaints.append(f"{reply.status_code}: {held} coupons after {seen}: {reply.text[:200]}")
                seen = max(seen, held)
                self.reads += 1


def test_rebuilding_a_healthy_model_under_traffic_is_noticed_by_no_reader(business: Up) -> None:
    with client(business) as api:
        publish(api, "under-traffic")
        claim(api)
        reader = Reader(business)
        reader.start()
        try:
            for _ in range(2):
                rebuilding = threading.Thread(target=business.run, args=("projections", "rebuild", "wallet"))
                rebuilding.start()
                while rebuilding.is_alive():
                    position = claim(api)
                    own = api.get("/v1/users/reader/coupons", params={"min_position": position, "limit": 1})
                    assert own.status_code == 200, own.text
                rebuilding.join()
        finally:
            reader.stop.set()
            reader.join(60)
    assert reader.complaints == []
    assert reader.reads > 0
    assert business.run("verify")["holds"]


def claim(api: httpx.Client) -> str:
    reply = api.post("/v1/templates/under-traffic/claims", json={"user_id": "reader"})
    return str(reply.json()["position"])
