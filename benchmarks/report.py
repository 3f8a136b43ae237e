"""What a run is written as: JSON for machines, a table for people."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.bench import Bench, Outcome, Side, Target
from benchmarks.figures import spread

RESULTS: Final = Path(__file__).parent / "results"
FORMAT: Final = 1
PACKAGES: Final = ("eventsourcing", "psycopg", "pydantic", "orjson", "uvicorn", "fastapi", "uvloop", "httptools")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Python and the packages on the hot path."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def head(bench: Bench) -> dict[str, Any]:
    """What a result begins with."""
    return {
        "format": FORMAT,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "postgres": bench.postgres.settings(),
        "effort": asdict(bench.effort),
        "targets": {},
    }


def entry(target: Target, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """One target's part of a result."""
    return {
        "title": target.title,
        "how": target.how,
        "value": outcome.value,
        "unit": target.unit,
        "better": target.better,
        "target": target.target,
        "moonshot": target.moonshot,
        "others": target.others,
        "met": target.met(outcome.value),
        "rounds": outcome.rounds,
        "spread": spread(outcome.rounds),
        "sides": [_side(side) for side in outcome.sides],
        "details": outcome.details,
        "notes": outcome.notes,
        "verified": outcome.verified,
        "held": outcome.held,
        "seconds": round(seconds, 1),
    }


def write(result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result under the instant at which it began, and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.fromisoformat(result["at"]).strftime("%Y%m%dT%H%M%SZ")
    path = folder / f"{stamp}.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return path


def table(result: Mapping[str, Any]) -> Table:
    """The table of ratios."""
    shown = Table(title="Ratios, both sides measured in turn on the same durable PostgreSQL", title_justify="left")
    for name in ("", "what", "value", "target", "moonshot", "ours", "beside", "p50 / p99 ms", "batch", "others"):
        shown.add_column(name, justify="right" if name in {"value", "target", "moonshot", "ours", "beside"} else "left")
    for key, told in result["targets"].items():
        shown.add_row(*cells(key, told))
    return shown


def rows_table(key: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """What a target tells by lines of its own, such as one for each number of clients."""
    shown = Table(title=key.upper(), title_justify="left")
    for name in rows[0]:
        shown.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        shown.add_row(*(_cell(value) for value in row.values()))
    return shown


def cells(key: str, told: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    if "error" in told:
        return [key.upper(), told["title"], "failed", "", "", "", "", "", "", told["error"]]
    sides = told["sides"]
    return [
        key.upper(),
        told["title"],
        f"{number(told['value'])}{_unit(told)} {_mark(told)}".strip(),
        _bound(told, "target"),
        _bound(told, "moonshot"),
        _median(sides, 0),
        _median(sides, 1),
        _latencies(sides),
        _batch(sides),
        told["others"],
    ]


def heading(result: Mapping[str, Any]) -> Iterable[str]:
    """Machine, versions and durability, a line each."""
    told, postgres, effort = result["machine"], result["postgres"], result["effort"]
    yield f"{told['cores']} cores, {told['processor']}, {told['memory_bytes'] / 2**30:.0f} GiB; {told['system']}"
    yield ", ".join(f"{name} {each}" for name, each in result["versions"].items())
    yield "PostgreSQL: " + ", ".join(f"{name} {value}" for name, value in postgres.items())
    rounds = f"{effort['rounds']} rounds of {effort['seconds']:g} s"
    yield f"median of {rounds}, sides in turn; load before: {told['load_before']}"


def number(value: float) -> str:
    """Three digits that count, or whole numbers from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _side(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "unit": side.unit,
        "median": sorted(side.values)[len(side.values) // 2] if side.values else 0.0,
        "spread": spread(side.values),
        "rounds": [{"value": figure.value, **figure.details} for figure in side.rounds],
    }


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items())
    if isinstance(value, list):
        return " / ".join(map(_cell, value))
    return number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _unit(told: Mapping[str, Any]) -> str:
    return f" {told['unit']}" if told["unit"] == "µs" else told["unit"]


def _mark(told: Mapping[str, Any]) -> str:
    return {"moonshot": "★", "target": "✓", "missed": "✗"}.get(told["met"], "")


def _bound(told: Mapping[str, Any], name: str) -> str:
    bound = told[name]
    sign = "≥" if told["better"] == "higher" else "≤"
    return "" if bound is None else f"{sign} {number(bound)}{_unit(told)}"


def _median(sides: list[Mapping[str, Any]], index: int) -> str:
    return f"{number(sides[index]['median'])} {sides[index]['unit']}" if len(sides) > index else ""


def _latencies(sides: list[Mapping[str, Any]]) -> str:
    told = [each.get("latencies") for side in sides[:1] for each in side["rounds"]]
    known = sorted((each for each in told if each), key=lambda each: float(each["p99_ms"]))
    return f"{known[len(known) // 2]['p50_ms']:.2f} / {known[len(known) // 2]['p99_ms']:.2f}" if known else ""


def _batch(sides: list[Mapping[str, Any]]) -> str:
    told = [batch for side in sides[:1] for each in side["rounds"] for batch in each.get("batches", ())]
    means = sorted(float(batch["commands_mean"]) for batch in told)
    return f"{means[len(means) // 2]:.0f}" if means else ""


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
