"""Migrations run once, in order, and what was released stays as it was."""

import shutil
import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from eventsourcing.postgres import PostgresAggregateRecorder, PostgresApplicationRecorder

from infra.postgres import migrations
from infra.postgres.connections import DEFAULT_TIMEOUTS
from infra.postgres.migrations import MigrationRefused, migrate, pending, released
from infra.postgres.recorder import datastore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the released migrations that a test may spoil."""
    return Path(shutil.copytree(migrations._FOLDER, tmp_path / "migrations"))


def names() -> list[str]:
    """What this version brings."""
    return [migration.name for migration in released()]


def test_an_empty_database_gets_every_migration_once(empty_postgres_dsn: str) -> None:
    assert pending(empty_postgres_dsn) == names()
    assert migrate(empty_postgres_dsn) == names()
    assert migrate(empty_postgres_dsn) == []
    assert pending(empty_postgres_dsn) == []


def test_only_what_is_new_is_applied(empty_postgres_dsn: str, folder: Path) -> None:
    migrate(empty_postgres_dsn, folder)
    number = len(names()) + 1
    (folder / f"{number:04d}_more.sql").write_text("CREATE TABLE more (id integer)")
    assert migrate(empty_postgres_dsn, folder) == [f"{number:04d}_more"]


def test_an_edited_migration_is_refused_by_name_and_nothing_is_changed(empty_postgres_dsn: str, folder: Path) -> None:
    migrate(empty_postgres_dsn, folder)
    edited = folder / f"{names()[1]}.sql"
    edited.write_text(edited.read_text() + "\n-- One word more.\n")
    number = len(names()) + 1
    (folder / f"{number:04d}_more.sql").write_text("CREATE TABLE more (id integer)")
    for attempt in (migrate, pending):
        with pytest.raises(MigrationRefused, match=f"{names()[1]} was edited.*write a new migration"):
            attempt(empty_postgres_dsn, folder)
    with psycopg.connect(empty_postgres_dsn) as connection:
        assert connection.execute("SELECT to_regclass('more')").fetchone() == (None,)


def test_a_migration_that_fails_leaves_the_database_as_it_was(empty_postgres_dsn: str, folder: Path) -> None:
    migrate(empty_postgres_dsn, folder)
    number = len(names())
    (folder / f"{number + 1:04d}_good.sql").write_text("CREATE TABLE good (id integer)")
    (folder / f"{number + 2:04d}_bad.sql").write_text("CREATE TABLE bad (id no_such_type)")
    with pytest.raises(psycopg.errors.UndefinedObject):
        migrate(empty_postgres_dsn, folder)
    assert pending(empty_postgres_dsn, folder) == [f"{number + 1:04d}_good", f"{number + 2:04d}_bad"]


def test_a_database_from_a_newer_version_is_refused(empty_postgres_dsn: str, folder: Path) -> None:
    migrate(empty_postgres_dsn)
    (folder / f"{names()[-1]}.sql").unlink()
    with pytest.raises(MigrationRefused, match=f"does not know.*{names()[-1]}"):
        migrate(empty_postgres_dsn, folder)


def test_a_gap_in_the_numbers_is_refused(empty_postgres_dsn: str, folder: Path) -> None:
    (folder / f"{names()[0]}.sql").unlink()
    with pytest.raises(MigrationRefused, match="without gaps"):
        migrate(empty_postgres_dsn, folder)


def test_processes_that_migrate_at_once_take_turns(empty_postgres_dsn: str) -> None:
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate(empty_postgres_dsn))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [[], [], [], names()]


# Beside the library's: which budgets are shared. It names a handful of rows and does not change what the library does.
OUR_INDEXES = ["stored_events_shared_budgets_idx"]


def test_the_tables_are_what_the_librarys_recorder_would_have_made(postgres_dsn: str, empty_postgres_dsn: str) -> None:
    with closing(datastore(empty_postgres_dsn, DEFAULT_TIMEOUTS, name="test")) as store:
        PostgresApplicationRecorder(store, events_table_name="stored_events").create_table()
        PostgresAggregateRecorder(store, events_table_name="stored_snapshots").create_table()
    assert shape(postgres_dsn) == shape(empty_postgres_dsn)


def shape(dsn: str) -> list[tuple[object, ...]]:
    """Columns of the log, its snapshots and its type, and the indexes on them."""
    with psycopg.connect(dsn) as connection:
        columns = connection.execute(
            "SELECT attrelid::regclass::text, attname, atttypid::regtype::text, attnotnull FROM pg_attribute "
            "WHERE attnum > 0 AND attrelid::regclass::text IN "
            "('stored_events', 'stored_snapshots', 'stored_event_text') ORDER BY 1, attnum"
        ).fetchall()
        indexes = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN ('stored_events', 'stored_snapshots') "
            "AND indexname <> ALL (%s) ORDER BY 1",
            (OUR_INDEXES,),
        ).fetchall()
    return columns + indexes


def test_answers_of_a_partitioned_command_log_are_all_in_the_plain_one(empty_postgres_dsn: str, folder: Path) -> None:
    for newer in names()[14:]:
        (folder / f"{newer}.sql").unlink()
    migrate(empty_postgres_dsn, folder)
    with psycopg.connect(empty_postgres_dsn) as connection:
        connection.execute(
            "INSERT INTO command_log SELECT 'acme', 'shop', 'c' || n, 'claim_coupon', 'hash', 'accepted', 'ok', '',"
            " jsonb_build_object('n', n), n, now() - n * interval '1 hour' FROM generate_series(1, 200) AS n"
        )
        before = connection.execute("SELECT * FROM command_log ORDER BY command_id").fetchall()
    assert migrate(empty_postgres_dsn) == names()[14:]
    with psycopg.connect(empty_postgres_dsn) as connection:
        assert connection.execute("SELECT * FROM command_log ORDER BY command_id").fetchall() == before
        assert len(before) == 200
        with pytest.raises(psycopg.errors.UniqueViolation, match="command_log_pkey"):
            connection.execute("INSERT INTO command_log SELECT * FROM command_log")
