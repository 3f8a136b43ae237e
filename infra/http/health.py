"""Is the process alive, and can it do its work? Which part cannot, and since when?"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

CHECK_TIMEOUT_SECONDS: Final = 2.0
# Anybody may ask, so asking must not become load on the engines.
MEMORY_SECONDS: Final = 1.0

Check = Callable[[], Awaitable[None]]


class Readiness:
    """Asks every part, at most once a second. A check raises when its part cannot work."""

    def __init__(
        self,
        checks: Mapping[str, Check],
        *,
        memory_seconds: float = MEMORY_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._checks = checks
        self._memory_seconds = memory_seconds
        self._now = now
        self._failing_since: dict[str, datetime] = {}
        self._report: tuple[bool, dict[str, Any]] = (False, {})
        self._valid_until = 0.0
        self._lock = asyncio.Lock()

    async def report(self) -> tuple[bool, dict[str, Any]]:
        """Whether all parts work, and each part's state: ``{"postgres": {"ready": false, "since": …, "why": …}}``."""
        async with self._lock:
            if monotonic() >= self._valid_until:
                states = await asyncio.gather(*(self._state(name, check) for name, check in self._checks.items()))
                parts = dict(zip(self._checks, states, strict=True))
                self._report = (all(state["ready"] for state in states), parts)
                self._valid_until = monotonic() + self._memory_seconds
            return self._report

    async def _state(self, name: str, check: Check) -> dict[str, Any]:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await check()
        except Exception as error:  # noqa: BLE001 - whatever a check raises, its part is not ready.
            since = self._failing_since.setdefault(name, self._now())
            # The kind only: messages of drivers hold addresses.
            return {"ready": False, "since": since.isoformat(), "why": type(error).__name__}
        self._failing_since.pop(name, None)
        return {"ready": True}
