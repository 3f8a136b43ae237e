"""`tessera up --shards 2`: two stores with workers of their own behind one API, and readers who see one Tessera."""

from pathlib import Path
from urllib.parse import quote

import clickhouse_connect
import httpx
import pytest

from infra.cli.errors import ExitCode
from infra.stack import DEMO_REALM
from tests.e2e.conftest import Up, is_running, run_cli, up
from tests.e2e.test_up import client, publish
from tests.integration.shards.world import ON_0, ON_1

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TEMPLATES = (f"{ON_0}-ten-off", f"{ON_1}-ten-off")
CLAIMS = "SELECT count() FROM coupon_facts FINAL WHERE kind = 'claimed'"


def claim(api: httpx.Client, template_id: str) -> str:
    """Claims for ann; returns the position of the claim."""
    claimed = api.post(f"/v1/templates/{quote(template_id, safe='')}/claims", json={"user_id": "ann"})
    assert claimed.status_code == 201, claimed.text
    return str(claimed.json()["position"])


def wallet(api: httpx.Client, *positions: str) -> list[str]:
    """The templates of ann's coupons, once they show what was written up to all these positions."""
    for position in positions:
        assert api.get("/v1/users/ann/coupons", params={"min_position": position}).status_code == 200
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
    assert set(running.facts["pids"]) == {"postgres", "redis", "clickhouse", "serve"} | workers


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
    with up(tmp_path, "--shards", "2") as running:
        check_what_the_first_start_says(running)
        with client(running) as api:
            for template_id in TEMPLATES:
                publish(api, template_id)
            positions = [claim(api, template_id) for template_id in TEMPLATES]
            assert wallet(api, *positions) == [*reversed(TEMPLATES)]
            for position in positions:
                assert api.get("/v1/reports/funnel", params={"min_position": position}).status_code == 200
            funnel = api.get("/v1/reports/funnel").json()["items"]
            assert {row["template_id"]: row["claimed"] for row in funnel} == dict.fromkeys(TEMPLATES, 1)
        assert claims_in(running.facts["clickhouse_url"]) == 2
        assert [claims_in(shard["clickhouse_url"]) for shard in running.facts["shards"]] == [1, 1]
        check_that_one_shard_is_rebuilt_by_itself(running)
        assert running.run("verify")["violations"] == []
        seen = {each["thing"]: each["level"] for each in running.run("doctor")["findings"]}
        assert [seen[f"PostgreSQL of shard {shard}"] for shard in (0, 1)] == ["ok", "ok"]
        assert running.interrupt() == 0
        assert not [pid for pid in running.pids if is_running(pid)]
    refused = run_cli("up", "--shards", "3", "--data-dir", str(tmp_path))
    assert (refused.returncode, "was made for 2 shards" in refused.stderr) == (ExitCode.USAGE, True)
    with up(tmp_path) as again, client(again) as api:
        assert wallet(api) == [*reversed(TEMPLATES)]
