"""What the system itself records: clocks, counted refusals, saga memory, breaks, import rows set aside."""

from typing import Any, ClassVar, Literal

from contracts.events.base import Event
from contracts.values import Instant, Value


class ClockAdvanced(Event):
    """The realm runs on its own business clock, which now shows ``to``."""

    type: ClassVar[str] = "clock.advanced.v1"

    to: Instant


class RefusalCount(Value):
    """So many commands of one kind on one template were refused for one reason."""

    template_id: str | None
    command: str
    code: str
    count: int


class RefusalsCounted(Event):
    """The refusals of one batch of commands, counted instead of one event each."""

    type: ClassVar[str] = "refusals.counted.v1"

    counts: tuple[RefusalCount, ...]


class SentCommand(Value):
    """A command that a saga sent, under an id derived from the fact that caused it."""

    command_id: str
    type: str
    payload: dict[str, Any]


class SagaHeard(Event):
    """A saga heard one fact: the entry of its memory. Folding it again sends nothing."""

    type: ClassVar[str] = "saga.heard.v1"

    process: str
    process_version: int
    key: str
    fact_type: str
    fact_event_id: str
    fact: dict[str, Any]
    step: str
    sends: tuple[SentCommand, ...] = ()


class EndedCommand(Value):
    """A command of a saga that the write side refused for good, with the code and words of the refusal."""

    command_id: str
    type: str
    payload: dict[str, Any]
    code: str
    detail: str


class SagaResolved(Event):
    """An operator, the event's actor, ended what a saga still wanted and was refused. It is not asked for again."""

    type: ClassVar[str] = "saga.resolved.v1"

    process: str
    process_version: int
    key: str
    reason: str
    step: str
    ended: tuple[EndedCommand, ...]


class BreakOpened(Event):
    """Reconciliation found ledgers that disagree."""

    type: ClassVar[str] = "break.opened.v1"

    break_id: str
    kind: str
    severity: Literal["info", "warning", "critical"]
    subject: str
    currency: str | None
    amount_minor: int
    detail: str
    event_ids: tuple[str, ...]
    since: Instant


class BreakClosed(Event):
    """Later facts settled the break."""

    type: ClassVar[str] = "break.closed.v1"

    break_id: str
    kind: str
    subject: str
    reason: str


class RowSetAside(Value):
    """One source row that was not applied, with the reason. ``amount`` is a decimal string in major units."""

    row: str
    outcome: Literal["refused", "parked"]
    code: str
    detail: str
    amount: str | None = None


class ImportRowsSetAside(Event):
    """Rows of an import that were refused or parked: together with the applied ones they are all rows."""

    type: ClassVar[str] = "import.rows_set_aside.v1"

    import_id: str
    statement: str
    rows: tuple[RowSetAside, ...]
