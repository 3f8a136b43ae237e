"""What Kafka adds: the relay beside a plain producer of its messages, followers' reading beside a plain consumer."""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any, Final, NamedTuple

import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.bench import Bench, Figure, Outcome, Side, Target, in_turn, ratio
from benchmarks.kafka_intake import IntakeRig
from benchmarks.parts import HOT_CLIENTS, engines
from benchmarks.processor import Meter, micros_each
from benchmarks.targets.followers import catch_up, running
from contracts.position import Position
from contracts.topics import EVENT_TOPICS, named
from infra import memory
from infra.bootstrap import stores
from infra.embedded.clickhouse import EmbeddedClickHouse
from infra.embedded.kafka import EmbeddedKafka
from infra.embedded.redis import EmbeddedRedis
from infra.kafka.admin import create_topics
from infra.kafka.client import connection
from infra.kafka.lanes import Lane
from infra.kafka.messages import Message, decode, encode_watermark
from infra.postgres.feed import StoreFeed
from infra.processes import free_port
from infra.relay.checkpoint import Checkpoint, Standing
from infra.relay.publisher import KafkaPublisher, PublisherLimits
from infra.relay.relay import Relay, RelayLimits, lay_out
from infra.relay.wording import Wording
from infra.settings import Settings

READ_EVENTS_MAX: Final = 5_000
SENDING_MAX: Final = 2_000  # Messages that a plain producer has under way: as many as the relay's batch.
FETCH_SECONDS_MAX: Final = 60.0
NOTHING: Final = encode_watermark(Position(0, "none", 0), previous=0)  # Before the clock runs: leaders are known then.
RELAY, PRODUCER = "relay: from the log to acknowledged topics", "plain producer of the same messages"
READER, CONSUMER = "records read and understood", "plain consumer of the same records"
INTAKE, COMMANDS_ONLY = "intake: from a command's record to its acknowledged reply", "plain consumer of those commands"
OVER_KAFKA, OVER_STORE = "projections over Kafka, start included", "projections over the store, start included"
COMMANDS_PER_SECOND: Final = 2_500  # How many are prepared for each second of measuring.
FOLLOWER_ROUNDS_MAX: Final = 3


class Addressed(NamedTuple):
    """A message and where it goes."""

    lane: Lane
    message: Message


