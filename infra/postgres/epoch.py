"""Which history of the log this is; it changes when the store was restored to an earlier state."""

import secrets
from typing import Any

import psycopg

from infra.postgres.connections import transaction
from infra.postgres.recorder import APPEND_LOCK_CLASS


def read_epoch(cursor: psycopg.Cursor[Any], shard: int) -> str | None:
    """The shard's epoch, or None when nobody has opened this shard yet."""
    cursor.execute("SELECT epoch FROM store_epoch WHERE shard = %s", (shard,))
    row = cursor.fetchone()
    return None if row is None else str(row[0])


def ensure_epoch(cursor: psycopg.Cursor[Any], shard: int) -> str:
    """The shard's epoch; a new shard gets its first one."""
    cursor.execute(
        "INSERT INTO store_epoch (shard, epoch) VALUES (%s, %s) ON CONFLICT (shard) DO NOTHING", (shard, _new())
    )
    epoch = read_epoch(cursor, shard)
    assert epoch is not None
    return epoch


def bump_epoch(dsn: str, shard: int) -> str:
    """Begin a new epoch and return it: to be called once after every restore or failover to an earlier state.

    Offsets given out since the backup will be given out again. Followers that keep their effect elsewhere meet the
    new epoch, stop, and have to be rebuilt. Raises StoreUnavailable.
    """
    with transaction(dsn, name="bump-epoch") as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", (APPEND_LOCK_CLASS, shard))
        epoch = _new()
        cursor.execute(
            "INSERT INTO store_epoch (shard, epoch) VALUES (%s, %s)"
            " ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch, since = clock_timestamp()",
            (shard, epoch),
        )
        return epoch


def identity(connection: psycopg.Connection[Any]) -> tuple[Any, ...]:
    """Which store this is, however it is addressed: the server by when it started, the database and the schema.

    Not by the server's own identifier: a copy of its files has the same one, and reading it takes rights.
    """
    sql = """
        SELECT pg_postmaster_start_time(), oid, current_schema() FROM pg_database WHERE datname = current_database()
    """
    row = connection.execute(sql).fetchone()
    assert row is not None
    return tuple(row)


def _new() -> str:
    return secrets.token_hex(4)
