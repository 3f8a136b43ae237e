"""The store feed: batches in order, a wake-up that is only a hint, and a stop where something is not understood."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from command.ports import StoreUnavailable
from contracts.events import ALL_EVENTS, ClockAdvanced
from contracts.registry import EventRegistry, UnknownEventType
from infra.postgres.connections import Timeouts
from infra.postgres.epoch import bump_epoch
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresEventLog
from infra.postgres.mapper import UnreadableEvent
from tests.contract.event_log import CLOCK, OTHER, at, recorded, store


@pytest.fixture
def log(postgres_dsn: str) -> Iterator[PostgresEventLog]:
    """Where the events come from."""
    with closing(PostgresEventLog(postgres_dsn)) as log:
        yield log


@pytest.fixture
def feed(postgres_dsn: str) -> Iterator[StoreFeed]:
    """One follower's feed."""
    with closing(StoreFeed(postgres_dsn)) as feed:
        yield feed


def listeners(dsn: str) -> list[int]:
    """The server processes that feeds listen on."""
    with psycopg.connect(dsn) as admin:
        rows = admin.execute(
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'tessera listen'"
        ).fetchall()
    return [pid for (pid,) in rows]


def test_a_feed_is_read_in_batches_after_a_position(log: PostgresEventLog, feed: StoreFeed) -> None:
    events = [at(version) for version in range(1, 6)]
    offsets = store(log, *events)
    assert list(feed.read(0, 2)) == recorded(offsets[:2], *events[:2])
    assert list(feed.read(offsets[1], 10)) == recorded(offsets[2:], *events[2:])
    assert list(feed.read(offsets[-1], 10)) == []
    assert feed.head() == offsets[-1]


def test_what_is_not_heeded_is_passed_over_without_being_read(log: PostgresEventLog, postgres_dsn: str) -> None:
    events = [at(version) for version in range(1, 4)]
    offsets = store(log, *events)
    with closing(StoreFeed(postgres_dsn, registry=EventRegistry(()))) as knows_nothing:
        assert knows_nothing.read_on(0, 2, {ClockAdvanced.type}) == ([], offsets[1])
        assert knows_nothing.read_on(offsets[-1], 2, {ClockAdvanced.type}) == ([], offsets[-1])
        with pytest.raises(UnknownEventType):
            knows_nothing.read_on(0, 2, {"saga.heard.v1"})


def test_an_empty_log_has_head_zero_and_an_epoch_once_it_was_opened(log: PostgresEventLog, feed: StoreFeed) -> None:
    assert feed.head() == 0
    with pytest.raises(StoreUnavailable, match="no epoch"):
        feed.epoch()
    first = log.epoch
    assert feed.epoch() == first
    assert bump_epoch(feed._dsn, 0) == feed.epoch() != first


def test_topics_limit_what_is_read(log: PostgresEventLog, feed: StoreFeed) -> None:
    store(log, at(1))
    assert len(feed.read(0, 10, topics=[ClockAdvanced.type])) == 1
    assert list(feed.read(0, 10, topics=["coupon.claimed.v1"])) == []


def test_an_event_of_an_unknown_type_is_reached_but_never_passed(log: PostgresEventLog, postgres_dsn: str) -> None:
    offsets = store(log, at(1), at(2), at(1, stream=OTHER))
    with psycopg.connect(postgres_dsn) as admin:
        admin.execute("UPDATE stored_events SET topic = 'clock.advanced.v9' WHERE notification_id = %s", (offsets[1],))
    with closing(StoreFeed(postgres_dsn)) as feed:
        assert [event.offset for event in feed.read(0, 10)] == offsets[:1]
        with pytest.raises(UnknownEventType, match=r"clock\.advanced\.v9"):
            feed.read(offsets[0], 10)


def test_an_older_binary_halts_at_the_first_event_it_does_not_know(log: PostgresEventLog, postgres_dsn: str) -> None:
    store(log, at(1))
    older = EventRegistry(tuple(event for event in ALL_EVENTS if event is not ClockAdvanced))
    with closing(StoreFeed(postgres_dsn, registry=older)) as feed, pytest.raises(UnknownEventType):
        feed.read(0, 10)


def test_a_damaged_event_is_reached_but_never_passed(log: PostgresEventLog, feed: StoreFeed, postgres_dsn: str) -> None:
    offsets = store(log, at(1), at(2))
    with psycopg.connect(postgres_dsn) as admin:
        admin.execute("UPDATE stored_events SET state = 'x' WHERE notification_id = %s", (offsets[1],))
    assert [event.offset for event in feed.read(0, 10)] == offsets[:1]
    with pytest.raises(UnreadableEvent, match=CLOCK):
        feed.read(offsets[0], 10)


def test_waiting_ends_when_something_is_appended(log: PostgresEventLog, feed: StoreFeed) -> None:
    assert feed.wait(60.0)  # From now on it listens; what was appended before has to be read.
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(feed.wait(60.0)))
    waiting.start()
    store(log, at(1))
    waiting.join(timeout=30.0)
    assert woken == [True]


def test_what_is_appended_between_reading_and_waiting_still_wakes(log: PostgresEventLog, feed: StoreFeed) -> None:
    feed.wait(60.0)
    store(log, at(1))
    assert feed.wait(60.0)
    assert not feed.wait(0.01)


def test_a_feed_outlives_the_loss_of_its_connections(log: PostgresEventLog, feed: StoreFeed, postgres_dsn: str) -> None:
    feed.wait(60.0)
    (offset,) = store(log, at(1))
    assert feed.wait(60.0)
    with psycopg.connect(postgres_dsn, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert listeners(postgres_dsn) == []
    assert not feed.wait(0.2)  # It notices, and sits the time out instead of spinning.
    assert [event.offset for event in feed.read(0, 10)] == [offset]
    while not feed.wait(0.2):
        pass  # The back-off has an end; the test's own time-out bounds this.
    store(log, at(2))
    assert feed.wait(60.0)


def test_after_a_restart_of_the_server_one_failed_read_is_enough_however_many_readers_there_were(
    log: PostgresEventLog, feed: StoreFeed, postgres_dsn: str
) -> None:
    store(log, at(1))
    with ThreadPoolExecutor(8) as pool:  # So many at once that the feed needs more than one connection.
        assert set(pool.map(lambda _: feed.head(), range(400))) == {1}
    with psycopg.connect(postgres_dsn, autocommit=True) as admin:
        ended = admin.execute(
            "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'tessera feed'"
        ).fetchone()
    assert ended is not None
    assert ended[0] > 1, "there was one connection only"
    with pytest.raises(StoreUnavailable):
        feed.head()
    assert [feed.head() for _ in range(ended[0])] == [1] * ended[0]


def test_a_feed_without_a_server_waits_its_time_and_says_so_when_read() -> None:
    with closing(StoreFeed("postgresql://nobody@127.0.0.1:1/nothing", timeouts=Timeouts(connect_seconds=1))) as feed:
        assert not feed.wait(0.01)
        assert not feed.wait(0.01)
        with pytest.raises(StoreUnavailable):
            feed.read(0, 10)
        with pytest.raises(StoreUnavailable):
            feed.head()
