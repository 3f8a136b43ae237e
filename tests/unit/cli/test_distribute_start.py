"""``tessera distribute start`` says what it takes as the first user, before anybody is given anything."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from infra.bootstrap import stores
from infra.cli import app
from infra.cli.errors import CliError, ExitCode

ADDRESSES = {
    "TESSERA_POSTGRES_DSN": "postgresql://h/tessera",
    "TESSERA_REDIS_URL": "redis://h",
    "TESSERA_CLICKHOUSE_URL": "http://h",
}


def start(folder: Path, text: str, *options: str) -> Result:
    """``tessera distribute start`` of a file with this text, up to where it would ask the engine."""
    file = folder / "users.csv"
    file.write_text(text)
    whose = ["--tenant", "acme", "--app", "shop", "--data-dir", str(folder)]
    return CliRunner().invoke(app, ["distribute", "start", "spring", str(file), *whose, *options], env=ADDRESSES)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("customer\nann\n", "first row: customer"), ("ann\nbob\n", "first row: ann"), ("user_id\nann\n", None)],
    ids=["foreign header", "no header", "header"],
)
def test_a_first_row_that_is_no_header_is_shown_before_anything_is_issued(
    text: str, shown: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(_settings: object) -> None:
        raise CliError("here it is issued")

    monkeypatch.setattr(stores, "running_engine", begin)
    result = start(tmp_path, text)
    before, issued, _ = result.stderr.partition("here it is issued")
    assert issued
    assert (shown in before) if shown else ("first row" not in before)


@pytest.mark.parametrize(
    ("text", "what", "next_step"),
    [
        ("name,customer\nAnn,ann\n", "no column called user_id; its columns: name, customer", "with --column"),
        (
            "user_id\nann\n\n\tbob\ndoe,john\n",
            "row 2 (line 4 of the file): must be 1 to 128",
            "row 3 (line 5 of the file)",
        ),
        ("user_id\n", "the list is empty", "nobody was given anything"),
    ],
    ids=["no such column", "wrong rows", "empty"],
)
def test_a_file_that_cannot_be_meant_says_where_and_what_to_do(
    text: str, what: str, next_step: str, tmp_path: Path
) -> None:
    result = start(tmp_path, text, "--json")
    assert result.exit_code == ExitCode.USAGE
    told = json.loads(result.stderr)["error"]
    assert what in told["what"]
    assert next_step in told["next_step"]


def test_a_named_column_is_taken_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(_settings: object) -> None:
        raise CliError("here it is issued")

    monkeypatch.setattr(stores, "running_engine", begin)
    result = start(tmp_path, "customer\nann\n", "--column", "customer")
    assert "here it is issued" in result.stderr
    assert "first row" not in result.stderr
