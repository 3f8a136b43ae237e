"""`tessera up --kafka --shards 2`: two stores and their workers behind one API and one set of topics: one Tessera."""

from pathlib import Path
from time import sleep
from typing import Any
from urllib.parse import quote

import clickhouse_connect
import httpx
import orjson
import pytest
from aiokafka import ConsumerRecord

from contracts.position import Position
from contracts.topics import ORDER_FACTS, PAYMENT_FACTS, topic_of
from infra.cli.errors import ExitCode
from infra.stack import DEMO_REALM, running_stack
from tests.e2e.conftest import Up, is_running, run_cli, up
from tests.e2e.test_up import client, publish
from tests.integration.shards.world import ON_0, ON_1
from tests.kafka_talk import Sent, Talk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(450)]

TEMPLATES = (f"{ON_0}-ten-off", f"{ON_1}-ten-off")
LOOKS_MAX = 20
CHECKOUTS = topic_of("checkout")
CLAIMS = "SELECT count() FROM coupon_facts FINAL WHERE kind = 'claimed'"


def claim(api: httpx.Client, template_id: str) -> str:
    """Claims for ann; returns the position of the claim."""
    claimed = api.post(f"/v1/templates/{quote(template_id, safe='')}/claims", json={"user_id": "ann"})
    assert claimed.status_code == 201, claimed.text
    return str(claimed.json()["position"])


def shown(api: httpx.Client, path: str, position: str) -> None:
    """Waits until reads show what was written up to there: each look waits at the server for its own bound."""
    looks = 0
    while (read := api.get(path, params={"min_position": position})).status_code != 200:
        looks += 1  # Right after a start, members of consumer groups still share their partitions out.
        assert looks < LOOKS_MAX, read.text


def wallet(api: httpx.Client, *positions: str) -> list[str]:
    """The templates of ann's coupons, once they show what was written up to all these positions."""
    for position in positions:
        shown(api, "/v1/users/ann/coupons", position)
    items = api.get("/v1/users/ann/coupons").json()["items"]
    return [item["template_id"] for item in items]


def claims_in(url: str) -> int:
    facts = clickhouse_connect.get_client(dsn=url)
    try:
        return int(str(facts.command(CLAIMS)))
    finally:
        facts.close()


def check_what_the_first_start_says(running: Up) -> None:
    shards = running.facts["shards"]
    assert [shard["slots"] for shard in shards] == [{DEMO_REALM.tenant_id: "0-511"}, {DEMO_REALM.tenant_id: "512-1023"}]
    workers = {
        f"{worker}-{shard}" for worker in ("sagas", "projections", "distributions", "leases") for shard in (0, 1)
    }
    beside = {"postgres", "redis", "clickhouse", "serve", "kafka", "intake", "relay-0", "relay-1"}
    assert set(running.facts["pids"]) == beside | workers


def claimed_by(api: httpx.Client, user_id: str, *template_ids: str) -> list[str]:
    """The coupons that a user got of these."""
    paths = [f"/v1/templates/{quote(template_id, safe='')}/claims" for template_id in template_ids]
    return [api.post(path, json={"user_id": user_id}).json()["data"]["coupon_id"] for path in paths]


def told_by_topic(order_id: str, user_id: str, coupon_ids: list[str], payable_minor: int) -> tuple[Sent, Sent]:
    """An order and its payment, as other systems tell them."""
    line = {"line_id": "1", "sku": "kettle", "quantity": 1, "unit_price_minor": 5_000}
    order = {"order_id": order_id, "user_id": user_id, "currency": "EUR", "coupon_ids": coupon_ids, "lines": [line]}
    paid = {"order_id": order_id, "payment_id": f"{order_id}-p", "status": "succeeded", "currency": "EUR"}
    return (
        _sent(f"{order_id}-1", "place_order", order),
        _sent(f"{order_id}-2", "report_payment", {**paid, "amount_minor": payable_minor}),
    )


def _sent(command_id: str, kind: str, data: dict[str, Any]) -> Sent:
    realm = (("tenant", DEMO_REALM.tenant_id.encode()), ("app", DEMO_REALM.app_id.encode()))
    return Sent({"type": kind, "command_id": command_id, "data": data}, data["order_id"].encode(), realm)


