"""``tessera migrate``: bring every store's schema to this version."""

from typing import Final

import typer
from rich.text import Text

from infra.cli.command import Session, command
from infra.cli.console import table

ALTER_TOPIC: Final = (
    "Leave it so if it is meant; else `kafka-configs.sh --alter --topic NAME --add-config …` of Kafka's own tools."
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "migrate", example="tessera migrate")(_migrate)


def _migrate(session: Session) -> None:
    """Apply pending migrations to PostgreSQL and ClickHouse, and make Kafka's topics. Running it again does nothing.

    Topics that exist are never altered: where they are not as declared, it is told.
    """
    from infra.bootstrap import stores

    with session.out.progress("applying migrations"):
        applied = stores.migrate(session.settings)
    rows = [{"store": store, "applied": name} for store, names in applied.items() for name in names]
    done = table("Migrations applied", rows, ("store", "applied"), empty="nothing was pending")
    if session.settings.kafka_bootstrap is None:
        session.out.show(applied, done)
        return
    from infra.kafka.admin import differences

    differ = [each._asdict() for each in differences(session.settings)]
    columns = ("topic", "setting", "found", "declared")
    told = (Text(), table("Topics that were left as they are", differ, columns), Text(ALTER_TOPIC)) if differ else ()
    session.out.show({**applied, "topics_that_differ": differ}, done, *told)
