"""What time it is at the store, between two looks."""

from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic


class StoreClock:
    """The store's time, carried forward for a while by a stopwatch of this process; never ahead of the store's own."""

    def __init__(self, good_for_seconds: float = 0.0, stopwatch: Callable[[], float] = monotonic) -> None:
        """``good_for_seconds``: how old what the store told may become (0: always ask); ``stopwatch`` only rises."""
        self._good_for_seconds = good_for_seconds
        self._stopwatch = stopwatch
        self._told: datetime | None = None
        self._at = 0.0

    def told(self, now: datetime) -> None:
        """The store just said what time it is."""
        self._told, self._at = now, self._stopwatch()

    def forget(self) -> None:
        """It may be another store by now, or one whose time stands still."""
        self._told = None

    @property
    def now(self) -> datetime | None:
        """The store's time; None when it has to be asked."""
        if self._told is None or (passed := self._stopwatch() - self._at) >= self._good_for_seconds:
            return None
        return self._told + timedelta(seconds=passed)
