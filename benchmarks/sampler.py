"""Where a process's processor time goes, by part of the code: a sampler that needs nothing but the standard library.

Every few milliseconds a thread looks at all others twice, a moment apart: whoever used processor time in between was
at work, and is charged for it where it then stands. Threads that wait are charged nothing. C code counts towards the
Python function that called it. The switch interval is shortened, so that the sampler need not wait for a thread to
let go of the interpreter by itself: samples would else fall on the places where threads wait anyway.
"""

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from types import FrameType
from typing import Any, Final, TypeVar

_K = TypeVar("_K")

EVERY_SECONDS: Final = 0.003
MOMENT_SECONDS: Final = 0.0004
SWITCH_SECONDS: Final = 0.0001
FUNCTIONS_MAX: Final = 40
DEPTH_MAX: Final = 60

# The first of these that is part of a frame's file name tells the part; from the innermost frame outwards.
PARTS: Final[tuple[tuple[str, str], ...]] = (
    ("/benchmarks/garbage", "garbage collector"),  # Its callbacks are where a collection lets others look.
    ("/benchmarks/", "making the load"),
    ("/command/domain/", "decision"),
    ("/command/handlers/", "decision"),
    ("/command/refusal_counts", "decision"),
    ("/command/bell", "between engine and callers"),
    ("/command/engine", "engine: batches and answers"),
    ("/command/", "engine: states and batches in memory"),
    ("/contracts/", "commands, events and envelopes"),
    ("/infra/postgres/mapper", "encoding events"),
    ("/infra/postgres/", "building statements"),
    ("/psycopg", "PostgreSQL driver"),
    ("/infra/http/access", "API key"),
    ("/infra/http/bodies", "body and validation"),
    ("/infra/entry/bodies", "body and validation"),
    ("/infra/entry/bridge", "between engine and callers"),
    ("/infra/fiber", "between engine and callers"),
    ("/infra/http/commands", "command in, answer out"),
    ("/infra/entry/answers", "command in, answer out"),
    ("/infra/http/reply", "command in, answer out"),
    ("/infra/http/", "edge: routes, ids, problems"),
    ("/infra/entry/", "edge: routes, ids, problems"),
    ("/infra/telemetry/", "telemetry"),
    ("/infra/", "other parts of ours"),
    ("/starlette/", "edge: routes, ids, problems"),
    ("/uvicorn/protocols/", "HTTP protocol"),
    ("/uvicorn/", "event loop and sockets"),
    ("/asyncio/", "event loop and sockets"),
    ("/pydantic", "commands, events and envelopes"),
)
OTHER: Final = "other"


def part_of(filenames: list[str]) -> str:
    """The part to which a stack belongs, its innermost file first."""
    for filename in filenames:
        for mark, part in PARTS:
            if mark in filename:
                return part
    return OTHER


class Sampler(threading.Thread):
    """Runs until it is stopped. ``result`` tells shares of the processor time seen, by thread, part and function."""

    def __init__(self) -> None:
        super().__init__(name="sampler", daemon=True)
        self._stop_asked = threading.Event()
        self._parts: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._functions: defaultdict[tuple[str, str], float] = defaultdict(float)

    def run(self) -> None:
        """Sample."""
        former = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            while not self._stop_asked.wait(EVERY_SECONDS):
                self._sample()
        finally:
            sys.setswitchinterval(former)

    def stop(self) -> None:
        """End it, and wait for that."""
        self._stop_asked.set()
        self.join()

    def result(self) -> dict[str, Any]:
        """Shares of the processor time seen (they add up to one): by part, by thread and part, by function."""
        seen = dict(self._parts)  # A copy: the sampler may still be at work.
        total = sum(seen.values()) or 1.0
        parts: defaultdict[str, float] = defaultdict(float)
        for (_, part), seconds in seen.items():
            parts[part] += seconds
        return {
            "parts": {part: seconds / total for part, seconds in _largest(parts)},
            "by_thread": [
                {"thread": thread, "part": part, "share": seconds / total} for (thread, part), seconds in _largest(seen)
            ],
            "functions": [
                {"function": function, "part": part, "share": seconds / total}
                for (function, part), seconds in _largest(self._functions)[:FUNCTIONS_MAX]
            ],
        }

    def _sample(self) -> None:
        threads = {thread.ident: thread.name for thread in threading.enumerate() if thread is not self}
        before = {ident: _used(ident) for ident in threads if ident is not None}
        time.sleep(MOMENT_SECONDS)
        frames = sys._current_frames()
        for ident, earlier in before.items():
            seconds = _used(ident) - earlier
            frame = frames.get(ident)
            if seconds > 0 and frame is not None:
                self._note(threads[ident], frame, seconds)

    def _note(self, thread: str, frame: FrameType, seconds: float) -> None:
        function = f"{_short(frame.f_code.co_filename)}:{frame.f_code.co_name}"
        part = part_of(_filenames(frame))
        self._parts[(thread, part)] += seconds
        self._functions[(function, part)] += seconds


def _largest(seconds: Mapping[_K, float]) -> list[tuple[_K, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])


def _used(ident: int) -> float:
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(ident))
    except OSError:  # It ended meanwhile.
        return 0.0


def _filenames(frame: FrameType | None) -> list[str]:
    names: list[str] = []
    while frame is not None and len(names) < DEPTH_MAX:
        names.append(frame.f_code.co_filename)
        frame = frame.f_back
    return names


def _short(filename: str) -> str:
    return "/".join(filename.split("/")[-3:])
