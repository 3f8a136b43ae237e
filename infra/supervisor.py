"""Keeps several child processes running: starts again what ends by itself, gives up what ends too often, stops all."""

import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Final, Self

from infra.processes import POLL_SECONDS, Child, ChildSpec, Ending, spawn


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """How long a child that ended stays down, and when it is given up.

    The pause is `pause_seconds` after a first end, and `pause_factor` times as long after each further one within
    `period_seconds`. With end number `ends_max` within that period the child is given up; None: it never is.

    What is usual passes within the pauses, 21 s together: a port that a former connection still holds, a PostgreSQL
    whose killed predecessor has not quite gone. What ends however often it is started is told soon after.
    """

    ends_max: int | None = 5
    period_seconds: float = 60.0
    pause_seconds: float = 0.25
    pause_factor: float = 4.0

    def pause(self, ends: int) -> float | None:
        """Seconds from the latest of so many ends within the period to the next start; None: no further start."""
        if self.ends_max is not None and ends >= self.ends_max:
            return None
        return float(self.pause_seconds * self.pause_factor ** (ends - 1))


@dataclass(frozen=True)
class Ended:
    """A child ended unasked, or could not be started again. After `pause_seconds` it is started (None: given up).

    `ends`: how often it did so within the policy's period, this time included.
    """

    ending: Ending
    ends: int
    pause_seconds: float | None


@dataclass(frozen=True)
class Started:
    """A child that had ended was started again."""

    name: str
    pid: int


Tell = Callable[[Ended | Started], None]
ENDS_KEPT_MAX: Final = 100  # Of a child that is never given up.


@dataclass
class _Kept:
    """One child and how to start it anew: where it was, as it was."""

    child: Child
    start: Callable[[], Child]
    is_own: bool
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=ENDS_KEPT_MAX))  # When, within the period.
    start_at: float | None = None  # None while it runs.


class Supervisor:
    """Runs several children until it is asked to stop, and then stops those that it started, the last one first.

    Use it from the main thread, as a context manager: it listens to SIGINT and SIGTERM. Whoever asks a second time does
    not want to wait: then every child is killed.

    A child must be able to start while others are down: nobody waits for anybody here.

    Example:
        with Supervisor() as supervisor:
            supervisor.adopt(engine.child, engine.start_again)
            supervisor.start(ChildSpec(name="serve", argv=(...), log_path=...))
            given_up = supervisor.wait(print)  # None: asked to stop.
    """

    def __init__(
        self,
        policy: RestartPolicy = RestartPolicy(),
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._kept: list[_Kept] = []
        self._stop_requested = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for each in (signal.SIGINT, signal.SIGTERM):
            self._former[each] = signal.signal(each, self._request_stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            for each, former in self._former.items():
                signal.signal(each, former)

    def start(self, spec: ChildSpec) -> Child:
        """Start a child that is kept running and, at the end, stopped."""
        self._kept.append(_Kept(spawn(spec), lambda: spawn(spec), is_own=True))
        return self._kept[-1].child

    def adopt(self, child: Child, start_again: Callable[[], Child]) -> None:
        """Keep a child running whose stopping is somebody else's business."""
        self._kept.append(_Kept(child, start_again, is_own=False))

    def wait(self, tell: Tell = lambda _what: None) -> Ended | None:
        """Keep all running until a signal asks to stop (None), or one is given up (returned). `tell` hears of each."""
        while not self._stop_requested:
            for kept in self._kept:
                ended = self._look_after(kept, tell)
                if ended is not None and ended.pause_seconds is None:
                    return ended
            self._sleep(POLL_SECONDS)  # Not an Event: setting one from a signal handler can deadlock with the waiter.
        return None

    def ending(self) -> Ending | None:
        """A child that has ended by itself and was not started again, if any."""
        return next((ending for kept in self._kept if (ending := kept.child.ending()) is not None), None)

    @property
    def pids(self) -> dict[str, int]:
        """Every child by name, as it runs now or ran last."""
        return {kept.child.name: kept.child.pid for kept in self._kept}

    @property
    def stop_requested(self) -> bool:
        """Whether a signal asked to stop."""
        return self._stop_requested

    def stop(self) -> None:
        """Stop the children started here, the last one first; each within its grace."""
        for kept in reversed(self._kept):
            if kept.is_own:
                kept.child.stop()

    def kill(self) -> None:
        """End every child at once."""
        for kept in self._kept:
            kept.child.kill()

    def _look_after(self, kept: _Kept, tell: Tell) -> Ended | None:
        """Note that a child has ended, or start one whose pause is over."""
        if self._stop_requested:  # While others were looked after: nothing is started any more.
            return None
        if kept.start_at is None:
            ending = kept.child.ending()
            return None if ending is None else self._note(kept, ending, tell)
        if self._clock() < kept.start_at:
            return None
        try:
            kept.child = kept.start()
        except (OSError, RuntimeError) as error:  # Engines have errors of their own, all of them RuntimeErrors.
            return self._note(kept, Ending(kept.child.name, None, str(error)), tell)
        kept.start_at = None
        tell(Started(kept.child.name, kept.child.pid))
        return None

    def _note(self, kept: _Kept, ending: Ending, tell: Tell) -> Ended:
        now = self._clock()
        kept.ends.append(now)
        while kept.ends[0] <= now - self._policy.period_seconds:
            kept.ends.popleft()
        pause_seconds = self._policy.pause(len(kept.ends))
        kept.start_at = None if pause_seconds is None else now + pause_seconds
        ended = Ended(ending, len(kept.ends), pause_seconds)
        tell(ended)
        return ended

    def _request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        if self._stop_requested:
            self.kill()
        self._stop_requested = True
