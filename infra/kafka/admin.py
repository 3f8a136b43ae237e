"""The topics there must be: made once, looked at by whoever wants to know, never altered."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from contracts.topics import ALL_TOPICS, EVENT_TOPICS, Topic, named
from infra.kafka.client import KafkaUnavailable, connection, translated
from infra.settings import Settings

SERVING_TIMEOUT_SECONDS: Final = 30.0  # From a topic's making until every partition of it has a leader.
SERVING_POLL_SECONDS: Final = 0.05


class WrongPartitions(Exception):
    """Topics have another number of partitions than is set: their keys would lie elsewhere than everybody thinks."""

    def __init__(self, found: Mapping[str, int], wanted: int) -> None:
        listed = ", ".join(f"{name} has {number}" for name, number in sorted(found.items()))
        super().__init__(
            f"each topic of events must have {wanted} partitions, and {listed}. The number is fixed once topics exist: "
            "set TESSERA_KAFKA_PARTITIONS to what they have, or TESSERA_KAFKA_PREFIX for new ones"
        )
        self.found = dict(found)


class TopicsMissing(Exception):
    """Topics that somebody has to read or write do not exist; the message names them and says what to do."""

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        super().__init__(f"Kafka at {settings.kafka_bootstrap} has no topic {', '.join(names)}: run `tessera migrate`")


class TopicRefused(Exception):
    """The broker did not make a topic; the message names it and says why."""


@dataclass(frozen=True)
class TopicState:
    """One topic as it is. ``partitions`` is 0 when it does not exist; ``serving`` when each has a leader."""

    topic: Topic
    name: str
    partitions: int
    serving: bool


class Difference(NamedTuple):
    """One setting of one topic that is not as declared. Partitions: of topics of events, others may have any number."""

    topic: str
    setting: str
    found: str
    declared: str


def create_topics(settings: Settings, topics: Sequence[Topic] = ALL_TOPICS) -> list[str]:
    """Make the topics that are missing and wait until they serve; returns their names. Again: nothing.

    Topics that exist stay as they are, retention included: an operator may have had reasons.

    Errors: NoKafka, KafkaUnavailable, TopicRefused, WrongPartitions (checked before anything is made).
    """
    with translated(settings):
        return asyncio.run(_create(settings, topics))


def topic_states(settings: Settings, topics: Sequence[Topic] = ALL_TOPICS) -> list[TopicState]:
    """How each topic is. Errors: NoKafka, KafkaUnavailable."""
    with translated(settings):
        return asyncio.run(_look(settings, topics))


def differences(settings: Settings, topics: Sequence[Topic] = ALL_TOPICS) -> list[Difference]:
    """Where topics that exist are not as declared; nothing is altered. Errors: NoKafka, KafkaUnavailable."""
    with translated(settings):
        return asyncio.run(_compare(settings, topics))


def missing_of(settings: Settings, names: Sequence[str]) -> list[str]:
    """Those of these topics, by their whole names, that do not exist. Errors: NoKafka, KafkaUnavailable."""
    with translated(settings):
        return asyncio.run(_missing(settings, names)) if names else []


def require_topics(settings: Settings, topics: Sequence[Topic]) -> None:
    """Raise unless all of these topics are there, and those of events as they are set. Blocks.

    Errors: TopicsMissing, WrongPartitions, NoKafka, KafkaUnavailable.
    """
    states = topic_states(settings, topics)
    if missing := not_made(states):
        raise TopicsMissing(settings, missing)
    require_partitions(settings, states)


def not_made(states: Iterable[TopicState]) -> list[str]:
    """The names of the topics that do not exist."""
    return [state.name for state in states if not state.partitions]


def require_partitions(settings: Settings, states: Iterable[TopicState]) -> None:
    """Raise WrongPartitions unless each topic of events that exists has as many as is set.

    Others may have any number: nobody computes where the keys of upstream's own topics lie.
    """
    wrong = {
        state.name: state.partitions
        for state in states
        if state.topic in EVENT_TOPICS and state.partitions not in {0, settings.kafka_partitions}
    }
    if wrong:
        raise WrongPartitions(wrong, settings.kafka_partitions)


async def _look(settings: Settings, topics: Sequence[Topic]) -> list[TopicState]:
    async with _admin(settings) as admin:
        return await _states(admin, settings, topics)


async def _create(settings: Settings, topics: Sequence[Topic]) -> list[str]:
    async with _admin(settings) as admin:
        states = await _states(admin, settings, topics)
        require_partitions(settings, states)
        missing = [state for state in states if not state.partitions]
        if missing:
            _require_made((await admin.create_topics([_as_new(state, settings) for state in missing])).topic_errors)
        await _until_all_serve(admin, settings, topics)
        return [state.name for state in missing]


async def _compare(settings: Settings, topics: Sequence[Topic]) -> list[Difference]:
    async with _admin(settings) as admin:
        states = [state for state in await _states(admin, settings, topics) if state.partitions]
        found = await _configs(admin, [state.name for state in states])
    told = [
        Difference(state.name, "partitions", str(state.partitions), str(settings.kafka_partitions))
        for state in states
        if state.topic in EVENT_TOPICS and state.partitions != settings.kafka_partitions
    ]
    for state in states:
        configs = found.get(state.name, {})
        told += [
            Difference(state.name, setting, configs[setting], declared)
            for setting, declared in _declared(state.topic).items()
            if setting in configs and configs[setting] != declared
        ]
    return told


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Topic -> its settings as they are, those of the broker included."""
    if not names:
        return {}
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    return {
        name: {setting: value for setting, value, *_ in entries}
        for answer in answers
        for _code, _message, _kind, name, entries in answer.resources
    }


