"""One topic's subscriber: batches to the intake, offsets committed when a batch is finished, rewound when it is not."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from faststream.kafka.subscriber.usecase import BatchSubscriber
from faststream.middlewares import AckPolicy

from infra.intake.broker import Batch, IntakeBroker
from infra.intake.consumer import LosslessConsumer
from infra.intake.intake import Intake, MustWait, Way
from infra.kafka.client import Membership

logger = structlog.get_logger(__name__)

# With the first steps of sagas twice as many commands: one transaction of the engine. They are stored together or not
# at all, so that of one partition no later command is decided while an earlier one has to be tried again.
MAX_RECORDS: Final = 250
POLL_MS: Final = 25
COMMIT_SECONDS: Final = 10.0
DEFECT_PAUSE_SECONDS: Final = 1.0
HAND_OVER_SECONDS: Final = 10.0
# Longer than one batch may take: patience for deciding, patience for publishing, an answer's and a commit's bound.
MAX_POLL_INTERVAL_MS: Final = 300_000


class TopicSubscriber:
    """Declares itself with the broker; from its start on it takes batches until the broker stops."""

    def __init__(
        self, broker: IntakeBroker, intake: Intake, way: Way, topics: Sequence[str], group_id: str,
        membership: Membership, *, max_records: int = MAX_RECORDS,
    ) -> None:  # fmt: skip
        self._intake = intake
        self._way = way
        self._next: dict[TopicPartition, int] = {}  # The first offset that is not finished, of each that is ours.
        self._hand_over = _HandOver()
        self._subscriber: BatchSubscriber = broker.subscriber(
            *topics,
            batch=True,
            max_records=max_records,
            batch_timeout_ms=POLL_MS,
            group_id=group_id,
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="earliest",
            **membership,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            listener=self._hand_over,
            no_reply=True,
        )
        self._subscriber(self._take)

    async def _take(self, batch: Batch) -> None:
        """One batch. Never raises: FastStream would forget it, and the next batch's commit would pass it over."""
        consumer = self._subscriber.consumer
        assert consumer is not None
        first, after = _bounds(batch)
        self._next |= first
        with self._hand_over.under_way():
            try:
                await self._intake.take(batch, self._way)
            except MustWait as error:
                logger.warning("batch_waits", topic=self._way.topic, records=len(batch), reason=str(error))
                _rewind(consumer, first)
            except asyncio.CancelledError:
                _rewind(consumer, first)
                raise
            except Exception:  # Our own defect; whatever it is, the records are not lost by it.
                logger.exception("batch_failed", topic=self._way.topic, records=len(batch))
                _rewind(consumer, first)
                await asyncio.sleep(DEFECT_PAUSE_SECONDS)  # Nobody is served by failing at full speed.
            else:
                self._next |= after
                await self._commit(consumer, after)

    async def _commit(self, consumer: AIOKafkaConsumer, after: Mapping[TopicPartition, int]) -> None:
        """Not to be committed is no loss: what was finished comes again and is answered from the command log."""
        ours = consumer.assignment()
        offsets = {partition: offset for partition, offset in after.items() if partition in ours}
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await consumer.commit(offsets)
        except (KafkaError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}"
            logger.warning("offsets_not_committed", topic=self._way.topic, reason=reason)

    def lag(self) -> dict[TopicPartition, int]:
        """Records that are there and not finished, by partition, as far as this process knows. For any thread."""
        consumer = self._subscriber.consumer
        if consumer is None:
            return {}
        lags: dict[TopicPartition, int] = {}
        for partition, position in list(self._next.items()):
            with suppress(IllegalStateError, AssertionError):  # Not ours any more: aiokafka asserts it.
                if (end := consumer.highwater(partition)) is not None:
                    lags[partition] = max(0, end - position)
        return lags

    def held(self) -> list[TopicPartition]:
        """Partitions that wait for an operator. For any thread."""
        consumer = self._subscriber.consumer
        return consumer.held() if isinstance(consumer, LosslessConsumer) else []


class _HandOver(ConsumerRebalanceListener):  # type: ignore[misc]
    """Lets a batch under way be finished, within a bound, before its partitions go to somebody else.

    Without it nothing is lost either: the other would decide the same commands again and tell the same answers.
    """

    def __init__(self) -> None:
        self._idle = asyncio.Event()
        self._idle.set()

    def under_way(self) -> "_HandOver":
        return self

    def __enter__(self) -> None:
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self._idle.set()

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        if revoked and not self._idle.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), HAND_OVER_SECONDS)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        logger.info("partitions_assigned", partitions=sorted(f"{each.topic}:{each.partition}" for each in assigned))


def _bounds(batch: Batch) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Of each partition in a batch its first offset, and the one after its last."""
    first: dict[TopicPartition, int] = {}
    after: dict[TopicPartition, int] = {}
    for record in batch:
        partition = TopicPartition(record.topic, record.partition)
        first[partition] = min(first.get(partition, record.offset), record.offset)
        after[partition] = max(after.get(partition, 0), record.offset + 1)
    return first, after


def _rewind(consumer: AIOKafkaConsumer, first: Mapping[TopicPartition, int]) -> None:
    """Have the batch fetched again. Each partition by itself: one that went to somebody else must not keep the rest."""
    for partition, offset in first.items():
        with suppress(IllegalStateError):
            consumer.seek(partition, offset)
