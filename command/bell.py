"""What wakes an engine that waits for commands and for the store at the same time."""

import os
import select
import weakref
from collections.abc import Collection
from typing import Final, Protocol

RINGS_MAX: Final = 64  # Several may ring at the same time, and one just when the waiting ended otherwise.


class Bell(Protocol):
    """Wakes the one who waits: for the bell, or for a file that becomes readable, whichever comes first.

    As ``threading.Event`` it stays set until it is cleared.
    """

    def open(self) -> object:
        """Open what waiting needs, so that whoever starts an engine learns when that cannot be. Raises OSError."""
        ...

    def set(self) -> None:
        """Ring. In any thread; costs next to nothing when nobody waits."""
        ...

    def clear(self) -> None:
        """Be quiet again."""
        ...

    def wait(self, seconds: float | None = None, files: Collection[int] = ()) -> list[int]:
        """Wait until it rings, one of the files can be read from, or the time is over (None: for as long as it takes).

        Returns files that can be read from. Ends early now and then; whoever waits looks what there is.
        """
        ...


class ThreadBell:
    """A bell for whoever has a thread to wait on. Nothing is opened before somebody is about to wait."""

    def __init__(self) -> None:
        self._is_set = False
        self._somebody_waits = False
        self._pipe: tuple[int, int] | None = None

    def set(self) -> None:
        """Ring. In any thread; costs nothing when nobody waits."""
        self._is_set = True
        if self._somebody_waits:
            self._somebody_waits = False
            assert self._pipe is not None
            os.write(self._pipe[1], b"!")

    def clear(self) -> None:
        """Be quiet again."""
        self._is_set = False

    def wait(self, seconds: float | None = None, files: Collection[int] = ()) -> list[int]:
        """Wait for the ring, a file or the time; returns all the files that can be read from."""
        ready: list[int] = []
        reader, _ = self.open()
        self._somebody_waits = True  # Before looking: whoever rings from here on writes.
        if not self._is_set:
            waiting = select.poll()
            for file in (reader, *files):
                waiting.register(file, select.POLLIN)
            ready = [file for file, _ in waiting.poll(None if seconds is None else seconds * 1_000)]
            if reader in ready:
                ready.remove(reader)
                os.read(reader, RINGS_MAX)
        self._somebody_waits = False
        return ready

    def open(self) -> tuple[int, int]:
        """Open the pipe through which it rings. Raises OSError."""
        if self._pipe is None:
            self._pipe = os.pipe()
            for end in self._pipe:
                weakref.finalize(self, os.close, end).atexit = False  # A thread may still wait when all ends.
        return self._pipe
