"""The append path when things go wrong: lost connections, unknown commits, held locks, a restored store, vacuum."""

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from threading import Barrier

import psycopg
import pytest
from eventsourcing.postgres import PostgresApplicationRecorder

from command.ports import Batch, CommandKey, StoreUnavailable, Wanted
from infra.postgres import command_log
from infra.postgres.connections import DEFAULT_TIMEOUTS, Timeouts, connect
from infra.postgres.epoch import bump_epoch
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresAppend, PostgresEventLog
from infra.postgres.recorder import datastore
from tests.contract.event_log import ACME, CLOCK, NOON, accepted, at, everything, refused, store
from tests.faults.wire import Wire

KEY = CommandKey(ACME, "c1")
QUICK = Timeouts(connect_seconds=2, lock_seconds=0.5, statement_seconds=5.0, answer_seconds=6.0)


@pytest.fixture
def log(postgres_dsn: str) -> Iterator[PostgresEventLog]:
    """A log in a fresh database."""
    with closing(PostgresEventLog(postgres_dsn, timeouts=QUICK)) as log:
        yield log


def append_one(log: PostgresEventLog, *, and_then: Callable[[PostgresAppend], None] = lambda tx: None) -> None:
    """One event and the answer to the command behind it; something may happen just before the commit."""
    with log.appending() as tx:
        tx.append(Batch(events=[at(1)], answers=[accepted("c1")], answer_events=[0]))
        and_then(tx)


def backend_pid(tx: PostgresAppend) -> int:
    """The server process that holds this transaction."""
    return tx.cursor.connection.info.backend_pid


def terminate(dsn: str, pid: int) -> None:
    """End a server process and wait until it is gone."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        assert admin.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,)).fetchone() == (True,)


def end_sessions(dsn: str) -> None:
    """End every other session of the database, as a restart of its server does."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def is_answered(log: PostgresEventLog) -> bool:
    """What the command log says of the command."""
    with log.reading() as view:
        return KEY in view.answers([KEY])


def test_a_connection_that_dies_before_its_commit_leaves_nothing(log: PostgresEventLog, postgres_dsn: str) -> None:
    with pytest.raises(StoreUnavailable, match="unknown"):
        append_one(log, and_then=lambda tx: terminate(postgres_dsn, backend_pid(tx)))
    assert not is_answered(log)
    assert everything(log) == []


def test_a_connection_that_dies_in_the_middle_of_its_commit_leaves_nothing(
    log: PostgresEventLog, postgres_dsn: str
) -> None:
    with psycopg.connect(postgres_dsn) as admin:
        # Runs as part of COMMIT, as the last thing before it becomes durable.
        admin.execute(
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        admin.execute(
            "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON stored_events DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION die()"
        )
    with pytest.raises(StoreUnavailable, match="unknown"):
        append_one(log)
    assert not is_answered(log)
    assert everything(log) == []


def test_a_commit_whose_answer_was_lost_has_landed_and_the_command_log_says_so(postgres_dsn: str) -> None:
    mark = at(1).event.type
    with Wire(postgres_dsn, mark) as wire, closing(PostgresEventLog(wire.dsn, timeouts=QUICK)) as log:
        wire.cut_after_next_commit()
        with pytest.raises(StoreUnavailable, match="unknown"):
            append_one(log)
        with closing(PostgresEventLog(postgres_dsn)) as other:
            assert is_answered(other)
            assert [event.version for event in everything(other)] == [1]
        store(log, at(2))  # The same log goes on, over a new connection.
        assert [event.version for event in everything(log)] == [1, 2]


def test_a_connection_that_died_while_idle_is_replaced_without_anybody_noticing(
    log: PostgresEventLog, postgres_dsn: str
) -> None:
    with log.appending() as tx:
        tx.append(Batch(events=[at(1)]))
        pid = backend_pid(tx)
    terminate(postgres_dsn, pid)
    store(log, at(2))
    assert [event.version for event in everything(log)] == [1, 2]


def test_a_lock_that_another_process_holds_is_not_waited_for_for_ever(log: PostgresEventLog, postgres_dsn: str) -> None:
    with closing(PostgresEventLog(postgres_dsn)) as other, other.appending() as theirs:
        theirs.append(Batch(events=[at(1)]))
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            store(log, at(1))
    store(log, at(2))
    assert [event.version for event in everything(log)] == [1, 2]


def test_a_server_that_stopped_answering_is_given_up(postgres_dsn: str) -> None:
    with closing(PostgresEventLog(postgres_dsn, timeouts=Timeouts(answer_seconds=1.0))) as impatient:
        stopped: list[int] = []

        def stop_the_server(tx: PostgresAppend) -> None:
            stopped.append(backend_pid(tx))
            os.kill(stopped[0], signal.SIGSTOP)

        try:
            with pytest.raises(StoreUnavailable, match="did not answer"):
                append_one(impatient, and_then=stop_the_server)
        finally:
            os.kill(stopped[0], signal.SIGCONT)


def test_a_server_out_of_reach_and_a_database_without_tables_are_said_to_be_unavailable(
    empty_postgres_dsn: str,
) -> None:
    nowhere = PostgresEventLog("postgresql://nobody@127.0.0.1:1/nothing", timeouts=QUICK)
    with pytest.raises(StoreUnavailable), nowhere.appending():
        pass
    with pytest.raises(StoreUnavailable), nowhere.reading():
        pass
    with pytest.raises(StoreUnavailable, match="tessera migrate"), PostgresEventLog(empty_postgres_dsn).appending():
        pass


def test_a_store_that_is_lost_in_the_middle_says_so_to_whoever_looks(log: PostgresEventLog, postgres_dsn: str) -> None:
    def lost_while(look: Callable[[PostgresAppend], object]) -> None:
        with log.appending() as tx:
            terminate(postgres_dsn, backend_pid(tx))
            # Within the block: a handler that looks must not take this for a defect of its own.
            with pytest.raises(StoreUnavailable):
                look(tx)
            told.append(look)

    looks: list[Callable[[PostgresAppend], object]] = [
        lambda tx: tx.histories({CLOCK}),
        lambda tx: tx.histories({CLOCK}, schema_hashes={"clock": "h"}),
        lambda tx: tx.counts({"k"}),
        lambda tx: tx.answers([KEY]),
        lambda tx: tx.events_after(0, 10),
    ]
    told: list[object] = []
    for look in looks:
        with pytest.raises(StoreUnavailable):
            lost_while(look)
    assert told == looks


def test_a_mistake_of_ours_is_not_called_unavailable(log: PostgresEventLog) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable), log.appending() as tx:
        tx.cursor.execute("SELECT * FROM no_such_table")
    with pytest.raises(psycopg.errors.SyntaxError), log.reading() as view:
        view._cursor.execute("SELEC")
    store(log, at(1))


