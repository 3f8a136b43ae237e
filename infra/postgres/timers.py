"""Durable timers: what is due when, by the business time of its realm."""

from collections.abc import Sequence
from typing import Any

import orjson
import psycopg

from contracts.identity import Realm
from infra.postgres.arrays import instants, integers, texts
from sagas.timers import ClearTimer, DueTimer


def put(cursor: psycopg.Cursor[Any], timers: Sequence[DueTimer]) -> None:
    """Set timers, each replacing the one of the same realm, kind and key. The last of several for one key counts."""
    last = {(timer.realm, timer.kind, timer.key): timer for timer in timers}
    if last:
        *names, due_at, set_by, data = zip(*map(_row, last.values()), strict=True)
        columns = [*map(texts, names), instants(due_at), integers(set_by), texts(data)]
        cursor.execute(_UPSERT, columns)


def clear(cursor: psycopg.Cursor[Any], timers: Sequence[tuple[Realm, ClearTimer]]) -> None:
    """Forget timers; those that are not set are ignored."""
    if timers:
        columns = zip(*((*realm, timer.kind, timer.key) for realm, timer in timers), strict=True)
        cursor.execute(_CLEAR, [*map(texts, columns)])


def remove(cursor: psycopg.Cursor[Any], timers: Sequence[DueTimer]) -> None:
    """Forget timers that fired, unless they were set anew meanwhile."""
    if timers:
        *names, set_by = zip(*((*timer.realm, timer.kind, timer.key, timer.set_by) for timer in timers), strict=True)
        cursor.execute(_REMOVE, [*map(texts, names), integers(set_by)])


def _row(timer: DueTimer) -> tuple[Any, ...]:
    return (*timer.realm, timer.kind, timer.key, timer.due_at, timer.set_by, orjson.dumps(timer.data).decode())


_UPSERT = """
    INSERT INTO timers (tenant_id, app_id, kind, key, due_at, set_by, data)
    SELECT tenant_id, app_id, kind, key, due_at, set_by, data::jsonb
    FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::timestamptz[], %b::bigint[], %b::text[])
        AS new (tenant_id, app_id, kind, key, due_at, set_by, data)
    ON CONFLICT (tenant_id, app_id, kind, key) DO UPDATE
    SET due_at = excluded.due_at, set_by = excluded.set_by, data = excluded.data,
        attempts = 0, retry_at = NULL, last_error = NULL
"""

_CLEAR = """
    DELETE FROM timers
    USING unnest(%b::text[], %b::text[], %b::text[], %b::text[]) AS gone (tenant_id, app_id, kind, key)
    WHERE timers.tenant_id = gone.tenant_id AND timers.app_id = gone.app_id
    AND timers.kind = gone.kind AND timers.key = gone.key
"""

_REMOVE = """
    DELETE FROM timers
    USING unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::bigint[])
        AS gone (tenant_id, app_id, kind, key, set_by)
    WHERE timers.tenant_id = gone.tenant_id AND timers.app_id = gone.app_id
    AND timers.kind = gone.kind AND timers.key = gone.key AND timers.set_by = gone.set_by
"""
