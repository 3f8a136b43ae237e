"""The intake as it runs: one subscriber for each topic that is taken in, one engine behind them, one producer."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from aiokafka import TopicPartition

from contracts.identity import Realm
from contracts.topics import COMMANDS, REPLIES, TAKEN_IN, Topic, dead_letters_of, named
from infra.entry.bridge import AnswerBridge, CommandQueue
from infra.entry.first_steps import FirstStep
from infra.intake.broker import IntakeBroker
from infra.intake.decoding import COMMAND_SCOPES, FACT_SCOPES, Door
from infra.intake.intake import Intake, Observer, Publishes, Way
from infra.intake.publisher import Publisher
from infra.intake.stepping_over import SteppingOver
from infra.intake.subscriber import TopicSubscriber
from infra.kafka.admin import missing_of, require_topics
from infra.kafka.client import membership, translated
from infra.settings import Settings
from infra.telemetry.tracing import Tracing

logger = structlog.get_logger(__name__)

POLL_SECONDS: Final = 0.1
# What a batch under way may take to be finished once the process is asked to stop.
GRACEFUL_SECONDS: Final = 20.0


class RoutedTopicsMissing(RuntimeError):
    """TESSERA_KAFKA_ROUTES names topics that do not exist; the message names them."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(f"TESSERA_KAFKA_ROUTES names topics that do not exist: {', '.join(missing)}")


class IntakeService:
    """Everything that one process needs to take in. ``connection``: aiokafka's options for reaching Kafka."""

    def __init__(self, settings: Settings, connection: Mapping[str, Any], tracing: Tracing, observer: Observer) -> None:
        self._settings = settings
        self._connection = connection
        self._tracing = tracing
        self._observer = observer
        self._subscribers: list[TopicSubscriber] = []

    def require_topics(self) -> None:
        """Raises TopicsMissing, RoutedTopicsMissing, and KafkaUnavailable. Blocks."""
        require_topics(self._settings, (*TAKEN_IN, *map(dead_letters_of, TAKEN_IN), REPLIES))
        if missing := missing_of(self._settings, routed(self._settings)):
            raise RoutedTopicsMissing(missing)

    async def run(self, queue: CommandQueue, first_step: FirstStep, stop: threading.Event) -> None:
        """Take in until ``stop``; then finish the batches under way, commit, and leave the groups.

        Raises KafkaUnavailable when Kafka goes away before all of it has begun; later it is waited for.
        """
        publisher = Publisher(self._connection)
        step_over = SteppingOver(self._settings.postgres_dsn, publisher, letter_topics(self._settings), self._observer)
        broker = IntakeBroker(self._connection, graceful_seconds=GRACEFUL_SECONDS, step_over=step_over)
        intake = self._intake(queue, first_step, publisher)
        self._subscribers = [self._subscriber(broker, intake, topic) for topic in TAKEN_IN]
        try:
            with translated(self._settings):
                await broker.start()
            logger.info("intake_started", topics=[topic.name for topic in TAKEN_IN])
            while not stop.is_set():  # noqa: ASYNC110 - a signal handler sets it: it must not touch a loop's event.
                await asyncio.sleep(POLL_SECONDS)
        finally:
            intake.stop()
            await broker.stop()
            await publisher.close()
            logger.info("intake_stopped")

    def lag(self) -> list[tuple[TopicPartition, int]]:
        """Records that are there and not finished, as far as this process knows. For any thread."""
        return [each for subscriber in self._subscribers for each in subscriber.lag().items()]

    def held(self) -> list[TopicPartition]:
        """Partitions that wait for an operator, because one of their records cannot be read. For any thread."""
        return [each for subscriber in self._subscribers for each in subscriber.held()]

    def _intake(self, queue: CommandQueue, first_step: FirstStep, publisher: Publishes) -> Intake:
        replies = named(self._settings.kafka_prefix, REPLIES)
        bridge = AnswerBridge(queue)
        return Intake(bridge, publisher, replies, self._tracing, self._observer, first_step=first_step)

    def _subscriber(self, broker: IntakeBroker, intake: Intake, topic: Topic) -> TopicSubscriber:
        return TopicSubscriber(
            broker,
            intake,
            way_of(self._settings, topic),
            taken_in_as(self._settings, topic),
            group_id=group_of(self._settings, topic),
            membership=membership(self._settings),
        )


def taken_in_as(settings: Settings, topic: Topic) -> list[str]:
    """The names of all topics that are taken in as this one: its own, and those that are routed to it."""
    prefix = settings.kafka_prefix
    routed = [f"{prefix}{name}" for name, target in settings.kafka_routes.items() if target == topic.name]
    return [named(prefix, topic), *routed]


def routed(settings: Settings) -> list[str]:
    """Other topics that are taken in, by their whole names."""
    return [f"{settings.kafka_prefix}{name}" for name in settings.kafka_routes]


def group_of(settings: Settings, topic: Topic) -> str:
    """The consumer group that takes it in."""
    return f"{settings.kafka_prefix}tessera-intake-{topic.name}"


def letter_topics(settings: Settings) -> dict[str, str]:
    """Every topic that is taken in -> the topic of its dead letters."""
    return {
        name: named(settings.kafka_prefix, dead_letters_of(topic))
        for topic in TAKEN_IN
        for name in taken_in_as(settings, topic)
    }


def way_of(settings: Settings, topic: Topic) -> Way:
    """How the records of a topic are taken in."""
    told = settings.kafka_default_realm
    door = Door(
        actor=f"kafka:{topic.name}",
        scopes=COMMAND_SCOPES if topic is COMMANDS else FACT_SCOPES,
        default_realm=Realm(*told.split("/")) if told is not None else None,
    )
    return Way(topic.name, door, named(settings.kafka_prefix, dead_letters_of(topic)))