def test_rows_written_with_the_transactions_cursor_live_and_die_with_its_events(log: PostgresEventLog) -> None:
    def write(value: int, *versions: int) -> None:
        with log.appending() as tx:
            tx.cursor.execute(
                "INSERT INTO follower_positions (follower, epoch, log_offset) VALUES (%s, 'e', %s)",
                (f"f{value}", value),
            )
            tx.append(Batch(events=[at(version) for version in versions]))

    write(1, 1)
    with pytest.raises(Exception, match="cannot follow"):
        write(2, 7)
    with log.reading() as view:
        rows = view._cursor.execute("SELECT follower FROM follower_positions").fetchall()
    assert rows == [("f1",)]


def test_a_restored_store_voids_what_was_cached_once_and_then_goes_on(log: PostgresEventLog, postgres_dsn: str) -> None:
    store(log, at(1))
    before = log.epoch
    after = bump_epoch(postgres_dsn, 0)
    assert after != before
    with pytest.raises(StoreUnavailable, match=f"from {before} to {after}"):
        store(log, at(2))
    assert log.epoch == after
    store(log, at(2))
    bump_epoch(postgres_dsn, 0)
    with pytest.raises(StoreUnavailable, match="restored"):
        everything(log)
    assert [event.version for event in everything(log)] == [1, 2]


def test_all_processes_agree_on_the_first_epoch(log: PostgresEventLog, postgres_dsn: str) -> None:
    with closing(PostgresEventLog(postgres_dsn)) as other, closing(StoreFeed(postgres_dsn)) as feed:
        assert log.epoch == other.epoch == feed.epoch()


def test_vacuum_runs_while_somebody_appends(log: PostgresEventLog, postgres_dsn: str) -> None:
    with log.appending() as tx, psycopg.connect(postgres_dsn, autocommit=True) as janitor:
        tx.append(Batch(events=[at(1)]))
        janitor.execute("SET lock_timeout = '5s'")
        janitor.execute("VACUUM stored_events")
    assert len(everything(log)) == 1


def test_under_the_librarys_table_lock_vacuum_would_have_to_wait(postgres_dsn: str) -> None:
    with (
        closing(datastore(postgres_dsn, DEFAULT_TIMEOUTS, name="test")) as library,
        psycopg.connect(postgres_dsn) as appending,
        psycopg.connect(postgres_dsn, autocommit=True) as janitor,
    ):
        for statement in PostgresApplicationRecorder(library).lock_table_statements:
            appending.execute(statement)
        janitor.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            janitor.execute("VACUUM stored_events")


def append(log: PostgresEventLog, batch: Batch) -> None:
    with log.appending() as tx:
        tx.append(batch)


