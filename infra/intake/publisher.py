"""Messages to topics: idempotent, acknowledged by every replica in sync, or not published."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError

from infra.intake.messages import VALUE_BYTES_MAX, Outgoing
from infra.kafka.partition import partition_of_key
from infra.kafka.sending import Keyed, send_to

logger = structlog.get_logger(__name__)

ACK_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 5.0
# Of what goes to one partition at once. A larger message is a batch by itself.
BATCH_BYTES_MAX: Final = 512 * 1_024


class NotPublished(Exception):
    """Not all messages were acknowledged. Those that were may be published again."""


class Publisher:
    """One producer, made when it is needed and made anew when it is broken. ``connection``: aiokafka's options."""

    def __init__(self, connection: Mapping[str, Any], *, ack_seconds: float = ACK_SECONDS) -> None:
        self._connection = connection
        self._ack_seconds = ack_seconds
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Return once every message is acknowledged. Raises NotPublished after a bounded time, or at an error."""
        if not messages:
            return
        try:
            async with asyncio.timeout(self._ack_seconds):
                producer = await self._connected()
                lanes = await _by_lane(producer, messages)
                await asyncio.gather(*(send_to(producer, *lane, parcel) for lane, parcel in lanes.items()))
        except (TimeoutError, KafkaTimeoutError) as error:
            # The producer goes on trying: what it holds is bounded, and is in nobody's way when it arrives late.
            raise NotPublished(f"no acknowledgement within {self._ack_seconds:.0f} s") from error
        except KafkaError as error:
            await self.close()  # An idempotent producer that failed once may refuse everything from then on.
            raise NotPublished(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Let go of the producer; what it has not sent within a bounded time is not sent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop(producer)

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._connection,
                    acks="all",
                    enable_idempotence=True,
                    max_batch_size=BATCH_BYTES_MAX,
                    max_request_size=2 * VALUE_BYTES_MAX,
                )
                try:
                    await producer.start()
                except BaseException:
                    await _stop(producer)
                    raise
                self._producer = producer
            return self._producer


async def _by_lane(producer: AIOKafkaProducer, messages: Sequence[Outgoing]) -> dict[tuple[str, int], list[Keyed]]:
    """Messages by topic and partition, in their order. One without a key goes where the empty key does."""
    partitions = {topic: len(await producer.partitions_for(topic)) for topic in {each.topic for each in messages}}
    lanes: dict[tuple[str, int], list[Keyed]] = {}
    for topic, key, value, headers, partition in messages:
        where = partition_of_key(key or b"", partitions[topic]) if partition is None else partition
        lanes.setdefault((topic, where), []).append((key, value, list(headers)))
    return lanes


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await producer.stop()
    except (TimeoutError, KafkaError) as error:
        logger.warning("producer_not_closed", reason=f"{type(error).__name__}: {error}")
