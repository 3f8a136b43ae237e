"""Which shards a command looks at: all that the process works with, or the one that is asked for."""

from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.command import Session
from infra.cli.errors import CliError, ExitCode

if TYPE_CHECKING:
    from infra.settings import Settings

Shard = Annotated[int | None, typer.Option("--shard", help="Of this shard only; else of all shards.", min=0)]


def at_shards(session: Session, only: int | None) -> "list[Settings]":
    """The settings as seen from each shard, or from the one that is asked for. Raises CliError when it is unknown."""
    settings = session.settings
    known = list(settings.known_stores)
    if only is None:
        return [settings.at_shard(shard) for shard in known]
    if only not in known:
        told = ", ".join(map(str, known))
        raise CliError(f"there is no shard {only}", next_step=f"There are: {told}.", code=ExitCode.USAGE)
    return [settings.at_shard(only)]