class Rig:
    """A log of claims, a broker, and topics of their own for whoever publishes."""

    def __init__(self, bench: Bench, dsn: str, kafka: EmbeddedKafka) -> None:
        self._dsn = dsn
        self._prefixes = count()
        self._settings = Settings.load(
            postgres_dsn=dsn,
            redis_url="redis://127.0.0.1:1/0",  # Nobody asks it.
            clickhouse_url="http://127.0.0.1:1/none",
            kafka_bootstrap=kafka.address,
            log_level="warning",
        )
        assert kafka.child is not None
        self.servers = {"here": os.getpid(), "Kafka": kafka.child.pid, "PostgreSQL": bench.postgres.pid}
        self.messages = self._all_messages()
        self._published = ""  # The prefix of topics that hold all of them.

    def relay(self) -> Figure:
        """The whole log, from nothing, watermarks included, by a publisher that is connected."""
        settings = self._fresh_topics()
        with psycopg.connect(self._dsn) as store:
            store.execute("DELETE FROM relay_lanes")
            store.execute("DELETE FROM follower_positions WHERE follower = 'relay'")
        limits = RelayLimits()
        checkpoint = Checkpoint(self._dsn, 0, lead_seconds=limits.lead_seconds)
        with closing(StoreFeed(self._dsn)) as feed, closing(KafkaPublisher(settings)) as publisher:
            publisher.publish({lane: [NOTHING] for lane in publisher.lanes})
            relay = Relay(feed, checkpoint, publisher, shard=0, limits=limits)
            figure = self._timed(lambda: _drained(relay))
            sleep(limits.watermark_seconds)
            relay.step()  # Followers have to hear that their lanes are complete.
        checkpoint.release()
        self._published = settings.kafka_prefix
        return figure

    def producer(self) -> Figure:
        """The messages made beforehand; same settings, the library's usual way: one ``send`` each."""
        settings = self._fresh_topics()
        with asyncio.Runner() as runner:
            producer = runner.run(_connected(settings))
            figure = self._timed(lambda: runner.run(_send_all(producer, settings.kafka_prefix, self.messages)))
            runner.run(producer.stop())
        return figure

    def reader(self) -> Figure:
        """As followers read: fetched and decoded."""
        return self._timed(lambda: asyncio.run(_read_all(self._topics_with_all(), understand=True)))

    def consumer(self) -> Figure:
        """Fetched only."""
        return self._timed(lambda: asyncio.run(_read_all(self._topics_with_all(), understand=False)))

    def intake(self, commands: int) -> IntakeRig:
        """Commands beside the log that is there."""
        return IntakeRig(self._settings, self.servers, commands)

    def projections(self, bench: Bench, feed: str) -> Figure:
        """A worker of its own, on an empty Redis and an empty ClickHouse, from its start until it has caught up."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(dir=bench.postgres.folder)))
            redis = stack.enter_context(running(EmbeddedRedis(folder)))
            clickhouse = stack.enter_context(running(EmbeddedClickHouse(folder)))
            here = {"redis_url": redis.address, "clickhouse_url": clickhouse.address, "follower_feed": feed}
            settings = self._topics_with_all().model_copy(update={**here, "follower_metrics_port": free_port()})
            stores.migrate(settings)
            servers = {name: pid for name, pid in self.servers.items() if name != "here"}
            return catch_up(bench, settings, servers, "here")

    def _timed(self, work: Callable[[], int]) -> Figure:
        meter, began = Meter(self.servers), perf_counter()
        handled = work()
        seconds = perf_counter() - began
        if handled < len(self.messages):
            raise RuntimeError(f"{handled} of {len(self.messages)} messages")
        return Figure(handled / seconds, {"events": handled, "micros_each": micros_each(meter.used(), handled)})

    def _fresh_topics(self) -> Settings:
        settings = self._settings.model_copy(update={"kafka_prefix": f"round-{next(self._prefixes)}-"})
        create_topics(settings, EVENT_TOPICS)
        return settings

    def _topics_with_all(self) -> Settings:
        return self._settings.model_copy(update={"kafka_prefix": self._published})

    def _all_messages(self) -> list[Addressed]:
        with closing(StoreFeed(self._dsn)) as feed:
            standing = Standing(feed.epoch(), 0, {})
            found: list[Addressed] = []
            while rows := feed.read_stored(standing.offset, READ_EVENTS_MAX):
                laid = lay_out(rows, standing, Wording(), shard=0, partitions=self._settings.kafka_partitions)
                found += [Addressed(lane, message) for lane, messages in laid.parcels.items() for message in messages]
                standing = Standing(standing.epoch, laid.upto, {**standing.lanes, **laid.ends})
        return found


def run(bench: Bench) -> Outcome:
    """Out: relay and producer in turn. In: the topics that the last relay filled."""
    load, _, _ = os.getloadavg()
    with ExitStack() as stack:
        dsn = stack.enter_context(bench.postgres.database())
        with engines(bench, dsn) as ours:
            ours.prepare("claims_hot", HOT_CLIENTS)
            bench.say("storing claims")
            ours.closed("claims_hot", HOT_CLIENTS, 2 * bench.effort.seconds)
        bench.say("starting Kafka")
        kafka = EmbeddedKafka(bench.postgres.folder)
        stack.callback(kafka.stop)
        kafka.start()
        rig = Rig(bench, dsn, kafka)
        memory.settle()  # As every process of ours does: else the relay pays for looking through our own messages.
        out = in_turn(bench, {RELAY: rig.relay, PRODUCER: rig.producer}, unit="events/s")
        into = in_turn(bench, {READER: rig.reader, CONSUMER: rig.consumer}, unit="records/s")
        few = replace(bench, effort=replace(bench.effort, rounds=min(bench.effort.rounds, FOLLOWER_ROUNDS_MAX)))
        feeds = {OVER_KAFKA: "kafka", OVER_STORE: "store"}
        followed = in_turn(few, {name: partial(rig.projections, few, feed) for name, feed in feeds.items()})
        told = rig.intake(round(COMMANDS_PER_SECOND * bench.effort.seconds))
        taken = in_turn(few, {INTAKE: told.intake, COMMANDS_ONLY: told.consumer}, unit="commands/s", alternate=False)
    sides = [*out, *into, *taken, *followed]
    outcome = ratio(sides, rows=[_row(side) for side in sides])
    outcome.notes.append(f"{len(rig.messages):,} events of claims, {_bytes_each(rig.messages):.0f} bytes a message")
    outcome.notes.append(f"{load:.1f} processes wanted {os.cpu_count()} cores before it began")
    return outcome


def _drained(relay: Relay) -> int:
    published = 0
    while events := relay.step():
        published += events
    return published


def _row(side: Side) -> dict[str, Any]:
    figure = side.middle
    micros = {name: round(value, 1) for name, value in figure.details["micros_each"].items()}
    return {"what": side.name, "per_second": round(median(side.values)), "micros_each": micros}


def _bytes_each(messages: Sequence[Addressed]) -> float:
    """Key, value and headers, without the protocol's own."""
    sizes = (
        len(message.key or b"") + len(message.value) + sum(len(name) + len(value) for name, value in message.headers)
        for _, message in messages
    )
    return sum(sizes) / len(messages)


