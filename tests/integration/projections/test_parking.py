"""Poison at scale: nobody waits for it, everything is accounted for, and what is asked twice happens once."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event as Signal
from threading import Thread

import pytest

from contracts.envelope import Recorded
from infra.postgres import dead_letters
from infra.postgres.connections import transaction
from infra.postgres.dead_letters import ParkedCount, ParkedEvent
from infra.processes import wait_until
from infra.projections.coordination import PostgresCoordination
from infra.projections.redis_target import RedisTarget
from infra.projections.runner import Follower, FollowerLimits
from infra.redis.connection import connect
from infra.redis.models import ModelStore
from projections.catalog import READ_MODELS
from projections.model import Document, ReadModel
from tests.integration.projections import oracle
from tests.integration.projections.conftest import World
from tests.unit.projections.stories import Story, about, claimed, locked, redeemed

EVENTS = 100_000 if os.environ.get("TESSERA_TEST_EFFORT") == "long" else 10_000
COUPONS_PER_POISON = 50  # Of two events each: one event in a hundred is poison.
APPENDED = 2_000
WALLET = READ_MODELS["wallet"]
LABEL = "wallet:v1"


class Poisoned:
    """The wallet, which cannot digest what it hears of some coupons until it is mended."""

    def __init__(self) -> None:
        self.is_broken = True
        self.model: ReadModel = replace(WALLET, fold=self._fold)

    def _fold(self, document: Document | None, recorded: Recorded) -> Document:
        if self.is_broken and "poison" in recorded.stream and recorded.version == 1:
            raise ArithmeticError("this one is too much")
        return WALLET.fold(document, recorded)


@pytest.fixture
def poisoned() -> Poisoned:
    return Poisoned()


@pytest.fixture
def coordination(world: World) -> Iterator[PostgresCoordination]:
    with world.coordinated() as coordination:
        yield coordination


def follower_of(world: World, coordination: PostgresCoordination, model: ReadModel) -> Follower:
    target = RedisTarget(ModelStore(connect(world.redis_url), model), coordination, shard=0)
    return Follower("redis", world.feed, [target], coordination, FollowerLimits(tend_seconds=0.0))


def run_dry(follower: Follower) -> None:
    while follower.step():
        pass


def coupons(events: int) -> Story:
    """Coupons that are claimed and locked; every so many one is poison."""
    story = Story()
    for nth in range(events // 2):
        coupon = f"poison{nth}" if nth % COUPONS_PER_POISON == 0 else f"c{nth}"
        story.tell("coupon", coupon, claimed(coupon, about(), nth + 1))
        story.tell("coupon", coupon, locked(coupon, about(), f"o{nth}"))
    return story


def parked_now(world: World) -> list[ParkedCount]:
    with transaction(world.postgres_dsn, name="test") as cursor:
        return dead_letters.counts(cursor)


def requeue(world: World) -> None:
    with transaction(world.postgres_dsn, name="test") as cursor:
        dead_letters.requeue(cursor, LABEL)


def drop(world: World, stream: str) -> list[ParkedEvent]:
    with transaction(world.postgres_dsn, name="test") as cursor:
        return dead_letters.drop(cursor, LABEL, stream, actor="operator:me", reason="test data")


def checksum(world: World) -> str:
    return world.service.checksums(["wallet"])["wallet"]


def fails_at(version: int) -> ReadModel:
    """A wallet that never digests this version of any stream."""

    def fold(document: Document | None, recorded: Recorded) -> Document:
        if recorded.version == version:
            raise ArithmeticError("never")
        return WALLET.fold(document, recorded)

    return replace(WALLET, fold=fold)


@pytest.mark.timeout(600 if EVENTS > 10_000 else 180)
def test_one_event_in_a_hundred_is_poison_and_nobody_waits_for_it(
    world: World, coordination: PostgresCoordination, poisoned: Poisoned
) -> None:
    log = coupons(EVENTS).log
    for start in range(0, len(log), APPENDED):
        world.append(log[start : start + APPENDED])
    follower = follower_of(world, coordination, poisoned.model)
    run_dry(follower)
    assert follower.status().lag == 0
    (parked,) = parked_now(world)
    poison = EVENTS // 100
    assert (parked.follower, parked.events, parked.failed) == (LABEL, 2 * poison, poison)
    healthy = [each for each in world.stored() if "poison" not in each.stream]
    assert len(healthy) + parked.events == EVENTS
    assert checksum(world) == oracle.checksum(WALLET, healthy)

    poisoned.is_broken = False
    with following(follower):
        ask_all_at_once(lambda: requeue(world))
        requeue(world)
        assert wait_until(lambda: not parked_now(world), timeout_seconds=120)
        requeue(world)
    assert checksum(world) == oracle.checksum(WALLET, world.stored())
    assert parked_now(world) == []


@contextmanager
def following(follower: Follower) -> Iterator[None]:
    stop = Signal()
    thread = Thread(target=follower.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def ask_all_at_once(ask: Callable[[], None]) -> None:
    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


def test_what_is_dropped_leaves_no_gap_and_who_did_it_is_kept(world: World, coordination: PostgresCoordination) -> None:
    story = Story()
    story.tell("coupon", "c1", claimed("c1", about()))
    story.tell("coupon", "c1", locked("c1", about(), "o1"))
    story.tell("coupon", "c1", redeemed("c1", about(), "o1"))
    world.append(story.log)
    follower = follower_of(world, coordination, fails_at(2))
    run_dry(follower)
    (parked,) = parked_now(world)
    assert (parked.events, parked.failed) == (2, 1)
    stream = story.log[0].stream
    (given_up,) = drop(world, stream)
    assert drop(world, stream) == [given_up]  # Asked twice.
    assert (given_up.version, given_up.event_type) == (2, "coupon.locked.v1")
    run_dry(follower)
    assert parked_now(world) == []
    assert follower.status().halted == {}
    world.append([story.tell("coupon", "c1", redeemed("c1", about(), "o1"))])
    run_dry(follower_of(world, coordination, fails_at(2)))  # A process that comes later knows of it, too.
    assert parked_now(world) == []
    with transaction(world.postgres_dsn, name="test") as cursor:
        cursor.execute("SELECT stream, version, failure, dropped_by, reason FROM dropped_events")
        assert cursor.fetchall() == [(stream, 2, "ArithmeticError: never", "operator:me", "test data")]


def test_what_was_dropped_is_tried_again_by_a_rebuild(world: World, coordination: PostgresCoordination) -> None:
    story = Story()
    story.tell("coupon", "c1", claimed("c1", about()))
    story.tell("coupon", "c1", locked("c1", about(), "o1"))
    world.append(story.log)
    follower = follower_of(world, coordination, fails_at(2))
    run_dry(follower)
    drop(world, story.log[0].stream)
    run_dry(follower)
    assert checksum(world) == oracle.checksum(WALLET, world.stored()[:1])
    world.service.rebuild("wallet")  # By a binary that can digest it.
    assert checksum(world) == oracle.checksum(WALLET, world.stored())


def test_a_parked_event_says_what_it_is_where_it_failed_and_since_when(
    world: World, coordination: PostgresCoordination
) -> None:
    story = Story()
    story.tell("coupon", "c1", claimed("c1", about()))
    world.append(story.log)
    follower = follower_of(world, coordination, fails_at(1))
    run_dry(follower)
    with transaction(world.postgres_dsn, name="test") as cursor:
        (first,) = dead_letters.find(cursor, limit=10)
    requeue(world)
    run_dry(follower)
    with transaction(world.postgres_dsn, name="test") as cursor:
        (again,) = dead_letters.find(cursor, limit=10)
    assert (again.event_type, again.reason) == ("coupon.claimed.v1", "ArithmeticError: never")
    assert "in fold" in again.detail
    assert first.first_failed_at is not None
    assert again.last_failed_at is not None
    assert again.first_failed_at == first.first_failed_at < again.last_failed_at
    assert again.attempts == 2 * first.attempts
