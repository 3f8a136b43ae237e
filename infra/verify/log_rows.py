"""The log, the command log and the snapshots as raw rows, read by SQL that shares nothing with the recorder."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import orjson
import psycopg

from query.verify.raw import RawAnswer, RawEvent

BATCH_ROWS = 5_000


def head(connection: psycopg.Connection[Any]) -> int:
    """The offset of the last event, 0 for an empty log."""
    row = connection.execute("SELECT coalesce(max(notification_id), 0) FROM stored_events").fetchone()
    return int(row[0]) if row else 0


def events(connection: psycopg.Connection[Any], after: int, upto: int) -> Iterator[RawEvent]:
    """The log in ``(after, upto]``, streamed. Raises ValueError for a row that is no JSON."""
    sql = """
        SELECT notification_id, originator_id, originator_version, topic, state
        FROM stored_events WHERE notification_id > %s AND notification_id <= %s ORDER BY notification_id
    """
    with connection.cursor(name="verify_events") as cursor:
        cursor.itersize = BATCH_ROWS
        cursor.execute(sql, (after, upto))
        for offset, stream, version, topic, state in cursor:
            yield _event(offset, stream, version, topic, bytes(state))


def answers(connection: psycopg.Connection[Any]) -> Iterator[RawAnswer]:
    """The command log, streamed: answers to one command, should there be several, next to each other."""
    sql = """
        SELECT tenant_id, app_id, command_id, command_type, content_hash, status, log_offset, data ->> 'coupon_id'
        FROM command_log
        ORDER BY command_id COLLATE "C", tenant_id COLLATE "C", app_id COLLATE "C"  -- Not by the key: it may be broken.
    """
    with connection.cursor(name="verify_answers") as cursor:
        cursor.itersize = BATCH_ROWS
        cursor.execute(sql)
        for row in cursor:
            yield RawAnswer(*row)


def guard_counts(connection: psycopg.Connection[Any], keys: Sequence[str]) -> dict[str, int]:
    """The guard counters among these keys."""
    return dict(connection.execute("SELECT key, value FROM guard_counts WHERE key = ANY (%s)", (keys,)).fetchall())


def snapshots(connection: psycopg.Connection[Any]) -> Iterator[tuple[str, int, str, bytes]]:
    """Every snapshot: stream, version, schema hash, state."""
    rows = connection.execute("SELECT originator_id, originator_version, topic, state FROM stored_snapshots")
    for stream, version, schema_hash, state in rows:
        yield stream, version, schema_hash, bytes(state)


def parked(connection: psycopg.Connection[Any]) -> list[tuple[str, str, int, str]]:
    """Events that followers could not digest: follower, stream, version, reason."""
    return connection.execute("SELECT follower, stream, version, reason FROM parked_events").fetchall()


def letters(connection: psycopg.Connection[Any]) -> frozenset[tuple[tuple[str, str], str]]:
    """What waits to be brought to other shards, or to this one as one of several: realm and thread."""
    rows = connection.execute("SELECT tenant_id, app_id, saga_key FROM saga_outbox WHERE refused_code IS NULL")
    return frozenset(((tenant_id, app_id), thread) for tenant_id, app_id, thread in rows)


def heard(connection: psycopg.Connection[Any]) -> int:
    """How far the sagas have read the log."""
    row = connection.execute("SELECT max(log_offset) FROM follower_positions WHERE follower = 'sagas'").fetchone()
    return int(row[0] or 0) if row else 0


def _event(offset: int, stream: str, version: int, topic: str, state: bytes) -> RawEvent:
    try:
        body = orjson.loads(state)
        return RawEvent(
            offset=offset,
            stream=stream,
            version=version,
            type=topic,
            event_id=body["id"],
            tenant_id=body["tenant"],
            app_id=body["app"],
            occurred_at=datetime.fromisoformat(body["at"]),
            recorded_at=datetime.fromisoformat(body["rec"]),
            command_id=body["cmd"],
            data=body["data"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"event {offset} ({stream} version {version}) is not readable: {error!r}") from error
