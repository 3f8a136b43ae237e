"""What operators read of the log and of the sagas' tables: plain SQL."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from contracts.events import SagaResolved
from contracts.identity import parse_stream, stream_id
from sagas.checkout import NAME as CHECKOUT
from sagas.process import KIND as SAGA
from sagas.process import saga_key

Row = dict[str, Any]

EVENTS_MAX: Final = 10_000


def events_after(
    cursor: psycopg.Cursor[Any], after: int, *, filters: Mapping[str, str | None], limit: int
) -> list[Row]:
    """Events after an offset, in order. ``filters``: tenant_id, app_id, kind, type (a prefix), key."""
    return _rows(cursor, _AFTER, {"after": after, "limit": limit, **_named(filters)})


def latest_events(cursor: psycopg.Cursor[Any], *, filters: Mapping[str, str | None], limit: int) -> list[Row]:
    """The last events of the log, in order."""
    return _rows(cursor, _LATEST, {"limit": limit, **_named(filters)})[::-1]


def events_at(cursor: psycopg.Cursor[Any], offsets: Sequence[int]) -> list[Row]:
    """The events at these offsets."""
    return _rows(cursor, _AT, {"offsets": list(offsets)})


def events_by_id(cursor: psycopg.Cursor[Any], event_ids: Sequence[str]) -> list[Row]:
    """The events with these ids, in the order of the log. Reads the log from its end until all are found."""
    return _rows(cursor, _BY_ID, {"event_ids": list(event_ids), "limit": len(event_ids)})


def events_of_stream(cursor: psycopg.Cursor[Any], stream: str, *, limit: int = EVENTS_MAX) -> list[Row]:
    """One stream from its beginning."""
    return _rows(cursor, _OF_STREAM, {"stream": stream, "limit": limit})


def ended_by_hand(cursor: psycopg.Cursor[Any], events: Sequence[Row]) -> list[Row]:
    """What operators ended of the checkouts that these events are about."""
    orders = {(parse_stream(event["stream"]).realm, event["data"].get("order_id")) for event in events}
    streams = [stream_id(realm, SAGA, saga_key(CHECKOUT, order)) for realm, order in orders if order]
    return [
        event for stream in streams for event in events_of_stream(cursor, stream) if event["type"] == SagaResolved.type
    ]


def sagas(cursor: psycopg.Cursor[Any], *, step: str | None, key: str | None, limit: int) -> list[Row]:
    """Where sagas stand, the longest waiting first, each with what it still wants to send."""
    return _rows(cursor, _SAGAS, {"step": step, "key": key, "limit": limit})


def saga_steps(cursor: psycopg.Cursor[Any]) -> list[Row]:
    """How many sagas stand at each step."""
    return _rows(cursor, "SELECT step, count(*) AS sagas FROM sagas GROUP BY step ORDER BY sagas DESC, step", {})


def outbox_of(cursor: psycopg.Cursor[Any], saga_key: str, realm: tuple[str, str] | None = None) -> list[Row]:
    """What a saga sent that has no final answer, or that was refused; in one realm (tenant, app) or in any."""
    tenant, app = realm or (None, None)
    return _rows(cursor, _OUTBOX, {"saga_key": saga_key, "tenant_id": tenant, "app_id": app})


def _rows(cursor: psycopg.Cursor[Any], statement: str, values: Mapping[str, Any]) -> list[Row]:
    with cursor.connection.cursor(row_factory=dict_row) as rows:
        rows.execute(statement.encode(), values)
        return rows.fetchall()


def _named(filters: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name: filters.get(name) for name in ("tenant_id", "app_id", "kind", "type", "key")}


# From the table, not the view: filters and limits have to reach its indexes before any JSON is parsed.
_SELECT: Final = """
    SELECT "offset", stream, version, type, (body ->> 'at')::timestamptz AS occurred_at,
           (body ->> 'rec')::timestamptz AS recorded_at, body ->> 'by' AS actor, body ->> 'id' AS event_id,
           body ->> 'cmd' AS command_id, body ->> 'corr' AS correlation_id, body ->> 'cause' AS causation_id,
           body -> 'data' AS data
    FROM (
        SELECT notification_id AS "offset", originator_id AS stream, originator_version AS version, topic AS type,
               convert_from(state, 'UTF8')::jsonb AS body
        FROM stored_events WHERE {where}
    ) AS e
"""

_FILTERS: Final = """
    (%(tenant_id)s::text IS NULL OR unescape_part(split_part(originator_id, '/', 1)) = %(tenant_id)s)
    AND (%(app_id)s::text IS NULL OR unescape_part(split_part(originator_id, '/', 2)) = %(app_id)s)
    AND (%(kind)s::text IS NULL OR split_part(originator_id, '/', 3) = %(kind)s)
    AND (%(key)s::text IS NULL OR unescape_part(split_part(originator_id, '/', 4)) = %(key)s)
    AND (%(type)s::text IS NULL OR starts_with(topic, %(type)s))
"""

_AFTER: Final = _SELECT.format(
    where=f"notification_id > %(after)s AND {_FILTERS} ORDER BY notification_id LIMIT %(limit)s"
)
_LATEST: Final = _SELECT.format(where=f"{_FILTERS} ORDER BY notification_id DESC LIMIT %(limit)s")
_AT: Final = _SELECT.format(where="notification_id = ANY(%(offsets)s) ORDER BY notification_id")
# There is no index on event ids: who asks for one is a person looking into a break.
_BY_ID: Final = (
    _SELECT.format(where="TRUE") + " WHERE body ->> 'id' = ANY(%(event_ids)s) ORDER BY \"offset\" LIMIT %(limit)s"
)
_OF_STREAM: Final = _SELECT.format(where="originator_id = %(stream)s ORDER BY originator_version LIMIT %(limit)s")

_SAGAS: Final = """
    SELECT s.tenant_id, s.app_id, s.process, s.key, s.step, s.because, s.since, s.version, s.process_version,
           count(o.id) FILTER (WHERE o.refused_code IS NULL) AS pending,
           count(o.id) FILTER (WHERE o.refused_code IS NOT NULL) AS refused,
           max(o.attempts) AS attempts,
           max(coalesce(o.refused_code, o.last_error)) AS trouble
    FROM sagas AS s
    LEFT JOIN saga_outbox AS o
        ON o.tenant_id = s.tenant_id AND o.app_id = s.app_id AND o.saga_key = s.process || ':' || s.key
    WHERE (%(step)s::text IS NULL OR s.step = %(step)s) AND (%(key)s::text IS NULL OR s.key = %(key)s)
    GROUP BY s.tenant_id, s.app_id, s.process, s.key
    ORDER BY s.since, s.key LIMIT %(limit)s
"""

_OUTBOX: Final = """
    SELECT command_id, command_type, attempts, last_error, refused_code, refused_detail, created_at, retry_at
    FROM saga_outbox
    WHERE saga_key = %(saga_key)s AND (%(tenant_id)s::text IS NULL OR (tenant_id, app_id) = (%(tenant_id)s, %(app_id)s))
    ORDER BY id LIMIT 1000
"""
