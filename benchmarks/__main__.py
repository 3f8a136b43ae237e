"""``python -m benchmarks``: measure the targets, print one table of ratios, write JSON."""

import argparse
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from benchmarks import report
from benchmarks.bench import Bench, Effort, Target
from benchmarks.postgres import Instance
from benchmarks.targets import TARGETS

INTERRUPTED: Final = 130


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 (also for missed targets), 1 when something failed or books do not balance."""
    asked = _parser().parse_args(arguments)
    console = Console(stderr=True)
    if asked.list:
        _list(Console())
        return 0
    try:
        result = _run(asked, console)
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        return INTERRUPTED
    out = Console(width=None if sys.stdout.isatty() else 200)
    for line in report.heading(result):
        out.print(line, style="dim", highlight=False)
    out.print(report.table(result))
    for key, told in result["targets"].items():
        if rows := told.get("details", {}).get("rows"):
            out.print(report.rows_table(key, rows))
        for note in (*told.get("notes", ()), *((told["verified"],) if told.get("verified") else ())):
            out.print(f"[bold]{key.upper()}[/bold] {escape(note)}", highlight=False)
    return 0 if all("error" not in told and told["held"] for told in result["targets"].values()) else 1


def _run(asked: argparse.Namespace, console: Console) -> dict[str, Any]:
    targets = list(TARGETS) if asked.all else _chosen(asked.only)
    with console.status("starting PostgreSQL") as status, Instance() as postgres:
        bench = Bench(postgres, _effort(asked), lambda text: None)
        result, path = report.head(bench), None
        try:
            for target in targets:
                result["targets"][target.key] = _measured(bench, target, console, status)
                if asked.write:  # Each time: whatever ends the next one shall not take this one along.
                    path = report.write(result, asked.results)
        except KeyboardInterrupt:
            console.print("interrupted: what was measured so far is kept")
            if not result["targets"]:
                raise
        if path is not None:
            console.print(f"written: {path}", highlight=False)
    return result


def _measured(bench: Bench, target: Target, console: Console, status: Any) -> dict[str, Any]:
    """One target; what goes wrong with it is its own line, and the others are measured all the same."""
    started = time.monotonic()

    def say(text: str) -> None:
        status.update(f"{target.key.upper()}: {escape(text)} ({time.monotonic() - started:.0f} s)")
        if not console.is_terminal:
            console.print(f"{target.key.upper()}: {escape(text)}", highlight=False)

    bench.say = say
    say("begins")
    try:
        outcome = target.run(bench)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other targets are still worth measuring.
        console.print_exception()
        return {"title": target.title, "error": f"{type(error).__name__}: {error}"}
    told = report.entry(target, outcome, time.monotonic() - started)
    console.print(f"{target.key.upper()} {report.number(outcome.value)}{target.unit}  {escape(target.title)}")
    return told


def _chosen(only: str | None) -> list[Target]:
    if only is None:
        return [target for target in TARGETS if target.by_default]
    known = {target.key: target for target in TARGETS}
    wanted = [key.strip().lower() for key in only.split(",") if key.strip()]
    if unknown := [key for key in wanted if key not in known]:
        raise SystemExit(f"no such target: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[key] for key in wanted]


def _effort(asked: argparse.Namespace) -> Effort:
    effort = Effort.quick() if asked.quick else Effort()
    given = {name: getattr(asked, name) for name in ("rounds", "seconds", "events")}
    return replace(effort, **{name: value for name, value in given.items() if value is not None})


def _list(console: Console) -> None:
    for target in TARGETS:
        when = "" if target.by_default else " (only when asked for)"
        console.print(f"[bold]{target.key}[/bold]{when}: {escape(target.title)}", highlight=False)
        console.print(f"    {escape(target.how)}", highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="P1,P5", help="these targets instead of all")
    parser.add_argument("--all", action="store_true", help="every target, and what only the documentation needs")
    parser.add_argument("--list", action="store_true", help="say what each target measures")
    parser.add_argument("--quick", action="store_true", help="few short rounds: to see that it runs")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=float, help="per side and round (4)")
    parser.add_argument("--events", type=int, help="size of P13's large store (10,000,000)")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="where the JSON goes")
    parser.add_argument("--no-write", dest="write", action="store_false", help="write no JSON")
    return parser


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM):  # Also where a shell has told us to ignore them, in the background.
        signal.signal(each, signal.default_int_handler)
    sys.exit(main())