def test_a_look_ahead_gives_up_on_a_lock_that_an_append_still_waits_for(postgres_dsn: str) -> None:
    with (
        closing(PostgresEventLog(postgres_dsn)) as log,
        psycopg.connect(postgres_dsn) as migrating,
        ThreadPoolExecutor(1) as other,
    ):
        store(log, at(1))
        migrating.execute("LOCK TABLE guard_counts IN ACCESS EXCLUSIVE MODE")
        appended = other.submit(append, log, Batch(events=[at(2)], counts={"n": 1}))
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            log.glancing().look(Wanted(counts=["n"]))
        assert not appended.done()
        migrating.rollback()
        appended.result(10.0)


def test_a_look_for_streams_is_sent_and_goes_on_by_itself(postgres_dsn: str) -> None:
    with closing(PostgresEventLog(postgres_dsn)) as log, psycopg.connect(postgres_dsn) as migrating:
        store(log, at(1))
        log.glancing().look(Wanted([CLOCK]))  # The server knows the statement from here on.
        migrating.execute("LOCK TABLE stored_events IN ACCESS EXCLUSIVE MODE")
        look = log.glancing().send(Wanted([CLOCK]))
        assert (file := look.fileno()) is not None
        assert select.select([file], [], [], 0)[0] == []
        migrating.rollback()
        assert select.select([file], [], [], 10)[0] == [file]
        assert [event.version for event in look.seen().histories[CLOCK].events] == [1]


def test_a_log_is_not_used_across_a_fork(log: PostgresEventLog) -> None:
    store(log, at(1))
    log._pid -= 1  # As a child sees it.
    with pytest.raises(RuntimeError, match="fork"):
        store(log, at(2))
    log._pid += 1


def test_old_answers_are_dropped_in_steps_and_young_ones_stay(log: PostgresEventLog) -> None:
    with log.appending() as tx:
        tx.append(Batch(answers=[refused(f"old-{n}") for n in range(5)], answer_events=[-1] * 5))
        tx.cursor.execute("UPDATE command_log SET answered_at = %s", (NOON - timedelta(days=91),))
        tx.append(Batch(answers=[refused("young")], answer_events=[-1]))
        steps = [command_log.drop_before(tx.cursor, NOON - timedelta(days=90), limit=2) for _ in range(4)]
    assert steps == [2, 2, 1, 0]
    keys = [CommandKey(ACME, name) for name in ("old-0", "young")]
    with log.reading() as view:
        assert set(view.answers(keys)) == {keys[1]}


def test_looking_up_a_command_is_one_index_probe_even_when_planned_for_a_small_table(log: PostgresEventLog) -> None:
    with log.appending() as tx:
        tx.append(Batch(answers=[refused(f"c{n}") for n in range(50)], answer_events=[-1] * 50))
        tx.cursor.execute("ANALYZE command_log")
        plan = tx.cursor.execute(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {command_log._SELECT}", (["acme"], ["shop"], ["c7"])
        ).fetchone()
    assert plan is not None
    executed = [node for node in _nodes(plan[0][0]["Plan"]) if node.get("Relation Name") and node["Actual Loops"]]
    assert [(node["Node Type"], node["Actual Loops"]) for node in executed] == [("Index Scan", 1)]


def _nodes(plan: dict[str, object]) -> Iterator[dict[str, object]]:
    yield plan
    below = plan.get("Plans", [])
    assert isinstance(below, list)
    for child in below:
        yield from _nodes(child)


def test_the_view_shows_an_event_in_plain_columns(log: PostgresEventLog) -> None:
    store(log, at(1, causation_id="fact-9"))
    with log.reading() as view:
        row = view._cursor.execute(
            "SELECT tenant_id, app_id, kind, key, stream, version, type, occurred_at, recorded_at, actor, command_id,"
            " correlation_id, causation_id, traceparent, data ->> 'to' FROM events"
        ).fetchone()
    assert row == (
        "acme", "shop", "clock", "main", CLOCK, 1, "clock.advanced.v1", NOON, NOON, "key:test", "cmd-1", "corr-1",
        "fact-9", None, "2026-03-01T12:01:00.250000Z",
    )  # fmt: skip


def test_after_a_restart_of_the_server_one_failed_look_is_enough(log: PostgresEventLog, postgres_dsn: str) -> None:
    append_one(log)
    together = Barrier(3)

    def look() -> bool:
        with log.reading() as view:
            together.wait(30)  # All at once: so there are as many connections in the pool.
            return KEY in view.answers([KEY])

    with ThreadPoolExecutor(together.parties) as pool:
        looks = [pool.submit(look) for _ in range(together.parties)]
        assert [each.result(60) for each in looks] == [True, True, True]
    end_sessions(postgres_dsn)
    with pytest.raises(StoreUnavailable):
        is_answered(log)
    assert is_answered(log)
    assert is_answered(log)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system knows no such limit")
def test_a_line_to_a_host_that_vanished_is_given_up_after_the_time_for_connecting(postgres_dsn: str) -> None:
    with (
        closing(connect(postgres_dsn, QUICK, name="line")) as connection,
        socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as line,
    ):
        limit_ms = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert limit_ms == QUICK.connect_seconds * 1_000
