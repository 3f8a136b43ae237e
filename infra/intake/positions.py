"""How far a partition is taken in: what an operator has to know before he moves it."""

import asyncio
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.topics import TAKEN_IN
from infra.intake.service import group_of, taken_in_as
from infra.kafka.admin import TopicsMissing, missing_of
from infra.kafka.client import connection, translated
from infra.settings import Settings

READ_SECONDS = 30.0


class Place(NamedTuple):
    """``committed``: the first record that is not finished; ``end``: the first that is not there yet."""

    committed: int
    end: int


class NotTakenIn(LookupError):
    """No intake reads this topic, or it has no such partition; the message says what there is."""


def stands(settings: Settings, topic: str, partition: int) -> Place:
    """Where a partition stands. Raises NotTakenIn, TopicsMissing, NoKafka, KafkaUnavailable."""
    groups = {name: group_of(settings, each) for each in TAKEN_IN for name in taken_in_as(settings, each)}
    if topic not in groups:
        raise NotTakenIn(f"{topic} is not taken in; these are: {', '.join(sorted(groups))}")
    if missing_of(settings, [topic]):  # Kafka's client would wait for it.
        raise TopicsMissing(settings, [topic])
    with translated(settings):
        return asyncio.run(_stands(settings, groups[topic], TopicPartition(topic, partition)))


async def _stands(settings: Settings, group: str, at: TopicPartition) -> Place:
    consumer = AIOKafkaConsumer(**connection(settings), group_id=group, enable_auto_commit=False)
    async with asyncio.timeout(READ_SECONDS):
        try:
            consumer.assign([at])  # By hand: it joins no group, and takes nothing from anybody.
            await consumer.start()
            if at.partition not in (known := consumer.partitions_for_topic(at.topic) or ()):
                raise NotTakenIn(f"{at.topic} has no partition {at.partition}, only 0 to {max(known, default=0)}")
            committed = await consumer.committed(at)
            ends = await consumer.end_offsets([at])
            return Place(committed or 0, ends[at])
        finally:
            await consumer.stop()
