"""Carries answers from engines to the event loop, from whichever thread or fiber, waking it once for a batch."""

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from typing import Final, Protocol

from command.engine import Listener, Outcome
from contracts.envelope import Answer, CommandEnvelope

ANSWER_TIMEOUT_SECONDS: Final = 30.0
_SWEEP_SECONDS: Final = 0.5


class CommandQueue(Protocol):
    """The engine, as far as the edge needs it for commands that are stored."""

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        """Queue commands; each listener hears its outcome once. Raises Busy or EngineStopped."""
        ...


class AnswerBridge:
    """Lets coroutines of one event loop wait for answers of the engine, each for a bounded time.

    One sweep over all that wait keeps the bound: a timer for each would cost more than the waiting.
    """

    def __init__(self, queue: CommandQueue, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS) -> None:
        self._queue = queue
        self._timeout_seconds = timeout_seconds
        self._deadlines: dict[asyncio.Future[Answer], float] = {}  # In the order of the deadlines.
        self._sweeping = False
        self._arrived: deque[tuple[asyncio.Future[Answer], Outcome]] = deque()
        self._awake = False

    def ask(self, envelope: CommandEnvelope) -> asyncio.Future[Answer]:
        """Queue one command. Raises, as its future does, like :meth:`submit`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._queue.submit_to(((envelope, partial(self._hear, loop, future)),))
        self._deadlines[future] = loop.time() + self._timeout_seconds
        self._sweep_later(loop)
        return future

    def submit(self, envelopes: Sequence[CommandEnvelope]) -> list[asyncio.Future[Answer]]:
        """Queue commands, kept together and in order. Raises Busy or EngineStopped.

        The futures raise as the engine does, and TimeoutError when no answer comes.
        """
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in envelopes]
        listeners = (partial(self._hear, loop, future) for future in futures)
        self._queue.submit_to(list(zip(envelopes, listeners, strict=True)))
        self._deadlines.update(dict.fromkeys(futures, loop.time() + self._timeout_seconds))
        self._sweep_later(loop)
        return futures

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the waits that took too long; whatever the engine still says of them is not heard any more."""
        now = loop.time()
        overdue = [future for future, _ in takewhile(lambda entry: entry[1] <= now, self._deadlines.items())]
        for future in overdue:
            del self._deadlines[future]
            if not future.done():
                future.set_exception(TimeoutError("no answer in time"))
        self._sweeping = bool(self._deadlines)
        if self._sweeping:
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)

    def _hear(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Answer], outcome: Outcome) -> None:
        """Where the engine runs, which must not touch the loop. Only the first of many answers wakes it."""
        self._arrived.append((future, outcome))
        if not self._awake:
            self._awake = True
            loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Cleared first: whatever arrives while we deliver either is seen below or wakes the loop again.
        self._awake = False
        while self._arrived:
            future, outcome = self._arrived.popleft()
            self._deadlines.pop(future, None)
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
