"""Carries answers from the committer thread to the event loop, waking the loop once per batch, not once per answer."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from command.engine import Listener, Outcome
from contracts.envelope import Answer, CommandEnvelope

ANSWER_TIMEOUT_SECONDS = 30.0


class CommandQueue(Protocol):
    """The engine, as far as the edge needs it for commands that are stored."""

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        """Queue commands; each listener hears its outcome once. Raises Busy or EngineStopped."""
        ...


class AnswerBridge:
    """Lets coroutines of one event loop wait for answers of the engine."""

    def __init__(self, queue: CommandQueue) -> None:
        self._queue = queue
        self._arrived: deque[tuple[asyncio.Future[Answer], Outcome]] = deque()
        self._awake = False

    def submit(self, envelopes: Sequence[CommandEnvelope]) -> list[asyncio.Future[Answer]]:
        """Queue commands, kept together and in order. Raises Busy or EngineStopped; the futures raise as the engine."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in envelopes]
        self._queue.submit_to(
            [(envelope, self._listener(loop, future)) for envelope, future in zip(envelopes, futures, strict=True)]
        )
        return futures

    def _listener(self, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Answer]") -> Listener:
        def hear(outcome: Outcome) -> None:
            self._arrived.append((future, outcome))
            if not self._awake:
                self._awake = True
                loop.call_soon_threadsafe(self._deliver)

        return hear

    def _deliver(self) -> None:
        # Cleared first: whatever arrives while we deliver either is seen below or wakes the loop again.
        self._awake = False
        while self._arrived:
            future, outcome = self._arrived.popleft()
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
