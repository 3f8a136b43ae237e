"""Callers who never give up: they repeat each command under its id until it is answered, and keep what they were told.

They live outside of every process that may be killed. A caller speaks to one of several API processes, and after a
failure to another one, so that an answer may be asked of B while A still commits.
"""

import asyncio
import random
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, Final

import httpx
import orjson
from aiokafka.errors import KafkaError

from contracts.identity import Realm
from contracts.position import Position
from tests.audit import Acknowledged, Journal
from tests.chaos.by_kafka import ByKafka, has_command

ANSWER_SECONDS_MAX: Final = 4.0
PATIENCE_SECONDS: Final = 300.0  # A command that nobody answers for so long is a finding.
RETRY_SECONDS: Final = 0.05
THINK_SECONDS: Final = 0.12
ASKED_AGAIN_SHARE: Final = 0.05
REMEMBERED_MAX: Final = 200
ACKNOWLEDGEMENTS_KEPT: Final = 4_000
JOIN_SECONDS_MAX: Final = 60.0
KAFKA: Final = "kafka"


class Unanswered(Exception):
    """A command got no final answer, or one that no caller may get; the message says which."""


@dataclass(frozen=True, slots=True)
class Told:
    """A final answer."""

    status: str
    code: str
    data: Mapping[str, Any]
    body: Mapping[str, Any]

    @property
    def accepted(self) -> bool:
        """Whether it was done."""
        return self.status == "accepted"


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """That one attempt was answered: by whom, when it was sent and when the answer came (``monotonic``)."""

    server: str
    sent_at: float
    heard_at: float


Say = Callable[[str, Mapping[str, Any]], Awaitable[Told]]
Flow = Callable[[Say, random.Random, int], Awaitable[None]]


