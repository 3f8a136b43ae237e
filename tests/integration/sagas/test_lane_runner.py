"""The ear on lanes: the same days end the same as over the log, whatever Kafka does and whoever has which lane."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from command.ports import StoreUnavailable
from contracts.envelope import Recorded
from contracts.events import ClockAdvanced, Event
from contracts.identity import stream_id
from contracts.position import Position
from contracts.registry import UnknownEventType
from contracts.topics import topic_of
from infra.kafka.lanes import Lane, lane_of
from infra.kafka.messages import Message
from infra.postgres.epoch import begin_after_restore, bump_epoch
from infra.postgres.log import PostgresEventLog
from infra.postgres.positions import EpochChanged, PositionMoved
from infra.sagas.checkpoints import At, Checkpoint
from infra.sagas.dispatcher import Dispatcher
from infra.sagas.lane_runner import TOPICS, FactsSkipped, LaneRunner, name_of
from infra.sagas.postgres_store import PostgresSagaStore
from infra.sagas.runner import SagaRunner
from infra.sagas.timer_service import TimerService
from sagas import checkout, lending, timers
from sagas.timers import TimerChange, changes_of
from tests.engines import Corners
from tests.integration.projections.carrier import LANES, PARTITIONS, Member, Topics
from tests.integration.sagas.world import Death, Store, World

MINE = [lane for lane in LANES if lane.topic in {topic.name for topic in TOPICS}]
EVERY_OTHER = (MINE[::2], MINE[1::2])


class SagaMember(Member):
    """A member of the sagas' group, hearing their topics only."""

    def __init__(self, topics: Topics, lanes: Collection[Lane] = MINE) -> None:
        super().__init__(topics, lanes, group="sagas")

    def close(self) -> None:
        """Nothing to give back."""


class Shared:
    """Several ears that share the lanes, one voice and one clock, stepped by hand."""

    def __init__(self, world: "LaneWorld") -> None:
        self.world = world
        engine = world.wrap(world.store.engine)
        self.ears = [world.ear(lanes) for lanes in world.shares]
        self.dispatcher = Dispatcher(world.store.sagas(), engine, world.settings, checkpoint=world.checkpoint)
        self.timers = TimerService(world.store.sagas(), engine, world.settings, checkpoint=world.checkpoint)

    @property
    def runner(self) -> "Shared":
        return self

    def run_once(self) -> int:
        self.world.relay()
        heard = sum(ear.run_once() for ear in self.ears)
        return heard + self.dispatcher.run_once() + self.timers.run_once()

    def close(self) -> None:
        for ear in self.ears:
            ear.close()
        self.dispatcher.close()
        self.timers.close()


@dataclass
class LaneWorld(World):
    """A world whose sagas hear lanes. ``shares``: the lanes of each process; every ``loses``-th event never arrives."""

    shares: Sequence[Collection[Lane]] = (MINE,)
    loses: int = 0
    topics: Topics = field(init=False)
    strangers: list[tuple[str, int]] = field(default_factory=list)  # Topic and partition of each.
    _relayed: int = 0

    def __post_init__(self) -> None:
        self.topics = Topics(self.store.log.epoch)
        super().__post_init__()

    def _new_parts(self) -> Any:
        return Shared(self)

    def ear(self, lanes: Collection[Lane] = MINE, checkpoint: Checkpoint | None = None) -> LaneRunner:
        return LaneRunner(
            SagaMember(self.topics, lanes),
            0,
            self.store.sagas(),
            self.store.feed,
            self.settings,
            checkpoint=checkpoint or self.checkpoint,
            on_stranger=lambda topic, partition: self.strangers.append((topic, partition)),
        )

    def relay(self) -> None:
        """Publish what is new; what is lost shows by the chain, and at the end by a watermark."""
        news = self.store.feed.read(self._relayed, 10_000)
        if news:
            lost = [event.offset for event in news if self.loses and event.offset % self.loses == 0]
            self.topics.publish(news, lost=lost, twice=[event.offset for event in news[::3]])
            self._relayed = news[-1].offset
            self.topics.watermark(self._relayed)

    def heard(self) -> int:
        """Where the ear says that it is."""
        return int(self.rows("SELECT log_offset FROM follower_positions WHERE follower = 'sagas'")[0]["log_offset"])


@pytest.fixture
def store(corners: Corners) -> Iterator[Store]:
    """A store of one's own: these tests look at positions and break things."""
    with corners.postgres() as dsn:
        store = Store(dsn)
        yield store
        store.close()


