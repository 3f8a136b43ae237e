"""What Java notes of a broker's start: it fits the next one, it is made once, and nothing depends on it."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra.embedded import kafka
from infra.embedded.engine import EngineFailed
from infra.embedded.kafka import EmbeddedKafka, options_of, rehearsed
from infra.embedded.kafka_jars import jars

pytestmark = pytest.mark.integration


@pytest.fixture
def broker(tmp_path: Path) -> EmbeddedKafka:
    """One that never started; its folder is there."""
    broker = EmbeddedKafka(tmp_path)
    broker.folder.mkdir()
    return broker


def test_java_starts_with_what_was_noted(broker: EmbeddedKafka) -> None:
    notes = rehearsed(jars())
    assert notes is not None
    broker.prepare()
    line = broker.argv()
    assert set(options_of(notes)) < set(line)
    strict = [*line[: line.index("kafka.Kafka")], "kafka.tools.StorageTool", "random-uuid"]
    strict.insert(1, "-XX:AOTMode=on")  # It ends when they do not fit.
    subprocess.run(strict, check=True, capture_output=True, timeout=60)


def test_notes_that_are_damaged_cost_nothing_but_time(
    broker: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged.aot"
    damaged.write_text("no notes")
    monkeypatch.setattr(kafka, "rehearsed", lambda _classes: damaged)
    broker.prepare()
    assert broker.is_made


def test_a_rehearsal_that_fails_is_not_tried_at_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Any] = []

    def fail(self: EmbeddedKafka) -> None:
        tries.append(self)
        raise EngineFailed("no memory left")

    monkeypatch.setattr(kafka._Rehearsal, "start", fail)
    classes = tmp_path / "kafka-1"
    assert [rehearsed(classes), rehearsed(classes)] == [None, None]
    assert len(tries) == 1
    assert [each.suffix for each in tmp_path.iterdir() if each.name.startswith("kafka-1")] == [".aot"]
