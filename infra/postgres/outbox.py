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


def add(cursor: psycopg.Cursor[Any], commands: Sequence[PendingCommand]) -> None:
    """Queue commands, in the transaction that remembers why. One that is queued already is left alone."""
    if not commands:
        return
    columns = zip(*map(_row, commands), strict=True)
    cursor.execute(_INSERT, [list(column) for column in columns])


def remove(cursor: psycopg.Cursor[Any], ids: Sequence[int]) -> None:
    """Forget commands that got their final answer, accepted or refused."""
    cursor.execute("DELETE FROM saga_outbox WHERE id = ANY(%s)", (list(ids),))


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
