"""The numbered migrations of the facts: forwards only, applied once each, never edited after release.

Every statement is written so that doing it twice is harmless: a migration that was cut short is applied again, and
:func:`restore` brings back a table or view that somebody dropped.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clickhouse_connect.driver.client import Client

import projections
from infra.clickhouse.connection import at_database, connect, database_of, quoted, translated

_FOLDER = Path(projections.__file__).parent / "schema" / "clickhouse"

CREATE_MIGRATIONS: Final = """
    CREATE TABLE IF NOT EXISTS schema_migrations
    (name String, checksum String, applied_at DateTime64(6, 'UTC') DEFAULT now64(6))
    ENGINE = ReplacingMergeTree ORDER BY name
"""

_CREATES: Final = re.compile(r"^CREATE (?:OR REPLACE )?(?:TABLE|VIEW) (?:IF NOT EXISTS )?(\w+)", re.MULTILINE)


class MigrationRefused(Exception):
    """The database and the released migrations contradict each other; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """What is compared with the checksum of what was once applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """One by one: ClickHouse takes a single statement per request. A line's last semicolon ends a statement."""
        return [part for each in f"{self.sql}\n".split(";\n") if (part := _without_comments(each))]


def released(folder: Path = _FOLDER) -> list[Migration]:
    """The migrations of this version, in order. Raises MigrationRefused when a number is missing or taken twice."""
    found = [Migration(path.stem, path.read_text("utf-8")) for path in sorted(folder.glob("*.sql"))]
    for number, migration in enumerate(found, start=1):
        if not migration.name.startswith(f"{number:04d}_"):
            raise MigrationRefused(
                f"migrations are numbered without gaps: expected {number:04d}_…, found {migration.name}"
            )
    return found


def create_database(url: str) -> None:
    """Make the database that a URL names, unless it is there. Raises ClickHouseUnavailable."""
    name = database_of(url)
    client = connect(at_database(url, "system"))  # The one that every server has.
    try:
        with translated():
            found = client.query("SELECT 1 FROM databases WHERE name = {name:String}", parameters={"name": name})
            if not found.result_rows:  # Who may not create databases does not need to, where it is there.
                client.command(f"CREATE DATABASE IF NOT EXISTS {quoted(name)}")
    finally:
        client.close()


def migrate(client: Client, folder: Path = _FOLDER) -> list[str]:
    """Apply what is pending to the client's database; returns the names applied.

    Raises MigrationRefused when a released migration was edited or the database is newer than this version, and
    ClickHouseUnavailable.
    """
    with translated():
        client.command(CREATE_MIGRATIONS)
        todo = _pending(client, released(folder))
        for migration in todo:
            _apply(client, migration)
            client.insert("schema_migrations", [(migration.name, migration.checksum)], ["name", "checksum"])
    return [migration.name for migration in todo]


def pending(client: Client, folder: Path = _FOLDER) -> list[str]:
    """The names of migrations that :func:`migrate` would apply. Raises as it does."""
    with translated():
        files = released(folder)
        exists = client.command("EXISTS TABLE schema_migrations")
        return [migration.name for migration in (_pending(client, files) if exists else files)]


def missing(client: Client, folder: Path = _FOLDER) -> list[str]:
    """Tables and views that applied migrations made and somebody dropped. Raises as :func:`pending` does."""
    waiting = set(pending(client, folder))
    made = {name for each in released(folder) if each.name not in waiting for name in made_by(each)}
    with translated():
        return sorted(made - existing(client))


def made_by(migration: Migration) -> set[str]:
    """The tables and views that a migration makes."""
    return set(_CREATES.findall(migration.sql))


def existing(client: Client) -> set[str]:
    """The tables and views of the client's database."""
    rows = client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows
    return {row[0] for row in rows}


def restore(client: Client, folder: Path = _FOLDER) -> None:
    """Bring back dropped tables (empty) and views. Raises as :func:`migrate` does."""
    migrate(client, folder)
    with translated():
        for migration in released(folder):
            _apply(client, migration)


def _apply(client: Client, migration: Migration) -> None:
    for statement in migration.statements:
        client.command(statement)


def _pending(client: Client, files: Sequence[Migration]) -> list[Migration]:
    rows = client.query("SELECT name, checksum FROM schema_migrations FINAL").result_rows
    applied: dict[str, str] = {row[0]: row[1] for row in rows}
    known = {migration.name for migration in files}
    if newer := sorted(applied.keys() - known):
        raise MigrationRefused(f"the database has migrations that this version does not know: {', '.join(newer)}")
    edited = [each.name for each in files if applied.get(each.name, each.checksum) != each.checksum]
    if edited:
        raise MigrationRefused(f"released migrations were edited: {', '.join(edited)}; add a new one instead")
    return [migration for migration in files if migration.name not in applied]


def _without_comments(statement: str) -> str:
    lines = [line for line in statement.splitlines() if not line.lstrip().startswith("--")]
    return "\n".join(lines).strip()
