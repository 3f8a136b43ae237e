"""An order system that talks by topic: it sends commands and facts, and hears replies and checkouts on ours."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import KafkaError

from contracts.commands import Command
from contracts.events import CheckoutReady, CheckoutRefused
from contracts.identity import Realm
from contracts.topics import CHECKOUT_EVENTS, COMMANDS, ORDER_FACTS, PAYMENT_FACTS, REPLIES, Topic, named
from infra.kafka.client import connection
from infra.settings import Settings

REPLY_SECONDS: Final = 15.0  # Until a command is sent again, under the same id.
ATTEMPTS_MAX: Final = 8
CHECKOUT_SECONDS: Final = 60.0
POLL_MS: Final = 200
LINGER_MS: Final = 2

# What must stay in order goes to one partition: the first of these that a command names.
_KEYS: Final = ("order_id", "coupon_id", "user_id", "template_id", "budget_id", "distribution_id")
_STATUS: Final = {CheckoutReady.type: "ready", CheckoutRefused.type: "refused"}


class TopicsSilent(RuntimeError):
    """Nobody answered on the reply topic, or nothing more can be read; the message says about what."""


class TopicUpstream:
    """Sends commands of one realm, each until it is answered. Use as ``async with``, in one event loop.

    Errors: TopicsSilent; KafkaError when no broker can be reached.
    """

    def __init__(self, settings: Settings, realm: Realm) -> None:
        self._settings = settings
        self._realm = realm
        self._options = connection(settings)
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._checkouts: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._heard = asyncio.Condition()
        self._exit = AsyncExitStack()
        self._producer: AIOKafkaProducer
        self._listening: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._producer = await stack.enter_async_context(
                AIOKafkaProducer(**self._options, acks="all", enable_idempotence=True, linger_ms=LINGER_MS)
            )
            ours = [named(self._settings.kafka_prefix, topic) for topic in (REPLIES, CHECKOUT_EVENTS)]
            # Without a group: it hears everything from now on, whoever else does.
            consumer = await stack.enter_async_context(AIOKafkaConsumer(*ours, **self._options))
            for partition in consumer.assignment():
                await consumer.position(partition)  # From here on, before anything is sent.
            self._listening = asyncio.create_task(self._listen(consumer))
            stack.push_async_callback(self._stop_listening)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def ask(self, command: Command, command_id: str) -> dict[str, Any]:
        """The reply to a command: the body that HTTP answers with. Sent again while nobody answers."""
        data = command.model_dump(mode="json", exclude_none=True)
        message = {"type": command.type, "command_id": command_id, "data": data}
        key = next((str(data[name]) for name in _KEYS if name in data), command_id)
        for _ in range(ATTEMPTS_MAX):
            answer = self._answers.setdefault(command_id, asyncio.get_running_loop().create_future())
            await self._send(_topic_of(command), key, message)
            done, _pending = await asyncio.wait(
                (answer, self._listening), timeout=REPLY_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if answer in done:
                del self._answers[command_id]
                return answer.result()
            self._require_listening()
        raise TopicsSilent(f"command {command_id} has no reply after {ATTEMPTS_MAX} attempts: is the intake running?")

    async def checkout(self, order_id: str, attempt: int) -> dict[str, Any]:
        """How the checkout of an order's attempt went, as the topic of checkouts tells it."""
        async with self._heard:
            try:
                async with asyncio.timeout(CHECKOUT_SECONDS):
                    while (found := self._known(order_id, attempt)) is None:
                        self._require_listening()
                        await self._heard.wait()
            except TimeoutError:
                raise TopicsSilent(
                    f"{CHECKOUT_EVENTS.name} says nothing of order {order_id}: is the relay running?"
                ) from None
        return found

    def _known(self, order_id: str, attempt: int) -> dict[str, Any] | None:
        return next((each for each in self._checkouts[order_id] if each["attempt"] >= attempt), None)

    async def _send(self, topic: Topic, key: str, message: Mapping[str, Any]) -> None:
        headers = [("tenant", self._realm.tenant_id.encode()), ("app", self._realm.app_id.encode())]
        name = named(self._settings.kafka_prefix, topic)
        await self._producer.send_and_wait(name, orjson.dumps(message), key=key.encode(), headers=headers)

    def _require_listening(self) -> None:
        if self._listening.done():
            error = self._listening.exception()
            raise TopicsSilent(f"the topics can no longer be read: {error}") from error

    async def _listen(self, consumer: AIOKafkaConsumer) -> None:
        try:
            while True:
                for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                    self._hear(records)
                async with self._heard:
                    self._heard.notify_all()
        except KafkaError:
            async with self._heard:
                self._heard.notify_all()
            raise

    def _hear(self, records: Sequence["ConsumerRecord[bytes, bytes]"]) -> None:
        for record in records:
            headers = {name: value.decode() for name, value in record.headers}
            if (headers.get("tenant"), headers.get("app")) != self._realm:
                continue
            value = orjson.loads(record.value or b"{}")
            if (status := _STATUS.get(headers.get("type", ""))) is not None:
                self._checkouts[value["order_id"]].append({"status": status, **value})
            elif (answer := self._answers.get(headers.get("command-id", ""))) is not None and not answer.done():
                answer.set_result(value)

    async def _stop_listening(self) -> None:
        self._listening.cancel()
        await asyncio.wait((self._listening,))


def _topic_of(command: Command) -> Topic:
    """Orders and payments by topics of their own, everything else as a command."""
    if command.type.startswith("report_"):
        return PAYMENT_FACTS
    return ORDER_FACTS if command.type in {"place_order", "cancel_order", "reopen_order"} else COMMANDS
