"""How messages go to one partition: in batches of our own making, each acknowledged before the next is sent."""

from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaProducer

# Key, value, and headers: as a list, since the client's batches take no other sequence.
Keyed = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]


async def send_to(producer: AIOKafkaProducer, topic: str, partition: int, messages: Iterable[Keyed]) -> None:
    """Send messages in order, and return once all of them are acknowledged. Raises KafkaError.

    Without a future and a partitioner's look for each message, as the library's ``send`` has them. A second batch waits
    for the first: should that fail, nothing may have overtaken it.
    """
    batch = producer.create_batch()
    for key, value, headers in messages:
        if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
            await _deliver(producer, topic, partition, batch)
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None, headers=headers)
    await _deliver(producer, topic, partition, batch)


async def _deliver(producer: AIOKafkaProducer, topic: str, partition: int, batch: Any) -> None:
    acknowledged = await producer.send_batch(batch, topic, partition=partition)
    await acknowledged