def hear_all(ear: LaneRunner, world: LaneWorld) -> None:
    world.relay()
    while ear.run_once():
        world.relay()


def checkout_day(world: World) -> dict[str, Any]:
    """Orders that end in every way; what became of each."""
    world.budget(1_000_000).template(budget_ids=("pot",), claims_per_user_max=None)
    orders = ["paid", "early", "failed", "cancelled", "reopened", "lapsed", "refunded", "late", "twice"]
    for order in orders:
        world.claim(order)
    world.pay("p-early", "early").place("early", "early")
    for order in orders:
        if order != "early":
            world.place(order, order)
    world.settle().pay("p-paid", "paid").fail("p-failed", "failed").cancel("cancelled").cancel("reopened").settle()
    world.reopen("reopened").settle().pay("p-reopened", "reopened")
    world.pay("p-refunded", "refunded").refund("r1", "refunded", 4_167, "kettle").refund("r2", "refunded", 833, "tea")
    world.pay("p-1", "twice").pay("p-2", "twice").settle()
    world.later(hours=1).settle().pay("p-late", "late").settle().later(days=30).settle()
    return {
        "orders": {
            order: (world.step(order), world.checkout(order), world.coupon(order), world.settled_minor(order))
            for order in orders
        },
        "pot": world.pot(),
        "owed": world.owed(),
        "twice": world.double_effects(),
        "timers": world.rows("SELECT kind, key FROM timers"),
        "heard": world.rows(
            "SELECT data ->> 'key' AS key, count(*) FROM events WHERE kind = 'saga' GROUP BY 1 ORDER BY 1"
        ),
    }


def test_everything_that_sagas_and_timers_depend_on_is_published_where_they_hear_it() -> None:
    types: set[type[Event]] = {*checkout.ROUTES, *timers._CHANGES, *lending._LETTERS, ClockAdvanced}
    assert {topic_of(each.type.split(".")[0]) for each in types} == set(TOPICS)


@pytest.mark.parametrize(("shares", "loses"), [((MINE,), 0), ((MINE,), 2), (EVERY_OTHER, 3)])
def test_a_day_over_lanes_ends_as_it_does_over_the_log(
    corners: Corners, store: Store, shares: Sequence[Collection[Lane]], loses: int
) -> None:
    over_lanes = LaneWorld(store, shares=shares, loses=loses)
    found = checkout_day(over_lanes)
    over_lanes.close()
    with corners.postgres() as dsn:
        other = Store(dsn)
        over_the_log = World(other)
        expected = checkout_day(over_the_log)
        over_the_log.close()
        other.close()
    assert found == expected
    assert over_lanes.heard() == store.feed.head()
    assert expected["orders"]["twice"][:2] == ("completed", ["ready", "completed"])


@pytest.fixture(scope="module")
def lasting(corners: Corners) -> Iterator[Store]:
    """A store for many worlds."""
    with corners.postgres() as dsn:
        store = Store(dsn)
        yield store
        store.close()


@pytest.mark.parametrize("at", At)
def test_a_process_on_lanes_may_die_after_any_step(lasting: Store, at: At) -> None:
    world = LaneWorld(lasting, checkpoint=Death(at), shares=EVERY_OTHER)
    world.budget(3_000).template(budget_ids=("pot",)).claim().place().pay().refund().settle()
    assert world.deaths > 0
    assert (world.step(), world.coupon(), world.checkout()) == (
        "refunded",
        "returned",
        ["ready", "completed", "refunded"],
    )
    assert (world.owed(), world.double_effects(), world.settled_minor()) == ([], [], 0)
    assert world.pot() == {"reserved": 0, "committed": 1_000, "credited": 1_000}
    assert world.heard() == lasting.feed.head()
    world.close()


def test_a_process_that_lost_its_lanes_while_it_was_stopped_changes_nothing(store: Store) -> None:
    world = LaneWorld(store)
    world.template().claim().place()

    def overtaken(at: At) -> None:
        if at is At.FACTS_DECIDED and not told:
            told.append(True)  # It holds what it decided, and is stopped; another gets its lanes, and far ahead.
            world.settle().pay().settle()

    told: list[bool] = []
    zombie = world.ear(checkpoint=overtaken)
    world.relay()
    with pytest.raises(PositionMoved, match="sagas@"):
        zombie.run_once()
    assert world.step() == "completed"
    before = world.rows("SELECT * FROM timers ORDER BY kind"), world.owed(), world.checkout()
    hear_all(zombie, world)
    assert (world.rows("SELECT * FROM timers ORDER BY kind"), world.owed(), world.checkout()) == before
    assert [timer["kind"] for timer in before[0]] == ["template_close"], "what was cleared is not set again"
    assert world.double_effects() == []
    zombie.close()
    world.close()


