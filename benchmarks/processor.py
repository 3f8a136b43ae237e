"""How much processor time processes and their children used, read from /proc."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")

# What an API process's time is shared among, in results and wherever they are read again.
EDGE: Final = "edge"
ENGINE: Final = "engine"


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """Seconds of processor time: in user code, and in the kernel on its behalf."""

    user: float = 0.0
    system: float = 0.0

    @property
    def total(self) -> float:
        """Both."""
        return self.user + self.system

    def __add__(self, other: "ProcessorTime") -> "ProcessorTime":
        return ProcessorTime(self.user + other.user, self.system + other.system)

    def __sub__(self, earlier: "ProcessorTime") -> "ProcessorTime":
        return ProcessorTime(self.user - earlier.user, self.system - earlier.system)


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/<pid>/stat says: the parent, own time, and that of children that ended and were waited for."""

    parent: int
    own: ProcessorTime
    ended_children: ProcessorTime


def parse_stat(text: str) -> Stat:
    """One line of /proc/<pid>/stat. The name in brackets may hold spaces and brackets itself."""
    fields = text.rpartition(")")[2].split()
    user, system, children_user, children_system = (int(field) / _TICKS_PER_SECOND for field in fields[11:15])
    return Stat(int(fields[1]), ProcessorTime(user, system), ProcessorTime(children_user, children_system))


def of_tree(root: int) -> ProcessorTime:
    """Of a process and all its descendants, those that have ended included (once their parent has waited for them)."""
    stats = _all_stats()
    total = ProcessorTime()
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if (stat := stats.get(pid)) is not None:
            total = total + stat.own + stat.ended_children
            waiting += [child for child, each in stats.items() if each.parent == pid]
    return total


def of_threads(pid: int) -> dict[int, ProcessorTime]:
    """Of each thread of a process, by its number; the main thread has the process's own."""
    times: dict[int, ProcessorTime] = {}
    for path in (_PROC / str(pid) / "task").glob("*/stat"):
        try:
            times[int(path.parent.name)] = parse_stat(path.read_text()).own
        except OSError:  # It ended meanwhile.
            continue
    return times


class Meter:
    """Measures named processes (each with its children) from an instant, or from their birth, on."""

    def __init__(self, roots: dict[str, int], *, since_birth: bool = False) -> None:
        self._roots = dict(roots)
        self._began = {name: ProcessorTime() for name in roots} if since_birth else self._now()

    def used(self) -> dict[str, ProcessorTime]:
        """Since this meter was made, by name."""
        now = self._now()
        return {name: now[name] - self._began[name] for name in self._roots}

    def _now(self) -> dict[str, ProcessorTime]:
        return {name: of_tree(pid) for name, pid in self._roots.items()}


def micros_each(used: dict[str, ProcessorTime], operations: int) -> dict[str, float]:
    """Microseconds of processor time per operation, by name; zero operations cost nothing."""
    return {name: time.total * 1e6 / operations if operations else 0.0 for name, time in used.items()}


def _all_stats() -> dict[int, Stat]:
    return dict(_each_stat(path for path in _PROC.iterdir() if path.name.isdigit()))


def _each_stat(folders: Iterable[Path]) -> Iterable[tuple[int, Stat]]:
    for folder in folders:
        try:
            yield int(folder.name), parse_stat((folder / "stat").read_text())
        except OSError:  # It ended meanwhile.
            continue
