"""``tessera sagas resolve``: end by hand what a checkout wants and was refused for good."""

import getpass
from contextlib import closing
from typing import Annotated, Any

import typer

from contracts.events import SagaResolved
from contracts.identity import Realm, stream_id
from infra.cli.command import Session
from infra.cli.console import table
from infra.cli.errors import CliError, ExitCode
from infra.cli.shards import at_shards
from sagas.process import KIND, saga_key

SAGAS_MAX = 1_000

Row = dict[str, Any]
Tenant = Annotated[str | None, typer.Option(help="Whose, where several have an order of this name.")]
App = Annotated[str | None, typer.Option(help="Of which app.")]


def resolve(
    session: Session,
    order_id: Annotated[str, typer.Argument(help="The order.")],
    reason: Annotated[str, typer.Option(help="Why, for whoever reads the books later.")],
    tenant: Tenant = None,
    app: App = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """End by hand what one saga wants and was refused for good; recorded in its memory with who and why.

    Nothing is redeemed, released or credited by it: what is held ends with its lock, and a break in the books stays
    until later facts settle it, with this decision among its events. To have it asked again instead: `sagas retry`.
    """
    from infra.sagas.resolving import REASON_MAX

    if not 0 < len(reason.strip()) <= REASON_MAX:
        raise CliError(f"--reason must have 1 to {REASON_MAX} characters", next_step="Say why.", code=ExitCode.USAGE)
    found = sagas_of(session, order_id, tenant, app)
    refused = [command for row in found for command in _refused(row)]
    if not refused:
        _show(session, order_id, _resolved_before(found) or _nothing_refused(order_id, found), is_new=False)
        return
    told = ", ".join(f"{each['command_type']} ({each['refused_code']})" for each in refused)
    session.out.confirm(f"End {told} of order {order_id}? It will not be asked for again", yes=yes)
    ended = [entry for row in found if (entry := _end(row, reason.strip())) is not None]
    _show(session, order_id, ended or _resolved_before(found), is_new=bool(ended))  # Somebody else may be faster.


def sagas_of(session: Session, order_id: str, tenant: str | None, app: str | None) -> list[Row]:
    """The sagas of an order that exactly one realm has, on whichever shards, each with the settings of its shard.

    Raises CliError when nobody has such an order, or several have.
    """
    from infra.cli.log_queries import sagas
    from infra.postgres.connections import transaction

    rows: list[Row] = []
    for settings in at_shards(session, None):
        with transaction(settings.postgres_dsn, name="sagas") as cursor:
            found = sagas(cursor, step=None, key=order_id, limit=SAGAS_MAX)
        rows += [{"settings": settings} | row for row in found if _is_of(row, tenant, app)]
    realms = {(row["tenant_id"], row["app_id"]) for row in rows}
    if not realms:
        where = "/".join(filter(None, (tenant, app)))
        told = f"no saga{f' of {where}' if where else ''} heard of order {order_id!r}"
        raise CliError(told, next_step="`tessera sagas list` shows them.")
    if len(realms) > 1:
        known = ", ".join(sorted("/".join(realm) for realm in realms))
        raise CliError(f"order {order_id!r} is one of each of {known}", next_step="Name one with --tenant and --app.")
    return rows


def _is_of(row: Row, tenant: str | None, app: str | None) -> bool:
    return tenant in {None, row["tenant_id"]} and app in {None, row["app_id"]}


def _nothing_refused(order_id: str, found: list[Row]) -> list[Row]:
    pending = sum(row["pending"] for row in found)
    waits = f", and {pending} of its commands have no answer yet: they may still take effect" if pending else ""
    raise CliError(
        f"nothing of order {order_id!r} was refused: it stands at {found[0]['step']}{waits}",
        next_step=f"`tessera sagas show {order_id}` says what it waits for, `tessera sagas retry {order_id}` sends it.",
    )


def _refused(row: Row) -> list[Row]:
    from infra.cli.log_queries import outbox_of
    from infra.postgres.connections import transaction

    with transaction(row["settings"].postgres_dsn, name="sagas") as cursor:
        owed = outbox_of(cursor, saga_key(row["process"], row["key"]), (row["tenant_id"], row["app_id"]))
    return [command for command in owed if command["refused_code"] is not None]


def _end(row: Row, reason: str) -> Row | None:
    from infra.postgres.log import PostgresEventLog
    from infra.sagas.resolving import resolve as end

    settings, realm = row["settings"], Realm(row["tenant_id"], row["app_id"])
    actor = f"operator:{getpass.getuser()}"
    with closing(PostgresEventLog(settings.postgres_dsn, shard=settings.shard)) as log:
        done = end(log, realm, row["process"], row["key"], reason=reason, actor=actor)
    return None if done is None else _told(done.at, actor, done.entry.model_dump(mode="json"))


def _resolved_before(found: list[Row]) -> list[Row]:
    from infra.cli.log_queries import events_of_stream
    from infra.postgres.connections import transaction

    events: list[Row] = []
    for row in found:
        stream = stream_id(Realm(row["tenant_id"], row["app_id"]), KIND, saga_key(row["process"], row["key"]))
        with transaction(row["settings"].postgres_dsn, name="sagas") as cursor:
            events += [each for each in events_of_stream(cursor, stream) if each["type"] == SagaResolved.type]
    return [_told(event["occurred_at"], event["actor"], event["data"]) for event in events]


def _told(at: object, by: str, data: Row) -> Row:
    ended = [{name: each[name] for name in ("command_id", "type", "code", "detail")} for each in data["ended"]]
    return {"at": at, "by": by, "reason": data["reason"], "step": data["step"], "ended": ended}


def _show(session: Session, order_id: str, resolved: list[Row], *, is_new: bool) -> None:
    rows = [{**each, "ended": ", ".join(f"{it['type']} ({it['code']})" for it in each["ended"])} for each in resolved]
    title = "Ended by hand" if is_new else "Ended by hand before; nothing was done now"
    session.out.show(
        {"order_id": order_id, "is_new": is_new, "resolved": resolved},
        table(title, rows, ("at", "by", "ended", "step", "reason")),
    )
