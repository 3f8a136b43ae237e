"""The relay on a real broker: all of the log, each lane in order, whoever publishes and whatever is in the way."""

import logging
import threading
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from aiokafka.partitioner import DefaultPartitioner

from command.ports import StoreUnavailable
from contracts.topics import EVENT_TOPICS, topic_of
from infra.kafka.lanes import Lane
from infra.kafka.messages import Published, Watermark
from infra.postgres.epoch import begin_after_restore, bump_epoch
from infra.postgres.log import PostgresEventLog
from infra.postgres.positions import EpochChanged, PositionMoved
from infra.relay.checkpoint import LOCK_CLASS, Checkpoint, EventsMissed
from infra.relay.relay import At
from tests.integration.relay.world import SMALL, World, events_of, followed, marks, repeated, settings_for, wait_for

WRITERS = 8


class Dead(BaseException):
    """The relay is gone. Not an Exception: nothing may catch it on the way."""


def dying(at: At, nth: int) -> Any:
    """Dies when it passes a point for the n-th time."""
    passed = 0

    def passing(here: At) -> None:
        nonlocal passed
        passed += here is at
        if here is at and passed == nth:
            raise Dead

    return passing


def drain(relay: Any) -> None:
    """Step until there is nothing more to publish."""
    while relay.step():
        pass


def test_the_whole_log_arrives_in_its_lanes_in_order_and_every_lane_hears_up_to_where_it_is_complete(
    world: World,
) -> None:
    written = world.write("a", 40) + world.write("b", 3)
    with world.running():
        head = world.until_published()
        wait_for(lambda: all(head in marks(each) for each in world.lanes().values()), "the watermarks")
    lanes = world.lanes()
    assert followed(lanes) == events_of(lanes) == world.log()
    assert len(world.log()) == written
    for lane, records in lanes.items():
        assert marks(records)[-1] == head
        assert isinstance(records[-1], Watermark)
        assert records[-1].position == (0, world.epoch, head)
        chain = [0, *(record.position.offset for record in records if isinstance(record, Published))]
        assert [record.previous for record in records if isinstance(record, Published)] == chain[:-1]
        assert records[-1].previous == chain[-1], lane


def test_a_relay_that_comes_before_any_writer_stands_in_the_epoch_that_they_write_in(postgres_dsn: str) -> None:
    checkpoint = Checkpoint(postgres_dsn, 0, lead_seconds=2.0)
    standing = checkpoint.load()
    with closing(PostgresEventLog(postgres_dsn)) as log:
        assert standing.epoch == log.epoch
    checkpoint.confirm(standing, 0, 0)
    checkpoint.release()


def test_anyone_can_tell_the_lane_of_a_stream(world: World) -> None:
    world.write("a", 30)
    with world.running():
        world.until_published()
    partitions = list(range(world.settings.kafka_partitions))
    for lane, records in world.raw().items():
        for record in (each for each in records if each.key is not None):
            assert DefaultPartitioner()(record.key, partitions, partitions) == lane.partition
            assert topic_of(record.key.decode().split("/")[2]).name == lane.topic


def test_one_that_starts_again_goes_on_where_the_last_one_was_and_repeats_nothing(world: World) -> None:
    world.write("a", 20)
    with world.running():
        world.until_published()
    world.write("b", 20)
    with world.running() as second:
        world.until_published()
    lanes = world.lanes()
    assert followed(lanes) == events_of(lanes) == world.log()
    assert second.status().published == 180


@pytest.mark.parametrize("at", list(At))
def test_one_that_dies_repeats_at_most_a_batch_word_for_word(world: World, at: At) -> None:
    world.write("a", 40)
    relay = world.relay(passing=dying(at, nth=3))
    with pytest.raises(Dead):
        drain(relay)
    relay._let_go()
    with world.running():
        world.until_published()
    lanes = world.lanes()
    assert followed(lanes) == world.log()
    assert repeated(lanes) == (SMALL.batch_events_max if at is At.ACKNOWLEDGED else 0)
    said: dict[int, tuple[Any, ...]] = {}
    for lane, records in world.raw().items():
        for sent, record in zip(records, lanes[lane], strict=True):
            if isinstance(record, Published):
                words = (sent.key, sent.value, sent.headers)
                assert said.setdefault(record.position.offset, words) == words


