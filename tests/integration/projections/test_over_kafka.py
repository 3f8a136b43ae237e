"""Read models and facts over a real Kafka: the same as over the store, whoever joins, leaves, dies or is stopped."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from contracts.envelope import Recorded
from contracts.identity import Realm
from contracts.position import Position
from contracts.topics import EVENT_TOPICS
from infra.clickhouse.facts import FactsCheckpoint
from infra.kafka.admin import create_topics
from infra.kafka.client import connection
from infra.kafka.consumer import LaneConsumer
from infra.kafka.errors import KafkaUnavailable
from infra.kafka.lanes import Lane, lanes_of
from infra.kafka.messages import Message
from infra.postgres.feed import StoreFeed
from infra.processes import wait_until
from infra.projections.ports import Halt
from infra.projections.runner import FollowerLimits
from infra.projections.service import ProjectionService
from infra.redis.connection import connect
from infra.redis.models import ModelStore
from infra.relay.checkpoint import Checkpoint
from infra.relay.publisher import KafkaPublisher
from infra.relay.relay import Relay, RelayLimits
from infra.settings import Settings
from projections.catalog import READ_MODELS
from projections.facts import TABLES
from tests.engines import Corners, clickhouse
from tests.integration.projections import oracle
from tests.integration.projections.carrier import Chain
from tests.integration.projections.conftest import Running, World
from tests.unit.projections.stories import Story, about, claimed, everything, locked, redeemed

PATIENCE_SECONDS = 90
BATCH = 25
ROOT = Path(__file__).parents[3]


@pytest.fixture
def settings(world: World, kafka_bootstrap: str, kafka_prefix: str) -> Settings:
    """Of a worker that follows over Kafka."""
    return Settings.load(**addresses(world, kafka_bootstrap, kafka_prefix))


def addresses(world: World, bootstrap: str, prefix: str) -> dict[str, Any]:
    return {
        "postgres_dsn": world.postgres_dsn,
        "redis_url": world.redis_url,
        "clickhouse_url": world.clickhouse_url,
        "kafka_bootstrap": bootstrap,
        "kafka_prefix": prefix,
        "kafka_partitions": 3,
        "follower_feed": "kafka",
    }


class Publisher:
    """What a relay does, and what it does not: it leaves out, repeats and waits as it is told to."""

    def __init__(self, settings: Settings, epoch: str) -> None:
        self._settings = settings
        self.chain = Chain(0, epoch, settings.kafka_partitions)

    def publish(self, events: Sequence[Recorded], *, lost: Iterable[int] = (), twice: Iterable[int] = ()) -> None:
        """Events to their lanes, then a watermark to every lane."""
        lost, twice = set(lost), set(twice)
        messages: list[tuple[Lane, Message]] = []
        for recorded in events:
            link = self.chain.link(recorded)
            messages += [link] * ((recorded.offset not in lost) + (recorded.offset in twice))
        for lane in lanes_of(EVENT_TOPICS, self._settings.kafka_partitions):
            messages.append(self.chain.watermark(lane, events[-1].offset))
        asyncio.run(self._send(messages))

    async def _send(self, messages: Iterable[tuple[Lane, Message]]) -> None:
        async with AIOKafkaProducer(**connection(self._settings), enable_idempotence=True) as producer:
            sent = [
                await producer.send(
                    self._settings.kafka_prefix + lane.topic,
                    message.value,
                    key=message.key,
                    partition=lane.partition,
                    headers=list(message.headers),
                )
                for lane, message in messages
            ]
            await asyncio.gather(*sent)


@contextmanager
def relaying(settings: Settings) -> Iterator[None]:
    """The real relay, in a thread."""
    limits = RelayLimits(batch_events_max=50, standby_seconds=0.05)
    checkpoint = Checkpoint(settings.postgres_dsn, 0, lead_seconds=limits.lead_seconds)
    relay = Relay(StoreFeed(settings.postgres_dsn), checkpoint, KafkaPublisher(settings), shard=0, limits=limits)
    stop = Event()
    thread = Thread(target=relay.run, args=(stop,), name="relay")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def begin(service: ProjectionService, redis_url: str, epoch: str) -> None:
    """Everything stands at the start of the log, so that nothing is caught up from the store."""
    start = Position(0, epoch, 0)
    for model in READ_MODELS.values():
        ModelStore(connect(redis_url), model).begin(1, start, ready_at=0)
    service.migrate()
    service.facts.save(FactsCheckpoint(1, start))


def offsets(service: ProjectionService) -> set[int | None]:
    return {state.offset for state in service.states()}


def wait_for(holds: Callable[[], bool]) -> None:
    assert wait_until(holds, timeout_seconds=PATIENCE_SECONDS, every_seconds=0.02)


def contents(redis_url: str, clickhouse_url: str) -> dict[str, Any]:
    """Every byte of every model and fact, but where they stand and how often they were written."""
    client = connect(redis_url)
    found: dict[str, Any] = {}
    for key in client.scan_iter("*:v1:*"):
        if client.type(key) == b"zset":
            found[key.decode()] = client.zrange(key, 0, -1, withscores=True)
        else:
            found[key.decode()] = {name: value for name, value in client.hgetall(key).items() if name != b"_pos"}
    with clickhouse(clickhouse_url) as server:
        for table in TABLES:
            rows = server.query(f"SELECT * FROM {table} FINAL ORDER BY event_id, row_no").result_rows
            found[f"table {table}"] = [tuple(row) for row in rows]
    return found


def test_models_and_facts_are_the_same_byte_for_byte_over_either_feed(
    world: World, settings: Settings, corners: Corners
) -> None:
    world.append(everything())
    head = world.append(everything(Realm("acme", "other")))
    log = world.stored()
    create_topics(settings)
    found = {}
    for feed in ("store", "kafka"):
        with corners.redis() as redis_url, corners.clickhouse() as clickhouse_url:
            with ProjectionService(
                postgres_dsn=world.postgres_dsn,
                redis_url=redis_url,
                clickhouse_url=clickhouse_url,
                limits=FollowerLimits(batch_events_max=50),
                kafka=settings if feed == "kafka" else None,
            ) as service:
                begin(service, redis_url, world.feed.epoch())
                with Running(service), relaying(settings):
                    wait_for(lambda service=service: offsets(service) == {head})  # type: ignore[misc]
            found[feed] = contents(redis_url, clickhouse_url)
    assert found["kafka"] == found["store"]
    assert sum(len(rows) for name, rows in found["kafka"].items() if name.startswith("table ")) == sum(
        oracle.row_counts(log).values()
    )
    assert len(found["kafka"]) > len(TABLES) + len(READ_MODELS)


def test_a_topic_that_lacks_or_repeats_any_event_makes_no_difference(world: World, settings: Settings) -> None:
    world.append(everything())
    log = world.stored()
    create_topics(settings)
    publisher = Publisher(settings, world.feed.epoch())
    world.service._kafka = settings
    begin(world.service, world.redis_url, world.feed.epoch())
    with Running(world.service):
        for start in range(0, len(log), BATCH):
            batch = log[start : start + BATCH]
            lost = [each.offset for each in batch[start % 3 :: 2]]
            twice = [each.offset for each in batch if each.offset not in lost]
            publisher.publish(batch, lost=lost, twice=twice)
        wait_for(lambda: offsets(world.service) == {log[-1].offset})
    models = list(READ_MODELS)
    assert world.service.checksums(models) == oracle.checksums(log)
    assert world.fact_rows() == oracle.row_counts(log)


def test_a_rebuild_under_load_beside_followers_of_topics_ends_with_the_same_bytes(
    world: World, settings: Settings
) -> None:
    day = busy_day()
    create_topics(settings)
    world.service._kafka = settings
    begin(world.service, world.redis_url, world.feed.epoch())

    def write() -> None:
        for start in range(0, len(day), BATCH):
            world.append(day[start : start + BATCH])

    load = Thread(target=write, name="writer")
    with Running(world.service), relaying(settings):
        load.start()
        wait_for(lambda: min(each or 0 for each in offsets(world.service)) > 0)  # Over topics.
        for name in ("wallet", "facts"):
            assert world.service.rebuild(name).to_version == 2
        load.join()
        wait_for(lambda: offsets(world.service) == {world.feed.head()})
    log = world.stored()
    assert {state.active for state in world.service.states() if state.name in {"wallet", "facts"}} == {2}
    assert world.service.checksums(list(READ_MODELS)) == oracle.checksums(log)
    assert world.fact_rows() == oracle.row_counts(log)
    followed = bytes_of(world.redis_url, "wallet:v2:")
    assert not world.service.rebuild("wallet").changed
    assert bytes_of(world.redis_url, "wallet:v3:") == followed


def bytes_of(redis_url: str, version: str) -> dict[str, dict[Any, Any]]:
    """Every bucket of one version of a model, without where it stands."""
    client = connect(redis_url)
    return {
        key.decode().removeprefix(version): {
            name: value for name, value in client.hgetall(key).items() if name != b"_pos"
        }
        for key in client.scan_iter(f"{version}*")
        if client.type(key) == b"hash"
    }


def test_missing_topics_stop_a_worker_and_name_the_command_that_makes_them(world: World, settings: Settings) -> None:
    world.service._kafka = settings
    with pytest.raises(Halt, match=r"no topic .*coupon-event-topic.* run `tessera migrate`"), Failing(world.service):
        pass


def test_a_broker_that_is_away_is_unavailable_by_its_address_and_met_again_when_it_is_back(
    world: World, settings: Settings
) -> None:
    create_topics(settings)
    away = settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"})
    member = LaneConsumer(away, "redis-0", EVENT_TOPICS)
    for _ in range(2):
        with pytest.raises(KafkaUnavailable, match=r"127\.0\.0\.1:1 .*Is it running"):
            member.poll(10, 0.0)
    assert member.assigned() == frozenset()
    member._settings = settings
    wait_for(lambda: not member.poll(10, 0.1) and len(member.assigned()) == 3 * len(EVENT_TOPICS))
    member.close()
    member.close()


class Failing:
    """A worker in this thread that must not get far."""

    def __init__(self, service: ProjectionService) -> None:
        self._service = service

    def __enter__(self) -> None:
        self._service.run(Event())

    def __exit__(self, *_: object) -> None: ...


@contextmanager
def worker(world: World, settings: Settings, output: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """One process of both followers, whose log is kept."""
    told = addresses(world, settings.kafka_bootstrap or "", settings.kafka_prefix)
    told["kafka_session_seconds"] = 4  # Quick to be missed.
    environment = {f"TESSERA_{name.upper()}": str(value) for name, value in told.items()}
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.projections.lane_process"],
            cwd=ROOT,
            env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(300)  # Twenty seconds on a quiet machine; every step waits for members to be missed.
def test_processes_that_join_leave_die_and_stop_under_load_lose_nothing_and_repeat_nothing(
    world: World, settings: Settings, tmp_path: Path
) -> None:
    day = busy_day()
    create_topics(settings)
    begin(world.service, world.redis_url, world.feed.epoch())
    quarter = len(day) // 4

    def moves_past(offset: int) -> None:
        wait_for(lambda: min(each or 0 for each in offsets(world.service)) > offset)

    def writing(nth: int) -> Thread:
        def run() -> None:
            for start in range(nth * quarter, (nth + 1) * quarter, BATCH):
                world.append(day[start : min(start + BATCH, (nth + 1) * quarter)])

        thread = Thread(target=run, name="writer")
        thread.start()
        return thread

    with ExitStack() as stack:
        outputs = [tmp_path / f"worker-{nth}.log" for nth in range(4)]
        first, second, third = (stack.enter_context(worker(world, settings, output)) for output in outputs[:3])
        stack.enter_context(relaying(settings))
        load = writing(0)
        moves_past(0)  # Members are still joining.
        load.join()
        moves_past(world.feed.head() - 1)

        before = world.feed.head()
        load = writing(1)
        moves_past(before)
        first.send_signal(signal.SIGKILL)
        load.join()
        moves_past(world.feed.head() - 1)

        before = world.feed.head()
        load = writing(2)
        moves_past(before)
        second.send_signal(signal.SIGSTOP)
        load.join()
        moves_past(world.feed.head() - 1)  # Without it, and without the one that was killed.

        fourth = stack.enter_context(worker(world, settings, outputs[3]))
        second.send_signal(signal.SIGCONT)  # It goes on with what it had in hand.
        load = writing(3)
        wait_for(lambda: outputs[3].read_bytes().count(b"lanes_assigned") >= 2)  # In both groups.
        load.join()
        moves_past(world.feed.head() - 1)
        for process in (second, third, fourth):
            process.send_signal(signal.SIGTERM)
        assert [process.wait(timeout=60) for process in (second, third, fourth)] == [0, 0, 0]
    log = world.stored()
    assert len(log) == len(day)
    assert not any(b"catching_up_from_the_store" in output.read_bytes() for output in outputs)
    assert {state.halted for state in world.service.states()} == {None}
    assert world.service.checksums(list(READ_MODELS)) == oracle.checksums(log)
    assert world.fact_rows() == oracle.row_counts(log)


def busy_day() -> list[Recorded]:
    """Few users with many coupons each: every bucket of the wallet is fed by every lane."""
    story = Story()
    for step in (claimed, locked_by, redeemed_by):
        for nth in range(1, 301):
            user = about(user_id=f"u{nth % 5}")
            story.tell("coupon", f"c{nth}", step(f"c{nth}", user))
    return story.log


def locked_by(coupon_id: str, user: Any) -> Any:
    return locked(coupon_id, user, f"o-{coupon_id}")


def redeemed_by(coupon_id: str, user: Any) -> Any:
    return redeemed(coupon_id, user, f"o-{coupon_id}")
