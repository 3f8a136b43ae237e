"""``python -m benchmarks.publish RESULT…``: put measured figures into the documentation, and nowhere by hand.

Results are merged (of a target measured twice, the later one counts) into ``docs/measured.json``, and the marked
sections of ``docs/performance.md`` are rewritten from it. ``--check`` says whether they are what they would become.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report import cells, heading, number
from benchmarks.targets import TARGETS

ROOT: Final = Path(__file__).parents[1]
MEASURED: Final = ROOT / "docs" / "measured.json"
DOCUMENT: Final = ROOT / "docs" / "performance.md"
FUNCTIONS_KEPT: Final = 15
NOT_MEASURED: Final = "not measured yet"
OWN_LOAD: Final = {"kafka"}

Result = Mapping[str, Any]


class NotFromHere(ValueError):
    """The document has no such section, or not once."""


def merged(results: Sequence[Result]) -> dict[str, Any]:
    """The largest new result, with the targets of all of them in the order of the table."""
    if not results:
        raise ValueError("nothing to publish")
    ordered = sorted(results, key=lambda result: str(result["at"]))
    targets = {
        key: {**told, "at": told.get("at", result["at"])}
        for result in ordered
        for key, told in result["targets"].items()
        if "error" not in told
    }
    places = {target.key: place for place, target in enumerate(TARGETS)}
    known = sorted((key for key in targets if key in places), key=places.__getitem__)
    # What is told of machine and effort is that of the run which measured most, of those that are new.
    new = [result for result in ordered if not result.get("merged") and not _speaks_for_itself(result)] or ordered
    largest = max(new, key=lambda result: (len(result["targets"]), str(result["at"])))
    return {**largest, "merged": True, "targets": {key: _trimmed(targets[key]) for key in known}}


def _speaks_for_itself(result: Result) -> bool:
    """Whether all that was measured tells of its machine's load in its own section."""
    return bool(result["targets"]) and result["targets"].keys() <= OWN_LOAD


def rewritten(document: str, result: Result) -> str:
    """The document with every marked section made from the result. Raises NotFromHere."""
    return fill_sections(document, {name: section(result) for name, section in SECTIONS.items()})


def fill_sections(document: str, sections: Mapping[str, Iterable[str]]) -> str:
    """Put lines between ``<!-- measured: name -->`` and ``<!-- end -->``. Raises NotFromHere."""
    for name, lines in sections.items():
        start, end = f"<!-- measured: {name} -->\n", "<!-- end -->"
        before, found, rest = document.partition(start)
        _, closed, after = rest.partition(end)
        if not (found and closed) or start in after:
            raise NotFromHere(f"the document must have the section {name!r} once, and its end")
        document = before + start + "\n" + "\n".join(lines) + "\n\n" + end + after
    return document


def machine_section(result: Result) -> Iterable[str]:
    """What it was measured on."""
    yield from (f"- {line}" for line in heading(result))
    load, cores = result["machine"]["load_before"], result["machine"]["cores"]
    if load > cores / 2:
        busy = f"{load:g} processes wanted {cores} cores"
        yield f"- **The machine was busy with other work** ({busy}): rates are low on both sides."


def ratios_section(result: Result) -> Iterable[str]:
    """One line per target."""
    names = ("#", "what", "measured", "target", "moonshot", "ours", "beside", "p50 / p99, ms", "batch")
    rows = [cells(key, told)[: len(names)] for key, told in result["targets"].items() if told["target"] is not None]
    return markdown(names, rows)


def notes_section(result: Result) -> Iterable[str]:
    """What each run said beside its figure, and whether its books balance."""
    for key, told in result["targets"].items():
        notes = [note for note in told["notes"] if "by function" not in note]
        if told.get("verified"):
            notes.append(f"verified: {told['verified']}")
        if notes:
            yield f"- **{key.upper()}** {'; '.join(notes)}."


def write_path_section(result: Result) -> Iterable[str]:
    """Claims a second by clients and processes."""
    rows = _rows(result, "write-path")
    names = ("processes", "clients", "claims/s", "p50 ms", "p99 ms", "commands per batch", "µs of processor time each")
    return markdown(names, [_write_path_cells(row) for row in rows])


def by_load_section(result: Result) -> Iterable[str]:
    """How long claims take at shares of their peak, beside PostgreSQL's own commits at shares of theirs."""
    names = (
        "load",
        *(f"{of}, {what}" for of in ("claims", "commits") for what in ("a second", "p50 ms", "p99 ms", "p99 ×")),
    )
    return markdown(names, [[_plain(value) for value in row.values()] for row in _rows(result, "p11-load")])


def routes_section(result: Result) -> Iterable[str]:
    """The hot routes over HTTP; claims and orders from their own targets."""
    names = ("route", "connections", "requests/s", "p50 / p99, ms", "commands per batch", "µs of processor time each")
    sides = [
        (name, result["targets"][key]["sides"][0])
        for name, key in (("claim", "p7"), ("order with a coupon", "p16"))
        if key in result["targets"]
    ]
    sides += [(side["name"], side) for side in result["targets"].get("routes", {}).get("sides", ())]
    return markdown(names, [_route_cells(name, side["rounds"]) for name, side in sides])


