"""``tessera restored``: say that the store was restored to an earlier state, so that a new epoch begins."""

import getpass
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from infra.cli.command import Session, command
from infra.cli.console import table
from infra.cli.shards import Shard, at_shards

if TYPE_CHECKING:
    from infra.settings import Settings

NEXT_STEPS: Final = (
    "tessera projections rebuild all",
    "tessera verify",
    "tessera reconcile run",
    "Have upstreams send again, under the same ids, what they sent since the backup.",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "restored", example="tessera restored --id nightly-2026-03-01 --shard 0")(_restored)


def _restored(
    session: Session,
    restore_id: Annotated[
        str | None, typer.Option("--id", help="What this restore is called: told again, it changes nothing.")
    ] = None,
    shard: Shard = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Say that the store was restored (or failed over) to an earlier state: a new epoch of its log begins.

    Sagas, timers and the relay were restored with the log and go on. Read models and facts halt, are not served any
    more where they show what no longer happened, and are rebuilt by the command that is printed.
    """
    from infra.postgres.epoch import begin_after_restore

    chosen = at_shards(session, shard)
    logs = [_log_of(settings) for settings in chosen]
    session.out.confirm(_question(logs), yes=yes)
    name = restore_id or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    actor = f"operator:{getpass.getuser()}"
    told = [
        begin_after_restore(settings.postgres_dsn, settings.shard, restore_id=name, actor=actor) for settings in chosen
    ]
    rows = [asdict(each) for each in told]
    shown = [{**row, "told": "just now" if row["is_new"] else f"before, as {row['restore_id']}"} for row in rows]
    columns = ("shard", "told", "epoch_before", "epoch", "head", "told_at", "told_by")
    session.out.show(
        {"restores": rows, "next_steps": NEXT_STEPS},
        table("Restores", shown, columns, right=("shard", "head")),
        Text("\nNext:\n" + "\n".join(f"  {step}" for step in NEXT_STEPS)),
    )


def _log_of(settings: "Settings") -> dict[str, Any]:
    from infra.cli.log_queries import latest_events
    from infra.postgres.connections import transaction

    with transaction(settings.postgres_dsn, name="restored") as cursor:
        last = latest_events(cursor, filters={}, limit=1)
    return {
        "shard": settings.shard,
        "head": last[0]["offset"] if last else 0,
        "last": last[0]["recorded_at"] if last else None,
    }


def _question(logs: list[dict[str, Any]]) -> str:
    ends = "; ".join(
        f"shard {log['shard']} ends at offset {log['head']}"
        + ("" if log["last"] is None else f", recorded {log['last']:%Y-%m-%d %H:%M:%S} UTC")
        for log in logs
    )
    return f"{ends}. Is that a restored state? Every read model and the facts will have to be rebuilt"