def test_two_processes_that_hear_facts_of_one_saga_at_once_both_get_on(store: Store) -> None:
    world = LaneWorld(store)
    world.template().claim().place()
    lane = lane_of("order", stream_id(world.realm, "order", "o"), PARTITIONS)
    payment = next(
        name
        for name in map(str, range(100))
        if lane_of("payment", stream_id(world.realm, "payment", name), PARTITIONS) != lane
    )
    of_the_order, others = world.ear([lane]), [each for each in MINE if each != lane]
    hear_all(of_the_order, world)
    world.pay(payment)

    def meanwhile(at: At) -> None:
        if at is At.FACTS_DECIDED and not told:
            told.append(True)
            world.cancel()
            hear_all(of_the_order, world)

    told: list[bool] = []
    late = world.ear(others, checkpoint=meanwhile)
    hear_all(late, world)
    assert told
    assert world.types("saga", "checkout:o") == ["heard"] * 3
    assert world.double_effects() == []
    world.settle()
    assert (world.step(), world.owed()) == ("unredeemed", [])
    late.close()
    world.close()


def test_an_ear_may_go_from_the_log_to_lanes_and_back_and_hears_nothing_twice(store: Store) -> None:
    world = LaneWorld(store)
    world.template().claim("a").claim("b", user="bob").claim("c", user="eve")
    runner = SagaRunner(store.sagas(), store.feed)
    world.place("a", "a")
    while runner.run_once():
        pass
    world.place("b", "b", user="bob").settle().pay("p-b", "b").settle()
    world.place("c", "c", user="eve")
    while True:  # It does not know yet that its position moved.
        try:
            if not runner.run_once():
                break
        except PositionMoved:
            continue
    world.settle()
    assert [world.step(order) for order in ("a", "b", "c")] == ["held", "completed", "held"]
    assert (world.owed(), world.double_effects()) == ([], [])
    runner.close()
    world.close()


def test_a_fact_that_breaks_a_saga_is_parked_before_its_lane_moves_and_requeued_where_the_lane_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = LaneWorld(store)
    world.template().claim().place("o").cancel("o").reopen("o").place("other")
    with monkeypatch.context() as broken:
        broken.setattr("infra.sagas.hearing.changes_of", _fails_for("/order/o"))
        hear_all(world.ear(), world)
    parked = "SELECT stream, version, attempts FROM parked_events ORDER BY version"
    assert [(row["version"], row["attempts"]) for row in world.rows(parked)] == [(1, 1), (2, 0), (3, 0)]
    assert (world.step("o"), world.step("other")) == (None, "holding")
    assert world.heard() == store.feed.head()
    store.connection.execute("UPDATE parked_events SET requeued_at = now()")
    lane = lane_of("order", stream_id(world.realm, "order", "o"), PARTITIONS)
    hear_all(world.ear([each for each in MINE if each != lane]), world)
    assert len(world.rows(parked)) == 3, "another process has that lane"
    owner = world.ear([lane])
    hear_all(owner, world)
    assert world.rows(parked) == []
    assert world.types("saga", "checkout:o") == ["heard"] * 3
    world.settle()
    assert (world.step("o"), world.step("other")) == ("refused", "held")
    owner.close()
    world.close()


def test_a_lane_that_comes_from_another_process_brings_what_is_parked_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = LaneWorld(store)
    world.template().claim().place("o")
    lane = lane_of("order", stream_id(world.realm, "order", "o"), PARTITIONS)
    heir, member = world.ear([each for each in MINE if each != lane]), SagaMember(world.topics, [lane])
    hear_all(heir, world)
    with monkeypatch.context() as broken:
        broken.setattr("infra.sagas.hearing.changes_of", _fails_for("/order/o"))
        hear_all(LaneRunner(member, 0, store.sagas(), store.feed), world)
    world.cancel("o")
    heir._source.assign(MINE)  # type: ignore[attr-defined]
    hear_all(heir, world)
    assert [row["version"] for row in world.rows("SELECT version FROM parked_events ORDER BY 1")] == [1, 2]
    assert world.step("o") is None
    world.close()


