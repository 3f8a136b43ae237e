"""A store that was restored, told or not: nobody goes on from a state that no longer is."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from command.ports import StoreUnavailable
from contracts.envelope import Recorded
from infra.clickhouse.facts import FactsStore
from infra.postgres import positions
from infra.postgres.connections import transaction
from infra.postgres.epoch import RestoreIncomplete, begin_after_restore
from infra.projections.coordination import PostgresCoordination
from infra.projections.ports import Halt
from infra.projections.runner import Follower
from infra.redis.models import ModelStore
from projections.catalog import READ_MODELS
from tests.integration.projections import oracle
from tests.integration.projections.conftest import World
from tests.integration.projections.test_follower import Killed, dying
from tests.unit.projections.stories import Story, about, claimed

FOLLOWERS = ("redis", "facts")


@pytest.fixture
def coordination(world: World) -> Iterator[PostgresCoordination]:
    with world.coordinated() as coordination:
        yield coordination


def claims(story: Story, first: int, count: int) -> Story:
    for nth in range(first, first + count):
        story.tell("coupon", f"c{nth}", claimed(f"c{nth}", about(), nth))
    return story


def set_back(world: World, offset: int) -> None:
    """What a restore of an earlier backup leaves: the log up to an offset, and offsets to be given out again."""
    with psycopg.connect(world.postgres_dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM stored_events WHERE notification_id > %s", (offset,))
        sequence = "SELECT setval(pg_get_serial_sequence('stored_events', 'notification_id'), %s)"
        connection.execute(sequence, (offset,))


def recorded_later(event: Recorded) -> Recorded:
    """What the same command leads to when it is sent again: the ids are the same, the time is not."""
    later = event.metadata.recorded_at + timedelta(hours=1)
    return replace(event, metadata=event.metadata._replace(recorded_at=later))


def follower(world: World, coordination: PostgresCoordination, name: str) -> Follower:
    if name == "redis":
        return world.service.redis_follower(world.feed, coordination)
    return world.service.facts_follower(world.feed, coordination, world.facts)


def restored(world: World, name: str = "nightly") -> bool:
    """Tell it; whether that was news."""
    told = begin_after_restore(world.postgres_dsn, 0, restore_id=name, actor="operator:me")
    if told.is_new:
        with pytest.raises(StoreUnavailable, match="the store was restored"), world.log.appending():
            pass  # Whoever writes is told once.
    return told.is_new


@pytest.mark.parametrize("name", FOLLOWERS)
@pytest.mark.parametrize("appended_since", [0, 3, 9], ids=["nothing", "less", "more"])
def test_a_restore_that_nobody_told_halts_a_follower_instead_of_passing_over_events(
    world: World, coordination: PostgresCoordination, name: str, appended_since: int
) -> None:
    world.append(claims(Story(), 1, 10).log)
    world.catch_up()
    assert all(state.halted is None for state in world.service.states())
    set_back(world, 4)
    if appended_since:
        world.append(claims(Story(first_offset=100), 100, appended_since).log)
    with pytest.raises(Halt, match=r"nobody said so\. Run `tessera restored`"):
        follower(world, coordination, name).step()
    assert all("nobody said so" in (state.halted or "") for state in world.service.states())


@pytest.mark.parametrize(("name", "store", "step"), [("redis", ModelStore, "advance"), ("facts", FactsStore, "save")])
@pytest.mark.parametrize("taken_since", [0, 1], ids=["at_once", "after_a_smaller_batch"])
def test_it_halts_where_a_batch_was_cut_short_that_the_restored_log_does_not_have(
    world: World,
    coordination: PostgresCoordination,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    store: type,
    step: str,
    taken_since: int,
) -> None:
    world.append(claims(Story(), 1, 4).log)
    world.catch_up()
    world.append(claims(Story(first_offset=5), 5, 6).log)
    with monkeypatch.context() as patched:
        patched.setattr(store, step, dying(getattr(store, step), "before", calls=1))
        with pytest.raises(Killed):
            follower(world, coordination, name).step()
    if taken_since:
        one_by_one = follower(world, coordination, name)
        one_by_one._limits = replace(one_by_one._limits, batch_events_max=taken_since)
        one_by_one.step()
    set_back(world, 4 + taken_since)
    world.append(claims(Story(first_offset=100), 100, 3).log)
    with pytest.raises(Halt, match="nobody said so"):
        follower(world, coordination, name).step()


def test_the_same_commands_again_are_other_events_under_the_same_ids(
    world: World, coordination: PostgresCoordination
) -> None:
    log = claims(Story(), 1, 10).log
    world.append(log)
    world.catch_up()
    set_back(world, 4)
    world.append([recorded_later(event) for event in log[4:]])
    with pytest.raises(Halt, match="has another event there"):
        follower(world, coordination, "redis").step()


def test_after_it_was_told_everything_is_rebuilt_and_ends_equal_to_the_store(
    world: World, coordination: PostgresCoordination
) -> None:
    world.append(claims(Story(), 1, 10).log)
    world.catch_up()
    set_back(world, 4)
    assert restored(world)
    world.append(claims(Story(first_offset=100), 100, 9).log)
    for name in FOLLOWERS:
        with pytest.raises(Halt, match="the store is in epoch"):
            follower(world, coordination, name).step()
    states = world.service.states()
    assert all("the store is in epoch" in (state.halted or "") for state in states)
    for state in states:
        world.service.rebuild(state.name)
    world.catch_up()
    assert all(state.halted is None and state.ready for state in world.service.states())
    log = world.stored()
    assert world.service.checksums(list(READ_MODELS)) == oracle.checksums(log)
    assert world.fact_rows() == oracle.row_counts(log)


def test_what_was_restored_with_the_log_is_taken_along(world: World) -> None:
    world.append(claims(Story(), 1, 10).log)
    epoch = world.feed.epoch()
    with transaction(world.postgres_dsn, name="test") as cursor:
        positions.advance(cursor, "sagas", epoch, expected=0, offset=8)
    assert restored(world)
    with transaction(world.postgres_dsn, name="test") as cursor:
        assert positions.read(cursor, "sagas", world.feed.epoch()) == 8


def test_tables_of_two_backups_are_refused_and_nothing_changes(world: World) -> None:
    world.append(claims(Story(), 1, 10).log)
    epoch = world.feed.epoch()
    with transaction(world.postgres_dsn, name="test") as cursor:
        positions.advance(cursor, "sagas", epoch, expected=0, offset=8)
    set_back(world, 4)
    with pytest.raises(RestoreIncomplete, match="sagas at 8"):
        restored(world)
    assert world.feed.epoch() == epoch


def test_a_restore_that_is_told_twice_is_one(world: World) -> None:
    world.append(claims(Story(), 1, 10).log)
    assert restored(world, "first")
    epoch = world.feed.epoch()
    assert not restored(world, "first")
    assert not restored(world, "by another name, with nothing appended since")
    world.append(claims(Story(first_offset=100), 100, 1).log)
    assert not restored(world, "first")
    assert world.feed.epoch() == epoch
    assert restored(world, "second")
    assert world.feed.epoch() != epoch
