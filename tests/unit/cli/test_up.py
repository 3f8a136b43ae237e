"""What `tessera up` says: which parts ended and what becomes of them, and whether topics are read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.cli import up
from infra.cli.command import Session, guard
from infra.cli.console import Output
from infra.cli.errors import ExitCode
from infra.embedded.kafka import EmbeddedKafka
from infra.processes import Ending
from infra.stack import LocalStack
from infra.supervisor import Ended, Started

OUT_OF_LUCK = Ending("sagas", 1, "out of luck")


def run_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, waits: Callable[[Any], Ended | None], *, as_json: bool = False
) -> int:
    """`tessera up` around a stack that starts nothing, and whose parts fare as they are told. Its exit code."""

    class Stack(LocalStack):
        def __enter__(self) -> "Stack":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait(self, tell: Any) -> Ended | None:
            return waits(tell)

    monkeypatch.setattr("infra.stack.LocalStack", Stack)
    monkeypatch.setattr(up, "_facts", lambda *_: {"is": "up"})
    monkeypatch.setattr(up, "_welcome", lambda _facts: "It is up")
    out = Output(as_json=as_json)
    return guard(out, lambda: up._up(Session(out, folder)), debug=False)


def test_each_end_and_each_start_is_a_line_that_names_the_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def waits(tell: Any) -> None:
        tell(Ended(Ending("redis", -9, "words"), ends=1, pause_seconds=0.25))
        tell(Started("redis", pid=4_711))

    assert run_up(tmp_path, monkeypatch, waits) == ExitCode.OK
    _, ended, started = capsys.readouterr().out.splitlines()
    log = f"{tmp_path}/logs/redis.log"
    assert ended.endswith(f" redis ended (signal 9) and is started again in 0.25 s; its log: {log}")
    assert started.endswith(" redis was started again (process 4711)")
    assert run_up(tmp_path, monkeypatch, waits, as_json=True) == ExitCode.OK
    _, *told = map(json.loads, capsys.readouterr().out.splitlines())
    assert [{key: value for key, value in each.items() if key != "at"} for each in told] == [
        {"ended": "redis", "exit_code": -9, "starts_in_seconds": 0.25},
        {"started": "redis", "pid": 4_711},
    ]


def test_what_is_given_up_stops_the_rest_with_its_last_words_and_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_up(tmp_path, monkeypatch, lambda _tell: Ended(OUT_OF_LUCK, 5, None)) == ExitCode.ERROR
    said = capsys.readouterr().err
    assert "sagas is given up after 5 ends within a minute" in said
    assert "sagas ended (exit code 1); the end of its log:\nout of luck" in said
    assert f"Its whole log is {tmp_path}/logs/sagas.log" in said
    assert "run `tessera up` again" in said


@pytest.mark.parametrize("as_json", [True, False])
def test_it_goes_on_when_nobody_reads_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, as_json: bool
) -> None:
    reads, writes = os.pipe()
    told = []

    def waits(tell: Any) -> None:
        os.close(reads)
        for name in ("redis", "sagas"):
            tell(Started(name, pid=1))
            told.append(name)

    with os.fdopen(writes, "w") as nobody:
        monkeypatch.setattr("sys.stdout", nobody)
        assert run_up(tmp_path, monkeypatch, waits, as_json=as_json) == ExitCode.OK
    assert told == ["redis", "sagas"]


@pytest.fixture
def folder_with_topics(tmp_path: Path) -> Path:
    """As a run with Kafka leaves it."""
    made = EmbeddedKafka(tmp_path).folder / "data" / "meta.properties"
    made.parent.mkdir(parents=True)
    made.touch()
    assert EmbeddedKafka(tmp_path).is_made
    return tmp_path


def remember(folder: Path, *, kafka: bool) -> None:
    """As a run with or without Kafka does."""
    (folder / "with-kafka.json").write_text(json.dumps(kafka))


def test_kafka_runs_as_wished_else_as_the_last_time(tmp_path: Path) -> None:
    assert not LocalStack(tmp_path).kafka
    assert LocalStack(tmp_path, kafka=True).kafka
    remember(tmp_path, kafka=True)
    assert LocalStack(tmp_path).kafka
    assert not LocalStack(tmp_path, kafka=False).kafka


def test_a_folder_of_before_it_was_remembered_runs_with_the_kafka_that_it_has(folder_with_topics: Path) -> None:
    assert LocalStack(folder_with_topics).kafka
    remember(folder_with_topics, kafka=False)
    assert not LocalStack(folder_with_topics).kafka


def test_topics_that_nobody_reads_are_told(
    folder_with_topics: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_up(folder_with_topics, monkeypatch, lambda _tell: None)
    assert "Kafka" not in capsys.readouterr().err
    remember(folder_with_topics, kafka=False)
    run_up(folder_with_topics, monkeypatch, lambda _tell: None)
    assert "what comes in by topic waits" in " ".join(capsys.readouterr().err.split())
