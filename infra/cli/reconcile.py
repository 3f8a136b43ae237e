"""``tessera reconcile``: find breaks between the ledgers, list them, and show the events behind one."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from contracts.money import format_money
from infra.cli.command import Session, command
from infra.cli.console import items
from infra.cli.errors import CliError, ExitCode
from infra.cli.events import event_line

_COLOURS = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "run", example="tessera reconcile run")(_run)
    command(group, "breaks", example="tessera reconcile breaks --kind duplicate_payment")(_breaks)
    command(group, "explain", example="tessera reconcile explain duplicate_payment-3fa2c1d07b9e")(_explain)


def _run(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be recorded, record nothing.")] = False,
) -> ExitCode:
    """Compare the ledgers, record what is new and what is settled. Ends with 3 when there are breaks."""
    from infra import operations

    with session.out.progress("comparing the ledgers"):
        report = operations.reconcile(session.settings, record=not dry_run)
    rows = [_row(each) for each in report.breaks]
    payload = {"breaks": rows, "opened": report.opened, "closed": report.closed, "recorded": not dry_run}
    said = f"{len(rows)} breaks; {report.opened} newly opened or changed, {report.closed} closed"
    session.out.show(payload, _table(rows), Text(said + (" (not recorded)" if dry_run else "")))
    return ExitCode.FINDINGS if rows else ExitCode.OK


def _breaks(
    session: Session,
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    as_of: Annotated[datetime | None, typer.Option(help="As it was then (UTC): 2026-03-02T18:00:00")] = None,
) -> ExitCode:
    """List the breaks that show now, or showed at an earlier instant; records nothing."""
    from infra import operations

    instant = as_of.replace(tzinfo=as_of.tzinfo or UTC) if as_of else None
    rows = [_row(each) for each in operations.breaks_now(session.settings, as_of=instant) if kind in {None, each.kind}]
    session.out.show({"breaks": rows}, _table(rows))
    return ExitCode.FINDINGS if rows else ExitCode.OK


def _explain(
    session: Session,
    break_id: Annotated[str, typer.Argument(help="As `reconcile breaks` shows it.")],
) -> None:
    """Show one break with the events behind it, in the order of the log."""
    from infra import operations
    from infra.cli.log_queries import ended_by_hand, events_by_id
    from infra.postgres.connections import transaction

    found = next((each for each in operations.breaks_now(session.settings) if each.break_id == break_id), None)
    if found is None:
        raise CliError(f"no break {break_id!r} shows now", next_step="`tessera reconcile breaks` lists them.")
    row = _row(found)
    events: list[dict[str, Any]] = []
    for dsn in session.settings.known_stores.values():  # An order's coupons may lie on other shards than the order.
        with transaction(dsn, name="explain") as cursor:
            behind = events_by_id(cursor, found.event_ids)
            events += sorted([*behind, *ended_by_hand(cursor, behind)], key=lambda event: event["offset"])
    session.out.show(
        {"break": row, "events": events},
        Text.assemble(
            (row["kind"], _COLOURS[row["severity"]]), f"  {row['subject']}  {row['amount']}\n{row['detail']}"
        ),
        Text(),
        items("Events behind it", [(event_line(event), _scalars(event["data"])) for event in events]),
    )


def _scalars(data: dict[str, Any]) -> str:
    """The payload without its lists and objects: `events show OFFSET` has them all."""
    return "  ".join(f"{name}={value}" for name, value in data.items() if isinstance(value, str | int) and value != "")


def _row(found: Any) -> dict[str, Any]:
    return {
        "break_id": found.break_id,
        "kind": found.kind,
        "severity": found.severity,
        "tenant_id": found.realm.tenant_id,
        "app_id": found.realm.app_id,
        "subject": found.subject,
        "currency": found.currency,
        "amount_minor": found.amount_minor,
        "amount": format_money(found.amount_minor, found.currency) if found.currency else "",
        "detail": found.detail,
        "since": found.since,
        "event_ids": found.event_ids,
    }


def _table(rows: list[dict[str, Any]]) -> Text:
    listed = [
        (
            Text.assemble((f"{row['severity']:<9}", _COLOURS[row["severity"]]), f"{row['break_id']}   {row['amount']}"),
            row["detail"],
        )
        for row in rows
    ]
    return items("Breaks", listed, empty="none: the books balance")
