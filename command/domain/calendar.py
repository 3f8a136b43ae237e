"""Calendar periods in a zone: what "per day" and "recurs monthly" mean."""

from datetime import UTC, datetime
from typing import Final, Literal
from zoneinfo import ZoneInfo

Period = Literal["day", "week", "month", "year"]

# Stands for "no instant yet" in states, so that their types stay plain.
NO_INSTANT: Final = datetime.min.replace(tzinfo=UTC)


def period_of(now: datetime, period: Period | None, zone: str) -> str:
    """Name the calendar period of ``zone`` that ``now`` falls in; ``""`` for None, the whole of time.

    Names of one kind sort by time: ``2026-11-21``, ``2026-W47`` (ISO 8601), ``2026-11``, ``2026``.
    """
    if period is None:
        return ""
    local = now.astimezone(ZoneInfo(zone))
    match period:
        case "day":
            return local.strftime("%Y-%m-%d")
        case "week":
            year, week, _ = local.isocalendar()
            return f"{year:04}-W{week:02}"
        case "month":
            return local.strftime("%Y-%m")
        case "year":
            return local.strftime("%Y")
