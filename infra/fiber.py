"""Fibers: code that waits as if it had a thread of its own, on the thread of an event loop that goes on meanwhile.

A fiber is a greenlet under a task of the loop. Where it would block it hands the task an awaitable, and is gone on with
when that has come out. It is ordinary code, which need not know: what blocks asks here first (:func:`is_here`).

One rule: nothing in a fiber touches the loop. While it runs, the loop's stack lies aside, and libuv keeps pointers into
it: often that goes well, and a process whose fiber called ``add_reader`` was gone without a word. So a fiber makes
awaitables and the task awaits them; the loop is hidden from it (``asyncio.get_running_loop`` raises), and whatever it
has to tell the loop goes through ``call_soon_threadsafe``, as from any other thread (docs/decisions/0027).
"""

import asyncio
from asyncio import AbstractEventLoop, Future
from collections.abc import Awaitable, Callable, Collection
from threading import Lock
from time import monotonic, sleep, thread_time
from typing import Any, Final, TypeVar, cast

from greenlet import getcurrent, greenlet

T = TypeVar("T")

LOCK_LOOK_SECONDS: Final = 0.002  # Locks tell nobody when they are free.


class _Fiber(greenlet):
    """Known by its class."""


async def run(work: Callable[[], T], used: Callable[[float], None] = lambda _seconds: None) -> T:
    """Run code in a fiber on this loop; what it returns or raises. When cancelled, so is what it waits for.

    ``used`` is told, between two waits, how many seconds of processor time it took.
    """
    fiber, loop = _Fiber(work), asyncio.get_running_loop()

    def go_on(switch: Callable[..., Any], *outcome: Any) -> Any:
        """Until the fiber waits again (for the awaitable that it hands over) or has ended."""
        began = thread_time()
        asyncio._set_running_loop(None)
        try:
            return switch(*outcome)
        finally:
            asyncio._set_running_loop(loop)
            used(thread_time() - began)

    told = go_on(fiber.switch)
    while not fiber.dead:
        try:
            outcome = await told
        except BaseException as error:  # noqa: BLE001 - it is the fiber's.
            told = go_on(fiber.throw, error)
        else:
            told = go_on(fiber.switch, outcome)
    return cast(T, told)


def is_here() -> bool:
    """Whether this runs in a fiber, which must not block."""
    return isinstance(getcurrent(), _Fiber)


def wait_for(awaitable: Awaitable[T]) -> T:
    """In a fiber: wait for something that only the loop can wait for."""
    task = getcurrent().parent
    assert task is not None
    return cast(T, task.switch(awaitable))


def blocking(work: Callable[[], T]) -> T:
    """What blocks and cannot be helped: in a fiber it runs on another thread, elsewhere right here."""
    return wait_for(asyncio.to_thread(work)) if is_here() else work()


def pause(seconds: float) -> None:
    """Wait so long."""
    if is_here():
        wait_for(asyncio.sleep(seconds))
    else:
        sleep(seconds)


def acquire(lock: Lock, seconds: float) -> bool:
    """Take a lock that other threads may hold for a while; whether it was to be had in time."""
    if not is_here():
        return lock.acquire(timeout=seconds)
    deadline = monotonic() + seconds
    while not lock.acquire(blocking=False):
        if monotonic() >= deadline:
            return False
        wait_for(asyncio.sleep(LOCK_LOOK_SECONDS))
    return True


def watch(file: int, seconds: float, *, reads: bool, writes: bool) -> None:
    """In a fiber: wait until a file can be read from or written to, or the time is over."""
    wait_for(_watched([file] if reads else (), [file] if writes else (), seconds))


async def _watched(
    readers: Collection[int],
    writers: Collection[int],
    seconds: float | None,
    news: "Future[None] | None" = None,
) -> list[int]:
    """Wait for one of the files, the time, or whoever resolves ``news``; the files that there is news of."""
    loop = asyncio.get_running_loop()
    news = news or loop.create_future()
    ready: list[int] = []

    def hear(file: int) -> None:
        ready.append(file)
        _resolve(news)

    timer = None if seconds is None else loop.call_later(seconds, _resolve, news)
    for file in readers:
        loop.add_reader(file, hear, file)
    for file in writers:
        loop.add_writer(file, hear, file)
    try:
        await news
    finally:
        for file in readers:
            loop.remove_reader(file)
        for file in writers:
            loop.remove_writer(file)
        if timer is not None:
            timer.cancel()
    return ready


def _resolve(news: "Future[None]") -> None:
    if not news.done():
        news.set_result(None)


class FiberBell:
    """A bell for whoever waits in a fiber. Implements :class:`command.bell.Bell`."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: tuple[AbstractEventLoop, Future[None]] | None = None

    def open(self) -> None:
        """Nothing: the loop has all that it takes."""

    def set(self) -> None:
        """Ring; in any thread, and in the fiber itself."""
        self._is_set = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            loop, news = waiting
            loop.call_soon_threadsafe(_resolve, news)

    def clear(self) -> None:
        """Be quiet again."""
        self._is_set = False

    def wait(self, seconds: float | None = None, files: Collection[int] = ()) -> list[int]:
        """Let the loop serve others until there is news; at least once around, so that nobody is forgotten."""
        return wait_for(self._rung(seconds, files))

    async def _rung(self, seconds: float | None, files: Collection[int]) -> list[int]:
        loop = asyncio.get_running_loop()
        news: Future[None] = loop.create_future()
        self._waiting = loop, news  # Before looking: whoever rings from here on resolves it.
        try:
            return await _watched(files, (), 0.0 if self._is_set else seconds, news)
        finally:
            self._waiting = None
