"""``tessera codes``: batches of codes, exported as a stream, and the keys that they are sealed with."""

import os
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer
from rich.text import Text

from contracts.codes import CODES_PER_BATCH_MAX
from contracts.commands import GenerateCodes, VoidCodes
from contracts.identity import Realm
from infra.cli.command import Session, command
from infra.cli.console import table
from infra.cli.errors import CliError, ExitCode
from infra.cli.telling import App, Tenant, Yes, realm_or_own, tell

if TYPE_CHECKING:
    from infra.codes.batches import BatchRecord
    from infra.settings import Settings

# Whoever may read the file may use the codes.
_OWNER_ONLY: Final = 0o600

_Batch = Annotated[str, typer.Argument(help="The batch, as `codes generate` named it.")]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "generate", example="tessera codes generate spring-10 100000 --days 30")(_generate)
    command(group, "export", example="tessera codes export k1-1 --output codes.csv")(_export)
    command(group, "show", example="tessera codes show k1-1")(_show)
    command(group, "void", example='tessera codes void k1-1 --first 500 --last 999 --reason "a box was lost"')(_void)
    command(group, "keys", example="tessera codes keys")(_keys)
    command(group, "rotate-key", example="tessera codes rotate-key")(_rotate_key)
    command(group, "delete-key", example="tessera codes delete-key k1 --yes")(_delete_key)


def _generate(
    session: Session,
    template_id: Annotated[str, typer.Argument(help="The template that each code claims one coupon of.")],
    count: Annotated[int, typer.Argument(help="How many codes.", min=1, max=CODES_PER_BATCH_MAX)],
    name: Annotated[str, typer.Option(help="What people call the batch.")] = "",
    days: Annotated[int | None, typer.Option(help="Days until the codes end; else with the template.", min=1)] = None,
    tenant: Tenant = None,
    app: App = None,
) -> None:
    """Generate a batch of codes. Takes as long for one as for ten million; `export` writes them."""
    from infra.postgres import code_keys
    from infra.postgres.connections import transaction

    realm = realm_or_own(session, tenant, app)
    with transaction(_home(session, realm).postgres_dsn, name="codes") as cursor:
        key_id = code_keys.present(cursor, realm)
    until = datetime.now(UTC) + timedelta(days=days) if days else None
    try:
        wanted = GenerateCodes(template_id=template_id, count=count, key_id=key_id, name=name, valid_until=until)
    except ValueError as error:
        raise CliError(str(error), code=ExitCode.USAGE) from None
    answer = tell(session, realm, wanted)
    batch_id = answer.data["batch_id"]
    next_step = Text(f"`tessera codes export {batch_id} --output codes.csv` writes them.", style="dim")
    session.out.show(dict(answer.data), Text(f"{batch_id}: {count:,} codes of {template_id}"), next_step)


def _export(
    session: Session,
    batch_id: _Batch,
    output: Annotated[Path | None, typer.Option(help="A new file for its owner's eyes; else stdout.")] = None,
    tenant: Tenant = None,
    app: App = None,
) -> None:
    """Write every code of a batch as CSV (index, code); --json: one object per line. The same ones every time."""
    from infra.codes.export import export_pieces
    from infra.codes.sealer import RUN_CODES_MAX, Sealer
    from infra.postgres import code_keys
    from infra.postgres.connections import transaction

    realm = realm_or_own(session, tenant, app)
    batch = _found(session, realm, batch_id).generated
    with transaction(_home(session, realm).postgres_dsn, name="codes") as cursor:
        secrets = {key.key_id: key.secret for key in code_keys.every(cursor, realm)}
    if (secret := secrets.get(batch.key_id)) is None:
        raise CliError(f"the key {batch.key_id} of {batch_id} was deleted: nobody can write its codes any more")
    with ExitStack() as stack:
        target = sys.stdout.buffer if output is None else stack.enter_context(_new_file(output))
        progress = stack.enter_context(session.out.progress(f"Exporting {batch_id}", batch.count))
        sealer = Sealer.of(realm, batch.key_id, secret)
        for nth, piece in enumerate(export_pieces(sealer, batch, "ndjson" if session.out.as_json else "csv"), start=1):
            target.write(piece)
            progress.to(min(nth * RUN_CODES_MAX, batch.count))
        target.flush()
    if output is not None:
        session.out.note(f"{batch.count:,} codes are in {output}")


def _show(session: Session, batch_id: _Batch, tenant: Tenant = None, app: App = None) -> None:
    """Show how many codes of a batch are assigned, used and void."""
    view = _found(session, realm_or_own(session, tenant, app), batch_id).view
    rows = [{**view, "valid_until": view["valid_until"] or "with its template"}]
    columns = ("batch_id", "template_id", "name", "generated", "assigned", "used", "voided", "valid_until")
    shown = table("Codes", rows, columns, right=("generated", "assigned", "used", "voided"), whole=("batch_id",))
    session.out.show(view, shown)


