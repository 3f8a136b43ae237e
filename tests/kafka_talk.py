"""What an upstream does on the other side of Kafka, in plain blocking calls: send, and read what is there."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from contracts.topics import Topic, named
from infra.kafka.client import connection
from infra.settings import Settings

T = TypeVar("T")

REALM_HEADERS = (("tenant", b"acme"), ("app", b"shop"))
WAIT_SECONDS = 60.0
# A producer that lost its broker in the middle of a batch may wait for longer than the broker is away: begin anew.
SEND_SECONDS = 30.0


class Sent(NamedTuple):
    """One message to be sent; JSON unless it is bytes already."""

    body: Any
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = REALM_HEADERS

    @property
    def value(self) -> bytes | None:
        """What goes on the wire."""
        return self.body if self.body is None or isinstance(self.body, bytes) else orjson.dumps(self.body)


class Talk:
    """Sends to and reads from the topics of one installation."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def name(self, topic: Topic) -> str:
        """A topic's name here."""
        return named(self.settings.kafka_prefix, topic)

    def send(self, topic: Topic | str, messages: Iterable[Sent]) -> None:
        """Send, and return when all are acknowledged."""
        name = topic if isinstance(topic, str) else self.name(topic)
        asyncio.run(self._send(name, list(messages)))

    def read(
        self, topic: Topic, enough: Callable[[list[ConsumerRecord[Any, Any]]], bool], seconds: float = WAIT_SECONDS
    ) -> list[ConsumerRecord[Any, Any]]:
        """Everything on a topic, from its beginning, once it is enough. Fails after the time."""
        return asyncio.run(self._read(self.name(topic), enough, seconds))

    def all_of(self, topic: Topic) -> list[ConsumerRecord[Any, Any]]:
        """What is on a topic at this moment."""
        return asyncio.run(self._read(self.name(topic), None, WAIT_SECONDS))

    def committed(self, group: str, topic: Topic | str) -> int:
        """How many records a group has finished, over all partitions of a topic."""
        name = topic if isinstance(topic, str) else self.name(topic)
        return asyncio.run(self._committed(group, name))

    def end_of(self, topic: Topic) -> int:
        """How many records a topic holds, over all partitions."""
        return asyncio.run(self._end_of(self.name(topic)))

    async def _send(self, name: str, messages: Sequence[Sent]) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            producer = AIOKafkaProducer(**connection(self.settings), acks="all", enable_idempotence=True, linger_ms=5)
            try:
                await producer.start()
                acks = [await producer.send(name, m.value, key=m.key, headers=list(m.headers)) for m in messages]
                await asyncio.gather(*acks)
            finally:
                await producer.stop()

    async def _read(
        self, name: str, enough: Callable[[list[ConsumerRecord[Any, Any]]], bool] | None, seconds: float
    ) -> list[ConsumerRecord[Any, Any]]:
        async with _Reader(self.settings, name) as reader:
            until = monotonic() + seconds
            found: list[ConsumerRecord[Any, Any]] = []
            while True:
                found += await reader.more()
                if enough is None:
                    if await reader.is_at_end():
                        return found
                elif enough(found):
                    return found
                assert monotonic() < until, f"{len(found)} records of {name} are not enough after {seconds:.0f} s"

    async def _end_of(self, name: str) -> int:
        async with _Reader(self.settings, name) as reader:
            return await reader.end()

    async def _committed(self, group: str, name: str) -> int:
        admin = AIOKafkaAdminClient(**connection(self.settings))
        await admin.start()
        try:
            told = await admin.list_consumer_group_offsets(group)
        finally:
            await admin.close()
        return sum(max(0, each.offset) for at, each in told.items() if at.topic == name)


class _Reader:
    """Reads a topic from its beginning, without a group."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._name = name
        self._consumer = AIOKafkaConsumer(
            **connection(settings), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
        )

    async def __aenter__(self) -> "_Reader":
        await self._consumer.start()
        partitions = self._consumer.partitions_for_topic(self._name) or set()
        until = monotonic() + WAIT_SECONDS
        while not partitions and monotonic() < until:  # A starved broker may not tell at once.
            await self._consumer._client.add_topic(self._name)
            await self._consumer._client.force_metadata_update()
            partitions = self._consumer.partitions_for_topic(self._name) or set()
        self._partitions = [TopicPartition(self._name, each) for each in partitions]
        assert self._partitions, f"there is no topic {self._name}"
        self._consumer.assign(self._partitions)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def more(self) -> list[ConsumerRecord[Any, Any]]:
        try:
            got = await self._consumer.getmany(timeout_ms=100)
        except KafkaError:
            return []  # A broker that is being killed; whoever waits has a bound.
        return [record for batch in got.values() for record in batch]

    async def end(self) -> int:
        return sum((await self._consumer.end_offsets(self._partitions)).values())

    async def is_at_end(self) -> bool:
        ends = await self._consumer.end_offsets(self._partitions)
        return all([await self._consumer.position(each) >= end for each, end in ends.items()])


def retried(do: Callable[[], T], *, seconds: float = WAIT_SECONDS) -> T:
    """Do it again while Kafka is away, for so long."""
    until = monotonic() + seconds
    while True:
        try:
            return do()
        except (KafkaError, OSError):
            if monotonic() > until:
                raise


def value_of(record: ConsumerRecord[Any, Any]) -> Any:
    """A record's JSON."""
    return orjson.loads(record.value)
