"""The database is restarted, full, locked or vacuumed under load: clear answers, nothing lost, nothing done twice."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from command.engine import Engine
from command.ports import StoreUnavailable
from contracts.envelope import CommandEnvelope
from infra.postgres.recorder import APPEND_LOCK_CLASS
from tests.audit import Acknowledged, audit, violations
from tests.builders import REALM, claim
from tests.faults.conftest import IMPATIENT, WAITING_FOR_THE_LOCK, engine_on, fresh_shop, kind_of_engine
from tests.faults.fleet import Load, LocalEngine, wait_for
from tests.faults.own_server import NoSmallDisk, OwnServer, fill, own_folder, own_server, small_disk
from tests.faults.shop import customers

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("either_kind")]

LONG = os.environ.get("TESSERA_TEST_EFFORT") == "long"
CALLERS = 32
RESTARTS = 10 if LONG else 1
DISK_MB = 150  # A fresh cluster takes some sixty.


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    """A server of our own; a test leaves it running."""
    with own_folder() as folder, own_server(folder) as server:
        yield server


@contextmanager
def loaded(dsn: str) -> Iterator[tuple[Load, Engine]]:
    """An engine under load. In the end everybody is answered, and the books balance."""
    load = Load(customers())
    with engine_on(dsn, timeouts=IMPATIENT) as engine:
        load.join(LocalEngine(engine), CALLERS)
        load.wait_for_more(2 * CALLERS)
        yield load, engine
        load.wait_for_more(2 * CALLERS)
        load.finish()
    assert audit(dsn, load.told) == []
    assert violations(dsn) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_restart_under_load_loses_no_answer_and_doubles_none(server: OwnServer, how: signal.Signals) -> None:
    dsn = fresh_shop(server, f"{how.name.lower()}_{kind_of_engine.get()}")
    with loaded(dsn) as (load, _):
        for _ in range(RESTARTS):
            server.end(how)
            server.start_where_it_was()
            load.wait_for_more(2 * CALLERS)
    assert load.errors == [] or {type(error) for error in load.errors} == {StoreUnavailable}


def test_a_full_disk_is_named_to_callers_and_costs_nothing_but_time() -> None:
    try:
        with own_folder() as folder, small_disk(folder, DISK_MB) as disk, own_server(disk) as server:
            dsn = fresh_shop(server, "small")
            with loaded(dsn) as (load, engine):
                ballast = fill(disk)
                load.wait(lambda: any("No space left" in str(error) for error in load.errors), "the disk to be full")
                assert {type(error) for error in load.errors} == {StoreUnavailable}
                assert engine.dry_run(asks("look")).accepted, "reading needs no room"
                go_down_for_want_of_room(dsn)
                ballast.unlink()
                if not server.runs:  # It tries once by itself; that may have been too early.
                    server.start_where_it_was()
    except NoSmallDisk as why:
        pytest.skip(f"NOT TESTED: a whole server on a full disk (mounting a small one is not permitted: {why})")


def test_a_table_that_cannot_grow_is_named_to_callers_and_nothing_of_the_batch_is_stored(shop: str) -> None:
    batch = [asks(f"full-{number}") for number in range(50)]
    with psycopg.connect(shop, autocommit=True) as admin, engine_on(shop, timeouts=IMPATIENT) as engine:
        with on_a_full_device(admin, "command_log"):
            for future in engine.submit_many(batch):
                with pytest.raises(StoreUnavailable, match="No space left on device"):
                    future.result(30)
            assert one(admin, "SELECT count(*) FROM command_log WHERE starts_with(command_id, 'full-')") == 0
            assert one(admin, "SELECT count(*) FROM events WHERE starts_with(command_id, 'full-')") == 0
        answers = [future.result(30) for future in engine.submit_many(batch)]
        told = [Acknowledged.of(REALM, asked.command_id, answer) for asked, answer in zip(batch, answers, strict=True)]
    assert all(answer.accepted and not answer.replayed for answer in answers)
    assert audit(shop, told) == []


def test_a_lock_that_somebody_else_keeps_is_named_to_callers_who_find_nothing_stored(shop: str) -> None:
    with psycopg.connect(shop, autocommit=True) as admin, engine_on(shop, timeouts=IMPATIENT) as engine:
        admin.execute("SELECT pg_advisory_lock(%s, 0)", (APPEND_LOCK_CLASS,))
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            engine.execute(asks("blocked"))
        assert one(admin, "SELECT count(*) FROM command_log WHERE command_id = 'blocked'") == 0
        assert engine.dry_run(asks("look")).accepted, "reading needs no lock"
        patient = engine.submit(asks("patient"))
        wait_for(lambda: bool(one(admin, WAITING_FOR_THE_LOCK)), "the engine to wait for the lock")
        admin.execute("SELECT pg_advisory_unlock(%s, 0)", (APPEND_LOCK_CLASS,))
        answers = {"patient": patient.result(30), "blocked": engine.execute(asks("blocked"))}
    assert all(answer.accepted and not answer.replayed for answer in answers.values())
    assert audit(shop, [Acknowledged.of(REALM, name, answer) for name, answer in answers.items()]) == []


@pytest.mark.parametrize("vacuum", ["VACUUM", "VACUUM (FREEZE, DISABLE_PAGE_SKIPPING)"])
def test_a_vacuum_that_takes_for_ever_stands_in_nobodys_way(shop: str, vacuum: str) -> None:
    with loaded(shop) as (load, _), psycopg.connect(shop, autocommit=True) as janitor:
        janitor.execute("SET vacuum_cost_delay = '100ms'; SET vacuum_cost_limit = 1")  # A page in a tenth of a second.
        load.wait_for_more(40 * CALLERS)  # As many pages as will take it longer than as many commands again.
        with running(janitor, f"{vacuum} stored_events") as admin:
            load.wait_for_more(40 * CALLERS)
            assert one(admin, VACUUMING) == 1, "it was over before the load was"
    assert load.errors == []


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="takes half a minute: TESSERA_TEST_EFFORT=long")
def test_a_vacuum_against_wraparound_stands_in_nobodys_way() -> None:
    hurry = {"autovacuum_naptime": "1s", "autovacuum_freeze_max_age": "100000", "autovacuum_vacuum_cost_delay": "100ms"}
    with own_folder() as folder, own_server(folder, {**hurry, "autovacuum_vacuum_cost_limit": "1"}) as server:
        dsn = fresh_shop(server, "old")
        with loaded(dsn) as (load, _), psycopg.connect(dsn, autocommit=True) as admin:
            load.wait_for_more(40 * CALLERS)
            admin.execute(USE_UP_TRANSACTION_IDS)
            wait_for(lambda: bool(one(admin, AGAINST_WRAPAROUND)), "the vacuum that nobody can put off")
            load.wait_for_more(40 * CALLERS)
            assert one(admin, AGAINST_WRAPAROUND) == 1, "it was over before the load was"
        assert load.errors == []


def go_down_for_want_of_room(dsn: str) -> None:
    """Let the server find no room for its own log, either: it goes down, with all its sessions."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        for _ in range(100):
            with suppress(psycopg.OperationalError):
                admin.execute("SELECT pg_switch_wal()")
                admin.execute("SELECT pg_logical_emit_message(true, 'fill', 'x')")
            if admin.broken:
                return
    raise AssertionError("the server still finds room")


