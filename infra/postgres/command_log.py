"""The rows of the command log: every final answer, found by its command id."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import orjson
import psycopg
from psycopg.rows import TupleRow

from command.ports import Batch, CommandKey, LoggedAnswer
from contracts.identity import Realm

DROP_ROWS_MAX = 10_000


def find(cursor: psycopg.Cursor[TupleRow], keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
    """The answers among these ids: one index probe each, in one statement."""
    columns = (
        [key.realm.tenant_id for key in keys],
        [key.realm.app_id for key in keys],
        [key.command_id for key in keys],
    )
    cursor.execute(_SELECT, columns)
    return {answer.key: answer for answer in map(_answer, cursor)}


def insert(cursor: psycopg.Cursor[Any], batch: Batch, answered_at: datetime, last_offset: int) -> None:
    """Log a batch's answers, right after its events were inserted under the append lock.

    An answer's offset is that of its last event. One without events gets the offset where the log stands after the
    batch, because earlier commands of the batch may be its reason. ``last_offset``: where the log stood before.
    """
    events_count = len(batch.events)
    backs = [events_count - 1 - index if index >= 0 else 0 for index in batch.answer_events]
    answers = batch.answers
    cursor.execute(
        _INSERT,
        (
            answered_at,
            None if events_count else last_offset,
            [answer.key.realm.tenant_id for answer in answers],
            [answer.key.realm.app_id for answer in answers],
            [answer.key.command_id for answer in answers],
            [answer.command_type for answer in answers],
            [answer.content_hash for answer in answers],
            [answer.status for answer in answers],
            [answer.code for answer in answers],
            [answer.detail for answer in answers],
            [orjson.dumps(answer.data).decode() for answer in answers],
            backs,
        ),
    )


def drop_before(cursor: psycopg.Cursor[Any], answered_before: datetime, *, limit: int = DROP_ROWS_MAX) -> int:
    """Delete up to ``limit`` answers older than an instant; returns how many. Call it until it returns 0.

    After that a late retry of such a command is no longer recognised by its id, only by its business key.
    """
    cursor.execute(_DROP, (answered_before, limit))
    return cursor.rowcount


def _answer(row: TupleRow) -> LoggedAnswer:
    tenant, app, command_id, command_type, content_hash, status, code, detail, data, log_offset = row
    key = CommandKey(Realm(tenant, app), command_id)
    return LoggedAnswer(key, command_type, content_hash, status, code, detail, orjson.loads(data), log_offset)


# LIMIT 1 keeps the planner on one probe per id; every probe looks into one partition only.
_SELECT = """
    SELECT found.* FROM unnest(%b::text[], %b::text[], %b::text[]) AS wanted (tenant_id, app_id, command_id)
    CROSS JOIN LATERAL (
        SELECT l.tenant_id, l.app_id, l.command_id, l.command_type, l.content_hash, l.status, l.code, l.detail,
               l.data::text, l.log_offset
        FROM command_log AS l
        WHERE l.command_id = wanted.command_id AND l.tenant_id = wanted.tenant_id AND l.app_id = wanted.app_id
        LIMIT 1
    ) AS found
"""

# The offsets of the batch are the last ones drawn from the sequence, without a gap: the append lock is held.
_INSERT = """
    WITH log AS (
        SELECT %s::timestamptz AS now, coalesce(%s::bigint, currval('stored_events_notification_id_seq')) AS last
    )
    INSERT INTO command_log (tenant_id, app_id, command_id, command_type, content_hash, status, code, detail, data,
                             log_offset, answered_at)
    SELECT a.tenant_id, a.app_id, a.command_id, a.command_type, a.content_hash, a.status, a.code, a.detail,
           a.data::jsonb, log.last - a.back, log.now
    FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[],
                %b::text[], %b::bigint[])
        AS a (tenant_id, app_id, command_id, command_type, content_hash, status, code, detail, data, back)
    CROSS JOIN log
"""

_DROP = """
    DELETE FROM command_log WHERE (tableoid, ctid) IN (
        SELECT tableoid, ctid FROM command_log WHERE answered_at < %s LIMIT %s
    )
"""
