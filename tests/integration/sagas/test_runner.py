"""The ear of the sagas: one transaction per batch, one listener at a time, and nothing skipped."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from threading import Barrier, Thread

import pytest

from command.ports import Batch, NewEvent, StoreUnavailable
from contracts.envelope import Metadata, Recorded
from contracts.events import SagaHeard
from contracts.identity import stream_id
from contracts.registry import UnknownEventType
from infra.postgres import dead_letters
from infra.postgres.epoch import begin_after_restore, bump_epoch
from infra.postgres.log import PostgresEventLog
from infra.postgres.positions import EpochChanged, PositionMoved
from infra.sagas.checkpoints import At
from infra.sagas.hearing import UnknownProcessVersion
from infra.sagas.ports import FOLLOWER
from infra.sagas.postgres_store import PostgresSagaStore
from infra.sagas.runner import SagaRunner
from infra.sagas.session import Session
from infra.sagas.settings import SagaSettings
from sagas.checkout import REFUNDS_OPEN_MAX
from sagas.timers import TimerChange, changes_of
from tests.engines import Corners
from tests.integration.sagas.world import NOON, Death, Died, Store, World


@pytest.fixture
def store(corners: Corners) -> Iterator[Store]:
    """A store of one's own: these tests break it."""
    with corners.postgres() as dsn:
        store = Store(dsn)
        yield store
        store.close()


def runner_of(store: Store, settings: SagaSettings | None = None) -> SagaRunner:
    return SagaRunner(store.sagas(), store.feed, settings)


def hear_all(runner: SagaRunner) -> None:
    while runner.run_once():
        pass


def test_memory_commands_timers_and_position_are_stored_together_or_not_at_all(world: World) -> None:
    world.template().claim().place()
    dying = SagaRunner(world.store.sagas(), world.store.feed, checkpoint=Death(At.MEMORY_WRITTEN))
    with pytest.raises(Died):
        dying.run_once()
    dying.close()
    assert world.step() is None
    assert world.owed() == []
    assert world.rows("SELECT * FROM timers") == []
    assert world.rows("SELECT * FROM follower_positions") == []
    assert world.types("saga", "checkout:o") == []
    hear_all(runner_of(world.store))
    assert world.step() == "holding"
    assert [row["command_type"] for row in world.owed()] == ["hold_for_order"]
    assert len(world.rows("SELECT * FROM timers")) == 3
    assert world.types("saga", "checkout:o") == ["heard"]


