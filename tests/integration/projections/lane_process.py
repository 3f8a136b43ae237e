"""A worker of projections that follows over Kafka, as a process to be killed and stopped."""

import signal
import sys
from threading import Event as Signal
from types import FrameType

from infra.projections.runner import FollowerLimits
from infra.projections.service import ProjectionService
from infra.settings import Settings

LIMITS = FollowerLimits(batch_events_max=40, tend_seconds=0.1)


def main() -> int:
    """Until SIGTERM. Exit code 0 when nothing was halted."""
    settings = Settings.load()
    stop = Signal()

    def on_term(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_term)
    with ProjectionService(
        postgres_dsn=settings.postgres_dsn,
        redis_url=settings.redis_url,
        clickhouse_url=settings.facts_url,
        limits=LIMITS,
        kafka=settings,
    ) as service:
        return 0 if service.run(stop) else 1


if __name__ == "__main__":
    sys.exit(main())
