"""No follower misses an event: one interleaving step by step, with the append lock and without, and eight writers."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from eventsourcing.postgres import PostgresDatastore
from psycopg.rows import dict_row

from command.ports import Batch, NewEvent
from contracts.identity import stream_id
from infra.postgres.connections import DEFAULT_TIMEOUTS
from infra.postgres.epoch import ensure_epoch
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresEventLog
from infra.postgres.mapper import EventMapper
from infra.postgres.recorder import ShardRecorder, datastore
from tests.contract.event_log import ACME, CLOCK, OTHER, at

WRITERS = 8
BATCHES = 60
BATCH_EVENTS = 5


class UnlockedRecorder(ShardRecorder):
    """Ours but for the lock."""

    def __init__(self, store: PostgresDatastore, shard: int) -> None:
        super().__init__(store, shard)
        self.lock_table_statements = []


@contextmanager
def writer(dsn: str) -> Iterator[psycopg.Connection[psycopg.rows.DictRow]]:
    """A connection that can insert, in transactions that it commits itself."""
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        yield connection


def insert(recorder: ShardRecorder, connection: psycopg.Connection[psycopg.rows.DictRow], event: NewEvent) -> None:
    """Store one event without committing."""
    recorder._insert_stored_events(connection.cursor(), [EventMapper().to_stored_event(event)])


def interleave(dsn: str, kind: type[ShardRecorder]) -> list[str]:
    """A takes its offset; B stores and commits, as soon as it may; a follower reads; A commits; the follower reads on.

    Returns the streams that the follower saw.
    """
    with closing(datastore(dsn, DEFAULT_TIMEOUTS, name="test")) as store, closing(StoreFeed(dsn)) as feed:
        recorder = kind(store, 0)
        with writer(dsn) as a, writer(dsn) as b:
            insert(recorder, a, at(1, stream=CLOCK))

            def store_and_commit() -> None:
                insert(recorder, b, at(1, stream=OTHER))
                b.commit()

            rival = threading.Thread(target=store_and_commit)
            rival.start()
            _until_waiting_or_done(dsn, b.info.backend_pid, rival)
            seen = list(feed.read(0, 10))
            position = seen[-1].offset if seen else 0
            a.commit()
            rival.join()
            seen += feed.read(position, 10)
    return [event.stream for event in seen]


def _until_waiting_or_done(dsn: str, backend_pid: int, rival: threading.Thread) -> None:
    with psycopg.connect(dsn, autocommit=True) as observer:
        while rival.is_alive():
            rival.join(timeout=0.01)
            waits = observer.execute(
                "SELECT 1 FROM pg_locks WHERE pid = %s AND locktype = 'advisory' AND NOT granted", (backend_pid,)
            ).fetchone()
            if waits:
                return


def test_a_follower_sees_the_late_commit_because_of_the_append_lock(postgres_dsn: str) -> None:
    assert interleave(postgres_dsn, ShardRecorder) == [CLOCK, OTHER]


def test_without_the_append_lock_the_follower_misses_the_late_commit_for_good(postgres_dsn: str) -> None:
    assert interleave(postgres_dsn, UnlockedRecorder) == [OTHER]


def test_eight_concurrent_writers_and_a_follower_that_counts(postgres_dsn: str) -> None:
    streams = [stream_id(ACME, "clock", f"writer-{number}") for number in range(WRITERS)]
    errors: list[BaseException] = []

    def write(stream: str) -> None:
        with closing(PostgresEventLog(postgres_dsn)) as log:
            for first in range(1, BATCHES * BATCH_EVENTS, BATCH_EVENTS):
                versions = range(first, first + BATCH_EVENTS)
                with log.appending() as tx:
                    tx.append(Batch(events=[at(version, stream=stream) for version in versions]))

    def guarded(stream: str) -> None:
        try:
            write(stream)
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread.
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(stream,)) for stream in streams]
    with closing(StoreFeed(postgres_dsn)) as feed:
        for thread in threads:
            thread.start()
        seen: list[tuple[str, int]] = []
        position, writing = 0, True
        while True:
            batch = feed.read(position, 100)
            seen += [(event.stream, event.version) for event in batch]
            position = batch[-1].offset if batch else position
            if not batch and not writing:
                break
            if not batch:
                feed.wait(0.05)
                writing = any(thread.is_alive() for thread in threads)
    assert errors == []
    for stream in streams:
        assert [version for name, version in seen if name == stream] == list(range(1, BATCHES * BATCH_EVENTS + 1))
    assert len(seen) == WRITERS * BATCHES * BATCH_EVENTS


def test_the_librarys_own_insert_takes_its_turn_too(postgres_dsn: str) -> None:
    with closing(datastore(postgres_dsn, DEFAULT_TIMEOUTS, name="test")) as store:
        recorder = ShardRecorder(store, 0)
        offsets = recorder.insert_events([EventMapper().to_stored_event(at(version)) for version in (1, 2)])
        assert [EventMapper().to_domain_event(row).version for row in recorder.select_events(CLOCK)] == [1, 2]
        assert recorder.max_notification_id() == offsets[-1] if offsets else None
        with psycopg.connect(postgres_dsn) as other:
            other.execute(recorder.lock_table_statements[0])
            assert _is_refused_a_second_lock(postgres_dsn, recorder)


def _is_refused_a_second_lock(dsn: str, recorder: ShardRecorder) -> bool:
    with psycopg.connect(dsn) as rival:
        rival.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            rival.execute(recorder.lock_table_statements[0])
    return True


def test_database_functions_that_append_without_the_lock_are_refused(postgres_dsn: str) -> None:
    with closing(datastore(postgres_dsn, DEFAULT_TIMEOUTS, name="test")) as store:
        assert not store.enable_db_functions
        store.enable_db_functions = True
        with pytest.raises(AssertionError, match="without the lock"):
            ShardRecorder(store, 0)


def test_the_librarys_insert_function_is_not_in_the_database(postgres_dsn: str) -> None:
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("SELECT to_regproc('es_insert_events_text')").fetchone() == (None,)
        assert ensure_epoch(connection.cursor(), 0)
