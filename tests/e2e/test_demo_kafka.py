"""The day over Kafka: it ends as green as over HTTP, and all of it can be read by whoever has the documents alone."""

import asyncio
import json
from collections import defaultdict
from pathlib import Path

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from contracts.topics import ALL_TOPICS
from infra import schemas
from tests.e2e.conftest import run_cli, up
from tests.published import PublishedContract, Read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(500)]

READ_SECONDS = 60
REPLIES = {"command-answered", "command-refused"}


async def _everything_on(bootstrap: str, topics: set[str]) -> list[ConsumerRecord[bytes, bytes]]:
    """What is on the topics at this moment, each partition in its order."""
    found: list[ConsumerRecord[bytes, bytes]] = []
    async with (
        AIOKafkaConsumer(*topics, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer,
        asyncio.timeout(READ_SECONDS),
    ):
        ends = await consumer.end_offsets(consumer.assignment())
        while any([await consumer.position(part) < end for part, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += records
    return found


def _stored_events(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        return {str(event_id) for (event_id,) in connection.execute("SELECT event_id FROM events").fetchall()}


def test_the_day_over_kafka_ends_green_and_its_messages_are_as_published(tmp_path: Path) -> None:
    folder = tmp_path / "day"
    done = run_cli("demo", "--kafka", "--scale", "0.02", "--keep", str(folder), "--json", timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["wrong"] == []

    published = PublishedContract(schemas.FOLDER)
    with up(folder, "--kafka") as running:  # The broker holds what it held.
        assert {"kafka", "relay", "intake"} < running.facts["pids"].keys()
        kafka = {each["thing"]: each for each in running.run("doctor", code=None)["findings"]}["Kafka"]
        assert (kafka["level"], kafka["detail"]) == ("ok", f"{len(ALL_TOPICS)} topics; events in 4 partitions each")
        stored = _stored_events(running.facts["postgres_dsn"])
        records = asyncio.run(_everything_on(running.facts["kafka_bootstrap"], published.topics_sent()))
        assert running.interrupt() == 0
    streams: dict[bytes | None, list[int]] = defaultdict(list)
    read: list[Read] = []
    for record in records:
        read.append(published.read(record.topic, record.key, record.headers, record.value))
        if "version" in read[-1].headers:
            streams[record.key].append(int(read[-1].headers["version"]))
    assert {each.headers["event-id"] for each in read if "event-id" in each.headers} >= stored
    # At most one batch comes twice after a crash, and nothing crashed: each stream is whole and in its order.
    assert all(versions == [*range(1, len(versions) + 1)] for versions in streams.values())
    replies = [each for each in read if each.name in REPLIES]
    assert {each.name for each in replies} == REPLIES
    assert {each.name for each in read} > {"watermark.v1", "order.placed.v1", "coupon.redeemed.v1"}
    assert not [each for each in read if "reason" in each.headers]  # No dead letters.