VACUUMING = "SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = 'stored_events'::regclass"

AGAINST_WRAPAROUND = """
    SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND datname = current_database()
    AND query LIKE '%%stored_events (to prevent wraparound)'
"""

# Every block with an exception handler is a transaction within the transaction, with an id of its own.
USE_UP_TRANSACTION_IDS = """
    DO $$ BEGIN
        CREATE TEMP TABLE used (n int);
        FOR n IN 1..110000 LOOP
            BEGIN INSERT INTO used VALUES (n); EXCEPTION WHEN division_by_zero THEN NULL; END;
        END LOOP;
    END $$
"""


def asks(command_id: str) -> CommandEnvelope:
    """A claim of a user of its own."""
    return CommandEnvelope(REALM, command_id, claim(f"user-{command_id}", "wide"), "tester", command_id)


def one(admin: psycopg.Connection[Any], query: str) -> Any:
    """The one value that a query gives."""
    row = admin.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@contextmanager
def on_a_full_device(admin: psycopg.Connection[Any], table: str) -> Iterator[None]:
    """Move a table, emptied, to a device on which every write fails as on a full disk; and back in the end."""
    admin.execute(f"TRUNCATE {table}".encode())
    admin.execute("CHECKPOINT")  # Nobody has anything left to write to its file.
    file = Path(one(admin, "SHOW data_directory")) / one(admin, f"SELECT pg_relation_filepath('{table}')")
    owner = file.stat()
    file.unlink()
    file.symlink_to("/dev/full")
    disconnect_others(admin)  # They would go on with the file that they have open.
    yield
    file.unlink()
    file.touch(mode=0o600)
    os.chown(file, owner.st_uid, owner.st_gid)
    disconnect_others(admin)


def disconnect_others(admin: psycopg.Connection[Any]) -> None:
    """End every other session of the database."""
    one(
        admin,
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


@contextmanager
def running(janitor: psycopg.Connection[Any], statement: str) -> Iterator[psycopg.Connection[Any]]:
    """A statement at work on a thread of its own, cancelled in the end; yields a connection to watch it."""

    def work() -> None:
        with suppress(psycopg.errors.QueryCanceled):
            janitor.execute(statement.encode())

    worker = threading.Thread(target=work)
    worker.start()
    with psycopg.connect(janitor.info.dsn, password=janitor.info.password, autocommit=True) as admin:
        wait_for(lambda: bool(one(admin, VACUUMING)), f"{statement} to begin")
        yield admin
        janitor.cancel_safe()
        worker.join(30)
