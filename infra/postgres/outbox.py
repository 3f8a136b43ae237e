"""Commands that sagas decided to send and that have no final answer yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg

from contracts.identity import Realm


@dataclass(frozen=True, slots=True)
class PendingCommand:
    """One command to be sent until it has a final answer. ``created_offset``: the fact that caused it."""

    saga_key: str
    realm: Realm
    command_id: str
    command_type: str
    payload: dict[str, Any]
    actor: str
    correlation_id: str
    causation_id: str | None
    traceparent: str | None
    created_offset: int


@dataclass(frozen=True, slots=True)
class RefusedCommand:
    """A command whose final answer was a refusal, with its code and words."""

    command: PendingCommand
    code: str
    detail: str


def add(cursor: psycopg.Cursor[Any], commands: Sequence[PendingCommand]) -> None:
    """Queue commands, in the transaction that remembers why. One that is queued already is left alone."""
    if not commands:
        return
    columns = zip(*map(_row, commands), strict=True)
    cursor.execute(_INSERT, [list(column) for column in columns])


def remove(cursor: psycopg.Cursor[Any], ids: Sequence[int]) -> None:
    """Forget commands that got their final answer, accepted or refused."""
    cursor.execute("DELETE FROM saga_outbox WHERE id = ANY(%s)", (list(ids),))


def retry(cursor: psycopg.Cursor[Any], realm: Realm, saga_key: str) -> tuple[int, int]:
    """Have a saga's commands sent again now; returns how many waited for their time, and how many were refused.

    A refusal is the final answer to its id. So a refused command goes out under a new one and is decided afresh; it had
    no effect, so it cannot have two. Asked again at once, nothing is left to change.
    """
    cursor.execute(_RETRY_PENDING, (*realm, saga_key))
    pending = cursor.rowcount
    cursor.execute(_RETRY_REFUSED, (*realm, saga_key))
    return pending, cursor.rowcount


def take_refused(cursor: psycopg.Cursor[Any], realm: Realm, saga_key: str) -> list[RefusedCommand]:
    """Take out what a saga was refused for good, in its order. Whoever asks for it anew meanwhile finds nothing."""
    cursor.execute(_TAKE_REFUSED, (*realm, saga_key))
    rows = sorted(cursor.fetchall())
    return [
        RefusedCommand(PendingCommand(saga_key, realm, *about), code, detail or "") for _, code, detail, *about in rows
    ]


def count(cursor: psycopg.Cursor[Any]) -> int:
    """How many commands wait for an answer."""
    cursor.execute("SELECT count(*) FROM saga_outbox")
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def _row(command: PendingCommand) -> tuple[Any, ...]:
    return (
        command.saga_key,
        command.realm.tenant_id,
        command.realm.app_id,
        command.command_id,
        command.command_type,
        orjson.dumps(command.payload).decode(),
        command.actor,
        command.correlation_id,
        command.causation_id,
        command.traceparent,
        command.created_offset,
    )


_RETRY_PENDING = """
    UPDATE saga_outbox SET retry_at = NULL
    WHERE tenant_id = %s AND app_id = %s AND saga_key = %s AND refused_code IS NULL AND retry_at IS NOT NULL
"""

_RETRY_REFUSED = """
    UPDATE saga_outbox
    SET command_id = command_id || ':again', attempts = 0, retry_at = NULL, refused_code = NULL, refused_detail = NULL,
        last_error = 'refused before: ' || refused_code
    WHERE tenant_id = %s AND app_id = %s AND saga_key = %s AND refused_code IS NOT NULL
"""

_TAKE_REFUSED = """
    DELETE FROM saga_outbox
    WHERE tenant_id = %s AND app_id = %s AND saga_key = %s AND refused_code IS NOT NULL
    RETURNING id, refused_code, refused_detail, command_id, command_type, payload, actor, correlation_id, causation_id,
              traceparent, created_offset
"""

_INSERT = """
    INSERT INTO saga_outbox (saga_key, tenant_id, app_id, command_id, command_type, payload, actor, correlation_id,
                             causation_id, traceparent, created_offset)
    SELECT saga_key, tenant_id, app_id, command_id, command_type, payload::jsonb, actor, correlation_id,
           causation_id, traceparent, created_offset
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                %s::text[], %s::text[], %s::bigint[])
        WITH ORDINALITY
        AS new (saga_key, tenant_id, app_id, command_id, command_type, payload, actor, correlation_id,
                causation_id, traceparent, created_offset, nth)
    ORDER BY nth
    ON CONFLICT (command_id, tenant_id, app_id) DO NOTHING
"""
