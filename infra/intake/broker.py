"""FastStream's broker, held to what keeps records from being lost.

Read in FastStream 0.7.8, and why it is used as it is here:

- *Acknowledging.* By default (``ACK_FIRST``) offsets are committed by a timer, whatever became of the records. A policy
  on the broker does not reach every subscriber. ``NACK_ON_ERROR`` rewinds one partition after the other, and when one
  of them was taken away meanwhile, it stops there: the others are committed past what nobody handled. Its commit is of
  wherever the consumer stands. So: ``MANUAL``, and offsets are committed, and partitions rewound, by ``subscriber.py``.
- *Parsing.* Before a handler sees a batch, FastStream decodes every header and every value of it; a single header that
  is no UTF-8 fails the whole batch, and its nack fails likewise. So: nothing is parsed here, a batch is raw records.
- *Failing.* What a handler raises is logged and forgotten, and the next batch comes. So: the handler raises nothing.
- *Fetching.* An error of one partition loses what was taken of the others: see ``consumer.py``.
- *Consumers* are made by one builder, whichever way a subscriber was declared: what it refuses, nobody can start.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from faststream.kafka import KafkaBroker
from faststream.kafka.message import FAKE_CONSUMER, KafkaMessage
from faststream.kafka.subscriber.usecase import BatchSubscriber
from faststream.middlewares import AckPolicy

from infra.intake.consumer import LosslessConsumer, StepOver, hold

MAX_RECORDS_MAX: Final = 1_000
_SAID_BEFORE: Final = re.compile(r"Auto create topics is disabled|Consumer \S+ assigned to partitions")
Batch = tuple[ConsumerRecord[bytes, bytes], ...]


class UnsafeSubscriber(RuntimeError):
    """A subscriber is declared in a way that loses records; the message says which and how to declare it."""


class IntakeBroker(KafkaBroker):
    """Starts only subscribers that lose nothing. ``connection``: aiokafka's options for reaching Kafka."""

    def __init__(self, connection: Mapping[str, Any], *, graceful_seconds: float, step_over: StepOver = hold) -> None:
        super().__init__(
            connection["bootstrap_servers"],
            consumer_only=True,  # Replies and dead letters have a producer of their own.
            allow_auto_create_topics=False,
            apply_types=False,
            parser=_unparsed,
            decoder=_undecoded,
            graceful_timeout=graceful_seconds,
            logger=_logger(),
            log_level=logging.DEBUG,  # Of each batch; what goes wrong is told at its own level.
        )

        def build(**options: Any) -> AIOKafkaConsumer:
            require_safe_consumer(options)
            return LosslessConsumer(step_over=step_over, **connection, **options)

        self._build = build
        self.config.broker_config.builder = build

    async def _connect(self) -> Any:
        """Consumers connect by themselves, with the same options as everything else here."""
        return self._build

    async def start(self) -> None:
        """Start all subscribers. Raises UnsafeSubscriber before any of them has begun."""
        for subscriber in self.subscribers:
            require_safe(subscriber)
        await super().start()


def _logger() -> logging.Logger:
    logger = logging.getLogger(__name__)
    logger.addFilter(_says_something_new)
    return logger


def _says_something_new(entry: logging.LogRecord) -> bool:
    """At every start FastStream says that topics have to exist; whether they do was asked before (service.py).

    And which partitions came, which the subscriber says, too.
    """
    return not _SAID_BEFORE.match(str(entry.msg))


def require_safe(subscriber: object) -> None:
    """Raises UnsafeSubscriber, naming everything that is wrong with it."""
    if not isinstance(subscriber, BatchSubscriber):
        raise UnsafeSubscriber(f"{_name(subscriber)} takes records one by one: declare it with batch=True")
    wrong = []
    if subscriber.ack_policy is not AckPolicy.MANUAL:
        wrong.append(f"acknowledges by {subscriber.ack_policy.name}: declare it with ack_policy=AckPolicy.MANUAL")
    if not subscriber.group_id:
        wrong.append("has no group: declare it with a group_id, or it begins anew at every start")
    if subscriber.max_records is None or not 0 < subscriber.max_records <= MAX_RECORDS_MAX:
        wrong.append(f"takes batches without a bound: declare it with max_records of 1 to {MAX_RECORDS_MAX}")
    if wrong:
        raise UnsafeSubscriber(f"{_name(subscriber)} " + "; it ".join(wrong))
    require_safe_consumer({"group_id": subscriber.group_id, **subscriber._connection_args})


def require_safe_consumer(options: Mapping[str, Any]) -> None:
    """Raises UnsafeSubscriber when a consumer with these options would lose or skip records."""
    if not options.get("group_id"):
        raise UnsafeSubscriber("a consumer without a group_id would begin anew at every start")
    if options.get("enable_auto_commit", True):
        raise UnsafeSubscriber(f"the consumer of group {options['group_id']} would commit records that nobody handled")
    if options.get("auto_offset_reset") != "earliest":
        raise UnsafeSubscriber(
            f"the consumer of group {options['group_id']} would skip what came before its first start"
        )


def _name(subscriber: object) -> str:
    topics = getattr(subscriber, "topic_names", None)
    return f"the subscriber of {', '.join(topics)}" if topics else repr(subscriber)


async def _unparsed(records: Batch) -> KafkaMessage:
    return KafkaMessage(body=b"", raw_message=records, headers={}, path={}, consumer=FAKE_CONSUMER)


async def _undecoded(message: KafkaMessage) -> Batch:
    raw = message.raw_message
    assert isinstance(raw, tuple)
    return raw
