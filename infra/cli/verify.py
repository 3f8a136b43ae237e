"""``tessera verify``: do the log, its answers and every store agree, and do the invariants hold?"""

from dataclasses import asdict

import typer
from rich.text import Text

from infra.cli.command import Session, command
from infra.cli.console import items
from infra.cli.errors import ExitCode

INVARIANTS = {
    "I1": "no more claims than stock and limits allow",
    "I2": "an acknowledged command has exactly one effect",
    "I3": "no effect without an accepted command",
    "I4": "one final answer per command id",
    "I5": "stream versions are contiguous",
    "I6": "followers miss nothing",
    "I7": "a snapshot is what the events say",
    "I8": "event store = Redis = ClickHouse",
    "I9": "refunded ≤ redeemed ≤ locked, and every lock ends",
    "I10": "nothing crosses a tenant",
    "I11": "issued = held + locked + redeemed + expired + revoked",
    "I12": "a budget never goes below zero",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "verify", example="tessera verify")(_verify)


def _verify(session: Session) -> ExitCode:
    """Fold the raw log with code of its own and hold everything against the invariants.

    Where tenants are placed: of every shard, and then the shards against each other.
    Reads only, and may run while traffic goes on. Ends with 3 when an invariant is broken or a store did not stand
    still long enough to be compared.
    """
    from infra import operations

    with session.out.progress("folding the log", total=1) as progress:
        report = operations.verify(session.settings, lambda done, total: progress.to(done, total=max(1, total)))
    rows = [
        {**asdict(violation), "promise": INVARIANTS.get(violation.invariant, "")} for violation in report.violations
    ]
    payload = {
        "holds": report.holds,
        "last_offset": report.events,
        "shards": dict(report.shards),
        "commands": report.commands,
        "compared": report.compared,
        "not_compared": report.not_compared,
        "violations": rows,
    }
    logs = ", ".join(f"the log of shard {n} up to offset {offset:,}" for n, offset in report.shards.items())
    checked = f"{report.commands:,} commands and {logs or f'the log up to offset {report.events:,}'} checked"
    stores = f"compared: {', '.join(report.compared) or 'no store'}"
    if report.not_compared:
        stores += f"; NOT compared (still moving, or not begun): {', '.join(report.not_compared)}"
    verdict = Text("✓ every invariant holds", "green") if report.holds else Text("✗ it does not hold", "bold red")
    listed = [
        (
            Text.assemble((f"{row['invariant']:<5}", "bold red"), row["subject"]),
            f"{row['detail']} ({row['promise']}{_at(row['offset'])}{_on(row['shard'])})",
        )
        for row in rows
    ]
    session.out.show(payload, items("Violations", listed), Text(f"{checked}; {stores}"), verdict)
    return ExitCode.OK if report.holds else ExitCode.FINDINGS


def _at(offset: int | None) -> str:
    return "" if offset is None else f"; offset {offset}"


def _on(shard: int | None) -> str:
    return "" if shard is None else f"; shard {shard}"
