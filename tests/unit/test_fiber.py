"""Code in a fiber: it waits as if it had a thread, the loop goes on meanwhile, and nothing of the loop is touched."""

import asyncio
import os
import threading
from collections.abc import Iterator
from time import thread_time

import pytest

from infra import fiber
from infra.fiber import FiberBell

PATIENCE_SECONDS = 10


async def test_what_code_returns_or_raises_is_told() -> None:
    def fails() -> None:
        fiber.pause(0)
        raise ValueError("told")

    assert await fiber.run(lambda: "done") == "done"
    with pytest.raises(ValueError, match="told"):
        await fiber.run(fails)


async def test_it_is_told_how_much_processor_time_a_fiber_took_and_not_how_long_it_waited() -> None:
    used: list[float] = []

    def works() -> None:
        fiber.pause(0.05)
        until = thread_time() + 0.02
        while thread_time() < until:
            pass

    await fiber.run(works, used.append)
    assert len(used) == 2  # Before the wait and after it.
    assert used[1] >= 0.02 > used[0]


async def test_the_loop_serves_others_while_a_fiber_waits_and_on_its_own_thread() -> None:
    served, here = asyncio.Event(), threading.get_ident()
    seen: list[int] = []

    def waits() -> None:
        while not served.is_set():
            seen.append(threading.get_ident())
            fiber.pause(0)

    running = asyncio.create_task(fiber.run(waits))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    served.set()
    await asyncio.wait_for(running, PATIENCE_SECONDS)
    assert set(seen) == {here}


async def test_what_a_fiber_waits_for_may_fail_and_the_fiber_hears_it() -> None:
    async def fails() -> None:
        raise ConnectionError("gone")

    def hears() -> str:
        with pytest.raises(ConnectionError, match="gone"):
            fiber.wait_for(fails())
        return "heard"

    assert await fiber.run(hears) == "heard"


async def test_what_blocks_runs_on_another_thread_and_its_failure_comes_back() -> None:
    def work() -> tuple[int, bool]:
        return threading.get_ident(), fiber.is_here()

    def fails() -> None:
        raise OSError("no route")

    where, in_fiber = await fiber.run(lambda: fiber.blocking(work))
    assert where != threading.get_ident()
    assert not in_fiber
    with pytest.raises(OSError, match="no route"):
        await fiber.run(lambda: fiber.blocking(fails))


def test_without_a_fiber_everything_happens_right_here() -> None:
    lock = threading.Lock()
    assert not fiber.is_here()
    assert fiber.blocking(threading.get_ident) == threading.get_ident()
    fiber.pause(0)
    assert fiber.acquire(lock, 0)
    assert not fiber.acquire(lock, 0.001)


async def test_a_lock_that_another_thread_holds_is_waited_for_and_the_loop_goes_on() -> None:
    lock = threading.Lock()
    lock.acquire()
    waiting = asyncio.create_task(fiber.run(lambda: fiber.acquire(lock, PATIENCE_SECONDS)))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    lock.release()
    assert await asyncio.wait_for(waiting, PATIENCE_SECONDS)
    assert lock.locked()
    assert not await fiber.run(lambda: fiber.acquire(lock, 0.01))  # Not in time.


async def test_whoever_cancels_ends_what_is_waited_for_and_the_fiber_may_clean_up() -> None:
    cleaned: list[str] = []

    def waits() -> None:
        try:
            fiber.pause(PATIENCE_SECONDS)
        finally:
            fiber.pause(0)  # A roll-back waits, too.
            cleaned.append("up")

    running = asyncio.create_task(fiber.run(waits))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, PATIENCE_SECONDS)
    assert cleaned == ["up"]


async def test_the_loop_is_hidden_from_a_fiber_and_there_again_when_it_waits() -> None:
    def looks() -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()

    await fiber.run(looks)
    assert asyncio.get_running_loop().is_running()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def test_a_file_is_watched_until_there_is_news_or_the_time_is_over(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    watching = asyncio.create_task(fiber.run(lambda: fiber.watch(reader, PATIENCE_SECONDS, reads=True, writes=False)))
    await asyncio.sleep(0.01)
    assert not watching.done()
    os.write(writer, b"!")
    await asyncio.wait_for(watching, PATIENCE_SECONDS)
    os.read(reader, 1)
    await fiber.run(lambda: fiber.watch(reader, 0.01, reads=True, writes=False))
    await fiber.run(lambda: fiber.watch(writer, PATIENCE_SECONDS, reads=False, writes=True))


async def test_a_bell_lets_the_loop_go_round_even_when_it_has_been_rung(pipe: tuple[int, int]) -> None:
    bell, turns = FiberBell(), 0

    def listens() -> None:
        for _ in range(10):
            bell.set()
            bell.wait(PATIENCE_SECONDS)

    running = asyncio.create_task(fiber.run(listens))
    while not running.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 10


async def test_a_fiber_may_ring_its_own_bell_and_that_of_others() -> None:
    mine, others = FiberBell(), FiberBell()
    listening = asyncio.create_task(fiber.run(others.wait))
    await asyncio.sleep(0)

    def rings() -> None:
        mine.set()
        others.set()
        mine.wait()

    await asyncio.wait_for(fiber.run(rings), PATIENCE_SECONDS)
    await asyncio.wait_for(listening, PATIENCE_SECONDS)
