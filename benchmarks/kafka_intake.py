"""Commands out of a topic: the intake with its engine and store, beside a plain consumer of the same records."""

import asyncio
import threading
from collections import Counter
from itertools import count
from time import monotonic, perf_counter, sleep
from typing import Final

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.bench import Figure
from benchmarks.processor import Meter, micros_each
from benchmarks.workloads import HOT, REALM, make_templates
from contracts.commands import ClaimCoupon
from contracts.topics import COMMANDS, DEAD_LETTERS, REPLIES, TAKEN_IN, named
from infra.bootstrap.stores import write_side
from infra.intake.service import IntakeService
from infra.kafka.admin import create_topics
from infra.kafka.client import connection
from infra.sagas.first_step import first_step
from infra.settings import Settings
from infra.telemetry.tracing import Tracing

TAKEN_SECONDS_MAX: Final = 600.0
FETCHED_RECORDS_MAX: Final = 250  # As many at once as the intake takes.
_HEADERS: Final = [("tenant", REALM.tenant_id.encode()), ("app", REALM.app_id.encode())]


class IntakeRig:
    """Topics with claims of one hot template, new ones for each round. ``servers``: whose processor time counts."""

    def __init__(self, settings: Settings, servers: dict[str, int], commands: int) -> None:
        self._settings = settings
        self._servers = servers
        self._commands = commands
        self._rounds = count()
        self._loaded = settings

    def intake(self) -> Figure:
        """From raw record to acknowledged reply, the process that decides them included."""
        self._loaded = self._preloaded()
        answered, stop = _Answered(), threading.Event()
        with write_side(self._loaded) as side:
            make_templates(side.engine, [HOT])
            service = IntakeService(self._loaded, connection(self._loaded), Tracing(), answered)
            thread = threading.Thread(target=lambda: asyncio.run(service.run(side.engine, first_step, stop)))
            meter, began = Meter(self._servers), perf_counter()
            thread.start()
            try:
                answered.wait_for(self._commands)
                seconds, used = perf_counter() - began, meter.used()
            finally:
                stop.set()
                thread.join()
        if answered.codes["ok"] != self._commands:
            raise RuntimeError(f"not every claim was accepted: {dict(answered.codes)}")
        micros = micros_each(used, self._commands)
        return Figure(self._commands / seconds, {"events": self._commands, "micros_each": micros})

    def consumer(self) -> Figure:
        """The records that the intake took last, fetched only."""
        meter, began = Meter(self._servers), perf_counter()
        asyncio.run(_fetched(self._loaded, self._commands))
        micros = micros_each(meter.used(), self._commands)
        return Figure(self._commands / (perf_counter() - began), {"events": self._commands, "micros_each": micros})

    def _preloaded(self) -> Settings:
        name = f"claims-{next(self._rounds)}"
        settings = self._settings.model_copy(update={"kafka_prefix": f"{name}-"})
        create_topics(settings, (*TAKEN_IN, *DEAD_LETTERS, REPLIES))
        asyncio.run(_sent(settings, name, self._commands))
        return settings


class _Answered:
    """Counts what the intake answers."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()

    def records_answered(self, topic: str, code: str, count: int) -> None:
        self.codes[code] += count

    def letter_written(self, topic: str, reason: str) -> None:
        self.codes[reason] += 1

    def batch_waits(self, topic: str, reason: str) -> None:
        pass

    def wait_for(self, wanted: int) -> None:
        until = monotonic() + TAKEN_SECONDS_MAX
        while self.codes.total() < wanted:
            if monotonic() > until:
                raise TimeoutError(f"{self.codes.total()} of {wanted} commands within {TAKEN_SECONDS_MAX:.0f} s")
            sleep(0.01)


async def _sent(settings: Settings, name: str, commands: int) -> None:
    producer = AIOKafkaProducer(**connection(settings), acks="all", linger_ms=5, max_batch_size=512 * 1_024)
    async with producer:
        acknowledged = []
        for number in range(commands):
            claim = {"template_id": HOT, "user_id": f"{name}-u{number}"}
            value = orjson.dumps({"type": ClaimCoupon.type, "command_id": f"{name}-{number}", "data": claim})
            key = claim["user_id"].encode()
            topic = named(settings.kafka_prefix, COMMANDS)
            acknowledged.append(await producer.send(topic, value, key=key, headers=_HEADERS))
        await asyncio.gather(*acknowledged)


async def _fetched(settings: Settings, wanted: int) -> None:
    consumer = AIOKafkaConsumer(**connection(settings), enable_auto_commit=False)
    lanes = [TopicPartition(named(settings.kafka_prefix, COMMANDS), each) for each in range(settings.kafka_partitions)]
    async with asyncio.timeout(TAKEN_SECONDS_MAX), consumer:
        consumer.assign(lanes)
        await consumer.seek_to_beginning()
        while wanted > 0:
            found = await consumer.getmany(timeout_ms=500, max_records=FETCHED_RECORDS_MAX)
            wanted -= sum(map(len, found.values()))
