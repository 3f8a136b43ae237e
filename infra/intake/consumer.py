"""A consumer that loses no record to another partition's error.

Read in aiokafka 0.14: ``getmany`` goes from partition to partition and moves each one's position as it goes. When one
of them then holds what cannot be read (a codec that is not installed, a header whose name is no UTF-8, a bad checksum),
it raises, and the records of those before it are gone while their positions stay behind them: the next commit is past
records that nobody handled. An error of the only partition that was asked moves nothing. So here at most one partition
is asked at a time for more than its first record.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    UnsupportedCodecError,
)

logger = structlog.get_logger(__name__)

SET_ASIDE_SECONDS: Final = 30.0
# Rounds of looking at partitions one by one and record by record, until it is known where an error comes from.
LOOKING_ROUNDS: Final = 40
_UNREADABLE: Final = (UnsupportedCodecError, CorruptRecordException, ValueError)
_NEXT_STEP: Final = (
    "The other partitions go on; this one waits here and is tried again. Install the codec if one is missing. Otherwise"
    " the record is damaged, or has a header whose name is no UTF-8: have its sender send it again, and step over it"
    " with `tessera intake skip TOPIC:PARTITION:OFFSET --reason …`."
)

# Where to go on behind a record that cannot be read, (partition, offset, error) -> offset; None: nowhere, it is held.
StepOver = Callable[[TopicPartition, int, Exception], Awaitable[int | None]]


async def hold(_at: TopicPartition, _offset: int, _error: Exception) -> None:
    """Step over nothing."""


class LosslessConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """As aiokafka's, but an error costs no other partition its records.

    A partition with a record that cannot be read is set aside for a while, told in the log with the record's offset,
    and tried again: nothing of it is skipped, unless ``step_over`` says where to go on, and the others go on.
    """

    def __init__(self, *topics: str, step_over: StepOver = hold, **options: Any) -> None:
        super().__init__(*topics, **options)
        self._step_over = step_over
        self._looking = 0
        self._set_aside: dict[TopicPartition, float] = {}  # Until when.

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]]:
        """Up to ``max_records`` of all partitions. Raises errors of Kafka's only when there is nothing to return."""
        assert not partitions
        assert max_records is not None
        self._try_again()
        found: dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]] = {}
        if self._looking:
            self._looking -= 1
            await asyncio.sleep(timeout_ms / 1_000)
        else:
            try:
                # Of one record: from one partition, so that an error comes before anything was taken, or not at all.
                found |= await super().getmany(timeout_ms=timeout_ms, max_records=1)
            except _UNREADABLE:
                self._looking = LOOKING_ROUNDS
        for partition in self.assignment() - self._set_aside.keys():
            if (room := max_records - sum(map(len, found.values()))) > 0:
                await self._more_of(partition, room, found)
        return found

    async def _more_of(
        self, partition: TopicPartition, room: int, found: dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]]
    ) -> None:
        """Add what is there of one partition, without waiting; find out which record cannot be read."""
        try:
            got = await super().getmany(partition, timeout_ms=0, max_records=1 if self._looking else room)
        except _UNREADABLE as error:
            if self._looking:
                self._looking = 0
                with suppress(IllegalStateError):  # Not ours any more.
                    await self._put_aside(partition, error)
            else:
                self._looking = LOOKING_ROUNDS
        except ConsumerStoppedError:
            raise
        except Exception:  # It comes again at the next call: what was taken already must not be lost to it.
            if not found:
                raise
        else:
            for each, records in got.items():
                found.setdefault(each, []).extend(records)

    def held(self) -> list[TopicPartition]:
        """Partitions that are set aside now, as far as is known. For any thread."""
        return list(self._set_aside)

    async def _put_aside(self, partition: TopicPartition, error: Exception) -> None:
        offset = await self.position(partition)
        if (after := await self._step_over(partition, offset, error)) is not None:
            await self._go_on(partition, after)
            return
        self.pause(partition)
        self._set_aside[partition] = monotonic() + SET_ASIDE_SECONDS
        logger.error(
            "partition_cannot_be_read",
            topic=partition.topic,
            partition=partition.partition,
            offset=offset,
            reason=f"{type(error).__name__}: {error}",
            next_step=_NEXT_STEP,
        )

    async def _go_on(self, partition: TopicPartition, after: int) -> None:
        """Everything before is finished: whatever is not was rewound to, and this offset not come to."""
        end = (await self.end_offsets([partition]))[partition]  # Beyond it Kafka would begin at the beginning.
        self.seek(partition, min(after, end))
        with suppress(KafkaError):  # If not, it is stepped over once more.
            await self.commit({partition: min(after, end)})

    def _try_again(self) -> None:
        """Resume what was set aside long enough, and forget what was given to somebody else, or to us anew."""
        paused = self.paused()
        for partition, until in list(self._set_aside.items()):
            if partition not in paused:
                del self._set_aside[partition]
            elif monotonic() >= until:
                del self._set_aside[partition]
                self.resume(partition)
                self._looking = LOOKING_ROUNDS
