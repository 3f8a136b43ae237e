"""How the demo is shown: one line for each finished part of the day, and a bar for the one that runs."""

from time import perf_counter
from typing import Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

LABEL_WIDTH: Final = 36


class Screen:
    """Writes to a console; on something that is no terminal there are lines only."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = console.is_terminal
        self._started = perf_counter()

    def act(self, label: str, total: int) -> "ShownAct":
        """Begin a part that is shown by itself."""
        return ShownAct(self.console, label, max(1, total), live=self._live)

    def heading(self, text: str) -> None:
        """A new chapter."""
        self.console.print()
        self.console.rule(Text(text, style="bold"), align="left", style="dim")

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return perf_counter() - self._started


class ShownAct:
    """One part of the day: a bar while it runs, a line with what came of it and how long it took."""

    def __init__(self, console: Console, label: str, total: int, *, live: bool) -> None:
        self._console = console
        self._label = label
        self._said = ""
        self._started = perf_counter()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if live:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
                transient=True,
                refresh_per_second=8,  # Drawing costs the very cores that are being shown.
            )
            self._task = self._progress.add_task(escape(label), total=total)

    def done(self, steps: int = 1) -> None:
        """So many more steps."""
        if self._progress is not None:
            self._progress.advance(self._task, steps)

    def say(self, text: str) -> None:
        """What came of it."""
        self._said = text

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        if kind is None:
            self._console.print(self._line())

    def _line(self) -> Text:
        """What came of it is aligned, and wraps under itself on a narrow terminal."""
        seconds = f"{perf_counter() - self._started:.1f} s"
        width = self._console.width
        beside = max(20, width - LABEL_WIDTH - len(seconds) - 5)
        pieces = Text(self._said).wrap(self._console, beside) if self._said else [Text()]
        line = Text.assemble(
            ("✓ ", "green"), f"{self._label:<{LABEL_WIDTH}} ", f"{pieces[0].plain:<{beside}} ", (seconds, "dim")
        )
        for piece in pieces[1:]:
            line.append("\n" + " " * (LABEL_WIDTH + 3) + piece.plain)
        return line
