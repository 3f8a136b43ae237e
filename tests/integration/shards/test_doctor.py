"""``tessera doctor`` over two shards: who lives where, how each store is, and what cannot be meant."""

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from contracts.commands import CreateBudget
from infra.cli.errors import ExitCode
from tests.engines import Corners
from tests.integration.shards.command_line import ONE, ZERO, Operator, operator
from tests.integration.shards.readside import prepared


@pytest.fixture
def tessera(corners: Corners, tmp_path: Path) -> Iterator[Operator]:
    """Two prepared shards, and who looks after them."""
    with prepared(corners, data_dir=tmp_path) as settings:
        yield Operator(settings)


def findings(tessera: Operator, ends_with: ExitCode) -> dict[str, tuple[str, str]]:
    """What the doctor found: thing -> level and detail."""
    result = tessera.run("doctor", "--json")
    assert result.exit_code == ends_with, result.output
    return {each["thing"]: (each["level"], each["detail"]) for each in json.loads(result.stdout)["findings"]}


def test_the_doctor_says_who_lives_where_and_looks_at_each_shard(tessera: Operator) -> None:
    for realm in (ZERO, ONE):  # Whoever writes to a shard first gives it its epoch.
        tessera.tell(realm, CreateBudget(budget_id="pot", currency="GBP", limit_minor=1_000))
    with psycopg.connect(tessera.settings.stores[1]) as connection:
        connection.execute(
            "INSERT INTO parked_events (follower, stream, version, log_offset, reason, attempts)"
            " VALUES ('wallet', 'one/shop/coupon/c1', 1, 1, 'poison', 3)"
        )
    found = findings(tessera, ExitCode.FINDINGS)
    lives = "one on 1; zero on 0; giant over 0 (0-511), 1 (512-1023); everybody else on 0"
    assert found["shards"] == ("ok", f"0, 1 (own: 0, with all API keys). {lives}")
    for shard in (0, 1):
        level, detail = found[f"PostgreSQL of shard {shard}"]
        (epoch,) = tessera.rows(shard, "SELECT epoch FROM store_epoch")[0]
        assert (level, f"epoch {epoch}" in detail) == ("ok", True)
        assert found[f"ClickHouse of shard {shard}"][0] == "ok"
        assert found[f"postgres schema of shard {shard}"] == ("ok", "up to date")
        assert f"sagas of shard {shard}" in found
    assert found["clickhouse of all shards schema"] == ("ok", "up to date")
    assert [found[f"dead letters of shard {shard}"][0] for shard in (0, 1)] == ["ok", "problem"]


def test_a_shard_that_is_away_or_behind_is_named_and_hides_no_other(corners: Corners, tessera: Operator) -> None:
    (last,) = tessera.rows(1, "SELECT max(name) FROM schema_migrations")[0]
    with psycopg.connect(tessera.settings.stores[1]) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE name = %s", (last,))
    found = findings(tessera, ExitCode.FINDINGS)
    assert found["postgres schema of shard 1"] == ("problem", f"pending: {last}")
    assert found["postgres schema of shard 0"] == ("ok", "up to date")

    away = {1: "postgresql://nobody@127.0.0.1:1/none"}
    found = findings(Operator(tessera.settings.model_copy(update={"shard_dsns": away})), ExitCode.UNAVAILABLE)
    assert found["PostgreSQL of shard 1"][0] == "unreachable"
    assert [found[thing][0] for thing in ("PostgreSQL of shard 0", "postgres schema of shard 0")] == ["ok", "ok"]


def test_one_database_under_two_numbers_is_a_problem(corners: Corners, tmp_path: Path) -> None:
    with prepared(corners, data_dir=tmp_path) as settings:
        same = {1: f"{settings.postgres_dsn}?application_name=other"}
        result = Operator(settings.model_copy(update={"shard_dsns": same})).run("doctor", "--json")
    rows = json.loads(result.stdout)["findings"]
    (problem,) = [each["detail"] for each in rows if each["thing"] == "shards" and each["level"] == "problem"]
    assert "shards 0 and 1 are one and the same database" in problem
    assert result.exit_code == ExitCode.FINDINGS


def test_lag_is_shown_of_each_shard(tessera: Operator) -> None:
    shown = json.loads(tessera.run("projections", "lag", "--json").stdout)["followers"]
    assert {row["shard"] for row in shown} == {0, 1}
    only = json.loads(tessera.run("projections", "lag", "--shard", "1", "--json").stdout)["followers"]
    assert {row["shard"] for row in only} == {1}


def test_a_doctor_of_one_store_says_nothing_of_shards(corners: Corners, tmp_path: Path) -> None:
    with corners.postgres() as store:
        alone = operator(tmp_path, (store,), tenant_shards={}, spread_tenants={})
        found = {each["thing"] for each in json.loads(alone.run("doctor", "--json").stdout)["findings"]}
    assert "PostgreSQL" in found
    assert not [thing for thing in found if "shard" in thing]
