"""Shows an import: a progress bar and a readable report for people, one JSON object per line for programs."""

import sys
from collections.abc import Callable
from decimal import Decimal
from time import monotonic
from typing import Final

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from contracts.money import format_money
from infra.imports.report import CheckedTotal, ImportReport, StatementReport, outcomes_of

LINE_EVERY_SECONDS: Final = 1.0


class BarWatcher:
    """A progress bar on a terminal (on stderr, so that the report can be piped)."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self._task = self._progress.add_task("Importing", total=None)

    def began(self, rows_total: int, rows_done: int) -> None:
        """Draw the bar."""
        self._progress.update(self._task, total=rows_total, completed=rows_done)
        self._progress.start()

    def moved(self, rows_done: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=rows_done)

    def checking(self, total: str) -> None:
        """Say what is being checked."""
        self._progress.console.print(f"Checking: {total}", style="dim")

    def ended(self) -> None:
        """Take the bar away."""
        self._progress.stop()


class LineWatcher:
    """One JSON object per line: ``began``, ``moved`` (at most one a second), ``checking``, ``ended`` if it came so far.

    On stderr, so that the report on stdout is one document.
    """

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write or sys.stderr.write
        self._rows_total = self._rows_done = 0
        self._has_ended = False
        self._next_line_at = 0.0

    def began(self, rows_total: int, rows_done: int) -> None:
        """How much there is, and how much was done before."""
        self._rows_total, self._rows_done = rows_total, rows_done
        self._line(event="began", rows_total=rows_total, rows_done=rows_done)

    def moved(self, rows_done: int) -> None:
        """How much is done."""
        self._rows_done = rows_done
        if monotonic() >= self._next_line_at or rows_done == self._rows_total:
            self._next_line_at = monotonic() + LINE_EVERY_SECONDS
            self._line(event="moved", rows_total=self._rows_total, rows_done=rows_done)

    def checking(self, total: str) -> None:
        """Which total is read back now."""
        self._line(event="checking", total=total)

    def ended(self) -> None:
        """All rows are settled; said once, and only if it is so."""
        if self._rows_done == self._rows_total and not self._has_ended:
            self._has_ended = True
            self._line(event="ended", rows_total=self._rows_total)

    def _line(self, **content: object) -> None:
        self._write(orjson.dumps(content).decode() + "\n")


def print_report(report: ImportReport, console: Console | None = None) -> None:
    """The report as people read it: a table of outcomes, one of amounts, and every total with its verdict."""
    console = console or Console()
    what = "Dry run of" if report.dry else "Import"
    console.print(
        f"[bold]{what} {report.import_id}[/] ({report.mapping}) in {report.realm.key}, {report.seconds:,.1f} s"
    )
    console.print(_outcomes(report))
    if any(part.tally.exact for part in report.statements) and report.currency is not None:
        console.print(_amounts(report, report.currency))
    for total in report.totals:
        _print_total(console, total)
    if report.dry:
        console.print("Nothing was sent. The engine decides what is refused.")
    else:
        console.print("[green]Source and stores agree.[/]" if report.agrees else "[red]Source and stores DISAGREE.[/]")


def _outcomes(report: ImportReport) -> Table:
    table = Table(title="Where every row went", title_justify="left")
    for name in ("statement", "outcome", "reason"):
        table.add_column(name)
    table.add_column("rows", justify="right")
    table.add_column("source rows", justify="right")
    for part in report.statements:
        for outcome, code, count in outcomes_of(part.tally):
            shown = "valid" if report.dry and outcome == "applied" else outcome
            table.add_row(part.name, shown, code, f"{count:,}", f"{part.tally.source_rows[outcome, code]:,}")
        mark = "" if part.is_complete else "[red]incomplete[/]"
        table.add_row("", "[bold]all[/]", mark, f"[bold]{part.size.rows:,}[/]", f"{part.size.source_rows:,}")
    return table


def _amounts(report: ImportReport, currency: str) -> Table:
    table = Table(title=f"Amounts, {currency}", title_justify="left")
    table.add_column("statement")
    for name in ("exact, applied", "exact, set aside", "booked", "rounding"):
        table.add_column(name, justify="right")
    for part in report.statements:
        if part.tally.exact:
            table.add_row(part.name, *_amount_cells(part, currency))
    return table


def _amount_cells(part: StatementReport, currency: str) -> tuple[str, str, str, str]:
    aside = sum((part.tally.exact.get(outcome, Decimal(0)) for outcome in ("refused", "parked")), Decimal(0))
    booked = part.tally.booked_minor
    rounding = part.tally.rounding(currency)
    return (
        _decimal(part.tally.exact.get("applied", Decimal(0))),
        _decimal(aside),
        "" if booked is None else format_money(booked, currency).removesuffix(f" {currency}"),
        "" if rounding is None else _decimal(rounding),
    )


def _decimal(amount: Decimal) -> str:
    return f"{amount:,.3f}"


def _print_total(console: Console, total: CheckedTotal) -> None:
    verdict = "[green]agrees[/]" if total.agrees else "[red]DISAGREES[/]"
    console.print(f"{verdict}  {total.store}: {total.name} ({total.rows:,} rows)")
    for label, rows in (("expected, not found", total.missing), ("found, not expected", total.extra)):
        for row in rows:
            console.print(f"    {label}: {', '.join(row)}", markup=False, highlight=False)
