"""Commands and facts by topic: taken in, answered on the reply topic; a caller that hears nothing asks elsewhere."""

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from command.api import COMMAND_ROUTES
from contracts.identity import Realm
from contracts.topics import COMMANDS, ORDER_FACTS, PARTITIONS, PAYMENT_FACTS, REPLIES, Topic

REPLY_SECONDS_MAX: Final = 8.0
PAUSE_SECONDS: Final = 0.5

Heard = Callable[[str, Mapping[str, Any]], None]


class ByKafka:
    """A producer of commands and a reader of all replies, in the callers' event loop.

    ``heard`` is called for each reply of ours, whether somebody still waits for it or not: it was told all the same.
    """

    def __init__(self, bootstrap: str, realm: Realm, heard: Heard) -> None:
        self._bootstrap = bootstrap
        self._headers = [("tenant", realm.tenant_id.encode()), ("app", realm.app_id.encode())]
        self._heard = heard
        self._waiting: dict[str, asyncio.Future[Mapping[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all", request_timeout_ms=5_000)
        self._consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, auto_offset_reset="earliest")
        self._consumer.assign([TopicPartition(REPLIES.name, number) for number in range(PARTITIONS)])
        await self._producer.start()
        await self._consumer.start()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.cancel()
        for client in (self._producer, self._consumer):
            with suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(client.stop(), REPLY_SECONDS_MAX)

    async def ask(self, command_id: str, path: str, content: bytes) -> Mapping[str, Any]:
        """The answer, as HTTP's body. Raises KafkaError, and TimeoutError when none came in time."""
        command_type, ids = command_at(path)
        body = {"type": command_type, "command_id": command_id, "data": {**orjson.loads(content), **ids}}
        answer = self._waiting.setdefault(command_id, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(REPLY_SECONDS_MAX):
                await self._producer.send_and_wait(
                    topic_at(path).name, orjson.dumps(body), key=command_id.encode(), headers=self._headers
                )
                return await asyncio.shield(answer)
        finally:
            self._waiting.pop(command_id, None)

    async def _read(self) -> None:
        while True:
            try:
                record = await self._consumer.getone()
            except KafkaError:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            body = orjson.loads(record.value)
            self._heard(body["command_id"], body)
            waiting = self._waiting.get(body["command_id"])
            if waiting is not None and not waiting.done():
                waiting.set_result(body)


def has_command(path: str) -> bool:
    """Whether what is posted there is one command, so that it may come by topic, too."""
    return any(pattern.fullmatch(path) for pattern, _ in _ROUTES)


def command_at(path: str) -> tuple[str, dict[str, str]]:
    """The type of the command that is posted to a path, and the fields that the path fills."""
    for pattern, command_type in _ROUTES:
        if found := pattern.fullmatch(path):
            return command_type, found.groupdict()
    raise ValueError(f"no command is posted to {path}")


def topic_at(path: str) -> Topic:
    """By which topic it comes: what orders and payments say are facts, with topics of their own."""
    return next((topic for begin, topic in _FACTS.items() if path.startswith(begin)), COMMANDS)


_FACTS: Final = {"/v1/orders": ORDER_FACTS, "/v1/payments": PAYMENT_FACTS, "/v1/refunds": PAYMENT_FACTS}

_ROUTES: Final = [
    (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path)), route.command.type) for route in COMMAND_ROUTES
]
