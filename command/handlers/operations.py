"""Operations: business clocks, reconciliation breaks and rows that imports set aside."""

from command.domain import breaks, clock, imports
from command.domain.breaks import BREAK
from command.domain.clock import CLOCK
from command.domain.imports import IMPORT
from command.handlers.handler import Data
from command.unit_of_work import HISTORY, UnitOfWork
from contracts.commands import AdvanceClock, CloseBreak, OpenBreak, SetRowsAside


def advance_clock(uow: UnitOfWork, command: AdvanceClock) -> Data:
    """Forwards only, and never behind what the realm has recorded."""
    has_history = uow.count(HISTORY) > 0
    state = uow.load(CLOCK, clock.MAIN)
    uow.record(CLOCK, clock.MAIN, clock.start(state, command.to, has_history=has_history, now=uow.now))
    return {"now": command.to.isoformat()}


def open_break(uow: UnitOfWork, command: OpenBreak) -> Data:
    """Ledgers disagree."""
    uow.record(BREAK, command.break_id, breaks.open_break(uow.load(BREAK, command.break_id), command))
    return {"break_id": command.break_id}


def close_break(uow: UnitOfWork, command: CloseBreak) -> Data:
    """Later facts settled it."""
    uow.record(BREAK, command.break_id, breaks.close_break(uow.load(BREAK, command.break_id), command.reason))
    return {"break_id": command.break_id}


def set_rows_aside(uow: UnitOfWork, command: SetRowsAside) -> Data:
    """Rows that were refused or parked, so that all rows are accounted for."""
    state = uow.record(IMPORT, command.import_id, imports.set_aside(command))
    return {"import_id": command.import_id, "refused": state.refused, "parked": state.parked}
