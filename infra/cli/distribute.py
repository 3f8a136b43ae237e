"""``tessera distribute``: lists of users become coupons; start, watch, pause, resume, cancel, and who was refused."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from contracts.commands import CancelDistribution, Command, PauseDistribution, ResumeDistribution, StartDistribution
from contracts.identity import Realm
from contracts.refusals import AlreadyExists
from infra.cli.command import Session, command
from infra.cli.console import table
from infra.cli.errors import CliError, ExitCode
from infra.cli.telling import App, Tenant, Yes, accepted, cli_envelope, named_realm, realm_or_own, tell

if TYPE_CHECKING:
    from infra.postgres.distributions import Job
    from infra.settings import Settings

LIST_MAX: Final = 1_000
SHOWN_ENTRIES_MAX: Final = 5
POLL_SECONDS: Final = 0.25
NOBODY_MOVES_SECONDS: Final = 10.0
_COLUMNS: Final = ("distribution_id", "template_id", "status", "users", "decided", "issued", "refused", "reason")
_AFTER_REFUSAL: Final = {
    "unknown_template": "Is {template_id} its name? GET /v1/templates lists all of this --tenant and --app.",
    "not_active": "POST /v1/templates/{template_id}/activate opens it.",
    "paused": "POST /v1/templates/{template_id}/resume lets it go on.",
    "already_exists": "Name another with --id; `tessera distribute list` shows where each stands.",
}
_LIST_THEM: Final = "`tessera distribute list` shows where each stands."
_NUMBERS: Final = ("users", "decided", "issued", "refused")

_Name = Annotated[str, typer.Argument(help="The distribution.")]
_Reason = Annotated[str, typer.Option(help="Why; others see it.")]
_Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Watch it to its end, or leave at once.")]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "start", example="tessera distribute start spring-10 users.csv --id newsletter-7")(_start)
    command(group, "list", example="tessera distribute list")(_list)
    command(group, "show", example="tessera distribute show newsletter-7 --wait")(_show)
    command(group, "pause", example='tessera distribute pause newsletter-7 --reason "too many calls"')(_pause)
    command(group, "resume", example="tessera distribute resume newsletter-7")(_resume)
    command(group, "cancel", example="tessera distribute cancel newsletter-7 --yes")(_cancel)
    command(group, "refusals", example="tessera distribute refusals newsletter-7 --output refused.csv")(_refusals)


def _start(
    session: Session,
    template_id: Annotated[str, typer.Argument(help="The template that everybody gets one coupon of.")],
    file: Annotated[Path, typer.Argument(help="A CSV file: a column `user_id`, or only one column.", dir_okay=False)],
    column: Annotated[str | None, typer.Option(help="The column with the users, when it is not `user_id`.")] = None,
    name: Annotated[str | None, typer.Option("--id", help="Its name; else the file's. The same again resumes.")] = None,
    wait: _Wait = True,
    tenant: Tenant = None,
    app: App = None,
) -> ExitCode:
    """Give one template to every user of a list, by the rules of a claim.

    A `tessera worker distributions` (part of `tessera up`) carries it out; Ctrl-C here only stops the watching. Ends
    with 3 when some were refused.
    """
    from infra.bootstrap import stores
    from infra.distributions.starting import Starting

    realm = realm_or_own(session, tenant, app)
    users = _users_in(session, file, column)
    try:
        started = StartDistribution(distribution_id=name or file.stem, template_id=template_id, users=len(users))
    except ValueError as error:
        raise CliError(str(error), code=ExitCode.USAGE) from None
    there = stores.at_shard_of(session.settings, realm, started.distribution_id)
    with stores.running_engine(there) as engine:
        starting = Starting(there.postgres_dsn, engine.dry_run, engine.execute)
        try:
            answer = starting.start(cli_envelope(realm, started), users)
        except AlreadyExists as refusal:
            raise CliError(refusal.detail, next_step="Name another with --id.") from None
    accepted(answer, next_step=_AFTER_REFUSAL.get(answer.code, _LIST_THEM).format(template_id=template_id))
    return _watched(session, realm, started.distribution_id, wait=wait)


def _users_in(session: Session, file: Path, column: str | None) -> list[str]:
    """The users of a file; what is taken for one without a header saying so is shown. Raises CliError."""
    from infra.distributions.lists import BadList, UnclearColumn, read_csv

    try:
        users, has_header = read_csv(file.read_bytes(), column)
    except UnclearColumn as unclear:
        next_step = "Name the column with the users with --column, or call it user_id."
        raise CliError(f"{file}: {unclear}", next_step=next_step, code=ExitCode.USAGE) from None
    except BadList as bad:
        more = "; ".join(f"{each.place} {each.what}" for each in bad.entries[1:SHOWN_ENTRIES_MAX])
        next_step = "Mend the file and start it again: nobody was given anything." + (f" Also: {more}." if more else "")
        raise CliError(f"{file}: {bad}", next_step=next_step, code=ExitCode.USAGE) from None
    if not has_header:
        session.out.note(f"first row: {users[0]} (taken as a user; if it is a header, name it with --column)")
    return users


def _list(
    session: Session,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's (with --app); else all.")] = None,
    app: App = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=LIST_MAX)] = 50,
) -> None:
    """Show distributions and where each stands, the latest first."""
    from infra.postgres import distributions
    from infra.postgres.connections import transaction

    realm = named_realm(tenant, app)
    jobs: list[Job] = []
    for dsn in _stores_of(session.settings, realm):
        with transaction(dsn, name="distribute") as cursor:
            jobs += distributions.page(cursor, realm, before=None, limit=limit)
    jobs = sorted(jobs, key=lambda job: job.staged_at, reverse=True)[:limit]
    rows = [{"tenant_id": job.realm.tenant_id, "app_id": job.realm.app_id, **job.view()} for job in jobs]
    shown = table("Distributions", rows, _COLUMNS, right=_NUMBERS, whole=("distribution_id",))
    session.out.show({"distributions": rows}, shown)


def _show(
    session: Session, distribution_id: _Name, wait: _Wait = False, tenant: Tenant = None, app: App = None
) -> ExitCode:
    """Show where a distribution stands, or (--wait) how it gets on until it ends or is paused."""
    return _watched(session, realm_or_own(session, tenant, app), distribution_id, wait=wait)


def _pause(
    session: Session, distribution_id: _Name, reason: _Reason = "", tenant: Tenant = None, app: App = None
) -> ExitCode:
    """Stop before the next chunk; `resume` goes on there."""
    return _tell(
        session, realm_or_own(session, tenant, app), PauseDistribution(distribution_id=distribution_id, reason=reason)
    )


def _resume(session: Session, distribution_id: _Name, tenant: Tenant = None, app: App = None) -> ExitCode:
    """Go on where it was paused."""
    return _tell(session, realm_or_own(session, tenant, app), ResumeDistribution(distribution_id=distribution_id))


def _cancel(
    session: Session,
    distribution_id: _Name,
    reason: _Reason = "",
    yes: Yes = False,
    tenant: Tenant = None,
    app: App = None,
) -> ExitCode:
    """End it for good. What was issued stays issued; the rest of the list is forgotten."""
    realm = realm_or_own(session, tenant, app)
    session.out.confirm(f"Cancel {distribution_id} for good?", yes=yes)
    return _tell(session, realm, CancelDistribution(distribution_id=distribution_id, reason=reason))


def _refusals(
    session: Session,
    distribution_id: _Name,
    output: Annotated[Path | None, typer.Option(help="The file to write; else stdout.", dir_okay=False)] = None,
    tenant: Tenant = None,
    app: App = None,
) -> None:
    """Write those who got no coupon as CSV (row, user_id, code, detail); --json: one object per line."""
    import csv
    import json
    import sys

    from infra.bootstrap import stores
    from infra.postgres import distributions
    from infra.postgres.connections import transaction

    realm = realm_or_own(session, tenant, app)
    _job(session, realm, distribution_id)
    there = stores.at_shard_of(session.settings, realm, distribution_id)
    target = output.open("w", newline="", encoding="utf-8") if output is not None else sys.stdout
    columns, count = ("row", "user_id", "code", "detail"), 0
    after: int | None = 0
    try:
        writer = csv.writer(target)
        if not session.out.as_json:
            writer.writerow(columns)
        while after is not None:
            with transaction(there.postgres_dsn, name="distribute") as cursor:
                rows, after = distributions.refusals(cursor, realm, distribution_id, after, 20)
            count += len(rows)
            if session.out.as_json:
                target.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
            else:
                writer.writerows(rows)
    finally:
        if output is not None:
            target.close()
    if output is not None:
        session.out.note(f"{count:,} refused rows are in {output}")


def _tell(session: Session, realm: Realm, told: Command) -> ExitCode:
    tell(session, realm, told, next_step=_LIST_THEM)
    return _watched(session, realm, told.distribution_id, wait=False)  # type: ignore[attr-defined]


def _watched(session: Session, realm: Realm, distribution_id: str, *, wait: bool) -> ExitCode:
    """Where it stands, once it stands still if that is waited for."""
    job = _job(session, realm, distribution_id)
    if wait:
        job = _wait_for(session, job)
    view = job.view()
    session.out.show(view, Text.assemble((f"{job.distribution_id} ", "bold"), _sentence(view)))
    return ExitCode.FINDINGS if wait and (job.refused or job.status != "completed") else ExitCode.OK


def _wait_for(session: Session, job: "Job") -> "Job":
    moved_at, warned = time.monotonic(), False
    with session.out.progress(f"Distributing {job.distribution_id}", job.users) as bar:
        while job.status == "running":
            bar.to(job.next_row - 1, total=job.users)
            time.sleep(POLL_SECONDS)
            before, job = job.next_row, _job(session, job.realm, job.distribution_id)
            if job.next_row != before:
                moved_at = time.monotonic()
            elif not warned and time.monotonic() - moved_at > NOBODY_MOVES_SECONDS:
                warned = True
                session.out.note("Nothing moves: does a `tessera worker distributions` (or `tessera up`) run?")
    return job


def _sentence(view: dict[str, Any]) -> str:
    coupons = "coupon" if view["issued"] == 1 else "coupons"
    told = (
        f"is {view['status']}: {view['decided']:,} of {view['users']:,} rows decided, "
        f"{view['issued']:,} {coupons} issued, {view['refused']:,} refused"
    )
    return told + (f" ({view['reason']})" if view["reason"] else "")


def _job(session: Session, realm: Realm, distribution_id: str) -> "Job":
    from infra.bootstrap import stores
    from infra.postgres import distributions
    from infra.postgres.connections import transaction

    there = stores.at_shard_of(session.settings, realm, distribution_id)
    with transaction(there.postgres_dsn, name="distribute") as cursor:
        job = distributions.find(cursor, realm, distribution_id)
    if job is None:
        raise CliError(
            f"there is no distribution {distribution_id!r} in {realm.key}",
            next_step="`tessera distribute list` shows them all; --tenant and --app name another realm.",
        )
    return job


def _stores_of(settings: "Settings", realm: Realm | None) -> list[str]:
    """The stores that may hold distributions of a realm, or of anybody."""
    shards = settings.placement.shards_of(realm) if settings.is_placed and realm is not None else settings.known_stores
    return [settings.known_stores[shard] for shard in shards]