def test_one_that_stands_by_says_so_once_and_behind_whom(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.write("a", 1)
    first, second = world.relay(), world.relay()
    drain(first)
    for _ in range(3):
        assert second.step() == 0
    (said,) = [each for each in caplog.records if each.message == "relay_standing_by"]
    holder = first._checkpoint._opened().info
    assert (vars(said)["shard"], vars(said)["backend_pid"]) == (0, holder.backend_pid)
    assert "another relay publishes shard 0" in vars(said)["reason"]
    assert vars(said)["client"]
    first._let_go()  # The server lets go of the lock a moment after the line is closed.
    wait_for(lambda: second.step() >= 0 and second.status().state == "publishing", "the second to lead")
    second._let_go()


def test_eight_writers_and_two_relays_of_which_one_publishes_and_the_other_takes_over(world: World) -> None:
    errors: list[BaseException] = []

    def write(name: str) -> None:
        try:
            world.write(name, 25)
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread.
            errors.append(error)

    def all_write(half: str) -> None:
        threads = [threading.Thread(target=write, args=(f"{half}{number}",)) for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    first = world.relay()
    with world.running() as second:
        with world.running(first):
            wait_for(lambda: "standby" in {first.status().state, second.status().state}, "one to stand by")
            all_write("morning")
            world.until_published()
            assert sorted([first.status().state, second.status().state]) == ["publishing", "standby"]
            morning = first.status().published, second.status().published
            assert sorted(morning) == [0, WRITERS * 25 * 9]
        all_write("evening")
        world.until_published()
    assert errors == []
    lanes = world.lanes()
    assert events_of(lanes) == followed(lanes) == world.log()
    assert len(world.log()) == 2 * WRITERS * 25 * 9
    assert second.status().published == morning[1] + WRITERS * 25 * 9


def test_a_relay_whose_session_was_ended_moves_nothing_and_begins_anew_at_its_checkpoint(world: World) -> None:
    world.write("a", 20)
    relay = world.relay()
    relay.step()
    published = world.checkpoint

    def end_sessions(at: At) -> None:
        if at is At.ACKNOWLEDGED:
            end_session_of_the_lock(world)

    relay._passing = end_sessions
    with pytest.raises(StoreUnavailable):
        relay.step()
    assert world.checkpoint == published
    relay._let_go()
    with world.running():
        world.until_published()
    lanes = world.lanes()
    assert followed(lanes) == world.log()
    assert repeated(lanes) == SMALL.batch_events_max


def end_session_of_the_lock(world: World) -> None:
    """As the server does with one that has been silent for too long."""
    ended = world.ask(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s "
        "AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        LOCK_CLASS,
    )
    assert ended == 1


def test_a_checkpoint_that_somebody_else_moved_is_not_moved(world: World) -> None:
    world.write("a", 20)
    relay = world.relay(passing=lambda at: moved() if at is At.ACKNOWLEDGED else None)

    def moved() -> None:
        with psycopg.connect(world.dsn) as connection:
            connection.execute(
                "INSERT INTO follower_positions (follower, epoch, log_offset) VALUES ('relay', %s, 77)", (world.epoch,)
            )

    with pytest.raises(PositionMoved):
        relay.step()
    relay._let_go()
    assert world.checkpoint == 77
    assert world.ask("SELECT count(*) FROM relay_lanes") == 0


def test_a_restore_that_nobody_told_halts_it_with_what_to_do_and_then_it_goes_on(world: World) -> None:
    world.write("a", 20)
    with world.running() as relay:
        before = world.until_published()
        bump_epoch(world.dsn, 0)
        world.write("b", 20)
        wait_for(lambda: relay.status().state == "halted", "the relay to halt")
        assert "EpochChanged" in (relay.status().last_error or "")
        assert "tessera restored" in (relay.status().last_error or "")
        assert world.checkpoint == before
        epoch = begin_after_restore(world.dsn, 0, restore_id="nightly", actor="operator:test").epoch
        world.until_published()
    lanes = world.lanes()
    assert followed(lanes) == events_of(lanes) == world.log()
    epochs = [
        record.position.epoch
        for records in lanes.values()
        for record in records
        if isinstance(record, Published) and record.position.offset > before
    ]
    assert set(epochs) == {epoch}


def test_nothing_is_published_of_a_history_that_is_no_more(world: World) -> None:
    world.write("a", 20)
    relay = world.relay(passing=lambda at: bump_epoch(world.dsn, 0) if at is At.READ else None)
    with pytest.raises(EpochChanged):
        relay.step()
    relay._let_go()
    assert events_of(world.lanes()) == []


def test_a_feed_that_passes_over_an_event_is_caught_before_anything_is_published(world: World) -> None:
    world.write("a", 20)
    relay = world.relay()
    read = relay._feed.read_stored
    relay._feed.read_stored = lambda after, limit: [*read(after, limit)[:3], *read(after, limit)[4:]]  # type: ignore[method-assign]
    with pytest.raises(EventsMissed, match="read 49 events after offset 0"):
        relay.step()
    relay._let_go()
    assert events_of(world.lanes()) == []


def test_an_event_of_an_unknown_type_halts_it_right_there_and_it_lets_a_newer_one_try(world: World) -> None:
    world.write("a", 3)
    with psycopg.connect(world.dsn) as connection:
        connection.execute("UPDATE stored_events SET topic = 'clock.advanced.v9' WHERE notification_id = 20")
    with world.running() as relay:
        wait_for(lambda: relay.status().state == "halted", "the relay to halt")
        assert "clock.advanced.v9" in (relay.status().last_error or "")
        assert world.checkpoint == 19
        wait_for(lambda: world.ask("SELECT pg_try_advisory_lock(%s, 0)", LOCK_CLASS), "the lock between two looks")
        with psycopg.connect(world.dsn) as connection:
            connection.execute("UPDATE stored_events SET topic = 'clock.advanced.v1' WHERE notification_id = 20")
        world.until_published()
    lanes = world.lanes()
    assert followed(lanes) == events_of(lanes) == world.log()


def test_without_its_topics_it_says_what_to_do(postgres_dsn: str, kafka_bootstrap: str, kafka_prefix: str) -> None:
    world = World(settings_for(postgres_dsn, kafka_bootstrap, kafka_prefix))
    world.settings = settings_for(postgres_dsn, kafka_bootstrap, "nobody-made-")
    with world.running() as relay:
        wait_for(lambda: relay.status().state == "halted", "the relay to halt")
        assert "nobody-made-coupon-event-topic" in (relay.status().last_error or "")
        assert "tessera migrate" in (relay.status().last_error or "")


def test_topics_of_another_shape_are_not_published_to(
    postgres_dsn: str, kafka_bootstrap: str, kafka_prefix: str
) -> None:
    world = World(settings_for(postgres_dsn, kafka_bootstrap, kafka_prefix))
    world.write("a", 1)
    world.settings = settings_for(postgres_dsn, kafka_bootstrap, kafka_prefix, kafka_partitions=3)
    with world.running() as relay:
        wait_for(lambda: relay.status().state == "halted", "the relay to halt")
        assert "TESSERA_KAFKA_PARTITIONS" in (relay.status().last_error or "")
    assert world.checkpoint == 0


def test_watermarks_come_at_a_bounded_rate_and_to_lanes_without_events_too(world: World) -> None:
    calm = replace(SMALL, watermark_seconds=3_600.0, watermark_idle_seconds=3_600.0)
    world.write("a", 40)
    relay = world.relay(calm)
    drain(relay)
    relay._let_go()
    lanes = world.lanes()
    assert len(lanes) == len(EVENT_TOPICS) * world.settings.kafka_partitions
    assert {tuple(marks(records)) for records in lanes.values()} == {(50,)}  # With the first batch, and no more.
    assert Lane("notification-event-topic", 0) in lanes


def test_a_lane_hears_of_events_elsewhere_even_when_nothing_follows_them(world: World) -> None:
    relay = world.relay()
    drain(relay)
    assert {tuple(marks(records)) for records in world.lanes().values()} == {(0,)}
    world.write("a", 1)
    wait_for(lambda: relay.step() == 9, "the batch")
    wait_for(lambda: relay.step() == 0 and all(9 in marks(each) for each in world.lanes().values()), "the watermarks")
    relay._let_go()
