"""Every way in which an import stops before its end; what was applied until then stays, and it can be resumed.

::

    ImportStopped
    ├── BadMapping        the mapping cannot be used
    ├── BadSource         a file is missing, truncated or dirty: file, row, reason
    ├── BadRow            a SELECT made a row that is no command: statement, row key, reason
    ├── SourceChanged     other files (or another mapping) than this import began with
    ├── AlreadyRunning    another process works on this import
    ├── ClockElsewhere    the realm's business clock is already past the next row
    ├── HandlerBroke      the engine failed on a command: a defect, not a refusal
    └── EngineUnreachable the store did not answer, however often it was asked
"""

from pathlib import Path


class ImportStopped(Exception):
    """An import cannot go on. The message names what to mend."""


class BadMapping(ImportStopped):
    """The mapping cannot be used as it is."""

    def __init__(self, where: Path | str, reason: str) -> None:
        super().__init__(f"mapping {where}: {reason}")


class BadSource(ImportStopped):
    """A file cannot be taken as it is. ``row`` counts data rows from 1; None when no row can be named."""

    def __init__(self, file: Path, reason: str, *, row: int | None = None) -> None:
        place = f"{file.name}, row {row:,}" if row is not None else file.name
        super().__init__(f"{place}: {reason}")
        self.file = file
        self.row = row
        self.reason = reason


class BadRow(ImportStopped):
    """A statement made a row that is no valid command."""

    def __init__(self, statement: str, row_key: str | None, reason: str) -> None:
        super().__init__(f"statement {statement}, row {row_key}: {reason}")
        self.statement = statement
        self.row_key = row_key
        self.reason = reason


class SourceChanged(ImportStopped):
    """The import began with other content; going on would mix two versions of it."""


class AlreadyRunning(ImportStopped):
    """Another process works on this import at this moment."""


class ClockElsewhere(ImportStopped):
    """The realm's business clock cannot be set to the next row's time."""


class HandlerBroke(ImportStopped):
    """The engine failed on a command. Nothing of it was stored."""


class EngineUnreachable(ImportStopped):
    """The engine was busy or its store out of reach for longer than an import waits."""
