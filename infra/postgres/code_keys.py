"""Keys of codes: made here, kept in a table of their own, deleted to end all codes that they sealed."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import psycopg

from contracts.identity import Realm

SECRET_BYTES: Final = 32
# Each costs a look at every code that somebody tries.
KEYS_MAX: Final = 16


class TooManyKeys(Exception):
    """A realm has as many keys as codes may be tried with; delete one whose codes are over."""


@dataclass(frozen=True, slots=True)
class CodeKey:
    """One key. ``secret`` is None once it was deleted."""

    key_id: str
    secret: bytes | None = field(repr=False)
    created_at: datetime
    deleted_at: datetime | None


def every(cursor: psycopg.Cursor[Any], realm: Realm) -> list[CodeKey]:
    """A realm's keys, the latest first: that is the one that new batches are sealed with, if it has its secret."""
    cursor.execute(_LIST, tuple(realm))
    return [
        CodeKey(f"k{number}", None if secret is None else bytes(secret), created_at, deleted_at)
        for number, secret, created_at, deleted_at in cursor
    ]


def present(cursor: psycopg.Cursor[Any], realm: Realm) -> str:
    """The key that new batches are sealed with; a realm that has none gets one."""
    if (key_id := _usable(every(cursor, realm))) is None:
        _take_turn(cursor)
        # Somebody may have made it meanwhile.
        key_id = _usable(every(cursor, realm)) or rotate(cursor, realm)
    return key_id


def rotate(cursor: psycopg.Cursor[Any], realm: Realm) -> str:
    """Make a new key, which new batches are sealed with from now on; earlier codes stay good. Raises TooManyKeys."""
    _take_turn(cursor)
    keys = every(cursor, realm)
    if sum(key.secret is not None for key in keys) >= KEYS_MAX:
        raise TooManyKeys(f"{realm.tenant_id}/{realm.app_id} has {KEYS_MAX} keys; delete one whose codes are over")
    number = int(keys[0].key_id[1:]) + 1 if keys else 1
    cursor.execute(
        "INSERT INTO code_keys (tenant_id, app_id, number, secret) VALUES (%s, %s, %s, %s)",
        (*realm, number, secrets.token_bytes(SECRET_BYTES)),
    )
    return f"k{number}"


def delete(cursor: psycopg.Cursor[Any], realm: Realm, key_id: str) -> bool:
    """Forget a secret for good: its codes can be neither used nor exported any more. False: there is no such key."""
    if not (key_id.startswith("k") and key_id[1:].isascii() and key_id[1:].isdigit() and len(key_id) <= 10):
        return False
    cursor.execute(
        "UPDATE code_keys SET secret = NULL, deleted_at = clock_timestamp()"
        " WHERE tenant_id = %s AND app_id = %s AND number = %s AND secret IS NOT NULL",
        (*realm, int(key_id[1:])),
    )
    return cursor.rowcount == 1


def _usable(keys: list[CodeKey]) -> str | None:
    return next((key.key_id for key in keys if key.secret is not None), None)


def _take_turn(cursor: psycopg.Cursor[Any]) -> None:
    """Keys are made one after the other, until the transaction ends."""
    cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('code_keys', 0))")


_LIST = """
    SELECT number, secret, created_at, deleted_at FROM code_keys
    WHERE tenant_id = %s AND app_id = %s ORDER BY number DESC
"""