def check_orders_by_topic(running: Up, api: httpx.Client) -> None:
    """One order with coupons of either shard, and one that borrows from the other: facts come in by topic alone."""
    stack = running_stack(running.data_dir)
    assert stack is not None
    talk = Talk(stack.as_settings(running.data_dir))
    of_bob = claimed_by(api, "bob", *TEMPLATES)
    (of_cy,), (of_dee,) = claimed_by(api, "cy", TEMPLATES[0]), claimed_by(api, "dee", TEMPLATES[1])
    orders = {
        f"{ON_0}-o": ("cy", [of_cy], 4_000),
        f"{ON_1}-o": ("dee", [of_dee], 4_000),
        f"{ON_1}-both": ("bob", of_bob, 3_000),
    }
    told = [told_by_topic(name, *about) for name, about in orders.items()]
    talk.send(ORDER_FACTS, [placed for placed, _ in told])
    checkouts = {name: checkout_of(talk, name, "checkout.ready.v1") for name in orders}
    assert {name: data["payable_minor"] for name, data in checkouts.items()} == {k: o[2] for k, o in orders.items()}
    talk.send(PAYMENT_FACTS, [paid for _, paid in told])
    for name in orders:
        checkout_of(talk, name, "checkout.completed.v1")
        wait_until_completed(api, name)
    headers = [dict(each.headers) for each in talk.all_of(CHECKOUTS)]
    completed = [each for each in headers if each["type"] == b"checkout.completed.v1"]
    assert {Position.parse(each["position"].decode()).shard for each in completed} == {0, 1}, "of both relays"
    for coupon_id in (*of_bob, of_cy, of_dee):
        assert api.get(f"/v1/coupons/{coupon_id}").json()["data"]["status"] == "redeemed"


def wait_until_completed(api: httpx.Client, order_id: str) -> None:
    """Until its saga heard, over topics, that it is."""
    read: dict[str, Any] = {}
    for _ in range(600):  # Bounded by looks.
        read = api.get(f"/v1/orders/{order_id}").json().get("data", {})
        if (read.get("saga") or {}).get("step") == "completed":
            return
        sleep(0.1)
    raise AssertionError(read)


def checkout_of(talk: Talk, order_id: str, kind: str) -> dict[str, Any]:
    """What was published of an order's checkout, once it is there."""

    def named(records: list[ConsumerRecord[Any, Any]]) -> list[dict[str, Any]]:
        values = [orjson.loads(each.value) for each in records if dict(each.headers)["type"] == kind.encode()]
        return [value for value in values if value["order_id"] == order_id]

    return named(talk.read(CHECKOUTS, lambda records: bool(named(records))))[0]


def check_that_one_shard_is_rebuilt_by_itself(running: Up) -> None:
    before = running.run("projections", "checksum")["checksums"]
    assert {(row["shard"], row["name"]) for row in before} >= {(0, "wallet"), (1, "wallet"), (0, "facts"), (1, "facts")}
    (rebuilt,) = running.run("projections", "rebuild", "facts", "--shard", "1")["rebuilt"]
    assert (rebuilt["shard"], rebuilt["content"]) == (1, "as before")
    listed = running.run("projections", "list")["projections"]
    assert {(row["shard"], row["active"]) for row in listed if row["name"] == "facts"} == {(0, 1), (1, 2)}
    assert running.run("projections", "checksum")["checksums"] == before
    dropped = running.run("projections", "drop", "facts", "--yes")["shards"]
    assert dropped == [{"shard": 0, "dropped": 0}, {"shard": 1, "dropped": 1}]
    unknown = run_cli("projections", "list", "--shard", "2", "--data-dir", str(running.data_dir))
    assert (unknown.returncode, "there is no shard 2" in unknown.stderr) == (ExitCode.USAGE, True)


def test_claims_on_both_shards_are_seen_in_one_wallet_and_in_all_facts_and_stay(tmp_path: Path) -> None:
    with up(tmp_path, "--kafka", "--shards", "2") as running:
        check_what_the_first_start_says(running)
        with client(running) as api:
            for template_id in TEMPLATES:
                publish(api, template_id)
            positions = [claim(api, template_id) for template_id in TEMPLATES]
            assert wallet(api, *positions) == [*reversed(TEMPLATES)]
            for position in positions:
                shown(api, "/v1/reports/funnel", position)
            funnel = api.get("/v1/reports/funnel").json()["items"]
            assert {row["template_id"]: row["claimed"] for row in funnel} == dict.fromkeys(TEMPLATES, 1)
            assert claims_in(running.facts["clickhouse_url"]) == 2
            assert [claims_in(shard["clickhouse_url"]) for shard in running.facts["shards"]] == [1, 1]
            check_orders_by_topic(running, api)
        check_that_one_shard_is_rebuilt_by_itself(running)
        assert running.run("verify")["violations"] == []
        seen = {each["thing"]: each["level"] for each in running.run("doctor")["findings"]}
        assert [seen[f"PostgreSQL of shard {shard}"] for shard in (0, 1)] == ["ok", "ok"]
        assert running.interrupt() == 0
        assert not [pid for pid in running.pids if is_running(pid)]
    refused = run_cli("up", "--shards", "3", "--data-dir", str(tmp_path))
    assert (refused.returncode, "was made for 2 shards" in refused.stderr) == (ExitCode.USAGE, True)
    with (
        up(tmp_path, "--no-kafka") as again,
        client(again) as api,
    ):  # Without Kafka followers read the store, from where they were.
        assert wallet(api) == [*reversed(TEMPLATES)]
