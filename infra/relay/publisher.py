"""An idempotent Kafka producer that says only one thing: everything was acknowledged, or it is unknown what was."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from contracts.topics import EVENT_TOPICS, named
from infra.kafka.admin import require_topics
from infra.kafka.client import KafkaUnavailable, connection
from infra.kafka.lanes import Lane, lanes_of
from infra.kafka.messages import Message
from infra.kafka.sending import send_to
from infra.settings import Settings

logger = logging.getLogger(__name__)

# Trying again helps against everything but these: somebody has to do something.
LASTING: Final = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)


class KafkaRefuses(Exception):
    """Kafka answers, and will not take what is sent, now or later."""


@dataclass(frozen=True, slots=True)
class PublisherLimits:
    """Bounds. ``batch_bytes_max`` must stay below the topics' ``max.message.bytes``: it limits what is sent as one.

    ``publish_seconds`` has to be shorter than the producer's own ``request_seconds``: a producer that gave up by itself
    on one batch would go on with the next, and leave a hole in between.
    """

    open_seconds: float = 10.0
    publish_seconds: float = 20.0
    request_seconds: float = 40.0
    close_seconds: float = 2.0
    beat_seconds: float = 1.0
    batch_bytes_max: int = 512 * 1_024


class KafkaPublisher:
    """Sends messages to lanes from synchronous code. Belongs to one thread, whose calls are when its event loop runs.

    After any failure a producer is thrown away, with all that it has not sent: what follows is a new one's.
    """

    def __init__(self, settings: Settings, limits: PublisherLimits | None = None) -> None:
        """Connects when something is published. Errors: NoKafka."""
        self._connection = connection(settings)
        self._settings = settings
        self._limits = limits or PublisherLimits()
        self._runner: asyncio.Runner | None = None
        self._producer: AIOKafkaProducer | None = None
        self.partitions: Final = settings.kafka_partitions
        self.lanes: Final = lanes_of(EVENT_TOPICS, settings.kafka_partitions)

    def publish(self, parcels: Mapping[Lane, Sequence[Message]], beat: Callable[[], None] = lambda: None) -> None:
        """Send messages, in order within each lane, and return once Kafka has acknowledged all of them.

        ``beat`` is called at least every ``beat_seconds`` meanwhile; what it raises ends the wait. Raises
        KafkaUnavailable, KafkaRefuses, TopicsMissing, WrongPartitions; then nobody knows which messages arrived.
        """
        try:
            if self._producer is None:
                require_topics(self._settings, EVENT_TOPICS)  # Else events would go where nobody looks for them.
            self._runner = self._runner or asyncio.Runner()
            self._runner.run(self._publish(parcels, beat))
        except LASTING as error:
            self.close()
            raise KafkaRefuses(f"Kafka refuses what the relay sends: {_told(error)}") from error
        except (KafkaError, OSError) as error:  # A TimeoutError is an OSError.
            self.close()
            where = self._settings.kafka_bootstrap
            raise KafkaUnavailable(f"Kafka at {where} does not answer or acknowledge: {_told(error)}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the brokers. Safe to call twice; the next publishing connects again."""
        runner, self._runner = self._runner, None
        producer, self._producer = self._producer, None
        if runner is None:
            return
        with suppress(KafkaError, TimeoutError, OSError):
            if producer is not None:
                runner.run(self._stop(producer))
        runner.close()

    async def _publish(self, parcels: Mapping[Lane, Sequence[Message]], beat: Callable[[], None]) -> None:
        async with asyncio.timeout(self._limits.open_seconds):
            producer = self._producer or await self._open()
        async with asyncio.timeout(self._limits.publish_seconds):
            prefix = self._settings.kafka_prefix
            sending = {
                asyncio.create_task(send_to(producer, prefix + lane.topic, lane.partition, messages))
                for lane, messages in parcels.items()
            }
            try:
                await self._all_of(sending, beat)
            finally:
                for task in sending:
                    task.cancel()

    async def _all_of(self, sending: set["asyncio.Task[None]"], beat: Callable[[], None]) -> None:
        while sending:
            done, sending = await asyncio.wait(
                sending, timeout=self._limits.beat_seconds, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
            if sending:
                beat()

    async def _open(self) -> AIOKafkaProducer:
        asyncio.get_running_loop().set_exception_handler(_note)
        producer = self._producer = AIOKafkaProducer(
            **(self._connection | {"request_timeout_ms": int(self._limits.request_seconds * 1_000)}),
            enable_idempotence=True,
            acks="all",
            max_batch_size=self._limits.batch_bytes_max,
        )
        await producer.start()
        for topic in EVENT_TOPICS:
            await producer.partitions_for(named(self._settings.kafka_prefix, topic))  # Learned before it sends.
        return producer

    async def _stop(self, producer: AIOKafkaProducer) -> None:
        """Without the patience of ``stop``, which would go on trying to send what nobody waits for any more."""
        try:
            async with asyncio.timeout(self._limits.close_seconds):
                await producer.stop()
        finally:
            await producer.client.close()


def _note(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a producer that was thrown away still complains about."""
    logger.debug("producer_discarded", extra={"reason": str(context.get("exception") or context.get("message"))})


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
