"""The numbered migrations of the store: forwards only, applied once each, never edited after release."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from infra.postgres.connections import Timeouts, transaction

_FOLDER = Path(__file__).parent / "migrations"

# Any number, the same in every version: two processes that migrate at once queue here.
_MIGRATION_LOCK = 7_305_461_001

# An index on a grown table takes its time.
_TIMEOUTS = Timeouts(lock_seconds=60.0, statement_seconds=3600.0, answer_seconds=3660.0)


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


def released(folder: Path = _FOLDER) -> list[Migration]:
    """The migrations of this version, in order. Raises MigrationRefused when a number is missing or taken twice."""
    found = [Migration(path.stem, path.read_text("utf-8")) for path in sorted(folder.glob("*.sql"))]
    for number, migration in enumerate(found, start=1):
        if not migration.name.startswith(f"{number:04d}_"):
            raise MigrationRefused(
                f"migrations are numbered without gaps: expected {number:04d}_…, found {migration.name}"
            )
    return found


def migrate(dsn: str, folder: Path = _FOLDER) -> list[str]:
    """Apply what is pending, all or nothing; returns the names applied.

    Raises MigrationRefused when a released migration was edited or the database is newer than this version, and
    StoreUnavailable.
    """
    with transaction(dsn, _TIMEOUTS, name="migrate") as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            "name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        todo = _pending(cursor, released(folder))
        for migration in todo:
            cursor.execute(migration.sql.encode(), prepare=False)
            cursor.execute(
                "INSERT INTO schema_migrations (name, checksum) VALUES (%s, %s)", (migration.name, migration.checksum)
            )
        return [migration.name for migration in todo]


def pending(dsn: str, folder: Path = _FOLDER) -> list[str]:
    """The names of migrations that :func:`migrate` would apply. Raises as it does."""
    with transaction(dsn, name="migrate") as cursor:
        cursor.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
        (exists,) = _one(cursor)
        files = released(folder)
        return [migration.name for migration in (_pending(cursor, files) if exists else files)]


def _pending(cursor: psycopg.Cursor[Any], files: Sequence[Migration]) -> list[Migration]:
    cursor.execute("SELECT name, checksum FROM schema_migrations ORDER BY name")
    applied: dict[str, str] = dict(cursor.fetchall())
    known = {migration.name for migration in files}
    if newer := sorted(applied.keys() - known):
        raise MigrationRefused(f"the database has migrations that this version does not know: {newer}; upgrade it")
    for migration in files:
        checksum = applied.get(migration.name, migration.checksum)
        if checksum != migration.checksum:
            raise MigrationRefused(
                f"migration {migration.name} was edited after it had been applied: "
                f"restore the file and write a new migration instead"
            )
    return [migration for migration in files if migration.name not in applied]


def _one(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return tuple(row)
