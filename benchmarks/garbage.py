"""How long the interpreter's garbage collector stopped everything: it explains tails that no batch explains."""

import gc
from time import perf_counter
from types import TracebackType
from typing import Any, Self


class GarbageWatch:
    """Counts collections while it is entered. ``summary``: how many, their seconds, and the longest in milliseconds."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._began = 0.0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.callbacks.remove(self._note)

    def summary(self) -> dict[str, float]:
        """What was seen."""
        longest = max(self._seconds, default=0.0)
        return {"collections": len(self._seconds), "seconds": sum(self._seconds), "longest_ms": longest * 1_000}

    def _note(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            self._began = perf_counter()
        else:
            self._seconds.append(perf_counter() - self._began)
