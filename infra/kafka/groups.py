"""How far our consumer groups are behind. A hint for people: followers keep positions of their own."""

import asyncio
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from infra.kafka.client import connection, translated
from infra.settings import Settings


def group_lags(settings: Settings) -> dict[str, int]:
    """Our group -> messages that it has not committed, over all partitions it ever committed.

    Errors: NoKafka, KafkaUnavailable.
    """
    with translated(settings):
        return asyncio.run(_group_lags(settings))


async def _group_lags(settings: Settings) -> dict[str, int]:
    committed = await _committed(settings)
    ends = await _ends(settings, {partition for offsets in committed.values() for partition in offsets})
    return {
        group: sum(max(0, ends.get(partition, 0) - offset) for partition, offset in offsets.items())
        for group, offsets in committed.items()
    }


async def _committed(settings: Settings) -> dict[str, dict[TopicPartition, int]]:
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        await admin.start()
        groups = [name for name, *_ in await admin.list_consumer_groups()]
        ours = [name for name in groups if name.startswith(f"{settings.kafka_prefix}tessera-")]
        told = await asyncio.gather(*(admin.list_consumer_group_offsets(group) for group in ours))
        return {
            group: {partition: each.offset for partition, each in offsets.items() if each.offset >= 0}
            for group, offsets in zip(ours, told, strict=True)
        }
    finally:
        await admin.close()


async def _ends(settings: Settings, partitions: set[TopicPartition]) -> Mapping[TopicPartition, int]:
    if not partitions:
        return {}
    consumer = AIOKafkaConsumer(**connection(settings))
    try:
        await consumer.start()
        ends: Mapping[TopicPartition, int] = await consumer.end_offsets(list(partitions))
        return ends
    finally:
        await consumer.stop()