async def _connected(settings: Settings) -> AIOKafkaProducer:
    """Set up as the relay's, and heard by every lane."""
    batch_bytes_max = PublisherLimits().batch_bytes_max
    producer = AIOKafkaProducer(
        **connection(settings), enable_idempotence=True, acks="all", max_batch_size=batch_bytes_max
    )
    await producer.start()
    for name in (named(settings.kafka_prefix, topic) for topic in EVENT_TOPICS):
        for number in range(settings.kafka_partitions):
            await producer.send_and_wait(name, value=NOTHING.value, partition=number, headers=NOTHING.headers)
    return producer


async def _send_all(producer: AIOKafkaProducer, prefix: str, messages: Sequence[Addressed]) -> int:
    for first in range(0, len(messages), SENDING_MAX):
        sending = [
            await producer.send(
                prefix + lane.topic,
                value=message.value,
                key=message.key,
                partition=lane.partition,
                headers=message.headers,
            )
            for lane, message in messages[first : first + SENDING_MAX]
        ]
        await asyncio.gather(*sending)
    return len(messages)


async def _read_all(settings: Settings, *, understand: bool) -> int:
    consumer = AIOKafkaConsumer(**connection(settings), enable_auto_commit=False)
    names = [named(settings.kafka_prefix, topic) for topic in EVENT_TOPICS]
    lanes = [TopicPartition(name, number) for name in names for number in range(settings.kafka_partitions)]
    read = 0
    async with asyncio.timeout(FETCH_SECONDS_MAX), consumer:
        consumer.assign(lanes)
        await consumer.seek_to_beginning()
        wanted = sum((await consumer.end_offsets(lanes)).values())
        while read < wanted:
            fetched = list(chain.from_iterable((await consumer.getmany(timeout_ms=500)).values()))
            if understand:
                for record in fetched:
                    decode(record)
            read += len(fetched)
    return read


TARGET = Target(
    key="kafka",
    title="events/s relayed to Kafka ÷ a plain producer of the same messages",
    how="the relay reads, encodes, publishes and moves its checkpoint, 2,000 events at a time; aiokafka's producer, "
    "set up alike, sends ready messages one by one, as many at a time; then both kinds of readers; projections from "
    "nothing over topics and over the store; the intake over prepared topics, beside a consumer of the same records",
    run=run,
    by_default=False,
)
