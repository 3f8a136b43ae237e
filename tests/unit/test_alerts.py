"""The rules for Prometheus: about figures that we serve, about all that the guide wants watched, with a way on."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from infra.telemetry.metrics import GAUGES, Metrics

DOCS = Path(__file__).parents[2] / "docs"
NAME = re.compile(r"tessera_[a-z_]+")
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]


def served() -> set[str]:
    """Every figure's name, as a scrape has it."""
    told = generate_latest(Metrics().registry).decode()
    return {*GAUGES, *re.findall(r"^# TYPE (\S+)", told, re.MULTILINE)}


def labels_of(name: str) -> set[str]:
    return set(GAUGES[name][1]) if name in GAUGES else set()


def watched() -> Iterator[str]:
    """What the guide's table names."""
    table = (DOCS / "operations.md").read_text().split("## What to watch")[1].split("\n## ")[0]
    for line in table.splitlines():
        if line.startswith("| `"):
            yield from NAME.findall(line.split("|")[1])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_is_about_figures_that_are_served_under_labels_that_they_have(rule: dict[str, Any]) -> None:
    names = set(NAME.findall(rule["expr"]))
    assert names
    assert names <= served()
    for kept, name in re.findall(r"by \(([a-z, ]+)\) \((?:increase\()?(tessera_[a-z_]+)", rule["expr"]):
        if name in GAUGES:
            assert set(kept.split(", ")) - {"instance"} <= labels_of(name)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_says_what_is_wrong_what_to_do_and_where_that_is_told(rule: dict[str, Any]) -> None:
    notes = rule["annotations"]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert notes["summary"].endswith(".")
    assert notes["action"].endswith((".", "?"))
    page, _, anchor = notes["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (DOCS / page).read_text(), re.MULTILINE)
    assert not anchor or anchor in {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_whatever_the_guide_wants_watched_has_a_rule() -> None:
    ruled = {name for rule in RULES for name in NAME.findall(rule["expr"])}
    assert set(watched()) <= ruled
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