def _route_cells(name: str, rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """The round in the middle."""
    told = sorted(rounds, key=lambda each: float(each["value"]))[len(rounds) // 2]
    latencies, batches = told["latencies"], told.get("batches") or ()
    return [
        name,
        f"{told['clients']:,}",
        f"{told['value']:,.0f}",
        f"{latencies['p50_ms']:.1f} / {latencies['p99_ms']:.1f}",
        f"{batches[0]['commands_mean']:.0f}" if batches else "",
        ", ".join(f"{part} {micros:.0f}" for part, micros in told["micros_each"].items()),
    ]


def claim_section(result: Result) -> Iterable[str]:
    """Where the microseconds of a claim over HTTP go."""
    rows = _rows(result, "p15")
    return markdown(("in", "part", "µs"), [[row["of"], row["part"], number(row["micros"])] for row in rows])


def parts_section(result: Result) -> Iterable[str]:
    """Where the microseconds of commands go in process: a column for each load."""
    rows = _rows(result, "profile")
    loads = list(dict.fromkeys(row["of"] for row in rows))
    micros = {(row["part"], row["of"]): row["micros"] for row in rows}
    parts = list(dict.fromkeys(row["part"] for row in rows))
    lines = [
        [part, *(number(micros[part, load]) if (part, load) in micros else "" for load in loads)] for part in parts
    ]
    return markdown(("part, µs per command", *loads), lines)


def kafka_section(result: Result) -> Iterable[str]:
    """Out of the log into topics, and out of topics."""
    names = ("what", "events/s", "µs of processor time each")
    micros = (("here", "this process"), ("Kafka", "Kafka"), ("PostgreSQL", "PostgreSQL"))
    rows = _rows(result, "kafka")
    lines = [
        [
            row["what"],
            f"{row['per_second']:,}",
            ", ".join(f"{name} {row['micros_each'][key]:.0f}" for key, name in micros),
        ]
        for row in rows
    ]
    if rows:
        told = result["targets"]["kafka"]
        ratios = " / ".join(f"{value:.2f}" for value in told["rounds"])
        yield f"Relay ÷ producer: **{told['value']:.2f}×** (rounds {ratios}); {'; '.join(told['notes'])}."
        yield ""
    yield from markdown(names, lines)


def field_section(result: Result) -> Iterable[str]:
    """Ourselves beside what others reached on such a machine."""
    ours = ["**Tessera**", _median(result, "p1"), _median(result, "p5"), _median(result, "p16"), "yes (verified)"]
    names = ("", "durable writes/s", "on one hot thing, /s", "orders with coupon, /s", "limit kept under 32 buyers?")
    return markdown(names, [ours, *OTHERS])


# Measured on this kind of machine: two cores, the load on the same cores.
OTHERS: Final = (
    ["PostgreSQL itself (pgbench), same kind of machine", "22,768 rows", "2,218 (hot-row UPDATE)", "", ""],
    ["UmaDB 0.7 (event store, Rust), 64 clients", "21,400 appends", "69-205 (conditional append)", "", "yes"],
    ["emmett-postgresql 0.42", "2,966 appends", "209, nine in ten refused", "", ""],
    ["formance ledger 2.4", "104-187", "111-180", "", "yes"],
    ["django-oscar 4.2, 16 clients", "", "", "44", "no: 320 of 100 sold"],
    ["Saleor 3.23, 16 clients", "", "", "6.6", "no: 30-32 orders on a code for one"],
    ["Medusa promotion 2.21 (module only)", "", "", "70", "yes"],
)

SECTIONS: Final[dict[str, Callable[[Result], Iterable[str]]]] = {
    "machine": machine_section,
    "ratios": ratios_section,
    "notes": notes_section,
    "write-path": write_path_section,
    "by-load": by_load_section,
    "routes": routes_section,
    "claim": claim_section,
    "parts": parts_section,
    "kafka": kafka_section,
    "field": field_section,
}


def markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """A table; without rows, the statement that nothing was measured."""
    if not rows:
        return [f"*{NOT_MEASURED}*"]
    return [_line(names), _line(["---"] * len(names)), *(_line(row) for row in rows)]


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _write_path_cells(row: Mapping[str, Any]) -> list[str]:
    micros = ", ".join(f"{name} {value:.0f}" for name, value in row["micros_each"].items())
    batch = " / ".join(f"{size:.0f}" for size in row["commands_per_batch"])
    figures = (row["processes"], row["clients"], row["claims_per_second"], row["p50_ms"], row["p99_ms"])
    return [*(f"{figure:,}" for figure in figures), batch, micros]


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _rows(result: Result, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = result["targets"].get(key, {}).get("details", {}).get("rows", [])
    return rows


def _median(result: Result, key: str) -> str:
    told = result["targets"].get(key)
    return f"**{number(told['sides'][0]['median'])}**" if told else NOT_MEASURED


def _trimmed(told: Mapping[str, Any]) -> dict[str, Any]:
    """Without the long tails of function lists."""
    details = dict(told["details"])
    functions = details.get("functions")
    if isinstance(functions, list):
        details["functions"] = functions[:FUNCTIONS_KEPT]
    elif isinstance(functions, dict):
        details["functions"] = {name: each[:FUNCTIONS_KEPT] for name, each in functions.items()}
    return {**told, "details": details}


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 when ``--check`` finds another text than it would write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__)
    parser.add_argument("results", nargs="*", type=Path, help="JSON of runs; what was published before is kept")
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args(arguments)
    known = [MEASURED] if MEASURED.exists() else []
    result = merged([json.loads(path.read_text()) for path in (*known, *asked.results)])
    text = rewritten(DOCUMENT.read_text(), result)
    if asked.check:
        return 0 if text == DOCUMENT.read_text() else 1
    MEASURED.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    DOCUMENT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
