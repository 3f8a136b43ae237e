"""An operator's commands over two stores: each lands where its tenant lives, and what lies nowhere is told."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from contracts.commands import Command
from contracts.identity import Realm
from infra.cli.errors import ExitCode
from infra.imports import pace
from tests.builders import template
from tests.engines import Corners
from tests.integration.shards.command_line import GIANT, ONE, ZERO, Operator, of, operator, words
from tests.integration.shards.readside import prepared
from tests.integration.shards.world import ON_0, ON_1
from tests.unit.imports.samples import open_shop

ALWAYS = {"claim_from": datetime(2020, 1, 1, tzinfo=UTC), "claim_until": datetime(2120, 1, 1, tzinfo=UTC)}


@pytest.fixture
def tessera(corners: Corners, tmp_path: Path) -> Iterator[Operator]:
    """Two fresh stores, and who works on them."""
    with corners.postgres() as zero, corners.postgres() as one:
        yield operator(tmp_path, (zero, one))


def ten_off(template_id: str) -> list[Command]:
    """A template that can be claimed today."""
    return list(template(template_id, **ALWAYS))


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A list of two."""
    file = tmp_path / "users.csv"
    file.write_text("user_id\nann\nbob\n")
    return file


@pytest.mark.parametrize(("realm", "shard"), [(ZERO, 0), (ONE, 1)])
def test_an_import_lands_where_its_tenant_lives(
    corners: Corners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, realm: Realm, shard: int
) -> None:
    monkeypatch.setattr(pace, "STANDSTILL_SECONDS", 0.0)
    shop = open_shop(tmp_path)
    with prepared(corners, data_dir=tmp_path) as settings:
        tessera = Operator(settings)
        shown = tessera.shown("import", str(shop.data), "--mapping", str(shop.mapping_folder), *of(realm))
        assert shown["agrees"], shown
        assert {"order/o1", "order/o2", "order/o4"} <= tessera.streams(shard, realm)
        assert tessera.rows(1 - shard, "SELECT count(*) FROM stored_events") == [(0,)]
        imports = [tessera.rows(each, "SELECT count(*) FROM import_progress")[0][0] for each in (0, 1)]
        assert (imports[1 - shard], imports[shard] > 0) == (0, True)


def test_an_import_into_a_tenant_without_one_home_sends_nothing(tessera: Operator, tmp_path: Path) -> None:
    shop = open_shop(tmp_path)
    refused = tessera.run("import", str(shop.data), "--mapping", str(shop.mapping_folder), *of(GIANT))
    assert refused.exit_code == ExitCode.USAGE
    assert "giant/shop is spread over several shards: imports are only for tenants that live on one" in words(refused)
    assert "Name a tenant that lives on one shard" in words(refused)
    assert [tessera.streams(shard, GIANT) for shard in (0, 1)] == [set(), set()]


@pytest.mark.parametrize(("realm", "tag", "shard"), [(ZERO, "", 0), (ONE, "", 1), (GIANT, ON_0, 0), (GIANT, ON_1, 1)])
def test_a_distribution_is_staged_started_and_told_where_its_template_lies(
    tessera: Operator, users: Path, realm: Realm, tag: str, shard: int
) -> None:
    name = f"{tag}round"
    tessera.tell(realm, *ten_off(f"{tag}ten-off"))
    start = ("distribute", "start", f"{tag}ten-off", str(users), "--id", name, "--no-wait", *of(realm))
    assert tessera.shown(*start)["users"] == 2
    staged = [tessera.rows(each, "SELECT distribution_id FROM distributions") for each in (0, 1)]
    assert (staged[shard], staged[1 - shard]) == ([(name,)], [])
    assert tessera.shown("distribute", "pause", name, "--reason", "r", *of(realm))["status"] == "paused"
    assert tessera.shown("distribute", "show", name, *of(realm))["status"] == "paused"
    assert tessera.shown("distribute", "resume", name, *of(realm))["status"] == "running"
    assert tessera.shown("distribute", "cancel", name, "--yes", *of(realm))["status"] == "cancelled"
    assert tessera.run("distribute", "refusals", name, *of(realm)).stdout.splitlines() == ["row,user_id,code,detail"]
    assert f"distribution/{name}" in tessera.streams(shard, realm)
    assert tessera.streams(1 - shard, realm) == set()


def test_distributions_of_all_stores_are_listed_the_latest_first(tessera: Operator, users: Path) -> None:
    for number, (realm, tag) in enumerate(((GIANT, ON_1), (ZERO, ""), (ONE, ""), (GIANT, ON_0))):
        tessera.tell(realm, *ten_off(f"{tag}ten-off"))
        start = ("distribute", "start", f"{tag}ten-off", str(users), "--id", f"{tag}{number}", "--no-wait")
        tessera.shown(*start, *of(realm))

    def listed(*options: str) -> list[str]:
        return [each["distribution_id"] for each in tessera.shown("distribute", "list", *options)["distributions"]]

    assert listed() == [f"{ON_0}3", "2", "1", f"{ON_1}0"]
    assert listed("--limit", "2") == [f"{ON_0}3", "2"]
    assert listed(*of(GIANT)) == [f"{ON_0}3", f"{ON_1}0"]
    assert listed(*of(ONE)) == ["2"]


