"""A follower handles every event once in effect: through crashes, flushes, redelivery, poison and restored stores."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from threading import Event as Signal
from typing import Any

import psycopg
import pytest
import redis
import redis.asyncio
from structlog.testing import capture_logs

from contracts.envelope import Recorded
from contracts.events import ALL_EVENTS, CouponRevoked
from contracts.identity import Realm
from contracts.position import Position
from contracts.read_models import bucket_key, checkpoint_field, control_key
from contracts.registry import EventRegistry, UnknownEventType
from infra.clickhouse.facts import FactsStore
from infra.postgres import dead_letters
from infra.postgres.connections import transaction
from infra.postgres.epoch import bump_epoch
from infra.postgres.feed import StoreFeed
from infra.processes import wait_until
from infra.projections.coordination import PostgresCoordination
from infra.projections.facts_target import FactsTarget
from infra.projections.ports import Busy, EventsSkipped, Feed, Halt, Target
from infra.projections.redis_target import RedisTarget
from infra.projections.runner import Follower, FollowerLimits
from infra.redis.connection import RedisUnavailable, WrongEvictionPolicy, connect, require_no_eviction
from infra.redis.models import ModelStore
from projections.catalog import READ_MODELS
from projections.facts import rows_of
from projections.model import Document, Place, ReadModel
from query.ports import ReadModelUnavailable
from query.readers.models import RedisReadModels
from tests.engines import clickhouse
from tests.integration.projections import oracle
from tests.integration.projections.conftest import Running, World
from tests.unit.projections.stories import ACME, NOON, Story, about, claimed, claims, everything, locked, redeemed

SMALL = FollowerLimits(batch_events_max=7, tend_seconds=0.0)


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def coordination(world: World) -> Iterator[PostgresCoordination]:
    with world.coordinated() as coordination:
        yield coordination


def follower_of(
    world: World,
    coordination: PostgresCoordination,
    targets: Sequence[Target],
    *,
    feed: Feed | None = None,
    limits: FollowerLimits = SMALL,
) -> Follower:
    return Follower("redis", feed or world.feed, targets, coordination, limits)


def target_of(
    world: World, coordination: PostgresCoordination, model: ReadModel, make: type[ModelStore] = ModelStore
) -> RedisTarget:
    return RedisTarget(make(connect(world.redis_url), model), coordination, shard=0)


def run_dry(follower: Follower) -> None:
    while follower.step():
        pass


def redis_checksums(world: World) -> dict[str, str]:
    return dict(world.service.checksums(list(READ_MODELS)))


def test_whatever_the_batches_the_models_and_facts_are_those_of_the_log(
    world: World, coordination: PostgresCoordination
) -> None:
    world.append(everything())
    world.append(everything(Realm("acme", "other")))
    targets = [target_of(world, coordination, model) for model in READ_MODELS.values()]
    run_dry(follower_of(world, coordination, targets))
    world.catch_up()
    log = world.stored()
    assert redis_checksums(world) == oracle.checksums(log)
    assert world.fact_rows() == oracle.row_counts(log)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["write", "advance"])
def test_a_process_killed_at_any_step_loses_and_doubles_nothing_in_a_model(
    world: World, coordination: PostgresCoordination, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    world.append(everything())
    model = READ_MODELS["wallet"]
    with monkeypatch.context() as patched:
        patched.setattr(ModelStore, step, dying(getattr(ModelStore, step), when, calls=2))
        with pytest.raises(Killed):
            run_dry(follower_of(world, coordination, [target_of(world, coordination, model)]))
    other_batches = FollowerLimits(batch_events_max=5, tend_seconds=0.0)
    target = target_of(world, coordination, model)
    run_dry(follower_of(world, coordination, [target], limits=other_batches))
    assert redis_checksums(world)["wallet"] == oracle.checksum(model, world.stored())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["insert", "save"])
def test_a_process_killed_at_any_step_loses_and_doubles_nothing_in_the_facts(
    world: World, coordination: PostgresCoordination, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    world.append(everything())
    world.facts.migrate()
    with monkeypatch.context() as patched:
        patched.setattr(FactsStore, step, dying(getattr(FactsStore, step), when, calls=3))
        follower = follower_of(world, coordination, [FactsTarget(world.facts, coordination, shard=0)])
        with pytest.raises(Killed):
            run_dry(follower)
    world.catch_up()
    assert world.fact_rows() == oracle.row_counts(world.stored())


def dying(method: Callable[..., Any], when: str, *, calls: int) -> Callable[..., Any]:
    """The method, until the process is killed before or after its n-th call."""
    left = calls

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            raise Killed
        answer = method(*args, **kwargs)
        if left == 0:
            raise Killed
        return answer

    return call


def test_redelivery_from_the_start_changes_nothing(world: World) -> None:
    world.append(everything())
    world.catch_up()
    before = world.service.checksums()
    found = world.facts.checkpoint()
    assert found is not None
    start = found.position._replace(offset=0)
    with clickhouse(world.clickhouse_url) as server:
        server.command("TRUNCATE TABLE projection_positions")
    client = connect(world.redis_url)
    for name in READ_MODELS:
        client.hset(control_key(name), checkpoint_field(1), start.token())
    world.catch_up()
    assert {state.offset for state in world.service.states()} == {world.feed.head()}
    assert world.service.checksums() == before


def test_a_model_that_begins_is_news_only_where_readers_miss_something(
    world: World, coordination: PostgresCoordination
) -> None:
    levels = []
    for log in (None, claims(ACME, 4)):
        if log is not None:
            world.append(log)
        with capture_logs() as said:
            follower_of(world, coordination, [target_of(world, coordination, READ_MODELS["wallet"])]).step()
        levels += [each["log_level"] for each in said if each["event"] == "read_model_begun"]
        connect(world.redis_url).flushdb()
    assert levels == ["info", "warning"]


async def test_a_flushed_model_starts_again_and_is_not_served_before_it_is_whole(
    world: World, coordination: PostgresCoordination
) -> None:
    world.append(claims(ACME, 40))
    targets = [target_of(world, coordination, model) for model in READ_MODELS.values()]
    follower = follower_of(world, coordination, targets)
    run_dry(follower)
    client = redis.asyncio.Redis.from_url(world.redis_url)
    models = RedisReadModels(client, wall_clock=lambda: NOON)
    assert await models.coupon(ACME, "c1") is not None
    await client.flushdb()
    served = 0
    while follower.step():
        try:
            shown = await models.template(ACME, "t1")
        except ReadModelUnavailable:
            continue
        assert shown is not None
        assert shown["claimed"] == 40
        served += 1
    assert served == 1, "whole at the last batch, and not before"
    await client.aclose()
    assert redis_checksums(world) == oracle.checksums(world.stored())


def test_a_flush_between_the_buckets_and_the_checkpoint_leaves_no_half_bucket(
    world: World, coordination: PostgresCoordination
) -> None:
    class Flushed(ModelStore):
        flushes = 1

        def advance(self, version: int, seen: Position, position: Position, lanes: Collection[str] = ()) -> None:
            if seen.offset > 20 and Flushed.flushes:
                Flushed.flushes -= 1
                places = self._buckets(version)
                client = connect(world.redis_url)
                kept = {key: client.dump(key) or b"" for key, _, _ in places}
                client.flushdb()
                for key, value in list(kept.items())[:1]:  # One bucket is written just after the flush.
                    client.restore(key, 0, value)
            super().advance(version, seen, position, lanes)

    story = Story()
    for nth in range(1, 41):
        story.tell("coupon", f"c{nth}", claimed(f"c{nth}", about(), nth))
    world.append(story.log)
    model = READ_MODELS["wallet"]
    run_dry(follower_of(world, coordination, [target_of(world, coordination, model, Flushed)]))
    assert Flushed.flushes == 0
    assert redis_checksums(world)["wallet"] == oracle.checksum(model, world.stored())


def test_poison_parks_its_own_stream_only_and_is_replayed_in_order(
    world: World, coordination: PostgresCoordination
) -> None:
    healthy = READ_MODELS["wallet"]
    broken = True

    def fold(document: Document | None, recorded: Recorded) -> Document:
        if broken and recorded.stream.endswith("/c1") and recorded.version == 2:
            raise ArithmeticError("this one is too much")
        return healthy.fold(document, recorded)

    story = Story()
    for coupon in ("c1", "c2"):
        story.tell("coupon", coupon, claimed(coupon, about()))
        story.tell("coupon", coupon, locked(coupon, about(), "o1"))
        story.tell("coupon", coupon, redeemed(coupon, about(), "o1"))
    world.append(story.log)
    target = target_of(world, coordination, replace(healthy, fold=fold))
    follower = follower_of(world, coordination, [target])
    run_dry(follower)
    assert follower.status().parked == 2
    with transaction(world.postgres_dsn, name="test") as cursor:
        parked = dead_letters.find(cursor, limit=10)
    assert [(each.follower, each.stream, each.version) for each in parked] == [
        ("wallet:v1", "acme/shop/coupon/c1", 2),
        ("wallet:v1", "acme/shop/coupon/c1", 3),
    ]
    assert "ArithmeticError: this one is too much" in parked[0].reason
    assert parked[1].attempts == 0
    wallet = ModelStore(connect(world.redis_url), healthy)
    statuses = {field: document["status"] for field, document in _wallet(wallet).items()}
    assert statuses == {"c1": "claimed", "c2": "redeemed"}

    _requeue(world)  # Still broken: parked again, nothing changes.
    run_dry(follower)
    assert follower.status().parked == 2
    broken = False
    _requeue(world)
    run_dry(follower)
    assert follower.status().parked == 0
    assert redis_checksums(world)["wallet"] == oracle.checksum(healthy, world.stored())
    # The stream flows again.
    world.append([story.tell("coupon", "c1", CouponRevoked(coupon_id="c1", about=about(), reason="fraud"))])
    run_dry(follower)
    assert _wallet(wallet)["c1"]["status"] == "revoked"


def test_poison_in_the_facts_parks_too_and_its_rows_come_later(
    world: World, coordination: PostgresCoordination, monkeypatch: pytest.MonkeyPatch
) -> None:

    def poisoned(recorded: Recorded) -> Any:
        if recorded.stream.endswith("/coupon/c1"):
            raise ArithmeticError("no rows of this")
        return rows_of(recorded)

    world.append(everything())
    monkeypatch.setattr("infra.projections.facts_target.rows_of", poisoned)
    world.catch_up()
    assert world.fact_rows()["coupon_facts"] == oracle.row_counts(world.stored())["coupon_facts"] - 4
    monkeypatch.undo()
    _requeue(world)
    world.catch_up()
    assert world.fact_rows() == oracle.row_counts(world.stored())


def test_an_unknown_event_type_halts_right_before_it_and_says_what_to_do(
    world: World, coordination: PostgresCoordination
) -> None:
    story = Story()
    story.tell("coupon", "c1", claimed("c1", about()))
    story.tell("coupon", "c1", CouponRevoked(coupon_id="c1", about=about(), reason="fraud"))
    world.append(story.log)
    older = EventRegistry(tuple(event for event in ALL_EVENTS if event is not CouponRevoked))
    feed = StoreFeed(world.postgres_dsn, registry=older)
    target = target_of(world, coordination, READ_MODELS["coupon"])
    follower = follower_of(world, coordination, [target], feed=feed)
    with pytest.raises(UnknownEventType, match=r"coupon\.revoked\.v1"):
        follower.run(Signal())
    feed.close()
    status = follower.status()
    assert (status.state, status.offset) == ("halted", story.log[0].offset)
    assert "upgrade" in (status.last_error or "")
    # A newer binary goes on from there.
    run_dry(follower_of(world, coordination, [target_of(world, coordination, READ_MODELS["coupon"])]))
    assert redis_checksums(world)["coupon"] == oracle.checksum(READ_MODELS["coupon"], world.stored())


def test_a_restored_store_stops_every_follower_and_names_the_rebuild(world: World) -> None:
    world.append(everything())
    world.catch_up()
    bump_epoch(world.postgres_dsn, 0)
    with world.coordinated() as coordination:
        with pytest.raises(Halt, match=r"restored to an earlier state.*rebuild facts"):
            world.service.facts_follower(world.feed, coordination, world.facts).step()
        with pytest.raises(Halt, match="tessera projections rebuild"):
            world.service.redis_follower(world.feed, coordination).step()
    for name in (*READ_MODELS, "facts"):
        world.service.rebuild(name)
    world.catch_up()
    assert redis_checksums(world) == oracle.checksums(world.stored())


def test_a_lost_document_is_a_gap_that_halts_its_model_only_and_a_rebuild_resumes_it(
    world: World, coordination: PostgresCoordination
) -> None:
    story = Story()
    story.tell("coupon", "c1", claimed("c1", about()))
    world.append(story.log)
    targets = [target_of(world, coordination, READ_MODELS[name]) for name in ("coupon", "wallet")]
    follower = follower_of(world, coordination, targets)
    run_dry(follower)
    connect(world.redis_url).delete(bucket_key("coupon", 1, ACME, "c1"))
    world.append([story.tell("coupon", "c1", locked("c1", about(), "o1"))])
    run_dry(follower)
    halted = follower.status().halted
    assert list(halted) == ["coupon"]
    assert "'acme/shop/coupon/c1' continues with version 2" in halted["coupon"]
    assert _wallet(ModelStore(connect(world.redis_url), READ_MODELS["wallet"]))["c1"]["status"] == "locked"
    report = world.service.rebuild("coupon")
    assert report.changed
    world.append([story.tell("coupon", "c1", redeemed("c1", about(), "o1"))])
    run_dry(follower)
    assert follower.status().halted == {}
    assert redis_checksums(world)["coupon"] == oracle.checksum(READ_MODELS["coupon"], world.stored())


def test_facts_without_their_tables_halt_and_go_on_once_these_are_back(
    world: World, coordination: PostgresCoordination
) -> None:
    world.append(everything())
    stop = Signal()
    follower = world.service.facts_follower(world.feed, coordination, world.facts)
    with clickhouse(world.clickhouse_url) as client:
        client.command("DROP TABLE coupon_facts SYNC")
    with pytest.raises(Halt, match=r"run `tessera migrate`.*coupon_facts"):
        follower.run(stop)
    assert follower.status().state == "halted"
    world.facts.restore()
    follower._on_batch = _stopping(stop, follower, world.feed.head())
    follower.run(stop)
    assert world.fact_rows() == oracle.row_counts(world.stored())


def test_a_feed_that_leaves_an_event_out_is_found_out(world: World, coordination: PostgresCoordination) -> None:
    class Forgetful(StoreFeed):
        def read(self, after: int, limit: int, topics: Sequence[str] = ()) -> Sequence[Recorded]:
            events = super().read(after, limit, topics)
            return [*events[:3], *events[4:]]

    world.append(everything())
    feed = Forgetful(world.postgres_dsn)
    target = target_of(world, coordination, READ_MODELS["budget"])
    with pytest.raises(EventsSkipped, match="was handed 6 events after offset 0 up to 7, but the log has 7 there"):
        follower_of(world, coordination, [target], feed=feed).step()
    feed.close()
    assert target.position.offset == 0


def test_while_one_writes_a_projection_another_waits_and_then_says_so(world: World) -> None:
    impatient = PostgresCoordination(world.postgres_dsn, hold_wait_seconds=0.05)
    with world.coordinated() as first, first.hold("redis"):
        with pytest.raises(Busy, match="redis"), impatient.hold("redis"):
            pass
        with impatient.hold("facts"):
            pass
    with impatient.hold("redis"):
        pass
    impatient.close()


def test_a_store_that_is_away_for_a_while_costs_nothing_but_time(
    world: World, coordination: PostgresCoordination
) -> None:
    class Flaky(ModelStore):
        failures = 4

        def write(self, *args: Any, **kwargs: Any) -> bool:
            if Flaky.failures:
                Flaky.failures -= 1
                raise RedisUnavailable("gone")
            return super().write(*args, **kwargs)

    world.append(everything())
    stop = Signal()
    model = READ_MODELS["wallet"]
    target = target_of(world, coordination, model, Flaky)
    limits = replace(SMALL, backoff_first_seconds=0.001, backoff_max_seconds=0.002)
    follower = follower_of(world, coordination, [target], limits=limits)
    follower._on_batch = _stopping(stop, follower, world.feed.head())
    follower.run(stop)
    assert Flaky.failures == 0
    assert follower.status().state == "stopped"
    assert redis_checksums(world)["wallet"] == oracle.checksum(model, world.stored())


def test_a_store_that_stays_away_too_long_halts(world: World, coordination: PostgresCoordination) -> None:
    store = ModelStore(connect("redis://127.0.0.1:1/0"), READ_MODELS["wallet"])
    target = RedisTarget(store, coordination, shard=0)
    limits = replace(SMALL, backoff_first_seconds=0.001, unavailable_seconds_max=0.0)
    follower = follower_of(world, coordination, [target], limits=limits)
    with pytest.raises(Halt, match="out of reach"):
        follower.run(Signal())
    assert follower.status().state == "halted"


def test_a_redis_that_may_evict_is_refused_by_name(world: World) -> None:
    client = connect(world.redis_url)
    require_no_eviction(client)
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(WrongEvictionPolicy, match="noeviction"):
            require_no_eviction(client)
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def test_a_worker_follows_in_two_threads_and_tells_where_it_is(world: World) -> None:
    with Running(world.service):
        head = world.append(everything())
        _wait_for(lambda: [state.offset for state in world.service.states()] == [head] * (len(READ_MODELS) + 1))
        _wait_for(lambda: _reported(world) == {"redis": head, "facts": head})
        assert {status.state for status in world.service.statuses()} == {"following"}
    assert redis_checksums(world) == oracle.checksums(world.stored())
    assert world.fact_rows() == oracle.row_counts(world.stored())


def _reported(world: World) -> dict[str, int]:
    with psycopg.connect(world.postgres_dsn) as connection:
        return dict(connection.execute("SELECT follower, log_offset FROM follower_positions").fetchall())


def _wait_for(holds: Callable[[], bool]) -> None:
    assert wait_until(holds, timeout_seconds=30)


def _stopping(stop: Any, follower: Follower, head: int) -> Callable[[int, float], None]:
    def on_batch(_events: int, _seconds: float) -> None:
        if follower._offset >= head:
            stop.set()

    return on_batch


def _wallet(store: ModelStore) -> dict[str, Document]:
    version = store.control().active
    assert version is not None
    places = [Place(ACME, "u1", coupon) for coupon in ("c1", "c2")]
    return {place.field: entry.document for place, entry in store.load(version, places).entries.items()}


def _requeue(world: World) -> None:
    with transaction(world.postgres_dsn, name="test") as cursor:
        cursor.execute("SELECT DISTINCT follower FROM parked_events")
        for (follower,) in cursor.fetchall():
            dead_letters.requeue(cursor, follower)