def _void(
    session: Session,
    batch_id: _Batch,
    reason: Annotated[str, typer.Option(help="Why; others see it.")],
    first: Annotated[int | None, typer.Option(help="The first index of a range.", min=0)] = None,
    last: Annotated[int | None, typer.Option(help="The last index of it, included.", min=0)] = None,
    yes: Yes = False,
    tenant: Tenant = None,
    app: App = None,
) -> None:
    """Take a range of a batch's codes out of use for ever, or (without --first and --last) all. Used ones stay used."""
    if (first is None) != (last is None):
        raise CliError("--first and --last go together", code=ExitCode.USAGE)
    realm = realm_or_own(session, tenant, app)
    what = "every code" if first is None else f"the codes {first} to {last}"
    session.out.confirm(f"Void {what} of {batch_id} for ever?", yes=yes)
    try:
        wanted = VoidCodes(batch_id=batch_id, first_index=first or 0, last_index=last, reason=reason)
    except ValueError as error:
        raise CliError(str(error), code=ExitCode.USAGE) from None
    answer = tell(session, realm, wanted)
    session.out.show(dict(answer.data), Text(f"Void now: {what} of {batch_id} that nobody had used."))


def _keys(session: Session, tenant: Tenant = None, app: App = None) -> None:
    """Show the keys that codes are sealed with, without their secrets; the first usable one seals new batches."""
    from infra.postgres import code_keys
    from infra.postgres.connections import transaction

    realm = realm_or_own(session, tenant, app)
    with transaction(_home(session, realm).postgres_dsn, name="codes") as cursor:
        rows = [
            {"key_id": key.key_id, "created_at": key.created_at, "deleted_at": key.deleted_at}
            for key in code_keys.every(cursor, realm)
        ]
    session.out.show({"keys": rows}, table("Code keys", rows, ("key_id", "created_at", "deleted_at")))


def _rotate_key(session: Session, tenant: Tenant = None, app: App = None) -> None:
    """Seal new batches under a new key. Codes of earlier ones stay good."""
    from infra.postgres import code_keys
    from infra.postgres.connections import transaction

    realm = realm_or_own(session, tenant, app)
    try:
        with transaction(_home(session, realm).postgres_dsn, name="codes") as cursor:
            key_id = code_keys.rotate(cursor, realm)
    except code_keys.TooManyKeys as error:
        raise CliError(str(error), next_step="`tessera codes keys` shows them.") from None
    session.out.show({"key_id": key_id}, Text(f"New batches are sealed under {key_id}."))


def _delete_key(
    session: Session,
    key_id: Annotated[str, typer.Argument(help="As `codes keys` shows it.")],
    yes: Yes = False,
    tenant: Tenant = None,
    app: App = None,
) -> None:
    """Forget a key for good: every code sealed with it ends within three seconds, and no export brings it back."""
    from infra.postgres import code_keys
    from infra.postgres.connections import transaction

    realm = realm_or_own(session, tenant, app)
    session.out.confirm(f"Delete {key_id}? Every code sealed with it ends for ever.", yes=yes)
    with transaction(_home(session, realm).postgres_dsn, name="codes") as cursor:
        if not code_keys.delete(cursor, realm, key_id):
            raise CliError(f"there is no usable key {key_id!r}", next_step="`tessera codes keys` shows them all.")
    session.out.show({"deleted": key_id}, Text(f"Deleted {key_id}."))


def _home(session: Session, realm: Realm) -> "Settings":
    """Where a realm's keys, batches and codes are: on one shard, or nowhere."""
    from infra.bootstrap import stores

    return stores.at_home_of(session.settings, realm, "codes")


def _found(session: Session, realm: Realm, batch_id: str) -> "BatchRecord":
    from contextlib import closing

    from infra.codes.batches import find_batch
    from infra.postgres.log import PostgresEventLog

    home = _home(session, realm)
    with closing(PostgresEventLog(home.postgres_dsn, shard=home.shard)) as log:
        record = find_batch(log, realm, batch_id)
    if record is None:
        raise CliError(
            f"there is no batch {batch_id!r} in {realm.key}", next_step="--tenant and --app name another realm."
        )
    return record


def _new_file(path: Path) -> BinaryIO:
    """A file that did not exist, which only its owner can read. Raises CliError."""
    try:
        opened: Any = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY), "wb")
    except FileExistsError:
        raise CliError(f"{path} is there already", next_step="Name another file, or remove it.") from None
    file: BinaryIO = opened
    return file
