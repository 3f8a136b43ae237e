"""Answers cross from the engine to the event loop: all of them, in time, or with an end to the waiting."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from command.engine import Listener
from contracts.commands import TopUpBudget
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.position import Position
from infra.entry.bridge import AnswerBridge


def envelope(number: int) -> CommandEnvelope:
    """One of many commands."""
    command = TopUpBudget(budget_id="b1", by_minor=1)
    return CommandEnvelope(Realm("acme", "shop"), f"k{number}", command, "key:1", "r1")


def answer(number: int) -> Answer:
    """Its answer."""
    return Answer("accepted", "ok", "", {"n": number}, Position(0, "e1", number))


class Threaded:
    """A queue that answers every command from a thread of its own."""

    def __init__(self) -> None:
        self.heard = 0

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        def work() -> None:
            for each, listener in envelopes:
                listener(answer(int(each.command_id[1:])))

        threading.Thread(target=work).start()


class Silent:
    """A queue that keeps its listeners and says nothing."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        self.listeners += [listener for _, listener in envelopes]


async def test_every_answer_reaches_whoever_waits_for_it() -> None:
    bridge = AnswerBridge(Threaded())
    futures = [
        future
        for start in range(0, 2_000, 100)
        for future in bridge.submit([*map(envelope, range(start, start + 100))])
    ]
    answers = await asyncio.wait_for(asyncio.gather(*futures), 10)
    assert [each.data["n"] for each in answers] == list(range(2_000))


async def test_an_answer_that_does_not_come_ends_in_a_time_out() -> None:
    queue = Silent()
    bridge = AnswerBridge(queue, timeout_seconds=0.0)
    (future,) = bridge.submit([envelope(1)])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(future), 10)
    queue.listeners[0](answer(1))  # Too late: nobody is disturbed.
    await asyncio.sleep(0)
    assert isinstance(future.exception(), TimeoutError)


async def test_a_waiter_that_went_away_disturbs_no_other() -> None:
    queue = Silent()
    bridge = AnswerBridge(queue)
    gone, stays = bridge.submit([envelope(1), envelope(2)])
    gone.cancel()
    queue.listeners[0](answer(1))
    queue.listeners[1](RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        await asyncio.wait_for(stays, 10)
