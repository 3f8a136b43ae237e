"""Imports: the rows that were not applied, so that applied, refused and parked ones are together all rows."""

from dataclasses import dataclass
from typing import Final

from command.unit_of_work import Kind
from contracts.commands import SetRowsAside
from contracts.events import Event, ImportRowsSetAside


@dataclass(frozen=True, slots=True)
class Import:
    """How many rows were set aside so far."""

    refused: int = 0
    parked: int = 0


def evolve(state: Import, event: Event) -> Import:
    """Fold one event of an import's stream."""
    if not isinstance(event, ImportRowsSetAside):
        return state
    parked = sum(row.outcome == "parked" for row in event.rows)
    return Import(state.refused + len(event.rows) - parked, state.parked + parked)


IMPORT: Final = Kind("import", Import, Import(), evolve)


def set_aside(command: SetRowsAside) -> tuple[Event, ...]:
    """Record a batch of rows; the importer derives its command ids from the rows, so a repeat never comes this far."""
    return (ImportRowsSetAside(import_id=command.import_id, statement=command.statement, rows=command.rows),)