def test_a_distribution_apart_from_its_template_is_refused_with_the_name_that_would_do(
    tessera: Operator, users: Path
) -> None:
    tessera.tell(GIANT, *ten_off(f"{ON_1}ten-off"))
    refused = tessera.run("distribute", "start", f"{ON_1}ten-off", str(users), "--id", f"{ON_0}round", *of(GIANT))
    assert refused.exit_code == ExitCode.USAGE
    told = words(refused)
    assert f"not_placeable: distribution {ON_0}round would lie on shard 0, its template on 1" in told
    assert "Name it so, and run this again" in told
    assert [tessera.rows(each, "SELECT count(*) FROM distributions") for each in (0, 1)] == [[(0,)], [(0,)]]


def test_codes_and_their_keys_lie_where_their_tenant_lives(tessera: Operator) -> None:
    tessera.tell(ONE, *ten_off("ten-off"))
    assert tessera.shown("codes", "generate", "ten-off", "3", *of(ONE))["batch_id"] == "k1-1"
    assert len(tessera.run("codes", "export", "k1-1", *of(ONE)).stdout.splitlines()) == 4
    assert tessera.shown("codes", "void", "k1-1", "--first", "0", "--last", "1", "--reason", "r", "--yes", *of(ONE))
    assert tessera.shown("codes", "show", "k1-1", *of(ONE))["voided"] == 2
    assert tessera.shown("codes", "rotate-key", *of(ONE)) == {"key_id": "k2"}
    assert [key["key_id"] for key in tessera.shown("codes", "keys", *of(ONE))["keys"]] == ["k2", "k1"]
    assert [tessera.rows(each, "SELECT count(*) FROM code_keys") for each in (0, 1)] == [[(0,)], [(2,)]]
    assert tessera.rows(0, "SELECT count(*) FROM stored_events") == [(0,)]


def test_a_spread_tenant_is_told_that_it_has_no_codes(tessera: Operator) -> None:
    tessera.tell(GIANT, *ten_off(f"{ON_1}ten-off"))
    for asked in (("generate", f"{ON_1}ten-off", "3"), ("keys",), ("rotate-key",)):
        refused = tessera.run("codes", *asked, *of(GIANT))
        assert refused.exit_code == ExitCode.USAGE
        assert "codes are only for tenants that live on one" in words(refused)
    assert [tessera.rows(each, "SELECT count(*) FROM code_keys") for each in (0, 1)] == [[(0,)], [(0,)]]


@pytest.mark.parametrize(
    "started",
    [
        ("serve",),
        ("serve", "--workers", "2"),
        ("worker", "sagas"),
        ("leases", "verify"),
        ("distribute", "resume", "d1"),
    ],
    ids=" ".join,
)
def test_nothing_starts_over_one_database_under_two_numbers(
    corners: Corners, tmp_path: Path, started: tuple[str, ...]
) -> None:
    with corners.postgres() as store:
        same = operator(tmp_path, (store, f"{store}?application_name=other"))
        refused = same.run(*started, *(of(ONE) if "resume" in started else ()))
    assert refused.exit_code == ExitCode.USAGE, refused.output
    assert "TESSERA_SHARD_DSNS is wrong: shards 0 and 1 are one and the same database" in words(refused)


def test_events_sagas_and_dead_letters_are_found_on_whichever_shard_they_are(tessera: Operator) -> None:
    for realm in (ZERO, ONE):
        tessera.tell(realm, *ten_off("ten-off"))
        shard = tessera.settings.placement.home_of(realm)
        with psycopg.connect(tessera.settings.stores[shard]) as connection:
            connection.execute(
                "INSERT INTO parked_events (follower, stream, version, log_offset, reason, attempts)"
                " VALUES ('sagas', %s, 1, 1, 'poison', 3)",
                (f"{realm.key}/template/ten-off",),
            )
            connection.execute(
                "INSERT INTO sagas VALUES (%s, 'shop', 'checkout', %s, 1, 'held', 'checkout.ready.v1', 1, now())",
                (realm.tenant_id, f"o-{realm.tenant_id}"),
            )
    parked = json.loads(tessera.run("dead-letters", "list", "--json").stdout)
    assert [(each["shard"], each["stream"]) for each in parked["dead_letters"]] == [
        (0, "zero/shop/template/ten-off"),
        (1, "one/shop/template/ten-off"),
    ]
    assert parked["count_by_follower"] == {"sagas": 2}
    (shown,) = json.loads(tessera.run("dead-letters", "show", "sagas", "one/shop/template/ten-off", "--json").stdout)[
        "dead_letters"
    ]
    assert (shown["shard"], shown["event"]["type"]) == (1, "template.created.v1")
    assert tessera.shown("dead-letters", "requeue", "sagas", "one/shop/template/ten-off") == {"requeued": 1}

    sagas = tessera.shown("sagas", "list")["sagas"]
    assert [(each["shard"], each["key"]) for each in sagas] == [(0, "o-zero"), (1, "o-one")]
    assert [each["key"] for each in tessera.shown("sagas", "list", "--shard", "1")["sagas"]] == ["o-one"]
    assert tessera.shown("sagas", "show", "o-one")["sagas"][0]["shard"] == 1

    stream = tessera.shown("events", "show", "one/shop/template/ten-off")["events"]
    assert [each["type"] for each in stream] == ["template.created.v1", "template.activated.v1"]
    (event,) = tessera.shown("events", "show", str(stream[0]["offset"]), "--shard", "1")["events"]
    assert event["stream"] == "one/shop/template/ten-off"
    tail = tessera.run("events", "tail", "--shard", "1", "--json").stdout.splitlines()
    assert {json.loads(line)["stream"] for line in tail} == {"one/shop/template/ten-off"}
    unknown = tessera.run("events", "tail", "--shard", "7")
    assert (unknown.exit_code, "there is no shard 7" in words(unknown)) == (ExitCode.USAGE, True)
