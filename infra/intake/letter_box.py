"""The intake's dead letters as operators meet them: read, sent again, given up. Blocking, and bounded."""

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from contracts.topics import TAKEN_IN, dead_letters_of, named
from infra.intake.dead_letters import Letter, Origin, Settled, letters_in, mark, original
from infra.intake.messages import Outgoing
from infra.intake.publisher import NotPublished, Publisher
from infra.kafka.admin import TopicsMissing, missing_of
from infra.kafka.client import KafkaUnavailable, connection, translated
from infra.kafka.messages import Record
from infra.settings import Settings

logger = structlog.get_logger(__name__)

# The latest of each partition that are looked at; older ones are on the topic, as long as it keeps them.
RECORDS_MAX: Final = 20_000
BYTES_MAX: Final = 256 * 1_048_576  # Of all of them together; the oldest are left out first.
READ_SECONDS: Final = 30.0


class LetterBox:
    """Every method raises NoKafka, KafkaUnavailable or TopicsMissing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = [named(settings.kafka_prefix, dead_letters_of(topic)) for topic in TAKEN_IN]

    def letters(self) -> list[Letter]:
        """All that are kept, each once, oldest first; with what became of them."""
        if missing := missing_of(self._settings, self._topics):  # Kafka's client would wait for them, and blame others.
            raise TopicsMissing(self._settings, missing)
        with translated(self._settings):
            records = asyncio.run(self._records())
        return sorted(letters_in(records), key=lambda letter: (letter.refused_at, letter.origin))

    def requeue(self, letters: Sequence[Letter], *, actor: str) -> tuple[list[Letter], dict[Origin, str]]:
        """Send the original records to where they came from, those that were not yet.

        Returns those that were sent, and of those that cannot be sent why; they stay as they are.

        Once all are acknowledged they are marked. Whoever dies in between sends them again the next time: the same
        commands under the same ids, which have no second effect.
        """
        sent: list[Letter] = []
        records: list[Outgoing] = []
        waiting = [letter for letter in letters if letter.settled is None]
        gone = set(missing_of(self._settings, sorted({letter.origin.topic for letter in waiting})))
        stay = {each.origin: f"there is no topic {each.origin.topic}" for each in waiting if each.origin.topic in gone}
        for letter in waiting:
            if letter.origin not in stay:
                try:
                    records.append(original(letter))
                    sent.append(letter)
                except ValueError as error:
                    stay[letter.origin] = str(error)
        self._publish(records, self._marks(sent, "requeued", actor, ""))
        return sent, stay

    def drop(self, letters: Sequence[Letter], *, actor: str, because: str) -> list[Letter]:
        """Say of those that are still waiting that nobody will send them again; returns them. The topic keeps them."""
        waiting = [letter for letter in letters if letter.settled is None]
        self._publish(self._marks(waiting, "dropped", actor, because))
        return waiting

    def _marks(self, letters: Sequence[Letter], settled: Settled, actor: str, because: str) -> list[Outgoing]:
        now = datetime.now(UTC)
        return [mark(letter, settled, now=now, actor=actor, because=because) for letter in letters]

    def _publish(self, *batches: Sequence[Outgoing]) -> None:
        """One batch after the other, each acknowledged before the next."""

        async def publish() -> None:
            publisher = Publisher(connection(self._settings))
            try:
                for batch in batches:
                    await publisher.publish(batch)
            finally:
                await publisher.close()

        try:
            asyncio.run(publish())
        except NotPublished as error:
            raise KafkaUnavailable(
                f"not all was acknowledged ({error}); run this again: nothing happens twice"
            ) from error

    async def _records(self) -> list[Record]:
        consumer = AIOKafkaConsumer(
            *self._topics, **connection(self._settings), group_id=None, enable_auto_commit=False
        )
        async with asyncio.timeout(READ_SECONDS):
            try:
                await consumer.start()
                return await _read(consumer)
            finally:
                await consumer.stop()


async def _read(consumer: AIOKafkaConsumer) -> list[Record]:
    """What is there now, the latest of it. Without a group a consumer owns every partition of its topics."""
    partitions = list(consumer.assignment())
    begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    for each in partitions:
        consumer.seek(each, max(begins[each], ends[each] - RECORDS_MAX))
    latest = _Latest(BYTES_MAX)
    while not await _are_at(consumer, ends):
        batches = await consumer.getmany(timeout_ms=200)
        for batch in batches.values():
            for record in batch:
                latest.add(record)
    if latest.left_out:
        logger.warning("older_dead_letters_left_out", records=latest.left_out, bytes_max=BYTES_MAX)
    return list(latest.records)


class _Latest:
    """The last records that were read, up to so many bytes. A letter goes before its mark, which stands behind it."""

    def __init__(self, bytes_max: int) -> None:
        self.records: deque[Record] = deque()
        self.left_out = 0
        self._room = bytes_max

    def add(self, record: Record) -> None:
        """Keep it, and let go of the oldest that there is no room for any more."""
        self.records.append(record)
        self._room -= _size(record)
        while self._room < 0:
            self._room += _size(self.records.popleft())
            self.left_out += 1


def _size(record: Record) -> int:
    around = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + around


async def _are_at(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
    return all([await consumer.position(each) >= end for each, end in ends.items()])