async def _missing(settings: Settings, names: Sequence[str]) -> list[str]:
    async with _admin(settings) as admin:
        return [each["topic"] for each in await admin.describe_topics(list(names)) if not each["partitions"]]


def _declared(topic: Topic) -> dict[str, str]:
    return {
        "cleanup.policy": topic.cleanup_policy,
        "retention.ms": str(topic.retention_ms),
        "max.message.bytes": str(topic.message_bytes_max),
    }


def _as_new(state: TopicState, settings: Settings) -> NewTopic:
    return NewTopic(
        state.name,
        settings.kafka_partitions,
        settings.kafka_replication,
        topic_configs={
            **_declared(state.topic),
            # One broker may be down without stopping the writers, where there are as many copies.
            "min.insync.replicas": str(max(1, settings.kafka_replication - 1)),
        },
    )


def _require_made(told: Iterable[Sequence[Any]]) -> None:
    for name, code, *message in told:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # Another `migrate` may have been quicker.
            raise TopicRefused(f"Kafka did not make topic {name}: {' '.join(filter(None, message)) or error.__name__}")


async def _until_all_serve(admin: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic]) -> None:
    deadline = time.monotonic() + SERVING_TIMEOUT_SECONDS
    while idle := [state.name for state in await _states(admin, settings, topics) if not state.serving]:
        if time.monotonic() >= deadline:
            raise KafkaUnavailable(
                f"these topics have had no leader for {SERVING_TIMEOUT_SECONDS:.0f} s: {', '.join(idle)}. "
                "Are enough brokers running?"
            )
        await asyncio.sleep(SERVING_POLL_SECONDS)


async def _states(admin: AIOKafkaAdminClient, settings: Settings, topics: Sequence[Topic]) -> list[TopicState]:
    names = {named(settings.kafka_prefix, topic): topic for topic in topics}
    told = {each["topic"]: each for each in await admin.describe_topics(list(names))}
    return [_state(topic, name, told[name]) for name, topic in names.items()]


def _state(topic: Topic, name: str, told: Mapping[str, Any]) -> TopicState:
    partitions = told["partitions"]
    serving = bool(partitions) and all(each["error_code"] == 0 and each["leader"] >= 0 for each in partitions)
    return TopicState(topic, name, len(partitions), serving)


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()
