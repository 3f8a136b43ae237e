"""`tessera up`: starts, serves, is found by a second terminal, keeps its data, stops cleanly."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import clickhouse_connect
import httpx
import psycopg
import pytest
import redis

from infra.processes import wait_until
from tests.e2e.conftest import ROOT, Up, clean_env, is_running, run_cli, up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

BACK_SECONDS_MAX = 60.0
TERMS = {
    "name": "Ten off",
    "campaign_id": "e2e",
    "currency": "EUR",
    "discount": {"kind": "amount_off", "amount_minor": 1_000},
    "claim_from": "2020-01-01T00:00:00Z",
    "claim_until": "2120-01-01T00:00:00Z",
    "validity": {"kind": "after_claim", "duration_seconds": 86_400},
}


def client(running: Up) -> httpx.Client:
    return httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {running.token}"}, timeout=30.0)


def publish(api: httpx.Client, template_id: str, **terms: Any) -> None:
    body = {"template_id": template_id, "terms": TERMS | terms}
    assert api.post("/v1/templates", json=body).status_code == 201
    assert api.post(f"/v1/templates/{template_id}/activate").status_code == 200


def test_a_second_terminal_uses_cli_curl_redis_and_clickhouse_at_the_same_time(stack: Up) -> None:
    with client(stack) as api:
        publish(api, "second-terminal")
        claimed = api.post("/v1/templates/second-terminal/claims", json={"user_id": "ann"}).json()
        coupon_id, position = claimed["data"]["coupon_id"], claimed["position"]
        seen = api.get(f"/v1/coupons/{coupon_id}", params={"min_position": position})
        assert seen.json()["data"]["status"] == "claimed"
        funnel = api.get("/v1/reports/funnel", params={"min_position": position}).json()["items"]
        assert [row["claimed"] for row in funnel if row["template_id"] == "second-terminal"] == [1]

    curl = ["curl", "-sf", "-H", f"Authorization: Bearer {stack.token}", f"{stack.url}/v1/coupons/{coupon_id}"]
    told = subprocess.run(curl, capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(told.stdout)["data"]["template_id"] == "second-terminal"

    with redis.Redis.from_url(stack.facts["redis_url"]) as server:
        assert server.ping()
        assert any(coupon_id in key.decode() for key in server.scan_iter(match="coupon:*"))

    query = b"SELECT count() FROM coupon_facts FINAL WHERE template_id = 'second-terminal'"
    with urllib.request.urlopen(stack.facts["clickhouse_http"], data=query, timeout=30) as reply:
        assert reply.read().strip() == b"1"
    facts = clickhouse_connect.get_client(dsn=stack.facts["clickhouse_url"])
    assert facts.command("SELECT kind FROM coupon_facts FINAL WHERE template_id = 'second-terminal'") == "claimed"
    facts.close()

    with psycopg.connect(stack.facts["postgres_dsn"]) as connection:
        types = connection.execute("SELECT type FROM events WHERE key = %s", (coupon_id,)).fetchall()
    assert types == [("coupon.claimed.v1",)]

    tailed = run_cli("events", "tail", "--json", "--kind", "coupon", "--data-dir", str(stack.data_dir))
    assert coupon_id in json.loads(tailed.stdout.splitlines()[-1])["stream"]


def test_the_readme_s_example_works_as_it_stands_and_again(stack: Up) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    cli = f"{sys.executable} -m infra.cli"
    for written, here in (
        ("localhost:8080", stack.url),
        (".tessera/local-key.json", f"{stack.data_dir}/local-key.json"),
        (".venv/bin/tessera reconcile run", f"{cli} reconcile run --data-dir {stack.data_dir} || [ $? = 3 ]"),
        (".venv/bin/tessera events tail", f"{cli} events tail --data-dir {stack.data_dir}"),
        (".venv/bin/tessera sagas show o-1", f"{cli} sagas show o-1 --json --data-dir {stack.data_dir}"),
        (".venv/bin/tessera verify", f"{cli} verify --data-dir {stack.data_dir}"),
    ):
        assert written in block
        block = block.replace(written, here)
    for pasted in (block, block.partition(cli)[0]):  # The second time without looking at all of it again.
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", pasted], cwd=ROOT, env=clean_env(), capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
        *sent, order, wallet = answers[:8]
        assert [answer["status"] for answer in sent] == ["accepted"] * 6
        assert [answer["checkout"]["payable_minor"] for answer in sent if "checkout" in answer] == [4_000]
        assert sent[3]["data"]["payable_minor"] == (4_000 if pasted == block else 5_000)  # By then the coupon is used.
        assert order["data"]["checkout"]["status"] == "completed"
        assert "redeemed" in {coupon["status"] for coupon in wallet["items"]}
        assert pasted != block or '"step": "completed"' in done.stdout


def test_an_order_goes_from_placed_to_refunded_and_the_books_balance(stack: Up) -> None:
    with client(stack) as api:
        publish(api, "order-story")
        coupon_id = api.post("/v1/templates/order-story/claims", json={"user_id": "bob"}).json()["data"]["coupon_id"]
        line = {"line_id": "1", "sku": "kettle", "quantity": 1, "unit_price_minor": 5_000}
        order = {"order_id": "story", "user_id": "bob", "currency": "EUR", "coupon_ids": [coupon_id], "lines": [line]}
        placed = api.post("/v1/orders", json=order).json()
        assert placed["checkout"]["payable_minor"] == 4_000
        money = {"order_id": "story", "amount_minor": 4_000, "currency": "EUR"}
        assert api.post("/v1/payments", json={**money, "payment_id": "p", "status": "succeeded"}).status_code == 201
        assert api.post("/v1/refunds", json={**money, "refund_id": "r"}).status_code == 201
    steps = wait_for_step(stack, "story", "refunded")
    assert steps["heard"][0]["fact"] == "order.placed.v1"
    assert stack.run("reconcile", "run")["breaks"] == []
    report = stack.run("verify")
    assert report["holds"]
    assert report["compared"] == ["Redis", "ClickHouse"]


def test_a_list_is_distributed_from_both_sides_and_the_books_hold(stack: Up, tmp_path: Path) -> None:
    with client(stack) as api:
        publish(api, "newsletter", claims_per_user_max=1)
        users = [f"user-{number}" for number in range(1_500)]
        body = {"template_id": "newsletter", "distribution_id": "by-http", "user_ids": users}
        started = api.post("/v1/distributions", json=body)
        assert (started.status_code, started.headers["location"]) == (202, "/v1/distributions/by-http")
        assert stack.run("distribute", "show", "by-http", "--wait")["issued"] == 1_500

        (tmp_path / "more.csv").write_text("user_id\nuser-7\nann\nbob\n")
        told = stack.run("distribute", "start", "newsletter", str(tmp_path / "more.csv"), "--id", "by-cli", code=3)
        assert (told["status"], told["issued"], told["refused"]) == ("completed", 2, 1)
        resumed = run_cli("distribute", "resume", "by-cli", "--data-dir", str(stack.data_dir))
        assert (resumed.returncode, "distribution_not_running" in resumed.stderr) == (1, True)
        refused = api.get("/v1/distributions/by-cli/refusals").text.splitlines()
        assert refused[0] == "row,user_id,code,detail"
        assert refused[1].startswith("1,user-7,user_limit_reached,")
        by_cli = run_cli("distribute", "refusals", "by-cli", "--data-dir", str(stack.data_dir)).stdout.splitlines()
        assert by_cli == refused
        names = [each["distribution_id"] for each in stack.run("distribute", "list")["distributions"]]
        assert names == ["by-cli", "by-http"]
        assert [each["issued"] for each in api.get("/v1/distributions").json()["items"]] == [2, 1_500]
        assert 'tessera_distribution_rows_left{shard="0"} 0.0' in api.get("/metrics").text
    report = stack.run("verify")
    assert report["holds"]


def wait_for_step(running: Up, order_id: str, step: str) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for _ in range(200):  # Bounded by looks, not by time: each is a command.
        shown = running.run("sagas", "show", order_id, code=None)
        if shown.get("sagas") and shown["sagas"][0]["step"] == step:
            return shown
    raise AssertionError(f"{order_id} never got to {step}: {shown}")


def test_every_reading_command_answers(stack: Up) -> None:
    assert stack.run("doctor")["status"] in {"ok", "warning"}
    assert {row["name"] for row in stack.run("projections", "list")["projections"]} >= {"wallet", "order", "facts"}
    assert stack.run("projections", "lag")["followers"][0]["follower"] == "sagas"
    assert stack.run("dead-letters", "list")["dead_letters"] == []
    assert stack.run("keys", "list")["keys"][0]["label"] == "local stack"
    assert stack.run("sagas", "list")["steps"] is not None
    assert stack.run("reconcile", "breaks")["breaks"] == []
    assert stack.run("migrate") == {"postgres": [], "clickhouse": []}


def test_a_revoked_key_is_locked_out(stack: Up) -> None:
    made = stack.run("keys", "create", "--tenant", "demo", "--app", "shop", "--role", "analyst")
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert httpx.get(f"{stack.url}/v1/templates", headers=headers).status_code == 200
    stack.run("keys", "revoke", made["key"].split("_")[1], "--yes")
    with httpx.Client() as api:  # The memory of the door is three seconds, whatever the machine's speed.
        for _ in range(100_000):
            if api.get(f"{stack.url}/v1/templates", headers=headers).status_code == 401:
                return
    raise AssertionError("the key still opens the door")


def test_a_second_up_on_the_same_folder_is_refused(stack: Up) -> None:
    done = run_cli("up", "--data-dir", str(stack.data_dir))
    assert done.returncode == 1
    assert "in use by process" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_survives_a_restart_and_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    with up(tmp_path) as first:
        with client(first) as api:
            publish(api, "kept")
            coupon_id = api.post("/v1/templates/kept/claims", json={"user_id": "eve"}).json()["data"]["coupon_id"]
        key, pids = first.token, first.pids
        assert first.url.endswith(":" + (tmp_path / "http-port.json").read_text().strip()), "the port for the next time"
        assert first.interrupt() == 0
    assert not [pid for pid in pids if is_running(pid)]
    assert not (tmp_path / "endpoints.json").exists()
    assert (tmp_path / "local-key.json").stat().st_mode & 0o077 == 0
    with up(tmp_path) as second:
        assert second.token == key
        with client(second) as api:
            assert api.get(f"/v1/coupons/{coupon_id}").json()["data"]["status"] == "claimed"
        assert second.run("verify")["holds"]


def test_parts_that_are_killed_are_started_again_in_their_place_and_lose_nothing(tmp_path: Path) -> None:
    victims = ("sagas", "serve", "redis", "postgres")
    with up(tmp_path) as running, client(running) as api:
        publish(api, "kept")
        coupon_id = api.post("/v1/templates/kept/claims", json={"user_id": "ann"}).json()["data"]["coupon_id"]
        before = running.facts["pids"]
        for name in victims:
            os.kill(before[name], signal.SIGKILL)
        told = [running.hears() for _ in range(2 * len(victims))]
        assert {each["ended"]: each["exit_code"] for each in told if "ended" in each} == dict.fromkeys(victims, -9)
        now = before | {each["started"]: each["pid"] for each in told if "started" in each}
        assert {name for name in now if now[name] != before[name]} == set(victims)

        check_an_order(api, "after", coupon_id)
        with redis.Redis.from_url(running.facts["redis_url"]) as server:
            assert server.info("server")["process_id"] == now["redis"], "where it was before"
        assert running.run("verify")["violations"] == []

        os.kill(now["redis"], signal.SIGKILL)
        assert running.hears()["ended"] == "redis"
        assert running.interrupt() == 0, "it stops in order in the middle of a pause, too"
        assert not [pid for pid in (*running.pids, *now.values()) if is_running(pid)]


def check_an_order(api: httpx.Client, order_id: str, coupon_id: str) -> None:
    """A coupon is redeemed for an order, and read models and facts say so, as soon as everybody is back."""
    line = {"line_id": "1", "sku": "kettle", "quantity": 1, "unit_price_minor": 5_000}
    order = {"order_id": order_id, "user_id": "ann", "currency": "EUR", "coupon_ids": [coupon_id], "lines": [line]}
    paid = {"order_id": order_id, "payment_id": "p", "status": "succeeded", "amount_minor": 4_000, "currency": "EUR"}
    asked(api, "POST", "/v1/orders", json=order, headers={"Idempotency-Key": order_id})
    told = asked(api, "POST", "/v1/payments", json=paid, headers={"Idempotency-Key": f"{order_id}-paid"})

    def is_completed() -> bool:
        shown = asked(api, "GET", f"/v1/orders/{order_id}", params={"min_position": told["position"]})["data"]
        return (shown["saga"] or {}).get("step") == "completed"

    assert wait_until(is_completed, timeout_seconds=BACK_SECONDS_MAX)
    later = asked(
        api, "POST", "/v1/templates/kept/claims", json={"user_id": "bob"}, headers={"Idempotency-Key": "later"}
    )
    seen = {"min_position": later["position"]}
    assert asked(api, "GET", f"/v1/coupons/{coupon_id}", params=seen)["data"]["status"] == "redeemed"
    (row,) = asked(api, "GET", "/v1/reports/funnel", params=seen)["items"]
    assert (row["claimed"], row["redeemed"]) == (2, 1)


def asked(api: httpx.Client, method: str, path: str, **more: Any) -> dict[str, Any]:
    """The answer, once there is one: it is asked again while somebody is away."""
    answers: list[httpx.Response] = []

    def is_answered() -> bool:
        with suppress(httpx.TransportError):
            answers.append(api.request(method, path, **more))
            return answers[-1].is_success
        return False

    assert wait_until(is_answered, timeout_seconds=BACK_SECONDS_MAX), answers[-1:] and answers[-1].text
    parsed: dict[str, Any] = answers[-1].json()
    return parsed
