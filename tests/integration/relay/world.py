"""A log, topics of its own, relays between them, and a plain Kafka client that reads everything there is."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from time import monotonic, sleep
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from command.ports import Batch
from contracts.envelope import Recorded
from contracts.identity import stream_id
from contracts.topics import EVENT_TOPICS, named
from infra.kafka.admin import create_topics
from infra.kafka.lanes import Filled, Heard, Hole, Lane, sift
from infra.kafka.messages import Published, Watermark, decode
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresEventLog
from infra.relay.checkpoint import Checkpoint
from infra.relay.publisher import KafkaPublisher, PublisherLimits
from infra.relay.relay import Relay, RelayLimits
from infra.settings import Settings
from tests.contract.event_log import ACME, at

PATIENCE_SECONDS = 60.0
KINDS = ("coupon", "template", "checkout", "settlement", "budget", "distribution", "notification", "clock", "order")
SMALL = RelayLimits(batch_events_max=50, standby_seconds=0.05, lead_seconds=5.0, halted_again_seconds=0.1)
QUICK = PublisherLimits(open_seconds=10.0, publish_seconds=20.0, request_seconds=40.0, beat_seconds=0.2)

Record = Published | Watermark


def settings_for(dsn: str, bootstrap: str, prefix: str, **more: Any) -> Settings:
    """As a relay needs them; nobody asks the other stores."""
    return Settings(
        postgres_dsn=dsn,
        redis_url="redis://127.0.0.1:1/0",
        clickhouse_url="http://127.0.0.1:1/none",
        kafka_bootstrap=bootstrap,
        kafka_prefix=prefix,
        **more,
    )


class World:
    """One store and its topics. ``write`` may be called by several threads, each with streams of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.dsn = settings.postgres_dsn
        self._relays: list[Relay] = []
        create_topics(settings, EVENT_TOPICS)
        with closing(PostgresEventLog(self.dsn)) as log:
            self.epoch = log.epoch

    def write(self, name: str, batches: int, events_each: int = 9) -> int:
        """So many batches of events, over streams of all kinds that are called ``name``; how many events that makes."""
        streams = [stream_id(ACME, kind, name) for kind in KINDS]
        versions = dict.fromkeys(streams, 0)
        with closing(PostgresEventLog(self.dsn)) as log:
            for batch in range(batches):
                events = []
                for number in range(events_each):
                    stream = streams[(batch + number) % len(streams)]
                    versions[stream] += 1
                    events.append(at(versions[stream], stream=stream))
                with log.appending() as tx:
                    tx.append(Batch(events=events))
        return batches * events_each

    def log(self) -> list[Recorded]:
        """All of it."""
        events: list[Recorded] = []
        with closing(StoreFeed(self.dsn)) as feed:
            while batch := feed.read(events[-1].offset if events else 0, 5_000):
                events += batch
        return events

    @property
    def checkpoint(self) -> int:
        """Up to where the log counts as published."""
        return int(self.ask("SELECT coalesce(max(log_offset), 0) FROM follower_positions WHERE follower = 'relay'"))

    def ask(self, sql: str, *parameters: object) -> Any:
        """One value out of the store."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute(sql.encode(), parameters).fetchone()
            return row and row[0]

    def relay(self, limits: RelayLimits = SMALL, publisher: PublisherLimits = QUICK, **more: Any) -> Relay:
        """A relay that nobody runs yet."""
        relay = Relay(
            StoreFeed(self.dsn),
            Checkpoint(self.dsn, 0, lead_seconds=limits.lead_seconds),
            KafkaPublisher(self.settings, publisher),
            shard=0,
            limits=limits,
            **more,
        )
        self._relays.append(relay)
        return relay

    @contextmanager
    def running(self, relay: Relay | None = None) -> Iterator[Relay]:
        """A relay on a thread of its own."""
        relay, stop = relay or self.relay(), threading.Event()
        thread = threading.Thread(target=relay.run, args=(stop,))
        thread.start()
        try:
            yield relay
        finally:
            stop.set()
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()

    def until_published(self) -> int:
        """Wait until the relay has published all that there is now; up to where that is."""
        head = self.log()[-1].offset
        wait_for(lambda: self.checkpoint >= head, lambda: f"{head}: {[relay.status() for relay in self._relays]}")
        return head

    def lanes(self) -> dict[Lane, list[Record]]:
        """Every record of every lane, in order, as whoever reads the topics finds them."""
        return {lane: [decode(record) for record in records] for lane, records in self.raw().items()}

    def raw(self) -> dict[Lane, list[Any]]:
        """The same as Kafka's client gives it."""
        return asyncio.run(_read_all(self.settings))


async def _read_all(settings: Settings) -> dict[Lane, list[Any]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, enable_auto_commit=False)
    lanes = {
        TopicPartition(named(settings.kafka_prefix, topic), partition): Lane(topic.name, partition)
        for topic in EVENT_TOPICS
        for partition in range(settings.kafka_partitions)
    }
    found: dict[Lane, list[Any]] = {lane: [] for lane in lanes.values()}
    async with asyncio.timeout(PATIENCE_SECONDS), consumer:
        consumer.assign(list(lanes))
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(list(lanes))
        while any([await consumer.position(each) < ends[each] for each in lanes]):
            for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                found[lanes[partition]] += records
    return found


def events_of(lanes: dict[Lane, list[Record]]) -> list[Recorded]:
    """Every event that came, in the order of the log, as often as it came."""
    came = [record.recorded for records in lanes.values() for record in records if isinstance(record, Published)]
    return sorted(came, key=lambda event: event.offset)


def followed(lanes: dict[Lane, list[Record]]) -> list[Recorded]:
    """What a follower takes out of the lanes by the chain alone. Fails where the chain is not what the log says.

    It never looks into the log; each record, also one that comes again, must name the event before it in its lane.
    """

    def no_hole(hole: Hole) -> Filled:
        raise AssertionError(f"{hole} was not published in order")

    taken: list[Recorded] = []
    for lane, records in lanes.items():
        chain = [0, *sorted({each.position.offset for each in records if isinstance(each, Published)})]
        before = dict(zip(chain[1:], chain, strict=False))
        said = {each.position.offset: each.previous for each in records if isinstance(each, Published)}
        assert said == before, lane
        heard = [
            Heard(record.position.offset, record.previous, record.recorded if isinstance(record, Published) else None)
            for record in records
        ]
        sifted = sift(0, heard, no_hole)
        assert sifted.whole
        taken += sifted.events
    return sorted(taken, key=lambda event: event.offset)


def repeated(lanes: dict[Lane, list[Record]]) -> int:
    """How many records of events are there a second time."""
    events = events_of(lanes)
    return len(events) - len({event.offset for event in events})


def wait_for(holds: Callable[[], bool], what: str | Callable[[], str]) -> None:
    """Until something is true."""
    deadline = monotonic() + PATIENCE_SECONDS
    while not holds():
        assert monotonic() < deadline, f"waited in vain for {what() if callable(what) else what}"
        sleep(0.02)


def marks(records: Sequence[Record]) -> list[int]:
    """The offsets of the watermarks."""
    return [record.position.offset for record in records if isinstance(record, Watermark)]
