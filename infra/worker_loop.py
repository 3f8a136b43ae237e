"""A worker's loop: one thread that takes turn after turn until it is stopped, and waits longer while they fail."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from command.engine import Busy, EngineStopped
from command.ports import StoreUnavailable

logger = logging.getLogger(__name__)

# A store or its engine does not answer: that passes, and needs no traceback.
AWAY: Final = (Busy, StoreUnavailable, TimeoutError)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a loop waits: after a turn that found nothing, and after a first and every further failure."""

    poll_seconds: float
    backoff_seconds_first: float
    backoff_seconds_max: float


class WorkerLoop:
    """Calls ``turn`` on a thread of its own; it returns how much it did, and at 0 the loop rests.

    A turn that fails is logged, ``let_go`` gives its connections back, and the next turn waits twice as long as after
    the failure before. Only an engine that stopped because everything stops ends the loop by itself.
    """

    def __init__(self, name: str, turn: Callable[[], int], let_go: Callable[[], None], pace: Pace) -> None:
        self._name = name
        self._turn = turn
        self._let_go = let_go
        self._pace = pace
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_stopping(self) -> bool:
        """Whether a turn under way should begin nothing new."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 20.0) -> None:
        """Let the turn under way end, then let go of its connections. Safe to call twice, and before the start."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        self._let_go()

    def _run(self) -> None:
        backoff = self._pace.backoff_seconds_first
        while not self._stopping.is_set():
            try:
                done = self._turn()
            except Exception as error:  # noqa: BLE001 - told by the log; the next turn tries again.
                if isinstance(error, EngineStopped) and self._stopping.is_set():
                    return
                self._tell(error)
                self._let_go()
                self._stopping.wait(backoff)
                backoff = min(2 * backoff, self._pace.backoff_seconds_max)
            else:
                backoff = self._pace.backoff_seconds_first
                if not done:
                    self._stopping.wait(self._pace.poll_seconds)

    def _tell(self, error: Exception) -> None:
        passing = isinstance(error, AWAY)
        about = {"worker": self._name, "reason": f"{type(error).__name__}: {error}"}
        level = logging.WARNING if passing else logging.ERROR
        logger.log(level, "worker_interrupted", exc_info=None if passing else error, extra=about)
