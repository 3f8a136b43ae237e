"""Which history of the log this is; it changes when the store was restored to an earlier state."""

import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg

from infra.postgres.connections import transaction
from infra.postgres.recorder import APPEND_LOCK_CLASS

# Followers whose effect is elsewhere: their rows in `follower_positions` are reports, not where they stand.
REPORTED = ("redis", "facts")


class RestoreIncomplete(Exception):
    """What was restored does not fit together: followers in this database are further than its log."""

    def __init__(self, followers: list[tuple[str, int]], head: int) -> None:
        told = ", ".join(f"{follower} at {offset}" for follower, offset in followers)
        super().__init__(
            f"the log ends at offset {head}, but followers of the same database stand behind its end: {told}. "
            "Tables of several backups were mixed: restore all of them from one"
        )


@dataclass(frozen=True, slots=True)
class Restore:
    """A restore that was told. ``head``: where the restored log ended; ``is_new``: whether it was told just now."""

    shard: int
    restore_id: str
    epoch_before: str
    epoch: str
    head: int
    told_at: datetime
    told_by: str
    is_new: bool = False


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


def begin_after_restore(dsn: str, shard: int, *, restore_id: str, actor: str) -> Restore:
    """Begin a new epoch because the store was restored to an earlier state, once for each ``restore_id``.

    Followers whose memory is in this database (sagas, relay) were restored with the log and fit to it: they are taken
    along. All others meet an epoch that is not theirs, halt, and are rebuilt. Told again with nothing appended since,
    it is the same restore, whatever it is called. Raises StoreUnavailable, RestoreIncomplete.
    """
    with transaction(dsn, name="restored") as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", (APPEND_LOCK_CLASS, shard))
        if (known := _find(cursor, shard, restore_id)) is not None:
            return known
        before, epoch = ensure_epoch(cursor, shard), _new()
        cursor.execute("UPDATE store_epoch SET epoch = %s, since = clock_timestamp() WHERE shard = %s", (epoch, shard))
        head = _head(cursor)
        _take_along(cursor, epoch, head)
        cursor.execute(_TELL, (shard, restore_id, before, epoch, head, actor))
        row = cursor.fetchone()
        assert row is not None
        return replace(Restore(*row), is_new=True)


def _find(cursor: psycopg.Cursor[Any], shard: int, restore_id: str) -> Restore | None:
    cursor.execute(_TOLD, {"shard": shard, "restore_id": restore_id, "head": _head(cursor)})
    row = cursor.fetchone()
    return None if row is None else Restore(*row)


def _head(cursor: psycopg.Cursor[Any]) -> int:
    row = cursor.execute("SELECT coalesce(max(notification_id), 0) FROM stored_events").fetchone()
    assert row is not None
    return int(row[0])


def _take_along(cursor: psycopg.Cursor[Any], epoch: str, head: int) -> None:
    cursor.execute(
        "SELECT follower, log_offset FROM follower_positions WHERE log_offset > %s AND follower <> ALL(%s) ORDER BY 1",
        (head, list(REPORTED)),
    )
    if too_far := cursor.fetchall():
        raise RestoreIncomplete(too_far, head)
    cursor.execute("DELETE FROM follower_positions WHERE follower = ANY(%s)", (list(REPORTED),))
    cursor.execute("UPDATE follower_positions SET epoch = %s", (epoch,))


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


_RESTORE = "shard, restore_id, epoch_before, epoch, head, told_at, told_by"

# Of this name, or the one that began the present epoch if the log still ends where it ended then.
_TOLD = f"""
    SELECT {_RESTORE} FROM store_restores AS r
    WHERE shard = %(shard)s AND (restore_id = %(restore_id)s OR head = %(head)s AND EXISTS (
        SELECT FROM store_epoch AS e WHERE e.shard = r.shard AND e.epoch = r.epoch
    ))
    ORDER BY restore_id = %(restore_id)s DESC LIMIT 1
"""

_TELL = f"""
    INSERT INTO store_restores (shard, restore_id, epoch_before, epoch, head, told_by) VALUES (%s, %s, %s, %s, %s, %s)
    RETURNING {_RESTORE}
"""
