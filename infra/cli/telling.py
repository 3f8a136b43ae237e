"""What commands that tell the engine something share: whose it is, under which id it goes, how a refusal reads."""

from typing import Annotated, Final

import typer

from contracts.commands import Command
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from infra.cli.command import Session
from infra.cli.errors import CliError, ExitCode
from infra.telemetry.ids import new_id

NOT_PLACEABLE: Final = "not_placeable"

Tenant = Annotated[str | None, typer.Option(help="Whose it is; else the local stack's own tenant.")]
App = Annotated[str | None, typer.Option(help="The tenant's app; goes with --tenant.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def realm_of(tenant: str, app: str) -> Realm:
    """The realm that two options name. Raises CliError for a name that no id may have."""
    from pydantic import TypeAdapter, ValidationError

    from contracts.values import ID_LENGTH_MAX, Id

    rule = f"must be 1 to {ID_LENGTH_MAX} printable characters without surrounding white space"
    for option, name in (("--tenant", tenant), ("--app", app)):
        try:
            TypeAdapter(Id).validate_python(name)
        except ValidationError as error:
            raise CliError(f"{option} {rule}, not {name!r}", code=ExitCode.USAGE) from error
    return Realm(tenant, app)


def named_realm(tenant: str | None, app: str | None) -> Realm | None:
    """The realm that --tenant and --app name, none without them. Raises CliError for one without the other."""
    if (tenant is None) != (app is None):
        raise CliError("--tenant and --app go together", code=ExitCode.USAGE)
    return realm_of(tenant, app) if tenant is not None and app is not None else None


def realm_or_own(session: Session, tenant: str | None, app: str | None) -> Realm:
    """The named realm, else that of the local stack's key. Raises CliError when there is neither."""
    from infra.stack import local_key

    if (realm := named_realm(tenant, app)) is not None:
        return realm
    if (key := local_key(session.data_dir)) is None:
        raise CliError(
            "whose? this data folder has no key of its own", next_step="Name --tenant and --app.", code=ExitCode.USAGE
        )
    return Realm(key.tenant_id, key.app_id)


def cli_envelope(realm: Realm, told: Command) -> CommandEnvelope:
    """Under a new id each time: what was refused once may be accepted now, and what was accepted is done already."""
    command_id = f"cli:{new_id()}"
    return CommandEnvelope(realm, command_id, told, "cli", command_id)


def tell(session: Session, realm: Realm, told: Command, *, next_step: str = "") -> Answer:
    """Execute one command on an engine of our own; returns its answer. Raises CliError when it is refused."""
    from infra.bootstrap import stores

    with stores.running_engine(session.settings) as engine:
        return accepted(engine.execute(cli_envelope(realm, told)), next_step=next_step)


def accepted(answer: Answer, *, next_step: str = "") -> Answer:
    """The answer, when it is no refusal. Raises CliError; what no shard could take is an error of the caller's."""
    if answer.accepted:
        return answer
    code = ExitCode.ERROR
    if answer.code == NOT_PLACEABLE:
        code, next_step = ExitCode.USAGE, "Name it so, and run this again; `tessera doctor` shows what lies where."
    raise CliError(f"{answer.code}: {answer.detail}", next_step=next_step, code=code)
