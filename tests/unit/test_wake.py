"""A bell for one thread: what ends its waiting, and that no ring is lost."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from command.wake import Wake

PATIENCE_SECONDS = 10


@contextmanager
def waiting(wake: Wake, readable: int | None = None) -> Iterator[threading.Thread]:
    """Somebody who waits, for as long as it takes."""
    thread = threading.Thread(target=lambda: wake.wait(None, () if readable is None else [readable]), daemon=True)
    thread.start()
    yield thread
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_a_ring_wakes_who_waits() -> None:
    wake = Wake()
    with waiting(wake):
        wake.set()


def test_who_comes_after_the_ring_does_not_wait() -> None:
    wake = Wake()
    wake.set()
    with waiting(wake):
        pass


def test_a_file_that_can_be_read_from_wakes_too_and_is_not_read() -> None:
    reader, writer = os.pipe()
    try:
        with waiting(Wake(), reader):
            os.write(writer, b"news")
        assert os.read(reader, 9) == b"news"
    finally:
        os.close(reader)
        os.close(writer)


def test_nobody_waits_for_longer_than_told() -> None:
    Wake().wait(0.001)


def test_a_former_ring_does_not_end_the_next_waiting() -> None:
    wake = Wake()
    for _ in range(3):
        with waiting(wake):
            wake.set()
        wake.clear()
    thread = threading.Thread(target=wake.wait, daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    wake.set()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_no_ring_is_lost_however_both_sides_hurry() -> None:
    wake, heard, rounds = Wake(), threading.Semaphore(0), 5_000

    def listen() -> None:
        for _ in range(rounds):
            wake.wait()
            wake.clear()
            heard.release()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    for _ in range(rounds):
        wake.set()
        assert heard.acquire(timeout=PATIENCE_SECONDS)
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_what_it_opened_is_closed_with_it() -> None:
    wake = Wake()
    wake.wait(0)
    assert wake._pipe is not None
    reader, _ = wake._pipe
    del wake
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(reader)
