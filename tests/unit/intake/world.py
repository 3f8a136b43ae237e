"""Records, an intake over an engine, and somewhere to publish to: all in memory."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from command.engine import Engine
from command.handlers import HANDLERS
from command.handlers.handler import Handlers
from command.ports import StoreUnavailable
from contracts.identity import Realm
from infra.entry.bridge import AnswerBridge
from infra.intake.decoding import COMMAND_SCOPES, FACT_SCOPES, Door
from infra.intake.intake import Intake, Patience, Way
from infra.intake.messages import Outgoing
from infra.intake.publisher import NotPublished
from infra.telemetry.tracing import Tracing
from tests.fakes import InMemoryEventLog

ACME = Realm("acme", "shop")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
COMMANDS = Way("commands", Door("kafka:commands", COMMAND_SCOPES), "commands-dead")
ORDERS = Way("orders", Door("kafka:orders", FACT_SCOPES), "orders-dead")
REPLIES = "replies"
IMPATIENT = Patience(pause_seconds_first=0.001, pause_seconds_max=0.002, give_up_seconds=0.05)
REALM_HEADERS = (("tenant", b"acme"), ("app", b"shop"))


class FakeRecord(NamedTuple):
    """A record as a client hands it over."""

    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = REALM_HEADERS
    offset: int = 0
    topic: str = "commands"
    partition: int = 0
    key: bytes | None = b"k"


def record(body: Any, *more: tuple[str, bytes], offset: int = 0) -> FakeRecord:
    """A record of acme's with a JSON value and more headers."""
    return FakeRecord(orjson.dumps(body), (*REALM_HEADERS, *more), offset)


def command(command_id: str, kind: str, **data: Any) -> dict[str, Any]:
    """A command as it stands in a batch over HTTP."""
    return {"type": kind, "command_id": command_id, "data": data}


def records(bodies: Sequence[Any]) -> list[FakeRecord]:
    """One record each, in order; bytes are taken as they are."""
    return [
        FakeRecord(body if isinstance(body, bytes) else orjson.dumps(body), offset=offset)
        for offset, body in enumerate(bodies)
    ]


class FakePublisher:
    """Keeps what is published; ``failures`` times it publishes a part and says that it failed."""

    def __init__(self) -> None:
        self.published: list[Outgoing] = []
        self.failures = 0

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        if self.failures:
            self.failures -= 1
            self.published += messages[: len(messages) // 2]
            raise NotPublished("the broker is away")
        self.published += messages

    def values(self, topic: str = REPLIES) -> list[dict[str, Any]]:
        """The bodies published to a topic."""
        return [orjson.loads(each.value or b"null") for each in self.published if each.topic == topic]

    def to(self, topic: str) -> list[Outgoing]:
        """What was published to a topic."""
        return [each for each in self.published if each.topic == topic]


class Counting:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, str]] = Counter()

    def records_answered(self, topic: str, code: str, count: int) -> None:
        self.counted["answered", code] += count

    def letter_written(self, topic: str, reason: str) -> None:
        self.counted["letter", reason] += 1

    def batch_waits(self, topic: str, reason: str) -> None:
        self.counted["waits", reason] += 1


class Log(InMemoryEventLog):
    """A log in memory that can be away; its clock stands at noon of a day."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: NOON)
        self.is_away = False

    @contextmanager
    def appending(self) -> Iterator[Any]:
        """As in memory, unless it is away."""
        if self.is_away:
            raise StoreUnavailable("away")
        with super().appending() as transaction:
            yield transaction


class World(NamedTuple):
    """An intake and what is around it."""

    intake: Intake
    log: Log
    engine: Engine
    publisher: FakePublisher
    observer: Counting

    def take(self, *bodies: Any, way: Way = COMMANDS) -> None:
        """Take a batch in, on an event loop of its own."""
        asyncio.run(self.intake.take(records(bodies), way))


@contextmanager
def world(handlers: Handlers = HANDLERS, **options: Any) -> Iterator[World]:
    """An intake over an engine that runs."""
    log = Log()
    engine = Engine(log, handlers)
    engine.start()
    publisher, observer = FakePublisher(), Counting()
    bridge = AnswerBridge(engine)
    intake = Intake(bridge, publisher, REPLIES, Tracing(), observer, **{"patience": IMPATIENT, **options})
    yield World(intake, log, engine, publisher, observer)
    engine.stop()
