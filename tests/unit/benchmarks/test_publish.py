"""Figures reach the documentation by a command, so what the documentation says is what was measured."""

import json
from typing import Any

import pytest

from benchmarks import publish
from benchmarks.publish import DOCUMENT, MEASURED, SECTIONS, NotFromHere, markdown, merged, rewritten


def result(at: str, **targets: dict[str, Any]) -> dict[str, Any]:
    return {"at": at, "targets": targets}


def told(value: float) -> dict[str, Any]:
    return {"value": value, "details": {}, "notes": []}


def test_the_documentation_says_what_was_measured() -> None:
    assert rewritten(DOCUMENT.read_text(), json.loads(MEASURED.read_text())) == DOCUMENT.read_text()


def test_of_a_target_measured_twice_the_later_figure_counts_and_failures_do_not() -> None:
    early = result("2026-01-01T00:00:00+00:00", p1=told(1.0), p5=told(5.0))
    late = result("2026-01-02T00:00:00+00:00", p5=told(6.0), p4={"title": "", "error": "it broke"})
    both = merged([late, early])
    assert {key: each["value"] for key, each in both["targets"].items()} == {"p1": 1.0, "p5": 6.0}
    assert merged([both, result("2026-01-03T00:00:00+00:00", p2=told(1.0))])["at"] == "2026-01-03T00:00:00+00:00"
    assert both["targets"]["p1"]["at"] == early["at"]
    assert merged([both, result("2026-01-03T00:00:00+00:00")])["targets"]["p1"]["at"] == early["at"]


def test_a_section_that_is_missing_or_there_twice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "SECTIONS", {"a": lambda _result: ["new"]})
    text = "x\n<!-- measured: a -->\nold\n<!-- end -->\ny"
    assert rewritten(text, {}) == "x\n<!-- measured: a -->\n\nnew\n\n<!-- end -->\ny"
    for broken in ("", text + text, "<!-- measured: a -->\nold"):
        with pytest.raises(NotFromHere, match="'a'"):
            rewritten(broken, {})


def test_a_table_without_rows_says_so() -> None:
    assert list(markdown(("a", "b"), [])) == [f"*{publish.NOT_MEASURED}*"]
    assert list(markdown(("a", "b"), [["1", "2"]])) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]


def test_sections_of_targets_that_were_not_measured_are_empty_and_not_wrong() -> None:
    nothing = result("2026-01-01T00:00:00+00:00")
    for name in SECTIONS.keys() - {"machine"}:
        assert "None" not in "\n".join(SECTIONS[name](nothing))
