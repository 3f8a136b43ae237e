"""The facts of all shards, read as one database: tables that look into those of the shards, and the same views.

A table of the engine Merge holds nothing. ``FINAL`` asks each shard's table for its own, which is enough: an event is
of one shard. What a rebuild exchanges or a shard drops shows at once. On a cluster, Distributed takes Merge's place.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from clickhouse_connect.driver.client import Client

from infra.clickhouse.connection import translated
from infra.clickhouse.migrations import CREATE_MIGRATIONS, Migration, existing, made_by, released

_CREATE_TABLE: Final = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")


def migrate(client: Client, databases: Sequence[str]) -> list[str]:
    """Make the client's database read all of ``databases``, each migrated already; returns the migrations done again.

    Raises ClickHouseUnavailable, MigrationRefused.
    """
    with translated():
        client.command(CREATE_MIGRATIONS)
        files = released()
        todo = _pending(client, files, databases)
        for migration in files if todo else ():  # All of them: a table shows the columns of when it was made.
            for statement in migration.statements:
                _apply(client, statement, databases)
        rows = [(migration.name, _checksum(migration, databases)) for migration in todo]
        if rows:
            client.insert("schema_migrations", rows, ["name", "checksum"])
    return [migration.name for migration in todo]


def pending(client: Client, databases: Sequence[str]) -> list[str]:
    """The names that :func:`migrate` would return: of new migrations, for other databases, or of what was dropped.

    Raises as it does, and FactsDamaged where the client's database is not there.
    """
    with translated():
        files = released()
        known = client.command("EXISTS TABLE schema_migrations")
        return [migration.name for migration in (_pending(client, files, databases) if known else files)]


def _pending(client: Client, files: Sequence[Migration], databases: Sequence[str]) -> list[Migration]:
    rows = client.query("SELECT name, checksum FROM schema_migrations FINAL").result_rows
    applied: dict[str, str] = {row[0]: row[1] for row in rows}
    there = existing(client)
    return [
        migration
        for migration in files
        if applied.get(migration.name) != _checksum(migration, databases) or made_by(migration) - there
    ]


def _apply(client: Client, statement: str, databases: Sequence[str]) -> None:
    """A view as it stands; in the place of a table one that reads the shards'; columns of later years are there."""
    if (found := _CREATE_TABLE.match(statement)) is not None:
        table, any_of = found[1], "|".join(map(re.escape, databases))
        client.command(
            f"CREATE OR REPLACE TABLE {table} ENGINE = Merge(REGEXP({{databases:String}}), {{table:String}})",
            parameters={"databases": f"^({any_of})$", "table": f"^{table}$"},
        )
    elif statement.startswith("CREATE"):
        client.command(statement)


def _checksum(migration: Migration, databases: Sequence[str]) -> str:
    text = "\n".join((*databases, migration.sql))
    return hashlib.sha256(text.encode()).hexdigest()
