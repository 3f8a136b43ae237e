"""Asks for many things at once: what is wanted while an answer is under way goes together into the next question."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

KEYS_MAX: Final = 1_000


class Gathering(Generic[K, V]):
    """One question at a time; whoever asks waits for at most ``wait_seconds``.

    A question takes in who waits until it has ``keys_max`` keys. Nobody's keys are divided: the last one's may exceed
    that.
    """

    def __init__(
        self,
        ask: Callable[[Collection[K]], Awaitable[Mapping[K, V]]],
        wait_seconds: float,
        *,
        keys_max: int = KEYS_MAX,
    ) -> None:
        self._keys_max = keys_max
        self._ask = ask
        self._wait_seconds = wait_seconds
        self._wanted: deque[tuple[Collection[K], asyncio.Future[Mapping[K, V]]]] = deque()
        self._asking: asyncio.Task[None] | None = None

    async def find(self, keys: Collection[K]) -> Mapping[K, V]:
        """What there is of these keys (and perhaps of others). Raises TimeoutError, and what asking raised."""
        future: asyncio.Future[Mapping[K, V]] = asyncio.get_running_loop().create_future()
        self._wanted.append((keys, future))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all())
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await future
        finally:
            del future  # An error of its own would have it in its traceback, with all that was asked.

    async def _ask_all(self) -> None:
        try:
            while self._wanted:
                await self._ask_next()
        finally:
            self._asking = None

    async def _ask_next(self) -> None:
        keys, waiting = self._take()
        if not waiting:
            return
        try:
            async with asyncio.timeout(self._wait_seconds):
                found = await self._ask(keys)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for those who asked.
            _fail(waiting, error)
        else:
            for future in waiting:
                if not future.done():
                    future.set_result(found)

    def _take(self) -> tuple[set[K], "list[asyncio.Future[Mapping[K, V]]]"]:
        """The next question's keys, and who waits for them."""
        keys: set[K] = set()
        waiting: list[asyncio.Future[Mapping[K, V]]] = []
        while self._wanted and len(keys) < self._keys_max:
            wanted, future = self._wanted.popleft()
            if not future.done():  # Else nobody waits any more.
                keys.update(wanted)
                waiting.append(future)
        return keys, waiting


def _fail(waiting: "list[asyncio.Future[Any]]", error: Exception) -> None:
    """Nobody waits afterwards in the frame that the error was caught in: that is in its traceback."""
    while waiting:
        future = waiting.pop()
        if not future.done():
            future.set_exception(error)
