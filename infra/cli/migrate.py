"""``tessera migrate``: bring every store's schema to this version."""

import typer

from infra.cli.command import Session, command
from infra.cli.console import table


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "migrate", example="tessera migrate")(_migrate)


def _migrate(session: Session) -> None:
    """Apply pending migrations to PostgreSQL and ClickHouse, and make Kafka's topics. Running it again does nothing."""
    from infra.bootstrap import stores

    with session.out.progress("applying migrations"):
        applied = stores.migrate(session.settings)
    rows = [{"store": store, "applied": name} for store, names in applied.items() for name in names]
    session.out.show(applied, table("Migrations applied", rows, ("store", "applied"), empty="nothing was pending"))
