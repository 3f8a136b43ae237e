"""Followers that share lanes lose and double nothing: through losses, repeats, handovers, zombies and rebuilds."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from random import Random
from threading import Event as Signal
from typing import Any

import pytest

from command.ports import StoreUnavailable
from contracts.events import CouponRevoked
from contracts.identity import Realm
from contracts.registry import UnknownEventType
from infra.kafka.lanes import AheadOfLog
from infra.kafka.messages import Message
from infra.postgres import dead_letters
from infra.postgres.connections import transaction
from infra.postgres.epoch import bump_epoch
from infra.projections.ports import Busy, Halt
from infra.projections.runner import Follower
from infra.redis.connection import RedisUnavailable, connect
from infra.redis.models import ModelStore, Seen
from projections.catalog import READ_MODELS
from projections.model import Entry, Place
from tests.integration.projections import oracle
from tests.integration.projections.carrier import LANES, Member, Topics
from tests.integration.projections.conftest import World
from tests.unit.projections.stories import ACME, Story, about, claimed, claims, everything, locked, redeemed

MODELS = list(READ_MODELS)
STEPS_MAX = 2_000
COUPONS = [lane for lane in LANES if lane.topic == "coupon-event-topic"]


@pytest.fixture
def topics(world: World) -> Topics:
    return Topics(world.feed.epoch())


@pytest.fixture
def follower(world: World) -> Iterator[Callable[[Member], Follower]]:
    """Makes followers of the read models, each with connections of its own."""
    with ExitStack() as stack:
        yield lambda member: world.service.redis_follower(world.feed, stack.enter_context(world.coordinated()), member)


def run_dry(follower: Follower) -> None:
    for _ in range(STEPS_MAX):
        if not follower.step():
            return
    raise AssertionError("it never came to an end")


def follow_everything(world: World, topics: Topics, random: Random) -> None:
    """Three members of both groups take steps in whatever order."""
    lanes = random.sample(LANES, len(LANES))
    with ExitStack() as stack:
        followers = []
        for nth in range(3):
            coordination = stack.enter_context(world.coordinated())
            models, facts = (Member(topics, lanes[nth::3], group) for group in ("redis", "facts"))
            followers += [
                world.service.redis_follower(world.feed, coordination, models),
                world.service.facts_follower(world.feed, coordination, world.facts, facts),
            ]
        for _ in range(STEPS_MAX):
            random.shuffle(followers)
            if sum(follower.step() for follower in followers) == 0:
                return
    raise AssertionError("they never came to an end")


def assert_whole(world: World, models: Collection[str] = MODELS) -> None:
    """Every model is that of the log, and says so."""
    log = world.stored()
    expected = oracle.checksums(log)
    states = {state.name: state for state in world.service.states()}
    assert {name: states[name].offset for name in models} == dict.fromkeys(models, log[-1].offset)
    assert world.service.checksums(list(models)) == {name: expected[name] for name in models}


@pytest.mark.parametrize("phase", range(2))
def test_whatever_is_lost_or_repeated_is_read_from_the_log_and_counts_once(
    world: World, topics: Topics, phase: int
) -> None:
    world.append(everything())
    head = world.append(everything(Realm("acme", "other")))
    world.catch_up_empty()
    log = world.stored()
    for nth, start in enumerate(range(0, len(log), 20)):
        batch = log[start : start + 20]
        before = dict(topics.chain.last)
        lost = {each.offset for each in batch if each.offset % 2 == phase}
        topics.publish(batch, lost=lost, twice={each.offset for each in batch if each.offset % 3 == phase})
        if nth % 3 == 0:  # The relay died after its batch, and repeats it.
            topics.chain.last = before
            topics.publish(batch, lost=lost)
    topics.watermark(head)
    random = Random(phase)
    follow_everything(world, topics, random)
    assert_whole(world)
    assert world.fact_rows() == oracle.row_counts(log)
    assert {state.offset for state in world.service.states()} == {head}
    topics.committed.clear()  # All of it is handed over once more.
    follow_everything(world, topics, random)
    assert_whole(world)


def test_two_processes_that_write_one_bucket_at_interleaved_offsets_both_get_in(
    world: World, topics: Topics, follower: Callable[[Member], Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(world)
    head = world.append(everything())  # An order's document is fed by lanes of several topics.
    topics.publish(world.stored())
    topics.watermark(head)
    told = [lane for lane in LANES if lane.topic == "recorded-event-topic"]
    first, second = (
        follower(Member(topics, told)),
        follower(Member(topics, [lane for lane in LANES if lane not in told])),
    )
    whole_write = ModelStore.write
    refused: list[bool] = []

    def write(self: ModelStore, version: int, offset: int, entries: Mapping[Place, Entry], seen: Seen) -> bool:
        if self.model.name == "order" and not refused:
            refused.append(False)
            second.step()  # The other one loads and writes between our loading and our writing.
            refused[0] = not whole_write(self, version, offset, entries, seen)
            return not refused[0]
        return whole_write(self, version, offset, entries, seen)

    monkeypatch.setattr(ModelStore, "write", write)
    run_dry(first)
    run_dry(second)
    assert refused == [True]
    assert_whole(world)


def test_a_process_that_was_stopped_while_others_took_its_lanes_wakes_up_to_no_harm(
    world: World, topics: Topics, follower: Callable[[Member], Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(world)
    log = everything()
    world.append(log[:50])
    topics.publish(world.stored())
    topics.watermark(world.feed.head())
    heir = follower(Member(topics))
    moments = iter(range(1_000))
    whole_write, whole_move = ModelStore.write, ModelStore.move_lanes

    def stopped(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(moments) % 3 == 0:
                with monkeypatch.context() as inner:
                    inner.setattr(ModelStore, "write", whole_write)
                    inner.setattr(ModelStore, "move_lanes", whole_move)
                    run_dry(heir)
            return method(*args, **kwargs)

        return call

    monkeypatch.setattr(ModelStore, "write", stopped(whole_write))
    monkeypatch.setattr(ModelStore, "move_lanes", stopped(whole_move))
    zombie = follower(Member(topics))
    step_until_done(zombie)
    world.append(log[50:])
    new = [each for each in world.stored() if each.offset > log[49].offset]
    topics.publish(new)
    topics.watermark(world.feed.head())
    step_until_done(zombie)
    step_until_done(heir)
    monkeypatch.undo()
    assert_whole(world)


def step_until_done(follower: Follower) -> None:
    """As :meth:`Follower.run` does: what somebody else moved meanwhile is tried again."""
    for _ in range(STEPS_MAX):
        try:
            if not follower.step():
                return
        except Busy:
            continue
    raise AssertionError("it never came to an end")


def test_kafka_hears_that_records_are_done_only_once_their_effect_is_stored(
    world: World, topics: Topics, follower: Callable[[Member], Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(world)
    world.append(everything())
    topics.publish(world.stored())
    topics.watermark(world.feed.head())
    before = dict(topics.committed)
    following = follower(Member(topics))

    def gone(*_: object, **__: object) -> bool:
        raise RedisUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(ModelStore, "move_lanes", gone)
        with pytest.raises(RedisUnavailable):
            following.step()
        assert topics.committed == before
    run_dry(following)
    assert topics.committed != before
    assert_whole(world)


def test_a_lane_says_how_far_it_is_and_the_model_is_where_its_last_lane_is(
    world: World, topics: Topics, follower: Callable[[Member], Follower]
) -> None:
    empty(world)
    head = world.append(claims(ACME, 20))
    topics.publish(world.stored())
    topics.watermark(head)
    first, second = (follower(Member(topics, [lane])) for lane in COUPONS)
    run_dry(first)
    coupon = ModelStore(connect(world.redis_url), READ_MODELS["coupon"])
    assert {name: at.offset for name, at in coupon.control().lanes[1].items()} == {
        COUPONS[0].key: head,
        COUPONS[1].key: 0,
    }
    assert coupon.control().checkpoints[1].offset == 0
    run_dry(second)
    assert coupon.control().checkpoints[1].offset == head


def test_after_a_flush_the_store_is_read_and_then_the_lanes_go_on(
    world: World, topics: Topics, follower: Callable[[Member], Follower]
) -> None:
    log = everything()
    world.append(log[:40])
    topics.publish(world.stored())
    members = [Member(topics, LANES[nth::2]) for nth in range(2)]
    followers = [follower(member) for member in members]
    for each in followers:
        run_dry(each)
    connect(world.redis_url).flushdb()
    world.append(log[40:])
    topics.publish(world.stored()[40:])
    topics.watermark(world.feed.head())
    for each in followers * 2:
        step_until_done(each)
    assert_whole(world)


def test_a_rebuild_beside_followers_of_lanes_misses_nothing_and_they_go_on_with_the_new_version(
    world: World, topics: Topics, follower: Callable[[Member], Follower]
) -> None:
    empty(world)
    log = everything()
    world.append(log[:40])
    topics.publish(world.stored())
    members = [Member(topics, LANES[nth::2]) for nth in range(2)]
    first, second = map(follower, members)
    step_until_done(first)  # The other's lanes are still behind.
    world.append(log[40:60])
    for name in MODELS:
        world.service.rebuild(name)
    topics.publish(world.stored()[40:])
    step_until_done(second)
    step_until_done(first)
    world.append(log[60:])
    topics.publish(world.stored()[60:])
    topics.watermark(world.feed.head())
    step_until_done(second)
    step_until_done(first)
    assert_whole(world)
    assert {state.active for state in world.service.states() if state.name in MODELS} == {2}


def test_feeds_can_be_changed_back_and_forth_while_lanes_are_apart(
    world: World, topics: Topics, follower: Callable[[Member], Follower]
) -> None:
    empty(world)
    log = everything()
    world.append(log[:40])
    topics.publish(world.stored())
    lanes = [Member(topics, LANES[nth::2]) for nth in range(2)]
    ahead, behind = map(follower, lanes)
    step_until_done(ahead)
    world.append(log[40:60])
    world.catch_up()  # Both followers, over the store.
    assert_whole(world)
    topics.publish(world.stored()[40:])
    step_until_done(behind)
    step_until_done(ahead)
    assert_whole(world)
    world.append(log[60:])
    topics.publish(world.stored()[60:])
    topics.watermark(world.feed.head())
    step_until_done(ahead)
    world.catch_up()
    assert_whole(world)
    assert world.fact_rows() == oracle.row_counts(world.stored())


def test_after_a_restore_followers_halt_until_rebuilt_and_then_pass_over_what_was_given_up(
    world: World, topics: Topics, follower: Callable[[Member], Follower]
) -> None:
    empty(world)
    log = everything()
    world.append(log[:40])
    topics.publish(world.stored())
    topics.watermark(40)
    following = follower(Member(topics))
    following.step()
    bump_epoch(world.postgres_dsn, 0)
    topics.watermark(50)  # Of the history that was given up.
    with pytest.raises(Halt, match=r"tessera projections rebuild"):
        step_until_done(following)
    for name in MODELS:
        world.service.rebuild(name)
    with pytest.raises(StoreUnavailable, match="restored"):
        world.append(log[40:])  # Writers notice, too.
    world.append(log[40:])
    topics.chain.epoch = world.feed.epoch()
    topics.publish(world.stored()[40:])
    topics.watermark(world.feed.head())
    step_until_done(following)
    assert following.status().halted == {}
    assert_whole(world)


def test_an_unknown_event_type_halts_right_before_it_with_all_that_came_before_in_effect(
    world: World, topics: Topics, follower: Callable[[Member], Follower]
) -> None:
    empty(world)
    story = Story()
    for nth in (1, 2):
        story.tell("coupon", f"c{nth}", claimed(f"c{nth}", about(), nth))
        story.tell("coupon", f"c{nth}", CouponRevoked(coupon_id=f"c{nth}", about=about(), reason="fraud"))
    head = world.append(story.log)
    for recorded in world.stored():
        lane, message = topics.chain.link(recorded)
        topics.put(lane, as_of_a_newer_version(message) if recorded.offset == head else message)
    following = follower(Member(topics))
    with pytest.raises(UnknownEventType, match=r"coupon\.forged\.v9"):
        following.run(Signal())
    assert following.status().state == "halted"
    assert "upgrade" in (following.status().last_error or "")
    coupon = ModelStore(connect(world.redis_url), READ_MODELS["coupon"])
    shown = coupon.load(1, [Place(ACME, f"c{nth}", "doc") for nth in (1, 2)]).entries
    assert [entry.document["status"] for entry in shown.values()] == ["revoked", "claimed"]


def as_of_a_newer_version(message: Message) -> Message:
    headers = [(name, b"coupon.forged.v9" if name == "type" else value) for name, value in message.headers]
    return message._replace(headers=headers)


def test_poison_parks_before_its_lane_moves_on_and_whoever_has_the_lane_next_knows(
    world: World, topics: Topics, follower: Callable[[Member], Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(world)
    story = Story()
    for step in (claimed("c1", about()), locked("c1", about(), "o1"), redeemed("c1", about(), "o1")):
        story.tell("coupon", "c1", step)
    first, second = Member(topics), Member(topics, [])
    before, after = follower(first), follower(second)
    publish_next(world, topics, story, 0)
    step_until_done(before)
    step_until_done(after)
    with monkeypatch.context() as patched:
        patched.setattr("infra.projections.redis_target.apply_once", refuse)
        publish_next(world, topics, story, 1)
        step_until_done(before)
    assert before.status().parked == 2  # The wallet's and the coupon's.
    step_until_done(after)  # It sees lanes move that are not its own.
    first.assign([])
    second.assign(LANES)
    publish_next(world, topics, story, 2)
    step_until_done(after)
    assert after.status().halted == {}
    assert after.status().parked == 4, "what comes behind is parked behind, by somebody who did not park the first"
    with transaction(world.postgres_dsn, name="test") as cursor:
        for name in ("wallet:v1", "coupon:v1"):
            dead_letters.requeue(cursor, name)
    step_until_done(before)
    assert parked_count(world) == 4, "only who has the lane replays its streams"
    step_until_done(after)
    assert parked_count(world) == 0
    assert_whole(world)


def refuse(*_: object) -> object:
    raise ArithmeticError("too much")


def publish_next(world: World, topics: Topics, story: Story, nth: int) -> None:
    head = world.append(story.log[nth : nth + 1])
    topics.publish(world.stored()[nth:])
    topics.watermark(head)


def parked_count(world: World) -> int:
    with transaction(world.postgres_dsn, name="test") as cursor:
        return sum(dead_letters.count(cursor).values())


def test_topics_of_another_store_halt_a_follower_instead_of_filling_its_models(
    world: World, topics: Topics, follower: Callable[[Member], Follower]
) -> None:
    empty(world)
    world.append(claims(ACME, 2))
    topics.chain.last = dict.fromkeys(LANES, 500)
    topics.watermark(501)
    with pytest.raises(AheadOfLog, match="events up to offset 500, but the log has none after 6"):
        follower(Member(topics)).step()


def test_while_a_projection_is_held_lanes_wait_and_lanes_do_not_wait_for_each_other(world: World) -> None:
    with world.coordinated() as first, world.impatient() as second:
        with first.share("redis"), second.share("redis"):
            pass
        with first.hold("redis"), pytest.raises(Busy, match="redis"), second.share("redis"):
            pass
        with first.share("redis"), pytest.raises(Busy, match="redis"), second.hold("redis"):
            pass
        with second.hold("redis"):
            pass


def empty(world: World) -> None:
    """The models begin at the start of the log, and what comes to them comes over the lanes."""
    world.catch_up_empty()
    assert {state.offset for state in world.service.states() if state.name in MODELS} == {0}
