"""The benchmark runs from end to end; what it measures here is nobody's business."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main


@pytest.mark.integration
def test_a_quick_run_writes_every_figure_and_verifies_its_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # On a busy machine it takes pgbench a second and more to connect its 64 clients, and what it did then is nothing.
    options = ["--quick", "--only", "p5", "--rounds", "1", "--seconds", "4", "--results", str(tmp_path)]
    assert main(options) == 0

    (path,) = tmp_path.iterdir()
    told = json.loads(path.read_text())
    assert told["format"] == 1
    assert {"cores", "processor", "memory_bytes"} <= told["machine"].keys()
    assert [told["postgres"][name] for name in ("fsync", "full_page_writes", "synchronous_commit")] == ["on"] * 3
    entry = told["targets"]["p5"]
    assert entry["value"] == pytest.approx(entry["rounds"][0])
    ours, theirs = entry["sides"]
    assert entry["value"] == pytest.approx(ours["median"] / theirs["median"])
    (figure,) = ours["rounds"]
    assert figure["latencies"]["count"] > 0
    assert figure["batches"][0]["events_per_command"] >= 1
    assert figure["micros_each"].keys() >= {"engine 1", "PostgreSQL"}
    assert entry["held"]
    assert "every invariant holds" in entry["verified"]
    assert "every invariant holds" in capsys.readouterr().out


def test_an_unknown_target_is_named_with_the_known_ones() -> None:
    with pytest.raises(SystemExit, match=r"p99.*p1, p1-shards, p2"):
        main(["--only", "p99"])


def test_the_list_says_what_each_target_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "pgbench" in capsys.readouterr().out
