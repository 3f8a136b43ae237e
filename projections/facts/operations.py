"""What the system records about itself: counted refusals, reconciliation breaks, import rows set aside."""

from collections.abc import Iterator
from decimal import Decimal

from contracts.envelope import Recorded
from contracts.events import BreakClosed, BreakOpened, DistributionUsersRefused, ImportRowsSetAside, RefusalsCounted
from projections.facts.table import Facts, Row, Table

REFUSAL = Table("refusal_facts", {"template_id": "", "command": "", "code": "", "refused": 0})

BREAK = Table(
    "break_facts",
    {
        "status": "",
        "break_id": "",
        "kind": "",
        "severity": "",
        "subject": "",
        "currency": "",
        "amount_minor": 0,
        "detail": "",
        "event_ids": (),
        "since": None,
        "reason": "",
    },
)

IMPORT = Table(
    "import_facts",
    {
        "import_id": "",
        "statement": "",
        "source_row": "",
        "outcome": "",
        "code": "",
        "detail": "",
        "amount": None,
    },
)


def _refused(recorded: Recorded, event: RefusalsCounted) -> Iterator[Row]:
    for row_no, entry in enumerate(event.counts):
        yield REFUSAL.row(
            recorded,
            row_no,
            template_id=entry.template_id or "",
            command=entry.command,
            code=entry.code,
            refused=entry.count,
        )


def _users_refused(recorded: Recorded, event: DistributionUsersRefused) -> Iterator[Row]:
    for row_no, entry in enumerate(event.refused):
        yield REFUSAL.row(
            recorded,
            row_no,
            template_id=event.template_id,
            command="issue_distribution_chunk",
            code=entry.code,
            refused=len(entry.rows),
        )


def _opened(recorded: Recorded, event: BreakOpened) -> tuple[Row]:
    row = BREAK.row(
        recorded,
        status="opened",
        break_id=event.break_id,
        kind=event.kind,
        severity=event.severity,
        subject=event.subject,
        currency=event.currency or "",
        amount_minor=event.amount_minor,
        detail=event.detail,
        event_ids=event.event_ids,
        since=event.since,
    )
    return (row,)


def _closed(recorded: Recorded, event: BreakClosed) -> tuple[Row]:
    row = BREAK.row(
        recorded,
        status="closed",
        break_id=event.break_id,
        kind=event.kind,
        subject=event.subject,
        reason=event.reason,
    )
    return (row,)


def _set_aside(recorded: Recorded, event: ImportRowsSetAside) -> Iterator[Row]:
    for row_no, entry in enumerate(event.rows):
        yield IMPORT.row(
            recorded,
            row_no,
            import_id=event.import_id,
            statement=event.statement,
            source_row=entry.row,
            outcome=entry.outcome,
            code=entry.code,
            detail=entry.detail,
            amount=None if entry.amount is None else Decimal(entry.amount),
        )


REFUSAL_FACTS = Facts(REFUSAL, {RefusalsCounted: _refused, DistributionUsersRefused: _users_refused})
BREAK_FACTS = Facts(BREAK, {BreakOpened: _opened, BreakClosed: _closed})
IMPORT_FACTS = Facts(IMPORT, {ImportRowsSetAside: _set_aside})
