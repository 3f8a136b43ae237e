"""A rebuild repairs what was damaged, puts a healthy model's twin in its place, and readers notice nothing."""

import asyncio
from collections.abc import Callable
from threading import Event as Signal
from threading import Thread

import pytest
import redis.asyncio

from contracts.identity import Realm
from contracts.read_models import bucket_key
from infra.postgres import dead_letters
from infra.postgres.connections import transaction
from infra.projections.rebuild import RebuildRefused
from infra.projections.service import NAMES, UnknownProjection
from infra.redis.connection import connect
from infra.redis.models import CheckpointLost, ModelStore
from projections.catalog import READ_MODELS
from query.readers.models import RedisReadModels
from query.readers.reports import ClickHouseReports
from tests.engines import clickhouse
from tests.integration.projections import oracle
from tests.integration.projections.conftest import Running, World
from tests.unit.projections.stories import ACME, NOON, claims, everything

MODELS = list(READ_MODELS)


def damage_flush(world: World) -> None:
    connect(world.redis_url).flushdb()


def damage_redis_value(world: World) -> None:
    client = connect(world.redis_url)
    key = bucket_key("coupon", 1, ACME, "c2")
    value = client.hget(key, "doc")
    assert isinstance(value, bytes)
    client.hset(key, "doc", value.replace(b'"claimed"', b'"revoked"'))


def damage_no_position(world: World) -> None:
    connect(world.redis_url).hdel(bucket_key("wallet", 1, ACME, "u1"), "_pos")


@pytest.mark.parametrize(
    "damage", [damage_flush, damage_redis_value, damage_no_position], ids=lambda each: each.__name__
)
def test_a_damaged_read_model_comes_back_as_the_log_says(world: World, damage: Callable[[World], None]) -> None:
    world.append(everything())
    follow_models(world)
    healthy = world.service.checksums(MODELS)
    assert healthy == oracle.checksums(world.stored())
    damage(world)
    assert world.service.checksums(MODELS) != healthy or damage is damage_no_position
    for name in MODELS:
        report = world.service.rebuild(name)
        assert report.after == healthy[name]
        assert report.offset == world.feed.head()
    assert world.service.checksums(MODELS) == healthy


def test_dropped_and_falsified_facts_come_back_as_the_log_says(world: World) -> None:
    world.append(everything())
    world.append(everything(Realm("acme", "other")))
    world.catch_up()
    healthy = world.service.checksums(["facts"])
    funnel = all_rows(world, "coupon_funnel")
    with clickhouse(world.clickhouse_url) as client:
        client.command("DROP TABLE settlement_facts SYNC")
        client.command("DROP VIEW spend")
        client.command("TRUNCATE TABLE order_facts")
        client.command(
            "ALTER TABLE coupon_facts UPDATE discount_minor = discount_minor + 1 WHERE kind = 'redeemed'"
            " SETTINGS mutations_sync = 1"
        )
        assert all_rows(world, "coupon_funnel") != funnel
    report = world.service.rebuild("facts")
    assert report.changed
    assert report.after == healthy["facts"]
    assert world.service.checksums(["facts"]) == healthy
    assert world.fact_rows() == oracle.row_counts(world.stored())
    assert all_rows(world, "coupon_funnel") == funnel
    assert len(all_rows(world, "spend")) > 0


def test_a_healthy_projection_is_replaced_by_its_equal_and_the_old_one_is_kept_until_it_is_dropped(
    world: World,
) -> None:
    world.append(everything())
    world.catch_up()
    healthy = world.service.checksums()
    for name in NAMES:
        seen: list[tuple[int, int]] = []

        def progress(offset: int, head: int, seen: list[tuple[int, int]] = seen) -> None:
            seen.append((offset, head))

        report = world.service.rebuild(name, progress)
        assert (report.from_version, report.to_version, report.changed) == (1, 2, False), name
        assert report.events == world.feed.head()
        assert seen[-1] == (report.offset, report.offset)
    assert world.service.checksums() == healthy
    assert {state.name: state.active for state in world.service.states()} == dict.fromkeys(NAMES, 2)
    wallet = ModelStore(connect(world.redis_url), READ_MODELS["wallet"])
    assert f"{wallet.checksum(1).documents}:{wallet.checksum(1).digest}" == healthy["wallet"]
    assert {name: world.service.drop(name) for name in NAMES} == dict.fromkeys(NAMES, 1)
    assert wallet.checksum(1).documents == 0
    assert world.service.checksums() == healthy
    assert {name: world.service.drop(name) for name in NAMES} == dict.fromkeys(NAMES, 0)


def test_a_rebuild_that_was_killed_is_begun_again_and_leaves_nothing_behind(world: World) -> None:
    world.append(claims(ACME, 20))
    world.catch_up()
    healthy = world.service.checksums()

    def killed(offset: int, head: int) -> None:
        raise KeyboardInterrupt

    for name in NAMES:
        with pytest.raises(KeyboardInterrupt):
            world.service.rebuild(name, killed)
        assert world.service.checksums([name])[name] == healthy[name]
        report = world.service.rebuild(name)
        assert (report.to_version, report.after) == (2, healthy[name])
    store = ModelStore(connect(world.redis_url), READ_MODELS["coupon"])
    assert sorted(store.control().checkpoints) == [1, 2]


