"""What time it is at the store, between two looks."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

ASKING_SECONDS_MAX: Final = 0.1  # An answer that took longer is too old when it is heard.
_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def seconds() -> float:
    """A stopwatch that nobody sets; where there is such a one, it runs on while the machine sleeps."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class StoreClock:
    """The store's time, carried forward for a while by a stopwatch of this process.

    It is never ahead of the store's own, and behind by no more than it took to ask.
    """

    def __init__(self, good_for_seconds: float = 0.0, stopwatch: Callable[[], float] = seconds) -> None:
        """``good_for_seconds``: how old what the store told may become (0: always ask); ``stopwatch`` only rises."""
        self._good_for_seconds = good_for_seconds
        self._stopwatch = stopwatch
        self._told: datetime | None = None
        self._at = 0.0

    @property
    def seconds(self) -> float:
        """What the stopwatch shows."""
        return self._stopwatch()

    def told(self, now: datetime, asked_at: float) -> None:
        """What the store said of the time, which it was asked for when the stopwatch showed ``asked_at``."""
        self._at = self._stopwatch()
        self._told = now if self._at - asked_at <= ASKING_SECONDS_MAX else None

    def forget(self) -> None:
        """It may be another store by now, or one whose time stands still."""
        self._told = None

    @property
    def now(self) -> datetime | None:
        """The store's time; None when it has to be asked."""
        if self._told is None or (passed := self._stopwatch() - self._at) >= self._good_for_seconds:
            return None
        return self._told + timedelta(seconds=passed)
