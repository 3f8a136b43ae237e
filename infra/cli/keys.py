"""``tessera keys``: make, list and revoke API keys."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.text import Text

from contracts.access import ROLES
from infra.cli.command import Session, command
from infra.cli.console import table
from infra.cli.errors import CliError, ExitCode
from infra.cli.telling import named_realm, realm_of

_Tenant = Annotated[str, typer.Option(help="The tenant that the key is confined to.")]
_App = Annotated[str, typer.Option(help="The tenant's app.")]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    command(group, "create", example="tessera keys create --tenant acme --app shop --role merchant")(_create)
    command(group, "list", example="tessera keys list --tenant acme --app shop")(_list)
    command(group, "revoke", example="tessera keys revoke 3f9a1c7b20de --yes")(_revoke)


def _create(
    session: Session,
    tenant: _Tenant,
    app: _App,
    role: Annotated[str, typer.Option(help=f"One of {', '.join(ROLES)}.")] = "order_system",
    label: Annotated[str, typer.Option(help="What people call it.")] = "",
    days: Annotated[int | None, typer.Option(help="Days until it expires; without, never.", min=1, max=3_650)] = None,
) -> None:
    """Make a key and print it: the only time that anybody sees its secret."""
    from infra.postgres import api_keys
    from infra.postgres.connections import transaction

    realm = realm_of(tenant, app)
    if role not in ROLES:
        raise CliError(f"there is no role {role!r}", next_step=f"Roles: {', '.join(ROLES)}.", code=ExitCode.USAGE)
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    with transaction(session.settings.postgres_dsn, name="keys") as cursor:
        token = api_keys.create(cursor, realm, role=role, scopes=ROLES[role], label=label, expires_at=expires_at)
    made = {"key": token, "tenant_id": tenant, "app_id": app, "role": role, "scopes": sorted(ROLES[role])}
    session.out.show(made, Text(token), Text("Keep it: only its hash is stored.", style="dim"))


def _list(
    session: Session,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's (with --app).")] = None,
    app: Annotated[str | None, typer.Option(help="Only this app's (with --tenant).")] = None,
) -> None:
    """Show every key but its secret."""
    from infra.postgres import api_keys
    from infra.postgres.connections import transaction

    realm = named_realm(tenant, app)
    with transaction(session.settings.postgres_dsn, name="keys") as cursor:
        rows = [_row(key) for key in api_keys.every(cursor, realm)]
    columns = ("prefix", "tenant_id", "app_id", "role", "label", "created_at", "state")
    session.out.show({"keys": rows}, table("API keys", rows, columns))


def _revoke(
    session: Session,
    prefix: Annotated[str, typer.Argument(help="The public part, as `keys list` shows it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Make a key unusable for good; callers notice within three seconds."""
    from infra.postgres import api_keys
    from infra.postgres.connections import transaction

    session.out.confirm(f"Revoke the key {prefix}? Whoever uses it is locked out.", yes=yes)
    with transaction(session.settings.postgres_dsn, name="keys") as cursor:
        if not api_keys.revoke(cursor, prefix):
            raise CliError(f"there is no usable key {prefix!r}", next_step="`tessera keys list` shows them all.")
    session.out.show({"revoked": prefix}, Text(f"Revoked {prefix}."))


def _row(key: Any) -> dict[str, Any]:
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return {
        "prefix": key.prefix,
        "tenant_id": key.realm.tenant_id,
        "app_id": key.realm.app_id,
        "role": key.role,
        "scopes": sorted(key.scopes),
        "label": key.label,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "state": "revoked" if key.revoked_at else "expired" if expired else "active",
    }
