"""Bells for one who waits: what ends the waiting, and that no ring is lost. On a thread, and in a fiber of a loop."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import uvloop

from command.bell import Bell, ThreadBell
from infra import fiber
from infra.fiber import FiberBell

PATIENCE_SECONDS = 10


def on_a_thread(listen: Callable[[], object]) -> None:
    listen()


def in_a_fiber(listen: Callable[[], object]) -> None:
    uvloop.run(fiber.run(listen))


def in_a_fiber_of_asyncio(listen: Callable[[], object]) -> None:
    asyncio.run(fiber.run(listen))


class BellContract:
    """What every bell does; whoever waits does so as ``runs`` says."""

    runs: Callable[[Callable[[], object]], None]

    @pytest.fixture
    def bell(self) -> Bell:
        raise NotImplementedError

    @contextmanager
    def listening(self, listen: Callable[[], object]) -> Iterator[threading.Thread]:
        """Somebody who waits, for as long as it takes."""
        thread = threading.Thread(target=type(self).runs, args=(listen,), daemon=True)
        thread.start()
        yield thread
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()

    def test_a_ring_wakes_who_waits(self, bell: Bell) -> None:
        with self.listening(bell.wait):
            bell.set()

    def test_who_comes_after_the_ring_does_not_wait(self, bell: Bell) -> None:
        bell.set()
        with self.listening(bell.wait):
            pass

    def test_a_file_that_can_be_read_from_wakes_too_and_is_told_and_not_read(self, bell: Bell) -> None:
        (reader, writer), (quiet, other_end) = os.pipe(), os.pipe()
        told: list[int] = []
        try:
            with self.listening(lambda: told.extend(bell.wait(None, [quiet, reader]))):
                os.write(writer, b"news")
            assert told == [reader]
            assert os.read(reader, 9) == b"news"
        finally:
            for end in (reader, writer, quiet, other_end):
                os.close(end)

    def test_nobody_waits_for_longer_than_told(self, bell: Bell) -> None:
        with self.listening(lambda: bell.wait(0.001)):
            pass

    def test_a_former_ring_does_not_end_the_next_waiting(self, bell: Bell) -> None:
        for _ in range(3):
            with self.listening(bell.wait):
                bell.set()
            bell.clear()
        with self.listening(bell.wait) as thread:
            thread.join(0.05)
            assert thread.is_alive()
            bell.set()

    def test_no_ring_is_lost_however_both_sides_hurry(self, bell: Bell) -> None:
        heard, rounds = threading.Semaphore(0), 3_000

        def listen() -> None:
            for _ in range(rounds):
                bell.wait()
                bell.clear()
                heard.release()

        with self.listening(listen):
            for _ in range(rounds):
                bell.set()
                assert heard.acquire(timeout=PATIENCE_SECONDS)


class TestBellOfAThread(BellContract):
    runs = staticmethod(on_a_thread)

    @pytest.fixture
    def bell(self) -> Bell:
        return ThreadBell()


class TestBellOfAFiber(BellContract):
    runs = staticmethod(in_a_fiber)

    @pytest.fixture
    def bell(self) -> Bell:
        return FiberBell()


class TestBellOfAFiberOnAnotherLoop(BellContract):
    runs = staticmethod(in_a_fiber_of_asyncio)

    @pytest.fixture
    def bell(self) -> Bell:
        return FiberBell()


def test_what_a_thread_s_bell_opened_is_closed_with_it() -> None:
    bell = ThreadBell()
    bell.wait(0)
    assert bell._pipe is not None
    reader, _ = bell._pipe
    del bell
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(reader)
