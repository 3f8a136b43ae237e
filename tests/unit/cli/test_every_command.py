"""Every command explains itself, speaks JSON, and is in the operations guide."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from infra.cli import app
from infra.cli.errors import CliError, ExitCode
from infra.cli.telling import realm_of

GUIDE = Path(__file__).parents[3] / "docs" / "operations.md"


def every_command(group: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, found in group.commands.items():
        if isinstance(found, typer.core.TyperGroup):
            yield from every_command(found, (*path, name))
        else:
            yield (*path, name)


ROOT = typer.main.get_group(app)
COMMANDS = sorted(every_command(ROOT))
by_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def help_of(path: tuple[str, ...]) -> str:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("tenant", ["", " demo", "de\nmo", "d" * 129])
def test_a_key_is_made_for_nobody_without_a_name(tenant: str) -> None:
    with pytest.raises(CliError, match="--tenant must be") as refused:
        realm_of(tenant, "shop")
    assert refused.value.code == ExitCode.USAGE


def test_all_promised_commands_are_there() -> None:
    promised = {
        "up", "demo", "serve", "worker sagas", "worker projections", "worker distributions", "worker leases",
        "worker intake",
        "worker relay",
        "codes generate", "codes export", "codes show", "codes void",
        "codes keys", "codes rotate-key", "codes delete-key", "leases list", "leases verify", "distribute start",
        "distribute list", "distribute show", "distribute pause", "distribute resume", "distribute cancel",
        "distribute refusals", "migrate", "events tail", "events show",
        "projections list", "projections lag", "projections rebuild", "projections drop", "projections checksum",
        "verify", "sagas list",
        "sagas show", "sagas retry", "sagas resolve", "reconcile run", "reconcile breaks",
        "reconcile explain", "dead-letters list",
        "dead-letters show", "dead-letters requeue", "dead-letters drop", "import",
        "restored", "intake skip", "keys create", "keys list", "keys revoke", "doctor",
    }  # fmt: skip
    assert {" ".join(path) for path in COMMANDS} == promised


@by_command
def test_a_command_has_help_with_an_example_of_itself(path: tuple[str, ...]) -> None:
    text = help_of(path)
    assert f"Example:  tessera {' '.join(path)}" in text
    summary = text.split("Usage:")[1].split("\n\n")[0]
    assert summary.strip(), "no summary"


def test_help_names_every_worker() -> None:
    workers = {path[1] for path in COMMANDS if path[0] == "worker"}
    for text in (help_of(()), help_of(("worker",)).split("Options")[0]):
        (line,) = [line for line in text.splitlines() if "Run one part of the system" in line]
        assert workers == {worker for worker in workers if worker in line.split("system: ")[1]}


@by_command
def test_a_command_can_answer_in_json(path: tuple[str, ...]) -> None:
    text = help_of(path)
    assert "--json" in text
    assert "--data-dir" in text
    assert "--debug" in text


@by_command
def test_a_command_is_in_the_operations_guide(path: tuple[str, ...]) -> None:
    assert f"`tessera {' '.join(path)}" in GUIDE.read_text()


def test_the_guide_names_no_command_that_does_not_exist() -> None:
    known = {" ".join(path) for path in COMMANDS} | {" ".join(path[:-1]) for path in COMMANDS}
    for words in re.findall(r"tessera ((?:[a-z]+(?:-[a-z]+)?)(?: [a-z]+)?)", GUIDE.read_text()):
        first, _, second = words.partition(" ")
        assert words in known or (first in known and second), f"`tessera {words}` is no command"


@by_command
def test_every_example_in_help_uses_options_that_exist(path: tuple[str, ...]) -> None:
    text = help_of(path)
    (example,) = re.findall(r"Example:  (tessera .*?)\s*$", text, flags=re.MULTILINE)
    for option in re.findall(r"(?<=\s)--[a-z-]+", example):
        assert option in text.split("Example:")[0]


def test_every_exit_code_is_in_the_guide() -> None:
    text = GUIDE.read_text()
    for code in ExitCode:
        assert re.search(rf"^\| {int(code)} \|", text, flags=re.MULTILINE), f"exit code {int(code)} is not explained"


@pytest.mark.parametrize(
    "arguments", [("keys", "list"), ("events", "tail"), ("doctor",), ("sagas", "list"), ("migrate",)], ids=" ".join
)
def test_without_servers_a_command_says_what_to_do(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*arguments, "--json", "--data-dir", str(tmp_path)], env=NO_ADDRESSES)
    assert result.exit_code == ExitCode.UNAVAILABLE
    error = json.loads(result.stderr)["error"]
    assert "no servers" in error["what"]
    assert "tessera up" in error["next_step"]


NO_ADDRESSES = {"TESSERA_POSTGRES_DSN": "", "TESSERA_REDIS_URL": "", "TESSERA_CLICKHOUSE_URL": ""}


def test_an_unknown_option_is_a_usage_error() -> None:
    assert CliRunner().invoke(app, ["keys", "list", "--nonsense"]).exit_code == ExitCode.USAGE


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "tessera.toml").write_text('postgres_dsn = "mysql://x"\n')
    result = CliRunner().invoke(app, ["keys", "list", "--data-dir", str(tmp_path)], env=NO_ADDRESSES)
    assert result.exit_code == ExitCode.USAGE
    assert "TESSERA_POSTGRES_DSN" in result.stderr


def test_what_destroys_is_not_done_without_a_yes(tmp_path: Path) -> None:
    env = {
        "TESSERA_POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/none",
        "TESSERA_REDIS_URL": "redis://127.0.0.1:1/0",
        "TESSERA_CLICKHOUSE_URL": "http://127.0.0.1:1/none",
    }
    result = CliRunner().invoke(app, ["keys", "revoke", "abc", "--data-dir", str(tmp_path)], env=env)
    assert result.exit_code == ExitCode.USAGE
    assert "--yes" in result.stderr


def test_a_server_that_does_not_answer_is_told_as_such(tmp_path: Path) -> None:
    env = {
        "TESSERA_POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/none",
        "TESSERA_REDIS_URL": "redis://127.0.0.1:1/0",
        "TESSERA_CLICKHOUSE_URL": "http://127.0.0.1:1/none",
    }
    result = CliRunner().invoke(app, ["keys", "list", "--data-dir", str(tmp_path)], env=env)
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert "tessera doctor" in result.stderr
    assert "Traceback" not in result.output + result.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["keys", "list", "--debug", "--data-dir", str(tmp_path)], env=NO_ADDRESSES)
    assert result.exception is not None
    assert not isinstance(result.exception, SystemExit)
