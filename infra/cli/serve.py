"""``tessera serve``: the HTTP API and the engine behind it, against the servers that settings name."""

from typing import Annotated

import typer

from infra.cli.command import Session, command
from infra.cli.errors import CliError, ExitCode


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "serve", example="tessera serve --port 8080")(_serve)


def _serve(
    session: Session,
    host: Annotated[str | None, typer.Option(help="The address to listen on; else TESSERA_HTTP_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="The port; else TESSERA_HTTP_PORT.", min=1, max=65535)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that share the port; else TESSERA_HTTP_WORKERS.", min=1, max=64)
    ] = None,
    shared_port: Annotated[bool, typer.Option("--shared-port", hidden=True)] = False,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C; requests that are under way are answered first."""
    from infra import workers as several
    from infra.bootstrap import serving
    from infra.shards.distinct import require_distinct_stores

    given = {"http_host": host, "http_port": port, "http_workers": workers}
    changes = {name: value for name, value in given.items() if value is not None}
    settings = session.settings.model_copy(update=changes)
    require_distinct_stores(settings.known_stores)  # Here and not in each of several processes.
    if settings.http_workers == 1 or shared_port:
        serving.serve(settings, shared_port=shared_port)
        return
    try:
        several.serve_together(settings)
    except several.PortTaken as error:
        raise CliError(str(error), next_step="Name another with --port.", code=ExitCode.USAGE) from error
