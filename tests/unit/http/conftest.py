"""The edge over a real engine and a log in memory, with a few handlers that answer what a test needs."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import pytest

from command.engine import Engine
from command.handlers.handler import Handler, Handlers
from command.unit_of_work import UnitOfWork
from contracts import commands as c
from contracts.access import ROLES
from contracts.commands import Command
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.position import Position
from contracts.refusals import AlreadyExists, TemplateExhausted, UnknownCoupon
from infra.codes.ring import CodeRing
from infra.http.access import KeyRing
from infra.http.app import Application, HttpParts, create_app
from infra.http.codes import CodeParts
from infra.http.commands import CommandLimits
from infra.http.dry_runs import DryRunsOfStore
from infra.http.health import Readiness
from infra.http.hints import ClaimHints
from infra.http.histories import LogHistories
from infra.http.reads import ReadLimits
from infra.telemetry.metrics import Metrics
from query.ports import BadCursor, Page, View
from tests.fakes import InMemoryEventLog

ACME = Realm("acme", "shop")
GLOBEX = Realm("globex", "shop")
SECRET = "5ec2e7" * 8
STOCK = 3
BODY_BYTES_MAX = 20_000


def code_secrets(realm: Realm) -> dict[str, bytes]:
    """One key for each realm."""
    return {"k1": hashlib.sha256(realm.key.encode()).digest()}


def _claim(uow: UnitOfWork, command: c.ClaimCoupon) -> dict[str, Any]:
    key = f"claims:{command.template_id}"
    if uow.count(key) >= STOCK:
        raise TemplateExhausted(stock=STOCK)
    uow.add(key, 1)
    return {"coupon_id": f"c-{command.user_id}", "business_time": uow.now.isoformat()}


def _use(_uow: UnitOfWork, command: c.LockCoupon) -> dict[str, Any]:
    raise UnknownCoupon(coupon_id=command.coupon_id)


def _break(_uow: UnitOfWork, _command: c.RevokeCoupon) -> dict[str, Any]:
    raise RuntimeError("tsk_abc123_hidden: a defect of ours, with a secret in it")


def _echo(_uow: UnitOfWork, command: Command) -> dict[str, Any]:
    return {"echo": command.model_dump(mode="json"), "attempt": 1}


def _nothing(_command: Any) -> list[Any]:
    return []


def handlers() -> dict[type[Command], Handler[Any]]:
    """A claim that runs out, a lock that finds nothing, a revocation that breaks; all else is echoed."""
    table: dict[type[Command], Handler[Any]] = {command: Handler(_echo, _nothing) for command in c.ALL_COMMANDS}
    table[c.ClaimCoupon] = Handler(_claim, _nothing)
    table[c.LockCoupon] = Handler(_use, _nothing)
    table[c.RevokeCoupon] = Handler(_break, _nothing)
    return table


@dataclass
class Key:
    """An API key as a store would keep it."""

    realm: Realm = ACME
    scopes: frozenset[str] = ROLES["admin"]
    secret_sha256: bytes = field(default_factory=lambda: hashlib.sha256(SECRET.encode()).digest())
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    actor: str = "key:test"


class FakeModels:
    """Read models in memory; ``at`` is the position that they show."""

    def __init__(self) -> None:
        self.at = Position(0, "e1", 0)
        self.things: dict[tuple[Realm, str], View] = {}

    async def position(self) -> Position:
        return self.at

    async def _thing(self, realm: Realm, key: str) -> View | None:
        return self.things.get((realm, key))

    coupon = template = order = budget = a_break = _thing

    async def templates(self, realm: Realm, *, cursor: str | None, limit: int) -> Page:
        return self._page(realm, cursor, limit)

    async def user_coupons(self, realm: Realm, user_id: str, *, cursor: str | None, limit: int) -> Page:
        return self._page(realm, cursor, limit)

    async def funnel(self, realm: Realm, filters: Mapping[str, str], *, cursor: str | None, limit: int) -> Page:
        return Page([dict(filters)], None)

    spend = breaks = funnel

    def _page(self, realm: Realm, cursor: str | None, limit: int) -> Page:
        if cursor is not None and not cursor.isdigit():
            raise BadCursor
        mine = [view for (owner, _), view in self.things.items() if owner == realm]
        start = int(cursor or 0)
        following = str(start + limit) if start + limit < len(mine) else None
        return Page(mine[start : start + limit], following)


class FakeOutcomes:
    """Checkouts whose outcome a test decides: at once, later, or never."""

    def __init__(self) -> None:
        self.expected: dict[tuple[Realm, str, int], asyncio.Future[Mapping[str, Any]]] = {}
        self.at_once: Mapping[str, Any] | None = None
        self.in_log: Mapping[str, Any] | None = None
        self.looks = 0

    def expect(self, realm: Realm, order_id: str, attempt: int) -> "asyncio.Future[Mapping[str, Any]]":
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self.expected[realm, order_id, attempt] = future
        if self.at_once is not None:
            future.set_result(self.at_once)
        return future

    def recorded(self, realm: Realm, order_id: str, attempt: int) -> Mapping[str, Any] | None:
        self.looks += 1
        return self.in_log if self.in_log is not None or self.looks == 1 else self.at_once


class FakeDistributions:
    """Distributions whose lists are kept in memory."""

    def __init__(self, engine: Engine) -> None:
        self.lists: dict[str, list[str]] = {}
        self.refused: list[bytes] = [b"row,user_id,code,detail\r\n", b"7,ann,paused,Claims are refused.\r\n"]
        self._engine = engine

    def start(self, envelope: CommandEnvelope, user_ids: Sequence[str]) -> Answer:
        command = envelope.command
        assert isinstance(command, c.StartDistribution)
        if self.lists.setdefault(command.distribution_id, list(user_ids)) != list(user_ids):
            raise AlreadyExists(f"There is another distribution {command.distribution_id}.")
        return self._engine.execute(envelope)

    async def one(self, realm: Realm, distribution_id: str) -> View | None:
        users = self.lists.get(distribution_id)
        return None if users is None else {"distribution_id": distribution_id, "users": len(users)}

    async def page(self, realm: Realm, *, cursor: str | None, limit: int) -> Page:
        return Page([{"distribution_id": each} for each in self.lists], None)

    async def refusals(self, realm: Realm, distribution_id: str) -> AsyncIterator[bytes] | None:
        return None if distribution_id not in self.lists else self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        for piece in self.refused:
            yield piece


@dataclass
class World:
    """Everything around the edge that a test may turn."""

    log: InMemoryEventLog
    engine: Engine
    keys: dict[str, Key]
    models: FakeModels
    outcomes: FakeOutcomes
    distributions: FakeDistributions
    code_ring: CodeRing
    metrics: Metrics
    parts_ready: dict[str, bool]
    app: Application

    @property
    def stored_answers(self) -> int:
        """How many commands are in the command log."""
        return len(self.log._state.answers)


@pytest.fixture
def world() -> Iterator[World]:
    """An edge whose handlers answer what a test needs."""
    with edge(InMemoryEventLog(), handlers()) as made:
        yield made


@contextmanager
def edge(
    log: InMemoryEventLog,
    table: Handlers,
    make_hints: Callable[[InMemoryEventLog, Metrics], ClaimHints | None] = lambda _log, _metrics: None,
) -> Iterator[World]:
    """An edge with one admin key for acme, one for globex and one that may only read."""
    metrics = Metrics()
    engine = Engine(log, table, observer=metrics)
    engine.start()
    keys = {"acme": Key(), "globex": Key(GLOBEX), "analyst": Key(scopes=ROLES["analyst"])}
    models, outcomes = FakeModels(), FakeOutcomes()
    distributions = FakeDistributions(engine)
    ready = {"store": True, "models": True}

    def check(name: str) -> Any:
        async def run() -> None:
            if not ready[name]:
                raise ConnectionError("redis://:hidden@somewhere is away")

        return run

    with ThreadPoolExecutor(4) as blocking:
        parts = HttpParts(
            queue=engine,
            dry_run=DryRunsOfStore(engine.dry_runs_over(log), engine.dry_run, blocking),
            outcomes=outcomes,
            keys=KeyRing(keys.get, memory_seconds=0.0),
            models=models,
            reports=models,
            histories=LogHistories(log, blocking),
            distributions=distributions,
            start_distribution=distributions.start,
            codes=CodeParts(
                code_ring := CodeRing(code_secrets, blocking),
                lambda *_: log,
                lambda _realm: "k1",
                blocking,
                metrics,
                lambda _realm: ["k1"],
            ),
            positions={"models": models.position, "facts": models.position, "log": models.position},
            readiness=Readiness({name: check(name) for name in ready}, memory_seconds=0.0),
            metrics=metrics,
            blocking=blocking,
            command_limits=CommandLimits(body_bytes_max=BODY_BYTES_MAX, order_wait_ms=50),
            read_limits=ReadLimits(min_position_wait_ms=50),
            hints=make_hints(log, metrics),
        )
        yield World(log, engine, keys, models, outcomes, distributions, code_ring, metrics, ready, create_app(parts))
        engine.stop()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A caller with acme's admin key."""
    async with caller(world) as client:
        yield client


def caller(world: World, prefix: str = "acme") -> httpx.AsyncClient:
    """A caller with one of the keys."""
    transport = httpx.ASGITransport(world.app)
    return httpx.AsyncClient(transport=transport, base_url="http://edge", headers=key_header(prefix))


def key_header(prefix: str, secret: str = SECRET) -> dict[str, str]:
    """The header that presents a key."""
    return {"Authorization": f"Bearer tsk_{prefix}_{secret}"}
