"""Members of a group on a real broker: who is at work keeps its place, however short a session is."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread, Timer

import pytest
from aiokafka import AIOKafkaProducer

from contracts.topics import COUPON_EVENTS, named
from infra.kafka.admin import create_topics
from infra.kafka.client import connection
from infra.kafka.consumer import LaneConsumer
from infra.processes import wait_until
from infra.settings import Settings
from tests.integration.kafka.test_broker_and_topics import settings_of

pytestmark = pytest.mark.integration

SESSION_SECONDS = 2.0
AT_WORK_SECONDS = 4.0  # Longer than a session, shorter than a member waits for what is in hand.


@pytest.fixture
def settings(kafka_bootstrap: str, kafka_prefix: str) -> Settings:
    return settings_of(kafka_bootstrap, kafka_prefix, kafka_session_seconds=SESSION_SECONDS)


async def fill(settings: Settings) -> None:
    """One record on each partition."""
    producer = AIOKafkaProducer(**connection(settings))
    await producer.start()
    try:
        for partition in range(settings.kafka_partitions):
            topic = named(settings.kafka_prefix, COUPON_EVENTS)
            await producer.send_and_wait(topic, b"something", partition=partition)
    finally:
        await producer.stop()


@contextmanager
def polled(member: LaneConsumer) -> Iterator[None]:
    """Somebody polls for it all the time."""
    stop = Event()

    def poll() -> None:
        while not stop.is_set():
            member.poll(10, 0.1)
            member.done()

    thread = Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_member_that_finishes_what_is_in_hand_is_waited_for_longer_than_a_session(settings: Settings) -> None:
    create_topics(settings)
    asyncio.run(fill(settings))
    with closing(LaneConsumer(settings, "g", [COUPON_EVENTS])) as first:
        assert wait_until(lambda: bool(first.poll(10, 0.5)), timeout_seconds=60)
        assert len(first.assigned()) == settings.kafka_partitions
        done = Timer(AT_WORK_SECONDS, first.done)
        done.start()
        with closing(LaneConsumer(settings, "g", [COUPON_EVENTS])) as second, polled(second):
            assert wait_until(lambda: bool(second.assigned()), timeout_seconds=60)
            assert done.finished.is_set()
            assert len(second.assigned()) < settings.kafka_partitions  # The first one was not expelled.
            assert not set(second.assigned()) & set(first.assigned())
