"""A member of a consumer group for code in threads: polls lanes, and says to Kafka that it is done only afterwards."""

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any, Final, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from contracts.topics import Topic, named
from infra.kafka.client import SessionNotAllowed, connection, membership, translated
from infra.kafka.errors import KafkaUnavailable
from infra.kafka.lanes import Lane
from infra.settings import Settings

T = TypeVar("T")

HANDOVER_SECONDS: Final = 5.0  # Lanes go to others once what is in hand is done, or after so long.
COMMIT_SECONDS: Final = 1.0
START_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 15.0

_log = structlog.get_logger(__name__)


class LaneConsumer:
    """One consumer group's member, on an event loop in a thread of its own. For one caller's thread.

    Kafka's own offsets are only where the next member begins to read: they move after :meth:`done`, and nothing is lost
    when they do not. Who really has heard what is noted with the effect, by offsets of the log. Connects at first use.
    """

    def __init__(self, settings: Settings, group: str, topics: Iterable[Topic]) -> None:
        self.partitions = settings.kafka_partitions
        self.group = f"{settings.kafka_prefix}tessera-{group}"
        self._settings = settings
        self._names = {named(settings.kafka_prefix, topic): topic.name for topic in topics}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._idle = asyncio.Event()  # Nothing that was polled waits for its effect.
        self._next: dict[TopicPartition, int] = {}  # In hand: the offset after the last record of each lane.
        self._due: dict[TopicPartition, int] = {}  # Done, and not yet told to Kafka.
        self._commit_at = 0.0

    def poll(self, limit: int, timeout_seconds: float) -> Mapping[Lane, Sequence[ConsumerRecord]]:
        """What came since, at most ``limit`` records; waits when there is nothing.

        Until :meth:`done` is called, lanes that go to others wait for it (bounded). Raises KafkaUnavailable,
        SessionNotAllowed.
        """
        loop = self._turning()
        try:
            if self._consumer is None:
                self._consumer = self._call(loop, self._start(), START_SECONDS)
            found = self._call(loop, self._poll(limit, timeout_seconds), timeout_seconds + ANSWER_SECONDS)
        except (KafkaError, SessionNotAllowed):
            self._leave(loop)  # What its background tasks died of, they say for ever: the next poll begins anew.
            raise
        return {self._lane(partition): records for partition, records in found.items()}

    def assigned(self) -> Collection[Lane]:
        """The lanes that are this member's now, as far as it knows."""
        consumer = self._consumer
        return frozenset() if consumer is None else frozenset(map(self._lane, consumer.assignment()))

    def done(self) -> None:
        """What was polled has taken effect."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._note_done)

    def close(self) -> None:
        """Leave the group, so that others need not wait for the session's end."""
        loop, self._loop = self._loop, None
        if loop is not None:
            self._leave(loop)
            loop.call_soon_threadsafe(loop.stop)

    def _turning(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            Thread(target=_turn, args=(self._loop,), name=f"kafka-{self.group}", daemon=True).start()
        return self._loop

    def _call(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], timeout_seconds: float) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            with translated(self._settings):
                return future.result(timeout_seconds)
        except KafkaUnavailable:
            future.cancel()
            raise

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(KafkaUnavailable, KafkaError):
            self._call(loop, self._stop(), ANSWER_SECONDS)

    async def _start(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **connection(self._settings),
            **membership(self._settings),
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        consumer.subscribe(list(self._names), listener=_Handover(self))
        self._idle.set()
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    async def _stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await self._commit(consumer)
            await consumer.stop()

    async def _poll(self, limit: int, timeout_seconds: float) -> dict[TopicPartition, list[ConsumerRecord]]:
        consumer = self._consumer
        assert consumer is not None
        if self._due and asyncio.get_running_loop().time() >= self._commit_at:
            await self._commit(consumer)
        found = await consumer.getmany(timeout_ms=int(timeout_seconds * 1_000), max_records=limit)
        if found:
            self._next = {partition: records[-1].offset + 1 for partition, records in found.items()}
            self._idle.clear()
        return dict(found)

    def _note_done(self) -> None:
        self._due |= self._next
        self._next = {}
        self._idle.set()

    async def hand_over(self, revoked: Collection[TopicPartition]) -> None:
        """Called before lanes are given to others."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), HANDOVER_SECONDS)
        if self._consumer is not None and revoked:
            await self._commit(self._consumer)

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        due, self._due = self._due, {}
        self._commit_at = asyncio.get_running_loop().time() + COMMIT_SECONDS
        mine = {partition: offset for partition, offset in due.items() if partition in consumer.assignment()}
        try:
            if mine:
                await consumer.commit(mine)
        except (KafkaError, IllegalStateError) as error:  # Whoever has these lanes next reads some records again.
            _log.info("offsets_not_committed", group=self.group, reason=str(error) or type(error).__name__)

    def _lane(self, partition: TopicPartition) -> Lane:
        return Lane(self._names[partition.topic], partition.partition)


class _Handover(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types.
    def __init__(self, consumer: LaneConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        await self._consumer.hand_over(revoked)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        lanes = sorted(f"{each.topic}/{each.partition}" for each in assigned)
        _log.info("lanes_assigned", group=self._consumer.group, lanes=lanes)


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
