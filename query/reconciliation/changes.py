"""From what is found and what is on record to the commands that make them equal: only differences are recorded."""

from collections.abc import Collection, Iterable, Sequence

from contracts.commands import CloseBreak, Command, OpenBreak
from contracts.envelope import CommandEnvelope
from contracts.identity import Realm
from query.reconciliation.breaks import Found, OpenBreakRow

ACTOR = "reconciliation"
EVENT_IDS_MAX = 100
DETAIL_LENGTH_MAX = 500
SUBJECT_LENGTH_MAX = 128


def commands_for(
    found: Sequence[Found], on_record: Iterable[OpenBreakRow], *, run_id: str, checked: Collection[str]
) -> list[CommandEnvelope]:
    """Open what is new or changed, close what is settled.

    ``run_id`` makes the command ids of one run; ``checked`` names the kinds that this run looked for: breaks of other
    kinds stay as they are.
    """
    known = {(row.realm, row.break_id): row for row in on_record}
    present = {(each.realm, each.break_id) for each in found}
    commands: list[CommandEnvelope] = []
    for each in found:
        row = known.get((each.realm, each.break_id))
        if row is None or (row.amount_minor, row.detail) != (each.amount_minor, each.detail[:DETAIL_LENGTH_MAX]):
            commands.append(_envelope(each.realm, each.break_id, run_id, _opening(each)))
    for (realm, break_id), row in known.items():
        if row.kind in checked and (realm, break_id) not in present:
            closing = CloseBreak(break_id=break_id, reason="the ledgers agree again")
            commands.append(_envelope(realm, break_id, run_id, closing))
    return commands


def _opening(found: Found) -> OpenBreak:
    return OpenBreak(
        break_id=found.break_id,
        kind=found.kind,
        severity=found.severity,
        subject=found.subject[:SUBJECT_LENGTH_MAX],
        currency=found.currency,
        amount_minor=found.amount_minor,
        detail=found.detail[:DETAIL_LENGTH_MAX],
        event_ids=found.event_ids[:EVENT_IDS_MAX],
        since=found.since,
    )


def _envelope(realm: Realm, break_id: str, run_id: str, command: Command) -> CommandEnvelope:
    return CommandEnvelope(
        realm=realm,
        command_id=f"reconcile:{run_id}:{command.type}:{break_id}",
        command=command,
        actor=ACTOR,
        correlation_id=f"reconcile:{run_id}",
    )
