"""``tessera distribute start`` on a real store: a refusal says what was refused, and what to do about it."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from contracts.commands import PauseTemplate
from infra.cli import app
from infra.cli.errors import ExitCode
from tests.integration.distributions.conftest import Shop


def refused(shop: Shop, folder: Path, template_id: str, *options: str) -> dict[str, Any]:
    """What starting a list of two users is answered with, when it is refused."""
    file = folder / "users.csv"
    file.write_text("user_id\nann\nbob\n")
    whose = ("--tenant", "acme", "--app", "shop", "--data-dir", str(folder))
    servers = {
        "TESSERA_POSTGRES_DSN": shop.dsn,
        "TESSERA_REDIS_URL": "redis://127.0.0.1:1",
        "TESSERA_CLICKHOUSE_URL": "http://127.0.0.1:1",
    }
    command = ["distribute", "start", template_id, str(file), "--no-wait", "--json", *whose, *options]
    result = CliRunner().invoke(app, command, env=servers)
    assert result.exit_code == ExitCode.ERROR, result.output
    told: dict[str, Any] = json.loads(result.stderr)["error"]
    return told


def test_a_template_that_is_not_there_is_named_with_where_to_find_the_others(shop: Shop, tmp_path: Path) -> None:
    told = refused(shop, tmp_path, "nope")
    assert told["what"] == "unknown_template: There is no such template."
    assert told["next_step"].startswith("Is nope its name? GET /v1/templates lists all")


def test_a_template_that_gives_nothing_now_says_what_opens_it(shop: Shop, tmp_path: Path) -> None:
    shop.template()
    assert shop.do(PauseTemplate(template_id="t1")).accepted
    told = refused(shop, tmp_path, "t1")
    assert (told["what"][:7], told["next_step"]) == ("paused:", "POST /v1/templates/t1/resume lets it go on.")


def test_a_name_that_is_taken_says_how_to_name_another(shop: Shop, tmp_path: Path) -> None:
    shop.template()
    assert shop.start(["zoe"]).accepted
    told = refused(shop, tmp_path, "t1", "--id", "d1")
    assert told["what"].startswith("already_exists: There is another distribution d1")
    assert "--id" in told["next_step"]
