"""Operators see what could not be taken in, send it again once, or give it up."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from contracts.topics import COMMANDS, DEAD_LETTERS, REPLIES, TAKEN_IN
from infra.cli.app import app
from infra.cli.errors import ExitCode
from infra.intake.dead_letters import dead_letter, letters_in
from infra.settings import Settings
from tests.integration.intake.world import kafka_settings, taking_in
from tests.kafka_talk import Sent, Talk, value_of
from tests.unit.intake.world import FakeRecord, command

NOTHING = {"dead_letters": [], "count_by_follower": {}, "left_out": 0}


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

    def complaint(self, *words: str, exit_code: int) -> dict[str, Any]:
        """The error, and nothing else, that it prints beside its result."""
        done = CliRunner().invoke(app, ["dead-letters", *words, "--json"], env=self._env)
        assert done.exit_code == exit_code, done.output
        told: dict[str, Any] = json.loads(done.stderr)["error"]
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
    assert operator.run("list", "--follower", "intake") == NOTHING
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
    assert operator.run("list") == {"dead_letters": [], "count_by_follower": {}, "left_out": 2}
    assert "2 letters that are settled are left out; --all shows them" in operator.say("list")
    settled = operator.run("list", "--all")["dead_letters"]
    assert [(row["stream"], row["state"]) for row in settled] == [(first, "sent again"), (second, "dropped")]
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


def test_topics_that_are_not_there_are_named_and_nothing_else_is_logged(
    postgres_dsn: str, kafka_bootstrap: str, kafka_prefix: str, tmp_path: Path
) -> None:
    settings = kafka_settings(postgres_dsn, kafka_bootstrap, kafka_prefix, TAKEN_IN)
    operator = Operator(settings, tmp_path)
    for words in (
        ["list"],
        ["show", "intake", "t:0:1"],
        ["requeue", "intake"],
        ["drop", "intake", "t:0:1", "--reason", "x"],
    ):
        told = operator.complaint(*words, exit_code=ExitCode.ERROR)
        assert f"has no topic {kafka_prefix}{DEAD_LETTERS[0].name}, " in told["what"], words
        assert told["what"].endswith("run `tessera migrate`"), words
        assert "TESSERA_KAFKA_PREFIX" in told["next_step"], words


def test_what_followers_parked_is_listed_though_the_intake_s_topics_are_missing(
    settings: Settings, tmp_path: Path
) -> None:
    park(settings, ("sagas", 1, 3), ("sagas", 2, 0), ("wallet:v1", 1, 3))
    elsewhere = Operator(settings.model_copy(update={"kafka_prefix": f"{settings.kafka_prefix}none."}), tmp_path)
    done = elsewhere.run("list", exit_code=ExitCode.ERROR)
    assert [(row["follower"], row["version"], row["state"]) for row in done["dead_letters"]] == [
        ("sagas", 1, "failed"),
        ("sagas", 2, "waits"),
        ("wallet:v1", 1, "failed"),
    ]


def test_a_follower_that_nobody_is_is_an_error_that_names_those_there_are(settings: Settings, tmp_path: Path) -> None:
    park(settings, ("wallet:v7", 1, 3))
    operator = Operator(settings, tmp_path)
    for words in (["list", "--follower"], ["show"], ["requeue"], ["drop", "--reason", "x"]):
        told = operator.complaint(*words, "nope", *([] if words[0] == "list" else ["s"]), exit_code=ExitCode.USAGE)
        assert told["what"] == "there is no follower 'nope'"
        assert told["next_step"].startswith("There are: intake, sagas, "), told
        assert "wallet:v7" in told["next_step"]
    assert operator.run("list", "--follower", "sagas")["dead_letters"] == []
    assert len(operator.run("list", "--follower", "wallet:v7", exit_code=ExitCode.FINDINGS)["dead_letters"]) == 1


def test_what_was_dropped_stays_in_sight_for_whoever_asks_for_all(settings: Settings, tmp_path: Path) -> None:
    park(settings, ("sagas", 1, 3))
    operator = Operator(settings, tmp_path)
    operator.run("drop", "sagas", STREAM, "--reason", "test data", "--yes")
    (row,) = operator.run("list", exit_code=ExitCode.FINDINGS)["dead_letters"]
    assert row["state"] == "dropping"
    with psycopg.connect(settings.postgres_dsn) as connection:
        connection.execute("DELETE FROM parked_events")  # As the follower does once it passed it.
    assert operator.run("list")["dead_letters"] == []
    (row,) = operator.run("list", "--all")["dead_letters"]
    assert (row["follower"], row["state"], row["reason"]) == ("sagas", "dropped", "test data")


STREAM = "acme/shop/order/o-1"


def park(settings: Settings, *events: tuple[str, int, int]) -> None:
    """Follower, version and attempts of each."""
    with psycopg.connect(settings.postgres_dsn) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO parked_events (follower, stream, version, log_offset, reason, attempts)"
            " VALUES (%s, %s, %s, %s, 'poison', %s)",
            [(follower, STREAM, version, version, attempts) for follower, version, attempts in events],
        )


def test_a_letter_whose_topic_is_gone_says_so_instead_of_waiting_for_it(settings: Settings, tmp_path: Path) -> None:
    talk, record = Talk(settings), FakeRecord(b"{}", (), 3, topic="gone-topic")
    letter = dead_letter(talk.name(DEAD_LETTERS[0]), record, reason="missing", detail="", now=datetime.now(UTC))
    talk.send(DEAD_LETTERS[0], [Sent(letter.value, letter.key, letter.headers)])
    told = Operator(settings, tmp_path).run("requeue", "intake", exit_code=ExitCode.FINDINGS)
    assert told["cannot_be_sent"] == [{"name": "gone-topic:0:3", "reason": "there is no topic gone-topic"}]
