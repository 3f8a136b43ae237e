"""Dry runs of one store over HTTP: who asks while others are being answered shares the next look."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest

from command.decider import HandlerFailed
from command.dry_runs import STREAMS_MAX, DryRuns
from command.engine import Engine
from command.handlers.handler import Handler, Handlers
from command.ports import Seen, StoreUnavailable, Wanted
from command.unit_of_work import NotYet, UnitOfWork
from contracts.envelope import Answer, CommandEnvelope
from contracts.position import Position
from infra import fiber
from infra.http.dry_runs import TOGETHER_MAX, DryRunsOfStore
from tests.fakes import InMemoryEventLog
from tests.gwt import NOON
from tests.unit.http.test_garbage import nothing_collected_but_at_the_end
from tests.unit.test_engine import BARREL, HANDLERS, Pour, asks


class Far(InMemoryEventLog):
    """A log that takes a moment: others are served meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.failures = 0  # Looks that will find the connection lost.

    def glancing(self) -> Any:
        glance, log = super().glancing(), self

        class Glance:
            def __getattr__(self, name: str) -> Any:
                return getattr(glance, name)

            def look(self, wanted: Wanted) -> Seen:
                log.looks += 1
                if log.failures:
                    log.failures -= 1
                    raise StoreUnavailable("the connection was lost")
                fiber.pause(0)
                return glance.look(wanted)

        return Glance()


def by_itself(envelope: CommandEnvelope, at: datetime | None = None) -> Answer:
    return Answer("accepted", "ok", "", {"at": at, "asked": envelope.command_id}, Position(0, "e1", 0))


def dry_runs(log: InMemoryEventLog, blocking: ThreadPoolExecutor, handlers: Handlers = HANDLERS) -> DryRunsOfStore:
    return DryRunsOfStore(DryRuns(log, handlers, lock_ttl_seconds=900), by_itself, blocking)


async def test_those_who_ask_while_others_are_answered_share_a_look_and_each_hears_its_own_answer() -> None:
    log = Far()
    engine = Engine(log, HANDLERS)
    engine.start()
    for glasses in range(2):
        assert engine.execute(asks(f"poured {glasses}", barrel="b1")).accepted
    engine.stop()
    log.looks = 0
    with ThreadPoolExecutor(1) as blocking:
        ask = dry_runs(log, blocking)
        told = await asyncio.gather(*(ask(asks(str(n), barrel=f"b{n % 2}")) for n in range(3 * TOGETHER_MAX)))
    assert [answer.data["glass"] for answer in told] == [1 + 2 * (n % 2) for n in range(3 * TOGETHER_MAX)]
    assert log.looks == 4  # Of three questions: the first one did not know what it would take.


async def test_a_defect_is_told_to_whom_it_concerns() -> None:
    with ThreadPoolExecutor(1) as blocking:
        ask = dry_runs(Far(), blocking)
        fine = asyncio.create_task(ask(asks("1")))
        with pytest.raises(HandlerFailed):
            await ask(asks("2", breaks=True))
        assert (await fine).data == {"glass": 1}


@pytest.mark.parametrize("failures", [1, 2])
async def test_a_connection_that_was_lost_is_noticed_by_nobody_and_a_store_that_is_away_by_all(failures: int) -> None:
    log = Far()
    log.failures = failures
    with ThreadPoolExecutor(1) as blocking:
        told = await asyncio.gather(*(dry_runs(log, blocking)(asks(str(n))) for n in range(1)), return_exceptions=True)
    assert [type(each) for each in told] == [Answer if failures == 1 else StoreUnavailable]


async def test_what_is_better_alone_is_decided_by_itself() -> None:
    def many(uow: UnitOfWork, _: Pour) -> dict[str, Any]:
        uow.load_all(BARREL, [f"b{n}" for n in range(STREAMS_MAX + 1)])
        return {}

    with ThreadPoolExecutor(1) as blocking:
        told = await dry_runs(Far(), blocking, {Pour: Handler(many, lambda _: [])})(asks("1"))
    assert told.data == {"at": None, "asked": "1"}


@pytest.mark.parametrize("failures", [0, 2])
async def test_what_cannot_be_told_leaves_no_garbage(failures: int) -> None:
    def waits(_uow: UnitOfWork, _: Pour) -> dict[str, Any]:
        raise NotYet("what it follows from is not recorded")

    log = Far()
    with ThreadPoolExecutor(1) as blocking, nothing_collected_but_at_the_end() as garbage:
        log.failures = failures
        with suppress(NotYet, StoreUnavailable):
            await dry_runs(log, blocking, {Pour: Handler(waits, lambda _: [])})(asks("1"))
        await asyncio.sleep(0.01)  # Whoever asked for it is done with it, too.
    assert [each for each in garbage if isinstance(each, NotYet | StoreUnavailable)] == []


async def test_at_another_time_each_is_decided_by_itself() -> None:
    with ThreadPoolExecutor(1) as blocking:
        told = await dry_runs(Far(), blocking)(asks("1"), NOON)
    assert told.data == {"at": NOON, "asked": "1"}
