"""Tables of one or several runs for `docs/reliability.md`, between its two marks, and their figures beside it.

::

    python -m tests.chaos.report results-1.jsonl results-2.jsonl …
    python -m tests.chaos.report --alone over-the-log.jsonl through-kafka.jsonl   # a column each: kills, one at a time
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
RECORD: Final = PAGE.with_name("chaos.json")
LARGE, SMALL = "chaos", "chaos, alone"  # The parts of the page.
_NUMBER: Final = re.compile(r"-\d+\b")

Round = dict[str, Any]
Cycle = dict[str, Any]
Groups = dict[tuple[str, str, str], list[Cycle]]

ALONE, BESIDE, FORKED = "one at a time", "several at once", "several at once, forked"


def figures(rounds: Sequence[Round]) -> dict[str, Any]:
    """What was run, and how each kind of fault went, by victim and by way of running."""
    groups: Groups = defaultdict(list)
    for each in rounds:
        for cycle in each["cycles"]:
            groups[_table_of(cycle), _row_of(cycle), _way_of(each)].append(cycle)
    return {
        "runs": [_run(way, group) for (way, _), group in _by_way(rounds)],
        "rows": [
            {"table": table, "row": row, "way": way, **_figures_of(group)}
            for (table, row, way), group in sorted(groups.items())
        ],
        "all": {
            table: {row: _figures_of(group) for row, group in _whole(groups, table)}
            for table in ("kill", "freeze", "network")
        },
    }


def _run(way: str, rounds: Sequence[Round]) -> dict[str, Any]:
    cycles = [cycle for each in rounds for cycle in each["cycles"]]
    loads = sorted(each["load"] for each in rounds)
    return {
        "way": way,
        "kafka": rounds[0]["kafka"],
        "seeds": sorted({each["seed"] for each in rounds}),
        "callers": max(each["callers"] for each in rounds),
        "at_once": max(each["at_once"] for each in rounds),
        "checks": len(rounds),
        "minutes": round(sum(each["seconds"] for each in rounds) / 60, 1),
        "load": [round(loads[0], 1), round(median(loads), 1), round(loads[-1], 1)],
        "audited": sum(each["audited"] for each in rounds),
        "events": sum(each["events"] for each in rounds),
        "cycles": {kind: sum(_table_of(each) == kind for each in cycles) for kind in ("kill", "freeze", "network")},
        "beside_another": sum(bool(each["others"]) for each in cycles),
        "in_flight_least": min(each["in_flight"] for each in cycles),
    }


def _figures_of(cycles: Sequence[Cycle]) -> dict[str, Any]:
    in_flight = [each["in_flight"] for each in cycles]
    return {
        "cycles": len(cycles),
        "in_flight": [min(in_flight), median(in_flight)],
        "served": _spread([each["served_seconds"] for each in cycles]),
        "caught_up": _spread([each["caught_up_seconds"] for each in cycles]),
    }


def _spread(seconds: Sequence[float]) -> list[float]:
    """Median, 95th of a hundred, longest."""
    late = quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
    return [round(each, 1) for each in (median(seconds), late, max(seconds))]


def _by_way(rounds: Sequence[Round]) -> Iterator[tuple[tuple[str, bool], list[Round]]]:
    ways: dict[tuple[str, bool], list[Round]] = defaultdict(list)
    for each in rounds:
        ways[_way_of(each), each["kafka"]].append(each)
    yield from sorted(ways.items())


def _whole(groups: Groups, table: str) -> Iterator[tuple[str, list[Cycle]]]:
    """All of a row, whichever way it was run."""
    rows: dict[str, list[Cycle]] = defaultdict(list)
    for (of, row, _), cycles in groups.items():
        if of == table:
            rows[row] += cycles
    yield from sorted(rows.items())


def _table_of(cycle: Cycle) -> str:
    return "network" if "→" in cycle["victim"] else str(cycle["kind"])


def _row_of(cycle: Cycle) -> str:
    name = _NUMBER.sub("", cycle["victim"])
    return f"{cycle['kind'].replace('_', '-')}: {name.split('→')[0]}" if "→" in name else name


def _way_of(each: Round) -> str:
    return FORKED if each["forked"] else BESIDE if each["at_once"] > 1 else ALONE


def tables(told: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [_totals(told["runs"]), "", *_runs(told["runs"]), "", *_kills(told), ""]
    for table, title in (("freeze", "frozen for 1 to 5 s (SIGSTOP)"), ("network", "network")):
        lines += [*_lasting(told["all"][table], title), ""]
    return "\n".join(lines)


def _totals(runs: Sequence[dict[str, Any]]) -> str:
    def total(of: Callable[[dict[str, Any]], int]) -> int:
        return sum(map(of, runs))

    count = {kind: total(lambda run, kind=kind: run["cycles"][kind]) for kind in ("kill", "freeze", "network")}  # type: ignore[misc]
    return (
        f"{count['kill']:,} kills, {count['network']:,} network faults and {count['freeze']:,} freezes, "
        f"{total(lambda run: run['beside_another']):,} of them while something else failed; never with fewer than "
        f"{min(run['in_flight_least'] for run in runs)} commands in flight. "
        f"{total(lambda run: run['audited']):,} acknowledgements looked up, {total(lambda run: run['events']):,} "
        f"events folded, {total(lambda run: run['checks'])} checks of everything: **no violation**."
    )


def _runs(runs: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "| runs | kills / network / freezes | minutes | machine's load average: least, median, most |",
        "|---|---|---|---|",
    ]
    for run in runs:
        name = f"{run['way']} ({run['at_once']}), {'through Kafka' if run['kafka'] else 'over the log'}"
        count = " / ".join(str(run["cycles"][kind]) for kind in ("kill", "network", "freeze"))
        lines.append(f"| {name} | {count} | {run['minutes']:.0f} | {', '.join(map(str, run['load']))} |")
    return lines


def _kills(told: dict[str, Any]) -> list[str]:
    ways = [way for way in (ALONE, BESIDE, FORKED) if any(run["way"] == way for run in told["runs"])]
    by_way = {(row["row"], row["way"]): row for row in told["rows"] if row["table"] == "kill"}
    titles = " | ".join(f"{way}: kills; median / longest" for way in ways)
    lines = [
        f"| killed (`kill -9`), serves again | kills | in flight, median | {titles} |",
        "|---|---|---|" + "---|" * len(ways),
    ]
    for name, whole in told["all"]["kill"].items():
        cells = [_cell(by_way.get((name, way))) for way in ways]
        lines.append(f"| {name} | {whole['cycles']} | {whole['in_flight'][1]:.0f} | {' | '.join(cells)} |")
    return lines


def _cell(row: dict[str, Any] | None) -> str:
    return "–" if row is None else f"{row['cycles']}; {_times(row['served'])}"


def _lasting(rows: dict[str, dict[str, Any]], title: str) -> list[str]:
    lines = [
        f"| {title} | cycles | serves again: median / longest | everybody caught up: median / longest |",
        "|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(f"| {name} | {row['cycles']} | {_times(row['served'])} | {_times(row['caught_up'])} |")
    return lines


def _times(spread: Sequence[float]) -> str:
    return f"{spread[0]:.1f} / {spread[-1]:.1f} s"


def alone(rounds: Sequence[Round]) -> dict[str, Any]:
    """One run of kills, one at a time: who served again how soon, and when anybody had answered."""
    rows: dict[str, list[Cycle]] = defaultdict(list)
    for each in rounds:
        for cycle in each["cycles"]:
            rows[_row_of(cycle)].append(cycle)
    return {
        **_run(ALONE, rounds),
        "rows": {
            name: {**_figures_of(cycles), "answered": _spread([each["answered_seconds"] for each in cycles])}
            for name, cycles in rows.items()
        },
    }


def small_table(runs: Sequence[dict[str, Any]]) -> str:
    """A column for each run."""
    titles = [
        f"{'through Kafka' if run['kafka'] else 'over the log'}, {run['callers']} callers, load {run['load'][1]:.0f}"
        for run in runs
    ]
    rows = [
        f"| {name} | {' | '.join(_cell_of_two(run['rows'].get(name)) for run in runs)} |"
        for name in sorted({name for run in runs for name in run["rows"]})
    ]
    return "\n".join([f"| killed | {' | '.join(titles)} |", "|---|" + "---|" * len(runs), *rows, ""])


def _cell_of_two(row: dict[str, Any] | None) -> str:
    return "–" if row is None else f"{row['cycles']}; {_times(row['answered'])}; {_times(row['served'])}"


def main(arguments: Sequence[str]) -> int:
    """Put the tables where they belong, and the figures beside them; without results, anew from those figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.report", description=__doc__)
    parser.add_argument("results", nargs="*", type=Path)
    parser.add_argument("--alone", action="store_true", help="each file is a run of kills, one at a time")
    asked = parser.parse_args(arguments)
    told = json.loads(RECORD.read_text())
    runs = [[json.loads(line) for line in path.read_text().splitlines()] for path in asked.results]
    if asked.alone:
        told["alone"] = [alone(rounds) for rounds in runs]
    elif runs:
        told |= figures([each for rounds in runs for each in rounds])
    RECORD.write_text(json.dumps(told, ensure_ascii=False) + "\n")
    _put(LARGE, tables(told))
    _put(SMALL, small_table(told["alone"]))
    return 0


def _put(part: str, text: str) -> None:
    begin, end = f"<!-- {part}: begin -->\n", f"<!-- {part}: end -->\n"
    before, rest = PAGE.read_text().split(begin)
    PAGE.write_text(f"{before}{begin}{text}{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
