"""The saga worker as a whole: three threads that start, get on by themselves, survive a lost server, halt and stop."""

from collections.abc import Callable, Iterator
from time import monotonic, sleep

import pytest

from contracts.registry import UnknownEventType
from infra.sagas.settings import SagaSettings
from infra.sagas.worker import SagaWorker
from tests.engines import Corners
from tests.integration.sagas.world import Store, World

PATIENCE_SECONDS = 60.0


@pytest.fixture
def store(corners: Corners) -> Iterator[Store]:
    """A store of one's own: a worker works for everybody."""
    with corners.postgres() as dsn:
        store = Store(dsn)
        yield store
        store.close()


@pytest.fixture
def worker(store: Store) -> Iterator[SagaWorker]:
    """A running worker."""
    worker = SagaWorker(
        store.dsn, store.log, store.engine, SagaSettings(backoff_seconds_max=0.2, halted_again_seconds=0.1)
    )
    worker.start()
    yield worker
    assert worker.stop()


def wait_for(what: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while not what():
        assert monotonic() < deadline, "it did not come"
        sleep(0.01)


def test_an_order_gets_on_by_itself(world: World, worker: SagaWorker) -> None:
    world.template().claim().place()
    wait_for(lambda: world.step() == "held")
    world.pay()
    wait_for(lambda: world.step() == "completed")
    world.claim("d", user="bob").place("o2", "d", user="bob")
    wait_for(lambda: world.step("o2") == "held")
    world.later(minutes=15)
    wait_for(lambda: world.step("o2") == "released")
    assert world.owed() == []
    status = worker.status()
    wait_for(lambda: worker.status()["offset"] == world.rows('SELECT max("offset") AS n FROM events')[0]["n"])
    assert {name: part["state"] for name, part in status["parts"].items()} == {
        "runner": "running",
        "dispatcher": "running",
        "timers": "running",
    }
    assert worker.halted is None


def test_a_worker_that_lost_all_its_connections_goes_on(world: World, worker: SagaWorker) -> None:
    world.template().claim().place()
    wait_for(lambda: world.step() == "held")
    killed = world.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name IN"
        " ('tessera sagas', 'tessera saga-outbox', 'tessera timers', 'tessera feed', 'tessera listen')"
    )
    assert len(killed) >= 4
    world.pay()
    wait_for(lambda: world.step() == "completed")
    assert worker.halted is None


def test_an_ear_that_must_not_go_on_halts_alone_and_says_why(world: World, worker: SagaWorker) -> None:
    world.template().claim().place()
    wait_for(lambda: world.step() == "held")
    world.store.connection.execute(
        "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
        " SELECT 'a/b/novel/1', 1, 'novel.happened.v9', state FROM stored_events ORDER BY notification_id DESC LIMIT 1"
    )
    wait_for(lambda: worker.halted is not None)
    assert str(worker.halted).startswith(f"runner: {UnknownEventType.__name__}: unknown event type 'novel.happened.v9'")
    states = {name: part["state"] for name, part in worker.status()["parts"].items()}
    assert states == {"runner": "halted", "dispatcher": "running", "timers": "running"}
    heard = worker.status()["offset"]
    world.pay()
    world.store.connection.execute("DELETE FROM stored_events WHERE topic = 'novel.happened.v9'")
    wait_for(lambda: world.step() == "completed")  # By itself, once what stood in the way is gone or understood.
    assert worker.halted is None
    assert worker.status()["offset"] > heard


def test_a_worker_stops_cleanly_and_twice(store: Store) -> None:
    worker = SagaWorker(store.dsn, store.log, store.engine)
    worker.start()
    assert worker.stop()
    assert worker.stop()
    assert worker.join()
    assert {part["state"] for part in worker.status()["parts"].values()} == {"stopped"}


def test_a_worker_that_never_started_can_be_stopped(store: Store) -> None:
    assert SagaWorker(store.dsn, store.log, store.engine).stop()
