"""What people at a terminal are asked and told."""

import sys

import pytest
import typer

from infra.cli.console import Output
from infra.cli.errors import CliError, ExitCode


def test_whoever_interrupts_a_question_is_told_that_nothing_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> bool:
        raise typer.Abort

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", interrupted)
    with pytest.raises(CliError, match="nothing was changed") as told:
        Output(as_json=False).confirm("Drop it?", yes=False)
    assert told.value.code is ExitCode.INTERRUPTED


def test_an_error_is_not_folded_so_that_what_it_names_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    name = "payment-event-topic:3:" + "9" * 200
    Output(as_json=False).complain(CliError(f"there is no dead letter {name}", next_step=f"Look at {name}."))
    assert capsys.readouterr().err.count(name) == 2