def test_a_follower_goes_on_with_the_new_version(world: World) -> None:
    log = everything()
    world.append(log[:40])
    world.catch_up()
    for name in NAMES:
        world.service.rebuild(name)
    world.append(log[40:])
    world.catch_up()
    assert world.service.checksums(MODELS) == oracle.checksums(world.stored())
    assert world.fact_rows() == oracle.row_counts(world.stored())


def test_a_new_version_that_knows_less_is_not_switched_to(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.append(everything())
    follow_models(world)
    healthy = world.service.checksums(MODELS)

    def refuse_budget(*_: object) -> object:
        raise ArithmeticError("too much")

    with monkeypatch.context() as patched:
        patched.setattr("infra.projections.redis_target.apply_once", refuse_budget)
        with pytest.raises(RebuildRefused, match="budget:v2 has parked"):
            world.service.rebuild("budget")
    assert world.service.checksums(MODELS) == healthy
    assert world.service.rebuild("budget").parked == 0
    with transaction(world.postgres_dsn, name="test") as cursor:
        assert dead_letters.count(cursor) == {}


def test_a_new_version_that_is_flushed_while_it_grows_is_not_switched_to(world: World) -> None:
    world.append(claims(ACME, 20))
    follow_models(world)

    def flush(offset: int, head: int) -> None:
        connect(world.redis_url).flushdb()

    with pytest.raises(CheckpointLost):
        world.service.rebuild("wallet", flush)
    follow_models(world)
    assert world.service.checksums(MODELS) == oracle.checksums(world.stored())


def test_the_active_version_cannot_be_dropped(world: World) -> None:
    world.append(everything())
    follow_models(world)
    with pytest.raises(ValueError, match="what readers use"):
        ModelStore(connect(world.redis_url), READ_MODELS["wallet"]).drop(1)


def test_a_projection_that_does_not_exist_is_named_with_those_that_do(world: World) -> None:
    with pytest.raises(UnknownProjection, match=r"no projection 'wallets'.*wallet, coupon"):
        world.service.rebuild("wallets")


async def test_readers_see_neither_error_nor_emptiness_nor_an_older_answer_while_everything_is_rebuilt(
    world: World,
) -> None:
    world.append(claims(ACME, 60))
    world.catch_up()
    client = redis.asyncio.Redis.from_url(world.redis_url)
    models = RedisReadModels(client, wall_clock=lambda: NOON)
    reports = ClickHouseReports(world.clickhouse_url)
    with Running(world.service):
        stop = Signal()
        writer = Thread(target=keep_writing, args=(world, stop), name="writer")
        rebuilds = Thread(target=rebuild_everything, args=(world, stop), name="rebuilds")
        writer.start()
        rebuilds.start()
        reads = await asyncio.gather(read_models(models, stop), read_reports(reports, stop))
        for thread in (writer, rebuilds):
            thread.join(timeout=60)
            assert not thread.is_alive()
    assert min(reads) > 5, "the readers hardly read"
    await client.aclose()
    reports.close()
    world.catch_up()
    assert {state.active for state in world.service.states()} == {2}
    assert world.service.checksums(MODELS) == oracle.checksums(world.stored())
    assert world.fact_rows() == oracle.row_counts(world.stored())


async def read_models(models: RedisReadModels, stop: Signal) -> int:
    """Read until told to stop; nothing may fail, vanish or go back. Returns how many rounds."""
    claimed, coupons, offset, rounds = 0, 0, 0, 0
    while not stop.is_set():
        position = await models.position()
        template = await models.template(ACME, "t1")
        page = await models.user_coupons(ACME, "u1", cursor=None, limit=100)
        listed = await models.templates(ACME, cursor=None, limit=100)
        assert template is not None
        assert len(listed.items) == 1
        assert (position.offset, template["claimed"], len(page.items)) >= (offset, claimed, coupons)
        assert template["claimed"] >= claimed
        assert len(page.items) >= coupons
        offset, claimed, coupons = position.offset, template["claimed"], len(page.items)
        rounds += 1
    return rounds


async def read_reports(reports: ClickHouseReports, stop: Signal) -> int:
    claimed, offset, rounds = 60, 0, 0
    while not stop.is_set():
        position = await reports.position()
        (row,) = (await reports.funnel(ACME, {}, cursor=None, limit=10)).items
        assert position.offset >= offset
        assert row["claimed"] >= claimed
        offset, claimed = position.offset, row["claimed"]
        rounds += 1
    return rounds


def keep_writing(world: World, stop: Signal) -> None:
    """One claim after the other."""
    log = claims(ACME, 3_000)
    for start in range(2 + 2 * 60, len(log), 2):
        if stop.is_set():
            return
        world.append(log[start : start + 2])


def rebuild_everything(world: World, stop: Signal) -> None:
    try:
        for name in NAMES:
            world.service.rebuild(name)
    finally:
        stop.set()


def follow_models(world: World) -> None:
    with world.coordinated() as coordination:
        follower = world.service.redis_follower(world.feed, coordination)
        while follower.step():
            pass


def all_rows(world: World, view: str) -> list[tuple[object, ...]]:
    with clickhouse(world.clickhouse_url) as client:
        return sorted((tuple(row) for row in client.query(f"SELECT * FROM {view}").result_rows), key=repr)
