"""Durable timers: what is due when, by the business time of its realm."""

from collections.abc import Sequence
from typing import Any

import orjson
import psycopg

from contracts.identity import Realm
from sagas.timers import ClearTimer, DueTimer


def put(cursor: psycopg.Cursor[Any], timers: Sequence[DueTimer]) -> None:
    """Set timers, each replacing the one of the same realm, kind and key. The last of several for one key counts."""
    last = {(timer.realm, timer.kind, timer.key): timer for timer in timers}
    if last:
        columns = zip(*map(_row, last.values()), strict=True)
        cursor.execute(_UPSERT, [list(column) for column in columns])


def clear(cursor: psycopg.Cursor[Any], timers: Sequence[tuple[Realm, ClearTimer]]) -> None:
    """Forget timers; those that are not set are ignored."""
    if timers:
        columns = zip(*((*realm, timer.kind, timer.key) for realm, timer in timers), strict=True)
        cursor.execute(_CLEAR, [list(column) for column in columns])


def remove(cursor: psycopg.Cursor[Any], timers: Sequence[DueTimer]) -> None:
    """Forget timers that fired, unless they were set anew meanwhile."""
    if timers:
        columns = zip(*((*timer.realm, timer.kind, timer.key, timer.set_by) for timer in timers), strict=True)
        cursor.execute(_REMOVE, [list(column) for column in columns])


def _row(timer: DueTimer) -> tuple[Any, ...]:
    return (*timer.realm, timer.kind, timer.key, timer.due_at, timer.set_by, orjson.dumps(timer.data).decode())


_UPSERT = """
    INSERT INTO timers (tenant_id, app_id, kind, key, due_at, set_by, data)
    SELECT tenant_id, app_id, kind, key, due_at, set_by, data::jsonb
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::bigint[], %s::text[])
        AS new (tenant_id, app_id, kind, key, due_at, set_by, data)
    ON CONFLICT (tenant_id, app_id, kind, key) DO UPDATE
    SET due_at = excluded.due_at, set_by = excluded.set_by, data = excluded.data,
        attempts = 0, retry_at = NULL, last_error = NULL
"""

_CLEAR = """
    DELETE FROM timers
    USING unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS gone (tenant_id, app_id, kind, key)
    WHERE timers.tenant_id = gone.tenant_id AND timers.app_id = gone.app_id
    AND timers.kind = gone.kind AND timers.key = gone.key
"""

_REMOVE = """
    DELETE FROM timers
    USING unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[])
        AS gone (tenant_id, app_id, kind, key, set_by)
    WHERE timers.tenant_id = gone.tenant_id AND timers.app_id = gone.app_id
    AND timers.kind = gone.kind AND timers.key = gone.key AND timers.set_by = gone.set_by
"""
