"""``tessera serve``: the HTTP API and the engine behind it, against the servers that settings name."""

from typing import Annotated

import typer

from infra.cli.command import Session, command


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "serve", example="tessera serve --port 8080")(_serve)


def _serve(
    session: Session,
    host: Annotated[str | None, typer.Option(help="The address to listen on; else TESSERA_HTTP_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="The port; else TESSERA_HTTP_PORT.", min=1, max=65535)] = None,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C; requests that are under way are answered first."""
    from infra import bootstrap

    changes = {name: value for name, value in (("http_host", host), ("http_port", port)) if value is not None}
    bootstrap.serve(session.settings.model_copy(update=changes))
