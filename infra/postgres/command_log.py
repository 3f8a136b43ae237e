"""The rows of the command log: every final answer, found by its command id."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import orjson
import psycopg
from psycopg.rows import TupleRow

from command.ports import CommandKey, LoggedAnswer
from contracts.identity import Realm
from infra.postgres.arrays import texts

DROP_ROWS_MAX = 10_000


def find(cursor: psycopg.Cursor[TupleRow], keys: Collection[CommandKey]) -> Mapping[CommandKey, LoggedAnswer]:
    """The answers among these ids: one index probe each, in one statement."""
    cursor.execute(_SELECT, columns_of(keys))
    return {answer.key: answer for answer in map(_answer, cursor)}


def columns_of(keys: Collection[CommandKey]) -> tuple[bytes, bytes, bytes]:
    """Tenants, apps and command ids, encoded."""
    return (
        texts([key.realm.tenant_id for key in keys]),
        texts([key.realm.app_id for key in keys]),
        texts([key.command_id for key in keys]),
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


# LIMIT 1 keeps the planner on one probe per id.
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

_DROP = """
    DELETE FROM command_log WHERE ctid = ANY (
        ARRAY(SELECT ctid FROM command_log WHERE answered_at < %s LIMIT %s)
    )
"""
