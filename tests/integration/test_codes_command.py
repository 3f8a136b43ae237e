"""``tessera codes`` on a real store: generate, export, show, void, and what keys do."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from contracts.commands import ActivateTemplate, CreateTemplate, UseCode
from contracts.envelope import CommandEnvelope
from contracts.identity import Realm
from infra.bootstrap.stores import running_engine
from infra.cli import app
from infra.cli.errors import ExitCode
from infra.settings import Settings
from tests.integration.http.conftest import settings_for
from tests.unit.http.test_codes import TERMS

ACME = Realm("acme", "shop")


class Shop:
    """A store with one active template, and the command line that works on it."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.settings: Settings = settings_for(dsn)
        self._folder = folder
        self._env = {
            "TESSERA_POSTGRES_DSN": dsn,
            "TESSERA_REDIS_URL": self.settings.redis_url,
            "TESSERA_CLICKHOUSE_URL": self.settings.clickhouse_url,
        }
        template = CreateTemplate.model_validate_json(json.dumps({"template_id": "t1", "terms": TERMS}))
        for command in (template, ActivateTemplate(template_id="t1")):
            with running_engine(self.settings) as engine:
                answer = engine.execute(CommandEnvelope(ACME, command.type, command, "test", "test"))
                assert answer.accepted, answer

    def run(self, *arguments: str) -> Result:
        """``tessera codes …`` for acme."""
        whose = ("--tenant", "acme", "--app", "shop", "--data-dir", str(self._folder))
        return CliRunner().invoke(app, ["codes", *arguments, *whose], env=self._env)


@pytest.fixture
def shop(postgres_dsn: str, tmp_path: Path) -> Shop:
    return Shop(postgres_dsn, tmp_path)


def test_a_batch_is_generated_exported_used_and_voided(shop: Shop, tmp_path: Path) -> None:
    made = shop.run("generate", "t1", "20000", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["batch_id"] == "k1-1"

    first, second = tmp_path / "codes.csv", tmp_path / "again.csv"
    for file in (first, second):
        assert shop.run("export", "k1-1", "--output", str(file)).exit_code == 0
    assert first.read_bytes() == second.read_bytes()
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    rows = first.read_text().splitlines()
    assert (rows[0], len(set(rows))) == ("index,code", 20_001)
    lines = shop.run("export", "k1-1", "--json").stdout.splitlines()
    assert json.loads(lines[7]) == {"index": 7, "code": rows[8].split(",")[1]}
    over = shop.run("export", "k1-1", "--output", str(first))
    assert (over.exit_code, first.read_bytes()) == (ExitCode.ERROR, second.read_bytes())

    with running_engine(shop.settings) as engine:
        use = UseCode(batch_id="k1-1", index=3, user_id="ann")
        assert engine.execute(CommandEnvelope(ACME, "use", use, "test", "test")).accepted
    asked = shop.run("void", "k1-1", "--reason", "lost")
    assert asked.exit_code == ExitCode.USAGE, "nobody was there to confirm"
    assert shop.run("void", "k1-1", "--reason", "lost", "--first", "0", "--last", "10", "--yes").exit_code == 0
    view = json.loads(shop.run("show", "k1-1", "--json").stdout)
    assert (view["generated"], view["assigned"], view["used"], view["voided"]) == (20_000, 0, 1, 10)


def test_a_deleted_key_writes_no_codes_and_new_batches_have_their_own(shop: Shop) -> None:
    shop.run("generate", "t1", "5")
    assert json.loads(shop.run("rotate-key", "--json").stdout) == {"key_id": "k2"}
    assert json.loads(shop.run("generate", "t1", "5", "--json").stdout)["batch_id"] == "k2-1"
    assert len(shop.run("export", "k1-1").stdout.splitlines()) == 6
    assert shop.run("delete-key", "k1", "--yes").exit_code == 0
    gone = shop.run("export", "k1-1")
    assert gone.exit_code == ExitCode.ERROR
    assert "k1 of k1-1 was deleted" in gone.stderr
    assert len(shop.run("export", "k2-1").stdout.splitlines()) == 6
    keys = json.loads(shop.run("keys", "--json").stdout)["keys"]
    assert [(key["key_id"], key["deleted_at"] is None) for key in keys] == [("k2", True), ("k1", False)]


def test_what_cannot_be_is_told(shop: Shop) -> None:
    assert "unknown_template" in shop.run("generate", "nothing", "5").stderr
    assert "there is no batch 'k1-7' in acme/shop" in shop.run("show", "k1-7").stderr
    assert shop.run("void", "k1-1", "--reason", "x", "--first", "3", "--yes").exit_code == ExitCode.USAGE
