"""Drops answers that were kept long enough: once an hour, in small steps, from a thread of its own."""

import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Final

from command.ports import StoreUnavailable
from infra.postgres import command_log
from infra.postgres.connections import transaction

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 3_600.0
STEPS_MAX: Final = 1_000  # Of command_log.DROP_ROWS_MAX answers each; what is left waits for the next hour.


class Housekeeper:
    """Keeps the command log as long as configured. ``keep_days``: after that only the business key knows a retry."""

    def __init__(self, dsn: str, *, keep_days: int) -> None:
        self._dsn = dsn
        self._keep = timedelta(days=keep_days)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        """Start the thread; it tidies at once and then every hour."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 20.0) -> None:
        """Stop after the step under way."""
        self._stopping.set()
        self._thread.join(timeout_seconds)

    def tidy(self, now: datetime) -> int:
        """Drop what is older than the time to keep; returns how many answers. Raises StoreUnavailable."""
        dropped = 0
        for _ in range(STEPS_MAX):
            with transaction(self._dsn, name="housekeeper") as cursor:
                step = command_log.drop_before(cursor, now - self._keep)
            dropped += step
            if step == 0 or self._stopping.is_set():
                break
        return dropped

    def _run(self) -> None:
        while True:
            try:
                dropped = self.tidy(datetime.now(UTC))
            except StoreUnavailable as error:
                logger.warning("answers_not_dropped", extra={"error": str(error)})
            else:
                if dropped:
                    logger.info("answers_dropped", extra={"answers": dropped})
            if self._stopping.wait(EVERY_SECONDS):
                return