@dataclass
class Load:
    """Callers on a thread of their own. ``servers``: name → URL of each API process; with Kafka, ``kafka`` is one more.

    ``told`` collects what was acknowledged since somebody last took it; ``troubles`` counts what came instead.
    """

    servers: Mapping[str, str]
    token: str
    realm: Realm
    flow: Flow
    journal: Journal
    seed: int
    callers: int = 16
    kafka_bootstrap: str | None = None
    told: list[Acknowledged] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    offset: int = 0  # The highest that any acknowledgement named.
    failure: BaseException | None = None
    _in_flight: dict[str, str] = field(default_factory=dict)
    _recent: deque[Acknowledgement] = field(default_factory=lambda: deque(maxlen=ACKNOWLEDGEMENTS_KEPT))
    _requests: deque[tuple[str, str, bytes]] = field(default_factory=lambda: deque(maxlen=REMEMBERED_MAX))
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _numbers: Iterator[int] = field(default_factory=count)
    _busy: int = 0
    _paused: bool = True
    _pressing: int = 0  # How many want callers not to think now.
    _stopping: bool = False
    _loop: asyncio.AbstractEventLoop | None = None
    _say_now: Say | None = None
    _by_kafka: ByKafka | None = None

    # For whoever drives it, on another thread.

    @contextmanager
    def running(self) -> "Iterator[Load]":
        """The callers' thread; they begin when they are told to :meth:`go_on`."""
        thread = threading.Thread(target=self._run, name="load", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopping = True
            thread.join(JOIN_SECONDS_MAX)

    def go_on(self) -> None:
        """Begin new flows."""
        self._paused = False

    def perform(self, flow: Callable[[Say], Awaitable[None]]) -> None:
        """Let one caller go through a flow now, and wait for its end. Raises Unanswered."""
        self._wait(lambda: self._say_now is not None, JOIN_SECONDS_MAX, "the callers to begin")
        assert self._loop is not None
        assert self._say_now is not None
        # Whoever gets no answer gives up by himself, and says so.
        asyncio.run_coroutine_threadsafe(_awaited(flow(self._say_now)), self._loop).result(2 * PATIENCE_SECONDS)

    def drain(self, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        """Begin nothing new, and wait until every flow has come to its end. Raises Unanswered."""
        self._paused = True
        self._wait(lambda: self._busy == 0, timeout_seconds, "the last callers to be answered")

    @contextmanager
    def pressed(self) -> Iterator[None]:
        """Meanwhile callers do not think between two commands: there is always something in flight."""
        with self._changed:
            self._pressing += 1
        try:
            yield
        finally:
            with self._changed:
                self._pressing -= 1

    def in_flight(self, server: str | None = None) -> int:
        """Commands sent and not answered at this moment, to one of the servers or all."""
        with self._changed:
            return sum(server in {None, each} for each in self._in_flight.values())

    def wait_for_more(self, number: int, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        """Until so many more acknowledgements came. Raises Unanswered."""
        wanted = self.acknowledged + number
        self._wait(lambda: self.acknowledged >= wanted, timeout_seconds, f"{number} more answers")

    def wait_in_flight(self, number: int, server: str | None = None, timeout_seconds: float = 30.0) -> None:
        """Until so many commands are in flight. Raises Unanswered."""
        self._wait(lambda: self.in_flight(server) >= number, timeout_seconds, f"{number} commands in flight")

    def wait_served(self, since: float, server: str | None, timeout_seconds: float) -> float:
        """When the first answer came to something sent after an instant (by one server, or any). Raises Unanswered."""

        def first() -> float | None:
            with self._changed:
                answers = list(self._recent)
            heard = [each.heard_at for each in answers if each.sent_at > since and server in {None, each.server}]
            return min(heard, default=None)

        who = server or "anybody"
        self._wait(lambda: first() is not None, timeout_seconds, f"{who} to answer again")
        at = first()
        assert at is not None
        return at

    def take_told(self) -> list[Acknowledged]:
        """What was acknowledged since the last time."""
        with self._changed:
            told, self.told = self.told, []
            self._requests.clear()  # The next audit reads the log from here on.
        self.journal.sync()
        return told

    def _wait(self, holds: Callable[[], bool], timeout_seconds: float, what: str) -> None:
        with self._changed:
            come = self._changed.wait_for(lambda: self.failure is not None or holds(), timeout_seconds)
        if self.failure is not None:
            raise Unanswered(f"a caller gave up: {self.failure}") from self.failure
        if not come:
            raise Unanswered(f"waited {timeout_seconds:.0f} s for {what}; so far: {dict(self.troubles)}")

    # The callers.

    def _run(self) -> None:
        try:
            asyncio.run(self._call())
        except BaseException as error:  # noqa: BLE001 - told to whoever waits.
            with self._changed:
                self.failure = error
                self._changed.notify_all()

    async def _call(self) -> None:
        limits = httpx.Limits(max_connections=2 * self.callers, max_keepalive_connections=self.callers)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                httpx.AsyncClient(timeout=ANSWER_SECONDS_MAX, limits=limits, headers=headers)
            )
            if self.kafka_bootstrap is not None:
                by_kafka = ByKafka(self.kafka_bootstrap, self.realm, self._keep)
                self._by_kafka = await stack.enter_async_context(by_kafka)
            self._listen(client)
            async with asyncio.TaskGroup() as group:
                for number in range(self.callers):
                    group.create_task(self._caller(client, random.Random(f"{self.seed}/{number}")))

    def _listen(self, client: httpx.AsyncClient) -> None:
        chance = random.Random(f"{self.seed}/opening")

        async def say(path: str, body: Mapping[str, Any]) -> Told:
            return await self._say(client, chance, path, body)

        with self._changed:
            self._loop, self._say_now = asyncio.get_running_loop(), say
            self._changed.notify_all()

    async def _caller(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        async def say(path: str, body: Mapping[str, Any]) -> Told:
            if not self._pressing:
                await asyncio.sleep(chance.expovariate(1 / THINK_SECONDS))
            return await self._say(client, chance, path, body)

        while not self._stopping:
            if self._paused:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._shift(+1)
            try:
                await self.flow(say, chance, next(self._numbers))
            finally:
                self._shift(-1)

    def _shift(self, by: int) -> None:
        with self._changed:
            self._busy += by
            self._changed.notify_all()

    async def _say(self, client: httpx.AsyncClient, chance: random.Random, path: str, body: Mapping[str, Any]) -> Told:
        command_id = f"chaos-{self.seed}-{next(self._numbers)}"
        content = orjson.dumps(body)
        told = await self._until_answered(client, chance, command_id, path, content)
        self._requests.append((command_id, path, content))
        if chance.random() < ASKED_AGAIN_SHARE:  # Somebody asks again, maybe elsewhere: it must be the same answer.
            await self._until_answered(client, chance, *chance.choice(self._requests))
        return told

    async def _until_answered(
        self, client: httpx.AsyncClient, chance: random.Random, command_id: str, path: str, content: bytes
    ) -> Told:
        give_up_at = monotonic() + PATIENCE_SECONDS
        servers = [*self.servers, *([KAFKA] if self._by_kafka is not None and has_command(path) else [])]
        chance.shuffle(servers)
        for attempt in count():
            server = servers[attempt % len(servers)]
            told = await self._attempt(client, server, command_id, path, content)
            if told is not None:
                return told
            if monotonic() > give_up_at:
                raise Unanswered(f"{command_id} ({path}) got no answer for {PATIENCE_SECONDS:.0f} s")
            await asyncio.sleep(RETRY_SECONDS * chance.uniform(0.5, 1.5))
        raise AssertionError("count() never ends")

    async def _attempt(
        self, client: httpx.AsyncClient, server: str, command_id: str, path: str, content: bytes
    ) -> Told | None:
        sent_at = monotonic()
        with self._changed:
            self._in_flight[command_id] = server
            self._changed.notify_all()
        try:
            body = await self._ask(client, server, command_id, path, content)
        except (httpx.TransportError, KafkaError, TimeoutError) as error:
            self.troubles[f"{server}: {type(error).__name__}"] += 1
            return None
        finally:
            with self._changed:
                self._in_flight.pop(command_id, None)
        told = self._understood(body, command_id)
        if told is None:
            self.troubles[f"{server}: {body['code']}"] += 1
            return None
        with self._changed:
            self._recent.append(Acknowledgement(server, sent_at, monotonic()))
            self._changed.notify_all()
        return told

    async def _ask(
        self, client: httpx.AsyncClient, server: str, command_id: str, path: str, content: bytes
    ) -> Mapping[str, Any]:
        if server == KAFKA:
            assert self._by_kafka is not None
            return await self._by_kafka.ask(command_id, path, content)
        url, headers = self.servers[server] + path, {"Idempotency-Key": command_id}
        response = await client.post(url, content=content, headers=headers)
        body: Mapping[str, Any] = orjson.loads(response.content)
        if not body.get("retryable"):
            self._keep(command_id, body)
        return body

    def _understood(self, body: Mapping[str, Any], command_id: str) -> Told | None:
        """A final answer; None when the same has to be asked again."""
        if body["status"] == "accepted":
            return Told("accepted", "ok", body["data"], body)
        if body.get("retryable"):
            return None
        if "position" not in body:  # Neither decided nor to be asked again: then what?
            raise Unanswered(f"{command_id} was answered: {body}")
        return Told("refused", body["code"], body["data"], body)

    def _keep(self, command_id: str, body: Mapping[str, Any]) -> None:
        """Whatever anybody was told for good, by whichever way."""
        if (told := self._understood(body, command_id)) is None:
            return
        offset = Position.parse(told.body["position"]).offset
        kept = Acknowledged(self.realm, command_id, told.status, told.code, told.data, offset)
        self.journal.write(kept)
        with self._changed:
            self.told.append(kept)
            self.acknowledged += 1
            self.offset = max(self.offset, offset)
            self._changed.notify_all()


async def _awaited(work: Awaitable[None]) -> None:
    await work


def journal_at(folder: Path) -> Journal:
    """The file in which acknowledgements outlive even their driver."""
    return Journal(folder / "acknowledged.jsonl")


def pick(chance: random.Random, weighted: Sequence[tuple[int, str]]) -> str:
    """One of several names, as likely as its weight."""
    return chance.choices([name for _, name in weighted], [weight for weight, _ in weighted])[0]
