"""Operators see what could not be taken in, send it again once, or give it up."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts.topics import COMMANDS, DEAD_LETTERS, REPLIES
from infra.cli.app import app
from infra.intake.dead_letters import letters_in
from infra.settings import Settings
from tests.integration.intake.world import kafka_settings, taking_in
from tests.kafka_talk import Sent, Talk, value_of
from tests.unit.intake.world import command


class Operator:
    """Runs ``tessera dead-letters``."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._env = settings.to_env() | {"TESSERA_DATA_DIR": str(folder)}

    def run(self, *words: str, exit_code: int = 0) -> dict[str, Any]:
        """What it prints as JSON."""
        done = CliRunner().invoke(app, ["dead-letters", *words, "--json"], env=self._env)
        assert done.exit_code == exit_code, done.output
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def say(self, *words: str) -> str:
        """What it prints for people, on one line."""
        return " ".join(CliRunner().invoke(app, ["dead-letters", *words], env=self._env).stdout.split())


@pytest.fixture
def settings(postgres_dsn: str, kafka_bootstrap: str, kafka_prefix: str) -> Settings:
    """A store and topics of one's own."""
    return kafka_settings(postgres_dsn, kafka_bootstrap, kafka_prefix)


def test_a_dead_letter_is_shown_sent_again_once_and_given_up(settings: Settings, tmp_path: Path) -> None:
    talk, operator = Talk(settings), Operator(settings, tmp_path)
    assert operator.run("list", "--follower", "intake") == {"dead_letters": [], "count_by_follower": {}}
    budget = command("b1", "create_budget", budget_id="pot", currency="GBP", limit_minor=1)
    homeless = Sent(budget, b"k", ())  # Nobody says whose it is, and there is no default.
    talk.send(COMMANDS, [homeless, Sent(b"\xff", b"k", (("note", b"\xfe"),))])
    with taking_in(settings):
        talk.read(DEAD_LETTERS[0], lambda found: len(found) == 2)
    listed = operator.run("list", exit_code=3)
    first, second = (row["stream"] for row in listed["dead_letters"])
    assert listed["count_by_follower"] == {"intake": 2}
    (shown,) = operator.run("show", "intake", second, exit_code=3)["dead_letters"]
    assert (shown["reason"], shown["value"], shown["headers"]) == ("missing", "\\xff", [["note", "\\xfe"]])

    assert operator.run("requeue", "intake", first) == {"requeued": 1, "names": [first]}
    assert operator.run("requeue", "intake", first) == {"requeued": 0, "names": []}
    assert f"Nothing was sent again: {first} was requeued at" in operator.say("requeue", "intake", first)
    operator.run("drop", "intake", second, "--reason", "test data", "--yes")
    (row,) = operator.run("list")["dead_letters"]
    assert (row["stream"], row["requeued_at"] is not None) == (first, True)
    assert talk.end_of(COMMANDS) == 3

    with taking_in(settings.model_copy(update={"kafka_default_realm": "acme/shop"})):
        (reply,) = talk.read(REPLIES, lambda found: len(found) == 1)
    assert value_of(reply)["status"] == "accepted"
    (again,) = [each for each in talk.all_of(COMMANDS) if each.offset == 2]
    assert (again.key, json.loads(again.value)) == (b"k", budget)
    assert dict(again.headers)["requeued-from"].decode() == first
    assert len(letters_in(talk.all_of(DEAD_LETTERS[0]))) == 2


def test_a_letter_that_nobody_wrote_is_named_with_where_to_look(settings: Settings, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["dead-letters", "show", "intake", "t:0:1"], env=settings.to_env())
    assert told.exit_code == 1
    assert "there is no dead letter t:0:1" in " ".join(told.output.split())


def test_a_letter_that_cannot_be_sent_again_keeps_no_other_from_it(settings: Settings, tmp_path: Path) -> None:
    talk, operator = Talk(settings), Operator(settings, tmp_path)
    talk.send(COMMANDS, [Sent(b"\xff", b"x" * 70_000, ()), Sent(b"\xff", b"k", ())])
    with taking_in(settings):
        letters = letters_in(talk.read(DEAD_LETTERS[0], lambda found: len(found) == 2))
    cut, whole = sorted(letters, key=lambda letter: not letter.cut)
    told = operator.run("requeue", "intake", exit_code=3)
    assert told["names"] == [str(whole.origin)]
    assert [each["name"] for each in told["cannot_be_sent"]] == [str(cut.origin)]
    assert "its key" in told["cannot_be_sent"][0]["reason"]
