"""What operators, reconciliation and imports ask: clocks, breaks, rows set aside."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from contracts.commands.base import Command
from contracts.events.operations import RowSetAside
from contracts.values import BusinessTime, Currency, Id, Instant, SignedMinor, Text


class AdvanceClock(Command):
    """Set the realm's business clock forward; from the first advance on the realm runs on it."""

    type: ClassVar[str] = "advance_clock"

    to: BusinessTime


class OpenBreak(Command):
    """Record ledgers that disagree."""

    type: ClassVar[str] = "open_break"

    break_id: Id
    kind: Id
    severity: Literal["info", "warning", "critical"]
    subject: Id
    currency: Currency | None = None
    amount_minor: SignedMinor = 0
    detail: Text = ""
    event_ids: Annotated[tuple[Id, ...], Field(max_length=100)] = ()
    since: Instant


class CloseBreak(Command):
    """Record that later facts settled a break."""

    type: ClassVar[str] = "close_break"

    break_id: Id
    reason: Text = ""


class SetRowsAside(Command):
    """Record rows of an import that were refused or parked."""

    type: ClassVar[str] = "set_rows_aside"

    import_id: Id
    statement: Id
    rows: Annotated[tuple[RowSetAside, ...], Field(min_length=1, max_length=1_000)]
