"""Workers end, or wait, with a word about it: never alive and idle for good."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Timer

import pytest

from contracts.topics import Topic
from infra.bootstrap import processes
from infra.bootstrap.processes import KAFKA_LOOKS_MAX, once_kafka_is_there
from infra.bootstrap.workers import WorkerHalted, _lanes_of_sagas, run_intake, run_relay
from infra.kafka.admin import TopicsMissing, TopicState
from infra.kafka.errors import KafkaUnavailable
from infra.relay.relay import Relay
from infra.settings import Settings

PATIENCE_SECONDS = 20.0
SETTINGS = Settings.load(
    postgres_dsn="postgresql://127.0.0.1:1/none",
    redis_url="redis://127.0.0.1:1/0",
    clickhouse_url="http://u:p@127.0.0.1:1/none",
    kafka_bootstrap="127.0.0.1:1",
)


@contextmanager
def asked_to_stop_at_last() -> Iterator[None]:
    """Whoever would wait for ever is asked to stop."""
    timer = Timer(PATIENCE_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_relay_that_broke_off_ends_its_process_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_relay: Relay, _stop: Event) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Relay, "run", broken)
    with asked_to_stop_at_last(), pytest.raises(WorkerHalted, match="the relay broke off"):
        run_relay(SETTINGS)


class Coming:
    """A Kafka that answers after some looks."""

    def __init__(self, after: int) -> None:
        self.looks = 0
        self._after = after

    def __call__(self) -> str:
        self.looks += 1
        if self.looks <= self._after:
            raise KafkaUnavailable("away")
        return "there"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "KAFKA_LOOK_SECONDS", 0.0)


def test_a_kafka_that_comes_up_later_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    assert once_kafka_is_there(Coming(after=3), Event()) == "there"
    assert [each.message for each in caplog.records] == ["kafka_awaited"] * 3


def test_a_kafka_that_does_not_come_up_is_waited_for_so_long_and_no_longer() -> None:
    never = Coming(after=10 * KAFKA_LOOKS_MAX)
    with pytest.raises(KafkaUnavailable, match="away"):
        once_kafka_is_there(never, Event())
    assert never.looks == KAFKA_LOOKS_MAX + 1


def test_whoever_is_asked_to_stop_waits_for_no_kafka() -> None:
    stop, never = Event(), Coming(after=10)
    stop.set()
    with pytest.raises(KafkaUnavailable):
        once_kafka_is_there(never, stop)
    assert never.looks == 1


def test_sagas_and_the_intake_wait_for_kafka_at_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    coming = Coming(after=2)

    def states(_settings: Settings, topics: Sequence[Topic]) -> list[TopicState]:
        coming()
        return [TopicState(topic, topic.name, partitions=0, serving=False) for topic in topics]

    monkeypatch.setattr("infra.kafka.admin.topic_states", states)
    with pytest.raises(WorkerHalted, match="tessera migrate"):
        _lanes_of_sagas(SETTINGS, Event())
    coming.looks = 0
    with pytest.raises(TopicsMissing):
        run_intake(SETTINGS)
