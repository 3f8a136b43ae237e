"""Tables of one or several runs for `docs/reliability.md`, between its two marks.

::

    python -m tests.chaos.report results-1.json results-2.json …
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
RECORD: Final = PAGE.with_name("chaos.json")
BEGIN, END = "<!-- chaos: begin -->\n", "<!-- chaos: end -->\n"
_NUMBER: Final = re.compile(r"-\d+\b")

Cycle = dict[str, Any]


def tables(runs: Sequence[dict[str, Any]]) -> str:
    """What was done and how it went, as Markdown."""
    cycles = [cycle for run in runs for cycle in run["cycles"]]
    kills = [cycle for cycle in cycles if cycle["kind"] == "kill"]
    freezes = [cycle for cycle in cycles if cycle["kind"] == "freeze"]
    network = [cycle for cycle in cycles if "→" in cycle["victim"]]
    return "\n".join(
        [
            _totals(runs, cycles),
            "",
            *_table("killed (`kill -9`)", kills, lambda cycle: _NUMBER.sub("", cycle["victim"])),
            "",
            *_table("frozen for 1 to 5 s (SIGSTOP)", freezes, lambda cycle: _NUMBER.sub("", cycle["victim"])),
            "",
            *_table(
                "network",
                network,
                lambda cycle: f"{cycle['kind'].replace('_', '-')}: {_NUMBER.sub('', cycle['victim']).split('→')[0]}",
            ),
            "",
        ]
    )


def _totals(runs: Sequence[dict[str, Any]], cycles: Sequence[Cycle]) -> str:
    loads = [load for run in runs for load in run["loads"]]
    counted = {kind: sum(cycle["kind"] == kind for cycle in cycles) for kind in ("kill", "freeze")}
    others = len(cycles) - sum(counted.values())
    return (
        f"{counted['kill']} kills, {counted['freeze']} freezes and {others} network faults in "
        f"{sum(run['seconds'] for run in runs) / 60:.0f} minutes, with {sum(run['audited'] for run in runs):,} "
        f"acknowledgements looked up, {sum(run['events'] for run in runs):,} events folded and "
        f"{sum(run['checks'] for run in runs)} checks of everything: **no violation**. "
        f"The machine had two cores and much else to do (load average {min(loads):.0f} to {max(loads):.0f} at the "
        f"checks), which every time in these tables contains."
    )


def _table(what: str, cycles: Iterable[Cycle], row_of: Callable[[Cycle], str]) -> list[str]:
    groups: dict[str, list[Cycle]] = defaultdict(list)
    for cycle in cycles:
        groups[row_of(cycle)].append(cycle)
    lines = [
        f"| {what} | cycles | in flight, median | serves again: median / longest | caught up: median / longest |",
        "|---|---|---|---|---|",
    ]
    for name, group in sorted(groups.items()):
        in_flight = median(cycle["in_flight"] for cycle in group)
        served, caught_up = (_times(group, of) for of in ("served_seconds", "caught_up_seconds"))
        lines.append(f"| {name} | {len(group)} | {in_flight:.0f} | {served} | {caught_up} |")
    return lines


def _times(cycles: Sequence[Cycle], of: str) -> str:
    seconds = [cycle[of] for cycle in cycles]
    return f"{median(seconds):.1f} / {max(seconds):.1f} s"


def main(paths: Sequence[str]) -> int:
    """Put the tables where they belong, and the runs beside them."""
    runs = [json.loads(Path(path).read_text()) for path in paths]
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}{tables(runs)}{END}{after}")
    if [str(RECORD)] != list(paths):
        RECORD.write_text(json.dumps({"runs": runs}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
