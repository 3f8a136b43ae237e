"""``tessera distribute start`` says what it takes as the first user, before anybody is given anything."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.bootstrap import stores
from infra.cli import app
from infra.cli.errors import CliError

ADDRESSES = {
    "TESSERA_POSTGRES_DSN": "postgresql://h/tessera",
    "TESSERA_REDIS_URL": "redis://h",
    "TESSERA_CLICKHOUSE_URL": "http://h",
}


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
    file = tmp_path / "users.csv"
    file.write_text(text)
    whose = ["--tenant", "acme", "--app", "shop", "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(app, ["distribute", "start", "spring", str(file), *whose], env=ADDRESSES)
    before, issued, _ = result.stderr.partition("here it is issued")
    assert issued
    assert (shown in before) if shown else ("first row" not in before)
