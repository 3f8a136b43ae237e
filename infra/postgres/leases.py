"""Which budgets of a store are shared, and how far their streams are: what the keeper of leases looks at first."""

from collections.abc import Sequence
from typing import Any

import psycopg


def shared_budgets(connection: psycopg.Connection[Any]) -> list[str]:
    """The streams of all budgets that were ever shared."""
    # The condition is the index's own (migration 0009), word by word.
    rows = connection.execute("SELECT DISTINCT originator_id FROM stored_events WHERE topic = 'budget.shared.v1'")
    return sorted(stream for (stream,) in rows)


def versions(connection: psycopg.Connection[Any], streams: Sequence[str]) -> dict[str, int]:
    """The version of each stream's last event; absent where there is none."""
    sql = """
        SELECT wanted.stream, last.originator_version FROM unnest(%s::text[]) AS wanted (stream)
        CROSS JOIN LATERAL (
            SELECT originator_version FROM stored_events WHERE originator_id = wanted.stream
            ORDER BY originator_version DESC LIMIT 1
        ) AS last
    """
    return dict(connection.execute(sql, (list(streams),)).fetchall())
