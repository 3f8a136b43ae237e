"""``tessera sagas``: where checkouts stand, and why; those that do not get on."""

from typing import Annotated, Any

import typer
from rich.text import Text

from infra.cli.command import Session, command
from infra.cli.console import table
from infra.cli.errors import CliError, ExitCode
from sagas.checkout import WAITING

ROWS_MAX = 1_000


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "list", example="tessera sagas list --step held")(_list)
    command(group, "show", example="tessera sagas show o-1")(_show)


def _list(
    session: Session,
    step: Annotated[str | None, typer.Option(help="Only those at this step.")] = None,
    stuck: Annotated[
        bool, typer.Option("--stuck", help="Only those that wait for an answer or were refused one.")
    ] = False,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=ROWS_MAX)] = 50,
) -> ExitCode:
    """Count sagas by step and list them, the longest waiting first. Ends with 3 when --stuck finds any."""
    from infra.cli.log_queries import saga_steps, sagas
    from infra.postgres.connections import transaction

    with transaction(session.settings.postgres_dsn, name="sagas") as cursor:
        steps = saga_steps(cursor)
        rows = sagas(cursor, step=step, key=None, limit=ROWS_MAX if stuck else limit)
    if stuck:
        rows = [row for row in rows if row["step"] in WAITING or row["pending"] or row["refused"]][:limit]
    columns = ("key", "step", "because", "since", "pending", "refused", "trouble")
    session.out.show(
        {"steps": steps, "sagas": rows},
        table("Steps", steps, ("step", "sagas"), right=("sagas",)),
        Text(),
        table("Stuck sagas" if stuck else "Sagas", rows, columns, right=("pending", "refused"), whole=("key", "step")),
    )
    return ExitCode.FINDINGS if stuck and rows else ExitCode.OK


def _show(
    session: Session,
    order_id: Annotated[str, typer.Argument(help="The order.")],
) -> None:
    """Show what one saga heard, where it stands, and what it still waits for."""
    from infra.cli.log_queries import events_of_stream, outbox_of, sagas
    from infra.postgres.connections import transaction

    with transaction(session.settings.postgres_dsn, name="sagas") as cursor:
        found = sagas(cursor, step=None, key=order_id, limit=10)
        if not found:
            raise CliError(f"no saga heard of order {order_id!r}", next_step="`tessera sagas list` shows them.")
        saga_key = f"{found[0]['process']}:{order_id}"
        memories = [_memory(cursor, row, saga_key, events_of_stream) for row in found]
        waiting = outbox_of(cursor, saga_key)
    heard = [entry for memory in memories for entry in memory]
    session.out.show(
        {"sagas": found, "heard": heard, "outbox": waiting},
        Text.assemble((f"Order {order_id}", "bold"), f" stands at {found[0]['step']} because of {found[0]['because']}"),
        table("Heard", heard, ("version", "at", "fact", "step", "sent"), right=("version",), whole=("fact", "step")),
        table("Waiting or refused", waiting, ("command_type", "attempts", "last_error", "refused_code", "retry_at")),
    )


def _memory(cursor: Any, row: dict[str, Any], saga_key: str, events_of_stream: Any) -> list[dict[str, Any]]:
    from contracts.identity import Realm, stream_id

    stream = stream_id(Realm(row["tenant_id"], row["app_id"]), "saga", saga_key)
    return [
        {
            "version": event["version"],
            "at": event["occurred_at"],
            "fact": event["data"]["fact_type"],
            "step": event["data"]["step"],
            "sent": ", ".join(sent["type"] for sent in event["data"]["sends"]) or "–",
        }
        for event in events_of_stream(cursor, stream)
    ]
