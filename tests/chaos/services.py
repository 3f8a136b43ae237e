"""Processes that are started again whenever they end, as an init system would, and that can be killed and frozen."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

from infra.embedded.engine import Engine, EngineFailed
from infra.processes import ChildSpec, Ending, StillRunning, spawn, wait_until

WATCH_SECONDS: Final = 0.05
RESTART_PAUSE_SECONDS: Final = 0.1
RESTART_PAUSE_SECONDS_MAX: Final = 1.0
SETTLED_SECONDS: Final = 5.0  # Whoever ran for so long is started again at once.
JOIN_SECONDS_MAX: Final = 60.0
GONE_SECONDS_MAX: Final = 10.0


class Process(Protocol):
    """What runs: started by us, or forked for us."""

    @property
    def pid(self) -> int: ...

    def ending(self) -> Ending | None:
        """None while it runs."""
        ...

    def stop(self) -> int:
        """End it in good order."""
        ...


class Service:
    """One process that has to run. ``start`` starts it and returns once it may be used (or at once, for our own)."""

    def __init__(self, name: str, start: Callable[[], Process], stop: Callable[[Process], object]) -> None:
        self.name = name
        self.starts = 0
        self.unasked: list[str] = []  # Endings that nobody here had caused.
        self._start_child = start
        self._stop_child = stop
        self._child: Process | None = None
        self._is_victim = False
        self._stopping = threading.Event()
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"keep-{name}", daemon=True)

    def start(self) -> None:
        """Start it for the first time, and wait until it is started."""
        self._child = self._start_child()
        self.starts = 1
        self._running.set()
        self._thread.start()

    def stop(self) -> None:
        """End it in good order, and let it be."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(JOIN_SECONDS_MAX)
        if self._child is not None:
            self.thaw()
            self._stop_child(self._child)

    @property
    def pid(self) -> int:
        """The process that runs now, or ran last."""
        assert self._child is not None
        return self._child.pid

    def kill(self) -> None:
        """``kill -9`` of the process and of every process below it; returns when all are gone."""
        self._is_victim = True
        pids = [self.pid, *descendants(self.pid)]
        self._running.clear()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, pids)), timeout_seconds=GONE_SECONDS_MAX, every_seconds=0.002)

    def wait_at_work(self, timeout_seconds: float) -> bool:
        """Whether it is past its start in time: it runs and speaks to somebody. Killing it before proves little."""
        return wait_until(
            lambda: self._running.is_set() and _speaks(self.pid),
            timeout_seconds=timeout_seconds,
            every_seconds=WATCH_SECONDS,
        )

    def freeze(self) -> None:
        """SIGSTOP all of it: nothing moves, nothing is closed."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, which: signal.Signals) -> None:
        for pid in (self.pid, *descendants(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, which)

    def _keep(self) -> None:
        pause, started_at = RESTART_PAUSE_SECONDS, monotonic()
        while not self._stopping.wait(WATCH_SECONDS):
            assert self._child is not None
            if (ending := self._child.ending()) is None:
                continue
            self._running.clear()
            if not self._is_victim:
                self.unasked.append(str(ending))
            settled = self._is_victim or monotonic() - started_at > SETTLED_SECONDS
            pause = RESTART_PAUSE_SECONDS if settled else min(2 * pause, RESTART_PAUSE_SECONDS_MAX)
            self._is_victim = False
            self._stopping.wait(pause)
            started_at = monotonic()
            self._start_again()

    def _start_again(self) -> None:
        try:
            self._child = self._start_child()
        except (EngineFailed, StillRunning, OSError) as error:
            self.unasked.append(f"{self.name} did not start: {error}")
        else:
            self._running.set()
        self.starts += 1


def part_service(spec: ChildSpec, start: Callable[[ChildSpec], Process] = spawn) -> Service:
    """One of our own processes."""
    return Service(spec.name, lambda: start(spec), lambda child: child.stop())


def engine_service(engine: Engine, moved: Callable[[Engine], None]) -> Service:
    """A server on the port that it had before, if that is still free; ``moved`` is told where it is."""

    def start() -> Process:
        before = engine.port
        engine.start(before or None)
        if engine.port != before:
            moved(engine)
        assert engine.child is not None
        return engine.child

    return Service(engine.name, start, lambda _child: engine.stop())


def descendants(pid: int) -> Iterator[int]:
    """Every process below one, parents first."""
    parents = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and (fields := _stat(int(each.name))):
            parents[int(each.name)] = int(fields[1])
    found = [pid]
    for above in found:
        children = [child for child, parent in parents.items() if parent == above]
        found.extend(children)
        yield from children


def is_running(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def _speaks(pid: int) -> bool:
    """Whether a process holds a socket."""
    try:
        return any(os.readlink(each).startswith("socket:") for each in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # It ended meanwhile, or closed one.
        return False


def _stat(pid: int) -> list[str]:
    """State, parent and so on; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
