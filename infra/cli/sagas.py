"""``tessera sagas``: where checkouts stand, and why; those that do not get on."""

from typing import Annotated, Any

import typer
from rich.text import Text

from contracts.events import SagaResolved
from infra.cli.command import Session, command
from infra.cli.console import table
from infra.cli.errors import CliError, ExitCode
from infra.cli.resolving import App, Tenant, resolve, sagas_of
from infra.cli.shards import Shard, at_shards
from sagas.checkout import WAITING

ROWS_MAX = 1_000


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "list", example="tessera sagas list --step held")(_list)
    command(group, "show", example="tessera sagas show o-1")(_show)
    command(group, "retry", example="tessera sagas retry o-1")(_retry)
    command(group, "resolve", example="tessera sagas resolve o-1 --reason 'paid in EUR, given back by hand'")(resolve)


def _list(
    session: Session,
    step: Annotated[str | None, typer.Option(help="Only those at this step.")] = None,
    stuck: Annotated[
        bool, typer.Option("--stuck", help="Only those that wait for an answer or were refused one.")
    ] = False,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=ROWS_MAX)] = 50,
    shard: Shard = None,
) -> ExitCode:
    """Count sagas by step and list them, the longest waiting first. Ends with 3 when --stuck finds any."""
    from infra.cli.log_queries import saga_steps, sagas
    from infra.postgres.connections import transaction

    steps: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for settings in at_shards(session, shard):
        where = {"shard": settings.shard}
        with transaction(settings.postgres_dsn, name="sagas") as cursor:
            steps += [where | row for row in saga_steps(cursor)]
            rows += [where | row for row in sagas(cursor, step=step, key=None, limit=ROWS_MAX if stuck else limit)]
    if stuck:
        rows = [row for row in rows if row["step"] in WAITING or row["pending"] or row["refused"]]
    rows = sorted(rows, key=lambda row: row["since"])[:limit]
    columns = ("shard", "key", "step", "because", "since", "pending", "refused", "trouble")
    session.out.show(
        {"steps": steps, "sagas": rows},
        table("Steps", steps, ("shard", "step", "sagas"), right=("shard", "sagas")),
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

    found: list[dict[str, Any]] = []
    memories: list[list[dict[str, Any]]] = []
    waiting: list[dict[str, Any]] = []
    for settings in at_shards(session, None):
        with transaction(settings.postgres_dsn, name="sagas") as cursor:
            here = sagas(cursor, step=None, key=order_id, limit=10)
            found += [{"shard": settings.shard} | row for row in here]
            for row in here:
                saga_key = f"{row['process']}:{order_id}"
                memories.append(_memory(cursor, row, saga_key, events_of_stream))
            for saga_key in dict.fromkeys(f"{row['process']}:{order_id}" for row in here):
                waiting += outbox_of(cursor, saga_key)
    if not found:
        raise CliError(f"no saga heard of order {order_id!r}", next_step="`tessera sagas list` shows them.")
    heard = [entry for memory in memories for entry in memory]
    columns = (
        "version",
        "at",
        "fact",
        "step",
        "sent",
        *(["because"] if any(each["because"] for each in heard) else []),
    )
    session.out.show(
        {"sagas": found, "heard": heard, "outbox": waiting},
        Text.assemble((f"Order {order_id}", "bold"), f" stands at {found[0]['step']} because of {found[0]['because']}"),
        table("Heard", heard, columns, right=("version",), whole=("fact", "step")),
        table("Waiting or refused", waiting, ("command_type", "attempts", "last_error", "refused_code", "retry_at")),
    )


def _retry(
    session: Session,
    order_id: Annotated[str, typer.Argument(help="The order.")],
    tenant: Tenant = None,
    app: App = None,
) -> None:
    """Send what one saga waits for again now; what was refused is asked anew, under a new id.

    For after the cause is mended: a budget was topped up, a store came back. Asked twice, nothing happens twice.
    """
    from contracts.identity import Realm
    from infra.postgres import outbox
    from infra.postgres.connections import transaction

    told: list[dict[str, Any]] = []
    for row in sagas_of(session, order_id, tenant, app):
        key = f"{row['process']}:{order_id}"
        with transaction(row["settings"].postgres_dsn, name="sagas") as cursor:
            pending, refused = outbox.retry(cursor, Realm(row["tenant_id"], row["app_id"]), key)
        told.append({"saga": key, "pending": pending, "refused": refused})
    session.out.show(
        {"retried": told}, table("Sent again", told, ("saga", "pending", "refused"), right=("pending", "refused"))
    )


def _memory(cursor: Any, row: dict[str, Any], saga_key: str, events_of_stream: Any) -> list[dict[str, Any]]:
    from contracts.identity import Realm, stream_id

    stream = stream_id(Realm(row["tenant_id"], row["app_id"]), "saga", saga_key)
    return [
        {
            "version": event["version"],
            "at": event["occurred_at"],
            "fact": event["data"].get("fact_type", event["type"]),
            "step": event["data"]["step"],
            "sent": ", ".join(sent["type"] for sent in event["data"].get("sends", ())) or "–",
            "because": _by_hand(event),
        }
        for event in events_of_stream(cursor, stream)
    ]


def _by_hand(event: dict[str, Any]) -> str:
    """Who ended commands by hand, and why; nothing of what was heard."""
    return f"{event['actor']}: {event['data']['reason']}" if event["type"] == SagaResolved.type else ""