def test_two_workers_may_listen_and_every_fact_is_heard_once(world: World) -> None:
    world.template(claims_per_user_max=None)
    for number in range(40):
        world.claim(f"c{number}", user=f"u{number}").place(f"o{number}", f"c{number}", user=f"u{number}")
    barrier = Barrier(2)

    def listen() -> None:
        runner = runner_of(world.store, SagaSettings(facts_max=7))
        barrier.wait()
        quiet = 0
        while quiet < 3:
            try:
                quiet = 0 if runner.run_once() else quiet + 1
            except PositionMoved:
                continue
        runner.close()

    threads = [Thread(target=listen) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert world.rows("SELECT count(*) AS heard FROM events WHERE type = 'saga.heard.v1'") == [{"heard": 40}]
    assert len(world.owed()) == 40
    assert world.double_effects() == []


def test_memories_are_read_back_when_they_were_forgotten(world: World) -> None:
    runner = runner_of(world.store, SagaSettings(memories_max=1, facts_max=1))
    world.template().claim().place("o1").pay("p1", "o1").place("o2").pay("p2", "o2").cancel("o1").cancel("o2")
    hear_all(runner)
    assert world.types("saga", "checkout:o1") == ["heard"] * 3
    assert (world.step("o1"), world.step("o2")) == ("redeeming", "redeeming")


def test_a_fact_that_a_saga_cannot_hear_is_parked_and_all_others_go_on(world: World) -> None:
    world.template().claim().place("o")
    for number in range(REFUNDS_OPEN_MAX + 1):
        world.refund(f"r{number}", "o", 1)
    world.place("other")
    hear_all(runner_of(world.store))
    assert world.step("other") == "holding"
    (parked,) = world.rows("SELECT stream, reason, attempts FROM parked_events WHERE follower = %s", FOLLOWER)
    assert parked["stream"] == stream_id(world.realm, "refund", f"r{REFUNDS_OPEN_MAX}")
    assert parked["reason"].startswith("MemoryIsFull")
    assert len(world.types("saga", "checkout:o")) == 1 + REFUNDS_OPEN_MAX


def test_a_parked_fact_that_is_requeued_is_heard_in_its_place(world: World) -> None:
    world.template().claim().place("o")
    for number in range(REFUNDS_OPEN_MAX + 1):
        world.refund(f"r{number}", "o", 1)
    world.settle().pay().settle()
    assert world.checkout().count("refunded") == REFUNDS_OPEN_MAX
    session = Session(world.store.dsn, name="operator")
    with session.transaction() as cursor:
        assert dead_letters.requeue(cursor, FOLLOWER) == 1
    session.close()
    world.settle()
    assert world.rows("SELECT * FROM parked_events") == []
    assert world.checkout().count("refunded") == REFUNDS_OPEN_MAX + 1


def test_a_parked_fact_that_fails_again_stays_parked_with_those_behind_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(world.store)
    world.template().claim().place("o").cancel("o").reopen("o").place("other")
    with monkeypatch.context() as broken:
        broken.setattr("infra.sagas.hearing.changes_of", _fails_for("/order/o"))
        hear_all(runner)
    orders = "SELECT version, attempts, requeued_at FROM parked_events ORDER BY version"
    assert [(row["version"], row["attempts"]) for row in world.rows(orders)] == [(1, 1), (2, 0), (3, 0)]
    assert (world.step("o"), world.step("other")) == (None, "holding")
    world.store.connection.execute("UPDATE parked_events SET requeued_at = now()")
    with monkeypatch.context() as broken:
        broken.setattr("infra.sagas.hearing.changes_of", _fails_for("/order/o"))
        hear_all(runner)
    assert [(row["version"], row["attempts"]) for row in world.rows(orders)] == [(1, 2), (2, 0), (3, 0)]
    assert all(row["requeued_at"] is None for row in world.rows(orders))
    world.store.connection.execute("UPDATE parked_events SET requeued_at = now()")
    hear_all(runner)
    assert world.rows(orders) == []
    assert world.types("saga", "checkout:o") == ["heard"] * 3
    world.settle()
    assert (world.step("o"), world.step("other")) == ("refused", "held")


def _fails_for(place: str) -> Callable[[Recorded], tuple[TimerChange, ...]]:
    def broken(fact: Recorded) -> tuple[TimerChange, ...]:
        if fact.stream.endswith(place):
            raise ZeroDivisionError
        return changes_of(fact)

    return broken


def test_a_store_that_was_restored_stops_the_ear_instead_of_hearing_other_facts_under_the_same_offsets(
    world: World,
) -> None:
    world.template()
    hear_all(runner_of(world.store))
    bump_epoch(world.store.dsn, 0)
    log = PostgresEventLog(world.store.dsn)
    runner = SagaRunner(PostgresSagaStore(world.store.dsn, log), world.store.feed)
    with pytest.raises(EpochChanged, match="sagas"):
        runner.run_once()
    runner.close()
    log.close()


def test_an_event_of_an_unknown_type_stops_the_ear_right_before_it(world: World) -> None:
    world.template().claim().place("before")
    world.store.connection.execute(
        "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
        " SELECT 'a/b/novel/1', 1, 'novel.happened.v9', state FROM stored_events ORDER BY notification_id DESC LIMIT 1"
    )
    runner = runner_of(world.store)
    assert runner.run_once() > 0
    assert world.step("before") == "holding"
    for _ in range(2):
        with pytest.raises(UnknownEventType, match=r"novel\.happened\.v9"):
            runner.run_once()


def test_a_saga_that_began_with_an_unknown_version_of_its_process_stops_the_ear(world: World) -> None:
    world.template().claim().place("o")
    hear_all(runner_of(world.store))
    stream = stream_id(world.realm, "saga", "checkout:o2")
    heard = SagaHeard.model_validate({**world.events("saga", "checkout:o")[0]["data"], "process_version": 99})
    with world.store.log.appending() as transaction:
        about = Metadata("x", NOON, transaction.store_now, "test", "x", "x")
        transaction.append(Batch(events=[NewEvent(stream, 1, heard, about)]))
    world.place("o2")
    runner = runner_of(world.store)
    with pytest.raises(UnknownProcessVersion, match="99"):
        hear_all(runner)


def test_saga_events_say_whose_fact_they_answer_and_who_answers(world: World) -> None:
    world.template().claim().place("o")
    hear_all(runner_of(world.store))
    fact, heard = world.rows(
        "SELECT event_id, correlation_id, causation_id, actor, occurred_at FROM events"
        " WHERE kind IN ('order', 'saga') ORDER BY kind"
    )
    assert heard["causation_id"] == fact["event_id"]
    assert heard["correlation_id"] == fact["correlation_id"]
    assert heard["actor"] == "saga:checkout"
    assert heard["occurred_at"] == NOON
    (owed,) = world.rows("SELECT command_id, causation_id, correlation_id FROM saga_outbox")
    assert owed["command_id"] == f"saga:{fact['event_id']}:hold_for_order"
    assert owed["causation_id"] == fact["event_id"]


def test_a_long_wait_starts_when_the_step_was_reached(world: World) -> None:
    world.pay("p", "o").settle()
    world.later(hours=3).fail("p2", "o").settle()
    (waiting,) = world.rows("SELECT step, since FROM sagas")
    assert waiting == {"step": "awaiting_order", "since": NOON}
    assert world.now - waiting["since"] == timedelta(hours=3)


def test_a_parked_fact_that_is_dropped_is_passed_over_and_those_behind_it_are_heard(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(world.store)
    monkeypatch.setattr("infra.sagas.hearing.changes_of", _fails_for("/refund/bad"))
    world.template().claim().place("o").refund("bad", "o", 1).place("other")
    hear_all(runner)
    (parked,) = world.rows("SELECT stream, event_type, detail FROM parked_events")
    assert parked["event_type"] == "refund.succeeded.v1"
    assert "in broken" in parked["detail"]
    session = Session(world.store.dsn, name="operator")
    with session.transaction() as cursor:
        assert len(dead_letters.drop(cursor, FOLLOWER, parked["stream"], actor="operator:me", reason="test")) == 1
    session.close()
    hear_all(runner)
    assert world.rows("SELECT * FROM parked_events") == []
    assert world.types("saga", "checkout:o") == ["heard"]


def test_an_ear_that_is_running_when_a_restore_is_told_goes_on_by_itself(world: World) -> None:
    world.template().claim().place("o1")
    log = PostgresEventLog(world.store.dsn)  # Of a process that does nothing but hear: nobody else looks.
    runner = SagaRunner(PostgresSagaStore(world.store.dsn, log), world.store.feed)
    hear_all(runner)
    begin_after_restore(world.store.dsn, 0, restore_id="drill", actor="operator:me")
    world.template("other")  # Nothing that a saga remembers: nobody appends.
    with pytest.raises((StoreUnavailable, EpochChanged)):
        runner.run_once()
    with suppress(StoreUnavailable):
        runner.run_once()
    world.place("o2", "c")
    hear_all(runner)
    assert world.step("o2") is not None
    runner.close()
    log.close()
