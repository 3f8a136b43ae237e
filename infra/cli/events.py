"""``tessera events``: read the log."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from infra.cli.command import Session, command
from infra.cli.console import to_json
from infra.cli.errors import CliError, ExitCode
from infra.cli.shards import at_shards

if TYPE_CHECKING:
    from infra.settings import Settings

_Shard = Annotated[int | None, typer.Option("--shard", help="Of this shard's log; else of the own one's.", min=0)]

BATCH_MAX = 500
POLL_SECONDS = 0.1

_COLOURS = {
    "coupon": "cyan",
    "template": "magenta",
    "budget": "yellow",
    "order": "blue",
    "payment": "green",
    "refund": "red",
    "checkout": "bright_blue",
    "settlement": "bright_green",
    "saga": "dim",
    "break": "bold red",
}


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "tail", example="tessera events tail --type coupon. --follow")(_tail)
    command(group, "show", example="tessera events show demo/shop/order/o-1")(_show)


def _tail(
    session: Session,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events until Ctrl-C.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many to begin with.", min=0, max=BATCH_MAX)] = 20,
    after: Annotated[int | None, typer.Option(help="Begin after this offset instead of at the end.", min=0)] = None,
    type: Annotated[str | None, typer.Option(help="Only types that begin like this: coupon. or order.placed")] = None,
    kind: Annotated[str | None, typer.Option(help="Only streams of this kind: coupon, order, saga …")] = None,
    key: Annotated[str | None, typer.Option(help="Only streams with this key: an order's id …")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    app: Annotated[str | None, typer.Option(help="Only this app's.")] = None,
    shard: _Shard = None,
) -> None:
    """Show the last events, or those after an offset; with --follow, go on. With --json, one object per line."""
    from infra.cli.log_queries import events_after, latest_events
    from infra.postgres.connections import connect

    filters = {"tenant_id": tenant, "app_id": app, "kind": kind, "type": type, "key": key}
    settings = _at_shard(session, shard)
    with connect(settings.postgres_dsn, name="events", autocommit=True) as connection:
        cursor = connection.cursor()
        position = after if after is not None else _head(cursor)
        rows = (
            events_after(cursor, after, filters=filters, limit=limit or BATCH_MAX)
            if after is not None
            else latest_events(cursor, filters=filters, limit=limit)
        )
        while True:
            for row in rows:
                session.out.line(row, event_line(row))
                position = max(position, row["offset"])
            if not follow:
                if not rows:
                    session.out.note("No events.")
                return
            if not rows:
                time.sleep(POLL_SECONDS)
            rows = events_after(cursor, position, filters=filters, limit=BATCH_MAX)


def _show(
    session: Session,
    what: Annotated[str, typer.Argument(help="A stream (tenant/app/kind/key), or an offset.")],
    shard: _Shard = None,
) -> None:
    """Show every event of a stream, or the event at an offset, with metadata and payload."""
    from infra.cli.log_queries import events_at, events_of_stream
    from infra.postgres.connections import transaction

    rows: list[dict[str, Any]] = []
    # An offset is of one log; a stream is wherever it is.
    for settings in [_at_shard(session, shard)] if what.isdecimal() else at_shards(session, shard):
        with transaction(settings.postgres_dsn, name="events") as cursor:
            rows += events_at(cursor, [int(what)]) if what.isdecimal() else events_of_stream(cursor, what)
    if not rows:
        raise CliError(
            f"there is no {'event at offset' if what.isdecimal() else 'stream'} {what}",
            next_step="`tessera events tail` shows streams and offsets.",
            code=ExitCode.ERROR,
        )
    session.out.show({"events": rows}, *(_detail(row) for row in rows))


def _at_shard(session: Session, shard: int | None) -> "Settings":
    (settings,) = at_shards(session, session.settings.shard if shard is None else shard)
    return settings


def _head(cursor: Any) -> int:
    row = cursor.execute("SELECT coalesce(max(notification_id), 0) FROM stored_events").fetchone()
    return int(row[0])


def event_line(row: dict[str, Any]) -> Text:
    """Offset, business time, type, stream: what fits on a line."""
    kind = row["type"].partition(".")[0]
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{row['offset']:>8} ", style="dim")
    text.append(f"{row['occurred_at']:%Y-%m-%d %H:%M:%S} ", style="dim")
    text.append(f"{row['type']:<34} ", style=_COLOURS.get(kind, ""))
    text.append(f"{row['stream']}@{row['version']}")
    return text


def _detail(row: dict[str, Any]) -> Text:
    text = Text(f"{row['stream']}@{row['version']}  {row['type']}\n", style="bold")
    for name in (
        "offset",
        "occurred_at",
        "recorded_at",
        "actor",
        "event_id",
        "command_id",
        "correlation_id",
        "causation_id",
    ):
        text.append(f"  {name:<15}", style="dim")
        text.append(f"{row[name]}\n")
    text.append("  data           ", style="dim")
    text.append(to_json(row["data"], indent=2).replace("\n", "\n  ") + "\n")
    return text
