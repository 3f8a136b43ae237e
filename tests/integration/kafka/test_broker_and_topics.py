"""A real broker: it comes back with what it held, and its topics are made once and as declared."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from contracts.topics import ALL_TOPICS, COUPON_EVENTS, DEAD_LETTERS, ORDER_FACTS, Topic, named
from infra.embedded.kafka import EmbeddedKafka
from infra.kafka.admin import TopicRefused, WrongPartitions, create_topics, require_partitions, topic_states
from infra.kafka.client import KafkaUnavailable, SessionNotAllowed, connection
from infra.kafka.consumer import LaneConsumer
from infra.kafka.partition import partition_of
from infra.processes import free_port
from infra.settings import Settings

T = TypeVar("T")


def settings_of(bootstrap: str, prefix: str, **given: Any) -> Settings:
    return Settings.load(
        postgres_dsn="postgresql://nobody@127.0.0.1/none",
        redis_url="redis://127.0.0.1:1/0",
        clickhouse_url="http://127.0.0.1:1/none",
        kafka_bootstrap=bootstrap,
        kafka_prefix=prefix,
        **{"kafka_partitions": 3, **given},
    )


@pytest.fixture
def settings(kafka_bootstrap: str, kafka_prefix: str) -> Settings:
    return settings_of(kafka_bootstrap, kafka_prefix)


async def _with_admin(bootstrap: str, do: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return await do(admin)
    finally:
        await admin.close()


def retention_of(settings: Settings, topic: Topic) -> dict[str, str]:
    asked = ConfigResource(ConfigResourceType.TOPIC, named(settings.kafka_prefix, topic))
    [told] = asyncio.run(_with_admin(settings.kafka_bootstrap or "", lambda admin: admin.describe_configs([asked])))
    return {each[0]: each[1] for each in told.resources[0][4]}


def test_every_declared_topic_is_made_with_its_partitions_and_retention_and_a_second_time_nothing(
    settings: Settings,
) -> None:
    assert sorted(create_topics(settings)) == sorted(named(settings.kafka_prefix, topic) for topic in ALL_TOPICS)
    assert all((state.partitions, state.serving) == (3, True) for state in topic_states(settings))
    for topic in (COUPON_EVENTS, DEAD_LETTERS[0]):
        known = retention_of(settings, topic)
        assert (known["retention.ms"], known["cleanup.policy"]) == (str(topic.retention_ms), topic.cleanup_policy)
    assert create_topics(settings) == []


def test_a_topic_that_is_missing_is_seen_without_being_made(settings: Settings) -> None:
    assert [state.partitions for state in topic_states(settings)] == [0] * len(ALL_TOPICS)
    assert [state.partitions for state in topic_states(settings)] == [0] * len(ALL_TOPICS)


def test_events_in_another_number_of_partitions_are_refused_before_anything_is_made(settings: Settings) -> None:
    create_topics(settings, [COUPON_EVENTS, ORDER_FACTS])
    other = settings_of(settings.kafka_bootstrap or "", settings.kafka_prefix, kafka_partitions=5)
    with pytest.raises(WrongPartitions, match=r"coupon-event-topic has 3.*TESSERA_KAFKA_PARTITIONS") as caught:
        create_topics(other)
    assert list(caught.value.found) == [named(settings.kafka_prefix, COUPON_EVENTS)]  # Upstream's own may differ.
    states = topic_states(other)
    assert sorted(state.topic.name for state in states if state.partitions) == [COUPON_EVENTS.name, ORDER_FACTS.name]
    require_partitions(settings, states)


def test_a_broker_that_cannot_hold_so_many_copies_says_so_by_topic(settings: Settings) -> None:
    greedy = settings_of(settings.kafka_bootstrap or "", settings.kafka_prefix, kafka_replication=3)
    with pytest.raises(TopicRefused, match=r"did not make topic \S+: .*replication factor"):
        create_topics(greedy, [COUPON_EVENTS])


def test_a_broker_that_is_not_there_is_named() -> None:
    gone = f"127.0.0.1:{free_port()}"
    with pytest.raises(KafkaUnavailable, match=f"Kafka at {gone} cannot be reached"):
        create_topics(settings_of(gone, ""))


def test_the_clients_own_partitioner_puts_a_key_where_we_say(settings: Settings) -> None:
    create_topics(settings, [COUPON_EVENTS])
    streams = [f"acme/shop/coupon/c{number}" for number in range(20)]

    async def send() -> list[int]:
        async with AIOKafkaProducer(**connection(settings), enable_idempotence=True) as producer:
            name = named(settings.kafka_prefix, COUPON_EVENTS)
            told = [await producer.send_and_wait(name, b"{}", key=stream.encode()) for stream in streams]
            return [each.partition for each in told]

    assert asyncio.run(send()) == [partition_of(stream, 3) for stream in streams]


async def _write_one(bootstrap: str, topic: str) -> None:
    await _with_admin(bootstrap, lambda admin: admin.create_topics([NewTopic(topic, 1, 1)]))
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, b"kept", partition=0)


async def _read_one(bootstrap: str, topic: str) -> bytes | None:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        record = await asyncio.wait_for(consumer.getone(), 30)
        value: bytes | None = record.value
        return value


def test_a_broker_that_was_killed_comes_back_on_its_folder_with_what_was_acknowledged(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path)
    try:
        kafka.start()
        asyncio.run(_write_one(kafka.address, "kept"))
        assert kafka.child is not None
        kafka.child.kill()
        kafka.start()  # On other ports than before.
        assert asyncio.run(_read_one(kafka.address, "kept")) == b"kept"
    finally:
        kafka.stop()


def test_a_first_start_that_was_interrupted_while_it_made_the_folder_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    (tmp_path / "kafka" / "data" / "bootstrap.checkpoint").write_bytes(b"half of it")
    kafka = EmbeddedKafka(tmp_path)
    try:
        kafka.start()
        asyncio.run(_write_one(kafka.address, "kept"))
    finally:
        kafka.stop()


def test_a_port_that_a_stranger_has_is_not_mistaken_for_ours(kafka_bootstrap: str, tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path)
    kafka.port = int(kafka_bootstrap.rpartition(":")[2])
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    (tmp_path / "kafka" / "data" / "meta.properties").write_text("version=1\ncluster.id=another\n")
    assert not kafka.answers()


def test_a_broker_that_allows_no_session_so_short_is_named_with_what_to_set(settings: Settings) -> None:
    create_topics(settings)
    hasty = settings.model_copy(update={"kafka_session_seconds": 0.5})
    with (
        closing(LaneConsumer(hasty, "hasty", [COUPON_EVENTS])) as member,
        pytest.raises(SessionNotAllowed, match=r"allows no session of 0\.5 s\. Set TESSERA_KAFKA_SESSION_SECONDS"),
    ):
        member.poll(1, 0.1)