def _fails_for(place: str) -> Callable[[Recorded], tuple[TimerChange, ...]]:
    def broken(fact: Recorded) -> tuple[TimerChange, ...]:
        if fact.stream.endswith(place):
            raise ZeroDivisionError
        return changes_of(fact)

    return broken


def test_an_event_of_an_unknown_type_stops_the_ear_right_before_it(store: Store) -> None:
    world = LaneWorld(store)
    world.template().claim().place("before")
    world.relay()
    lane, message = world.topics.chain.link(store.feed.read(0, 1)[0])
    position = Position(0, store.log.epoch, store.feed.head() + 1).token().encode()
    headers = {**dict(message.headers), "type": b"novel.happened.v9", "position": position}
    world.topics.put(lane, message._replace(headers=list(headers.items())))
    ear = world.ear()
    for _ in range(2):
        with pytest.raises(UnknownEventType, match=r"novel\.happened\.v9"):
            hear_all(ear, world)
        assert world.step("before") == "holding"
    ear.close()
    world.close()


def test_a_store_that_was_restored_stops_the_ear_on_lanes_too(store: Store) -> None:
    world = LaneWorld(store)
    world.template().settle()
    bump_epoch(store.dsn, 0)
    log = PostgresEventLog(store.dsn)
    ear = LaneRunner(SagaMember(world.topics), 0, PostgresSagaStore(store.dsn, log), store.feed)
    with pytest.raises(EpochChanged, match="sagas"):
        ear.run_once()
    ear.close()
    log.close()
    world.close()


def test_an_ear_that_runs_while_a_restore_is_told_goes_on_in_the_new_epoch(store: Store) -> None:
    world = LaneWorld(store)
    world.template().claim().claim("d", user="bob").place("before")
    log = PostgresEventLog(store.dsn)  # Of a process that does nothing but hear: nobody else tells it of the restore.
    ear = LaneRunner(SagaMember(world.topics), 0, PostgresSagaStore(store.dsn, log), store.feed)
    hear_all(ear, world)
    begin_after_restore(store.dsn, 0, restore_id="nightly", actor="operator:test")
    with suppress(StoreUnavailable), store.log.reading():
        pass
    world.topics.chain.epoch = store.log.epoch
    world.place("after", "d", user="bob")
    world.relay()
    for _ in range(5):
        with suppress(EpochChanged, PositionMoved, StoreUnavailable):
            ear.run_once()
    assert (world.step("before"), world.step("after")) == ("holding", "holding")
    hear_all(ear, world)
    assert world.heard() == store.feed.head()
    ear.close()
    log.close()
    world.close()


def test_a_record_that_is_nowhere_in_the_log_is_passed_over_and_what_it_hid_is_read_from_there(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    world = LaneWorld(store)
    world.template().claim().place("o")
    for recorded in store.feed.read(0, 10_000):
        lane, message = world.topics.chain.link(recorded)
        nowhere = [(name, value) for name, value in message.headers if name != "position"]
        world.topics.put(lane, message._replace(headers=nowhere))
        world.topics.put(lane, Message(None, b"a stranger's", []))
    world._relayed = store.feed.head()
    world.topics.watermark(world._relayed)
    ear = world.ear()
    hear_all(ear, world)
    assert world.step("o") == "holding"
    assert world.heard() == store.feed.head()
    assert world.strangers
    assert len(world.strangers) % 2 == 0, "each that was put there, once"
    assert "record_passed_over" in {each.message for each in caplog.records}
    ear.close()
    world.close()


def test_a_hole_that_the_log_does_not_fill_whole_stops_the_ear_before_it_hears_any_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = LaneWorld(store, loses=1)
    world.template().claim().place("o")
    ear = world.ear()
    world.relay()
    with monkeypatch.context() as broken:
        broken.setattr(store.feed, "read", _without_coupons(store.feed.read))
        with pytest.raises(FactsSkipped, match="but the log has"):
            ear.run_once()
    assert world.step("o") is None
    hear_all(ear, world)
    assert world.step("o") == "holding"
    ear.close()
    world.close()


def _without_coupons(read: Callable[[int, int], Sequence[Recorded]]) -> Callable[[int, int], Sequence[Recorded]]:
    return lambda after, limit: [event for event in read(after, limit) if "/coupon/" not in event.stream]


def test_positions_of_lanes_are_named_after_the_ear() -> None:
    assert name_of(Lane("coupon-event-topic", 3)) == "sagas@coupon-event-topic/3"
