"""The demo from beginning to end: a stack of its own, the day, the books, the faults, and the verdict."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console

from infra import operations
from infra.demo import summary
from infra.demo.acts import BusinessDay, Tally
from infra.demo.books import read_books
from infra.demo.client import Api
from infra.demo.damage import damage_read_models
from infra.demo.day import Day, draw
from infra.demo.faults import Planted, Saboteur
from infra.demo.screen import Screen, ShownAct
from infra.demo.topics import TopicApi
from infra.postgres.log import PostgresEventLog
from infra.settings import Settings
from infra.simulator.kafka import TopicUpstream
from infra.stack import DEMO_REALM, LocalStack

CONNECTIONS_MAX: Final = 64
SETTLE_SECONDS_MAX: Final = 30.0


@dataclass
class DemoResult:
    """What the demo found. ``wrong`` lists, in words, everything that is not as it must be."""

    seed: int
    scale: float
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    planted: list[Planted] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything is as it must be."""
        return not self.wrong

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "ok": self.ok}


class Stage:
    """What the acts need: a screen to show themselves on, and a way to wait until everybody is done."""

    def __init__(self, screen: Screen, stack: LocalStack) -> None:
        self._screen = screen
        self._quiet = operations.Quiet(stack.settings, stack.require_alive)
        self._turn = asyncio.Lock()

    def act(self, label: str, total: int) -> ShownAct:
        """Begin a part of the day that is shown by itself."""
        return self._screen.act(label, total)

    async def settle(self) -> None:
        """Wait until sagas and timers have nothing left to do. Raises NotQuiet."""
        await self._wait(with_projections=False)

    async def settle_all(self) -> None:
        """The same, until every read model and the facts show it, too."""
        await self._wait(with_projections=True)

    async def _wait(self, *, with_projections: bool) -> None:
        async with self._turn:
            await asyncio.to_thread(self._quiet.wait, SETTLE_SECONDS_MAX, with_projections=with_projections)

    def close(self) -> None:
        """Give the connections back."""
        self._quiet.close()


def run_demo(console: Console, *, seed: int, scale: float, keep: Path | None, kafka: bool = False) -> DemoResult:
    """Play the day of a seed. The stack runs in a temporary folder, or in ``keep``, which stays.

    With ``kafka`` commands and facts come in by topic, and followers read topics.
    """
    screen = Screen(console)
    result = DemoResult(seed, scale)
    day = draw(seed, scale)
    console.print(summary.opening(day, seed, scale, kafka=kafka))
    folder = keep or Path(tempfile.mkdtemp(prefix="tessera-demo-"))
    try:
        with screen.act("Starting a stack of its own", 3) as act:
            stack = LocalStack(folder, kafka=kafka, ephemeral=keep is None, say=lambda _what: act.done())
            stack.__enter__()
            act.say(f"PostgreSQL, Redis, ClickHouse{', Kafka' if kafka else ''}; API, sagas, projections")
        try:
            uvloop.run(_play(screen, stack, day, result))
        finally:
            with screen.act("Stopping it", 1):
                stack.__exit__(*sys.exc_info())
    finally:
        result.seconds = screen.seconds
    console.print(summary.closing(result.wrong, result.seconds, keep))
    return result


async def _play(screen: Screen, stack: LocalStack, day: Day, result: DemoResult) -> None:
    """The day and everything after it, against a running stack."""
    stage = Stage(screen, stack)
    try:
        async with _api(stack) as api:
            screen.heading("The day")
            played = BusinessDay(api, day, stage)
            await played.play()
            await _clean_books(screen, stack.settings, played.tally, day, result)
            screen.heading("The same books with faults planted")
            await _planted_faults(screen, stack.settings, api, stage, result)
    finally:
        stage.close()


@asynccontextmanager
async def _api(stack: LocalStack) -> AsyncIterator[Api]:
    """By HTTP, or by topic as far as topics take what is asked."""
    if stack.settings.kafka_bootstrap is None:
        async with Api(stack.http_url, stack.key.token, connections_max=CONNECTIONS_MAX) as api:
            yield api
        return
    async with (
        TopicUpstream(stack.settings, DEMO_REALM) as upstream,
        TopicApi(stack.http_url, stack.key.token, upstream, connections_max=CONNECTIONS_MAX) as by_topic,
    ):
        yield by_topic


async def _clean_books(screen: Screen, settings: Settings, tally: Tally, day: Day, result: DemoResult) -> None:
    """After the day: what was counted while it was played must be what every store says, and nothing may break."""
    screen.heading("The books")
    with screen.act("Reconciling and verifying", 3) as act:
        books = await asyncio.to_thread(read_books, settings, DEMO_REALM)
        act.done()
        verified = await asyncio.to_thread(operations.verify, settings)
        act.done()
        report = await asyncio.to_thread(operations.reconcile, settings, verified=verified)
        act.done()
        act.say(f"{books.events:,} events, {verified.commands:,} answered commands")
    for shown in summary.books(books, tally, day):
        screen.console.print(shown)
    screen.console.print(summary.clean_verdict(report.breaks, verified))
    result.figures = summary.figures(books, tally, day)
    result.wrong += books.disagreements(tally, day)
    result.wrong += [f"a clean day has a break: {each.kind} on {each.subject}: {each.detail}" for each in report.breaks]
    result.wrong += [f"verify: {each.invariant} {each.subject}: {each.detail}" for each in verified.violations]
    result.wrong += [f"verify could not compare {store}" for store in verified.not_compared]


async def _planted_faults(screen: Screen, settings: Settings, api: Api, stage: Stage, result: DemoResult) -> None:
    log = PostgresEventLog(settings.postgres_dsn, shard=settings.shard)
    try:
        planted = await Saboteur(api, stage, log, DEMO_REALM).plant()
    finally:
        log.close()
    planted += await asyncio.to_thread(damage_read_models, settings, DEMO_REALM)
    with screen.act("Reconciling and verifying again", 2) as act:
        verified = await asyncio.to_thread(operations.verify, settings)
        act.done()
        report = await asyncio.to_thread(operations.reconcile, settings, verified=verified)
        act.say(f"{len(report.breaks)} breaks, {len(verified.violations)} violations")
    result.planted = planted
    result.reported = [f"{each.kind} {each.subject}" for each in report.breaks]
    result.wrong += summary.differences(planted, report.breaks, verified)
    screen.console.print(summary.planted_against_reported(planted, report.breaks, verified))
