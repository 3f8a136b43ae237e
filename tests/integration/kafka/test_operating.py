"""``tessera migrate`` and ``tessera doctor`` where a Kafka is set."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from typer.testing import CliRunner, Result

from contracts.topics import ALL_TOPICS, COMMANDS, DEAD_LETTERS, named
from infra.cli import app
from infra.cli.errors import ExitCode, explain
from infra.intake.service import IntakeService, RoutedTopicsMissing
from infra.kafka.admin import create_topics
from infra.kafka.client import connection
from infra.processes import free_port
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from infra.telemetry.tracing import Tracing
from tests.integration.intake.world import taking_in
from tests.kafka_talk import Sent, Talk


@pytest.fixture
def settings(
    postgres_dsn: str, redis_url: str, clickhouse_url: str, kafka_bootstrap: str, kafka_prefix: str, tmp_path: Path
) -> Settings:
    """Stores that are not migrated yet, and a Kafka without topics."""
    return Settings.load(
        data_dir=tmp_path,
        postgres_dsn=postgres_dsn,
        redis_url=redis_url,
        clickhouse_url=clickhouse_url,
        kafka_bootstrap=kafka_bootstrap,
        kafka_prefix=kafka_prefix,
        kafka_partitions=2,
    )


def tessera(settings: Settings, *arguments: str, **changed: Any) -> Result:
    env = settings.model_copy(update=changed).to_env()
    return CliRunner().invoke(app, [*arguments, "--json", "--data-dir", str(settings.data_dir)], env=env)


def found(result: Result) -> dict[str, dict[str, str]]:
    return {each["thing"]: each for each in json.loads(result.stdout)["findings"]}


def test_migrate_makes_the_topics_that_the_doctor_misses(settings: Settings) -> None:
    assert tessera(settings, "migrate", kafka_bootstrap=None).exit_code == ExitCode.OK
    missing = found(tessera(settings, "doctor"))["Kafka"]
    assert (missing["level"], missing["next_step"]) == ("problem", "Run `tessera migrate`.")
    assert named(settings.kafka_prefix, COMMANDS) in missing["detail"]

    migrated = tessera(settings, "migrate")
    assert sorted(json.loads(migrated.stdout)["kafka"]) == sorted(
        named(settings.kafka_prefix, topic) for topic in ALL_TOPICS
    )
    kafka = found(tessera(settings, "doctor"))["Kafka"]
    assert (kafka["level"], kafka["detail"]) == ("ok", f"{len(ALL_TOPICS)} topics; events in 2 partitions each")
    assert json.loads(tessera(settings, "migrate").stdout)["kafka"] == []


def test_the_doctor_names_topics_with_other_partitions_and_migrate_refuses_them(settings: Settings) -> None:
    create_topics(settings)
    result = tessera(settings, "migrate", kafka_partitions=8)
    assert (result.exit_code, "has 2" in result.stderr) == (ExitCode.ERROR, True)
    problems = [
        each for each in found(tessera(settings, "doctor", kafka_partitions=8)).values() if "has 2" in each["detail"]
    ]
    assert [(each["thing"], each["level"]) for each in problems] == [("Kafka", "problem")]


def test_topics_that_are_not_as_declared_are_told_and_left_as_they_are(settings: Settings) -> None:
    create_topics(settings, [replace(COMMANDS, retention_ms=60_000, cleanup_policy="compact", message_bytes_max=1_000)])
    name = named(settings.kafka_prefix, COMMANDS)
    for _ in range(2):
        told = json.loads(tessera(settings, "migrate").stdout)
        assert {(each["topic"], each["setting"], each["found"]) for each in told["topics_that_differ"]} == {
            (name, "cleanup.policy", "compact"),
            (name, "retention.ms", "60000"),
            (name, "max.message.bytes", "1000"),
        }
    seen = [each for each in json.loads(tessera(settings, "doctor").stdout)["findings"] if each["thing"] == name]
    assert [each["level"] for each in seen] == ["warning"] * 3
    assert f"retention.ms is 60000, not {COMMANDS.retention_ms}" in {each["detail"] for each in seen}


def test_routes_to_topics_that_do_not_exist_are_named_at_the_start_and_by_the_doctor(settings: Settings) -> None:
    create_topics(settings)
    routed = {"promotion.event.join": "coupon-command-topic", COMMANDS.name: "coupon-command-topic"}
    given = settings.model_copy(update={"kafka_routes": routed})
    wrong = f"{settings.kafka_prefix}promotion.event.join"
    service = IntakeService(given, connection(given), Tracing(), Metrics())
    with pytest.raises(RoutedTopicsMissing) as refused:
        service.require_topics()
    assert explain(refused.value).what == f"TESSERA_KAFKA_ROUTES names topics that do not exist: {wrong}"
    assert "`tessera migrate` does not" in explain(refused.value).next_step
    routes = found(tessera(given, "doctor"))["Kafka routes"]
    assert (routes["level"], routes["detail"]) == ("problem", f"topics are missing: {wrong}")
    IntakeService(settings, connection(settings), Tracing(), Metrics()).require_topics()


def test_a_broker_that_is_away_is_out_of_reach_and_hides_nothing_else(settings: Settings) -> None:
    result = tessera(settings, "doctor", kafka_bootstrap=f"127.0.0.1:{free_port()}")
    assert result.exit_code == ExitCode.UNAVAILABLE
    assert found(result)["Kafka"]["level"] == "unreachable"
    assert found(result)["Redis"]["level"] == "ok"


async def _send_three_and_commit_one(settings: Settings, group: str) -> None:
    topic = named(settings.kafka_prefix, COMMANDS)
    async with AIOKafkaProducer(**connection(settings)) as producer:
        for _ in range(3):
            await producer.send_and_wait(topic, b"{}", partition=1)
    async with AIOKafkaConsumer(**connection(settings), group_id=group, enable_auto_commit=False) as consumer:
        consumer.assign([TopicPartition(topic, 1)])
        await consumer.commit({TopicPartition(topic, 1): 1})


def test_the_doctor_tells_how_far_our_groups_are_behind(settings: Settings) -> None:
    create_topics(settings)
    group = f"{settings.kafka_prefix}tessera-intake"
    asyncio.run(_send_three_and_commit_one(settings, group))
    asyncio.run(_send_three_and_commit_one(settings, f"somebody-elses-{group}"))
    groups = {thing: each["detail"] for thing, each in found(tessera(settings, "doctor")).items() if "group" in thing}
    assert groups == {f"Kafka group {group}": "5 messages behind"}


def test_the_doctor_names_what_the_intake_could_not_take_in(settings: Settings) -> None:
    assert tessera(settings, "migrate").exit_code == ExitCode.OK
    assert found(tessera(settings, "doctor"))["Kafka dead letters"]["level"] == "ok"
    talk = Talk(settings)
    talk.send(COMMANDS, [Sent(b"\xff", b"k", ())])
    with taking_in(settings):
        talk.read(DEAD_LETTERS[0], lambda letters: len(letters) == 1)
    told = found(tessera(settings, "doctor"))["Kafka dead letters"]
    assert (told["level"], told["detail"]) == ("problem", "1 of the intake")
