"""What commands print: tables for people, JSON for programs, progress on the side."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, Self

import typer
from rich.console import Console, JustifyMethod, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from infra.cli.errors import CliError, ExitCode

PROGRESS_AFTER_SECONDS: Final = 1.0

Row = Mapping[str, Any]


class Output:
    """Where one command writes: results on stdout, everything about the way there on stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.stdout = _Console(soft_wrap=False, highlight=False)
        self.stderr = Console(stderr=True, highlight=False)

    def show(self, payload: Any, *human: RenderableType) -> None:
        """A command's result: one JSON document, or what people read."""
        if self.as_json:
            sys.stdout.write(to_json(payload, indent=2) + "\n")
            return
        for each in human:
            self.stdout.print(each, soft_wrap=isinstance(each, Text))

    def line(self, payload: Any, human: RenderableType) -> None:
        """One item of a stream: a line of JSON, or a line to read. Written at once, so that a pipe sees it."""
        if self.as_json:
            sys.stdout.write(to_json(payload) + "\n")
            sys.stdout.flush()
        else:
            # A line stays a line, however narrow the terminal: what is copied from it is whole.
            self.stdout.print(human, soft_wrap=isinstance(human, Text))

    def note(self, text: str) -> None:
        """Something to know on the way; never part of the result."""
        self.stderr.print(Text(text), style="dim", soft_wrap=True)

    def complain(self, error: CliError) -> None:
        """Say what went wrong and what to do next."""
        if self.as_json:
            said = {"error": {"what": error.what, "next_step": error.next_step, "exit_code": int(error.code)}}
            sys.stderr.write(to_json(said) + "\n")
            return
        # Not folded: what is copied from it, paths and last words of a log, is whole however narrow the terminal.
        self.stderr.print(Text("✗ ", style="bold red") + Text(error.what), soft_wrap=True)
        if error.next_step:
            self.stderr.print(Text("  → " + error.next_step, style="dim"), soft_wrap=True)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something is destroyed. Raises CliError when the answer is no, or nobody is there to ask."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise CliError(
                "this needs a confirmation, and nobody is at the terminal to give it",
                next_step="Add --yes if you mean it.",
                code=ExitCode.USAGE,
            )
        try:
            agreed = typer.confirm(question, default=False, err=True)
        except typer.Abort:  # Ctrl-C or Ctrl-D at the question.
            raise CliError("nothing was changed", code=ExitCode.INTERRUPTED) from None
        if not agreed:
            raise CliError("nothing was changed")

    @contextmanager
    def progress(self, label: str, total: int | None = None) -> "Iterator[Step]":
        """A bar (or, without a total, a spinner) on a terminal's stderr once it has taken longer than a second."""
        step = Step(self.stderr, label, total)
        try:
            yield step
        finally:
            step.close()


class _Console(Console):
    """A console that leaves it to the command what it means that nobody reads any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def silence_stdout() -> None:
    """Whoever read our output has gone (`| head`): write to nobody, or Python complains at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Step:
    """One thing that takes time."""

    def __init__(self, console: Console, label: str, total: int | None) -> None:
        counted = (BarColumn(bar_width=30), MofNCompleteColumn()) if total is not None else ()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            *counted,
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(escape(label), total=total)
        self._timer: threading.Timer | None = None
        if console.is_terminal:
            self._timer = threading.Timer(PROGRESS_AFTER_SECONDS, self._progress.start)
            self._timer.daemon = True
            self._timer.start()

    def to(self, done: int, *, total: int | None = None, label: str | None = None) -> None:
        """How far it has come."""
        self._progress.update(
            self._task, completed=done, total=total, description=None if label is None else escape(label)
        )

    def by(self, steps: int = 1) -> None:
        """So many more are done."""
        self._progress.advance(self._task, steps)

    def close(self) -> None:
        """Take the bar away."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._progress.stop()

    def __enter__(self) -> Self:
        return self


def to_json(payload: Any, *, indent: int | None = None) -> str:
    """JSON with ISO times; anything else unknown is written as text."""
    return json.dumps(payload, indent=indent, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | set | frozenset):
        return list(value)
    return str(value)


def table(
    title: str,
    rows: Sequence[Row],
    columns: Sequence[str],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
    style: Callable[[str, Any], str] | None = None,
    empty: str = "none",
) -> RenderableType:
    """Rows as a table. ``right``: columns of numbers. ``whole``: never broken (ids). ``style`` may colour a cell."""
    if not rows:
        return Text(f"{title}: {empty}") if title else Text(empty)
    drawn = Table(
        title=title or None, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
    )
    for column in columns:
        justify: JustifyMethod = "right" if column in right else "left"
        keeps = column in right or column in whole
        drawn.add_column(column.replace("_", " "), justify=justify, overflow="fold", no_wrap=keeps)
    for row in rows:
        drawn.add_row(*(_cell(column, row.get(column), style) for column in columns))
    return drawn


def items(title: str, rows: Sequence[tuple[Text, str]], *, empty: str = "none") -> Text:
    """A list for reading and copying: a headline and, below it, the rest; never squeezed into columns."""
    if not rows:
        return Text(f"{title}: {empty}")
    text = Text(title + "\n", style="bold")
    for headline, rest in rows:
        text = Text.assemble(text, headline, "\n", (f"    {rest}\n", "dim"))
    text.rstrip()
    return text


def _cell(column: str, value: Any, style: Callable[[str, Any], str] | None) -> Text:
    return Text(_text(value), style=style(column, value) if style else "")


def _text(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.2f}"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case str():
            return value
        case dict() | list() | tuple():
            return to_json(value)
    return str(value)
