"""API keys: made here, stored as a digest, found by their public prefix."""

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from contracts.identity import Realm

MARK = "tsk"  # Lets secret scanners recognise a key that leaked.
_PREFIX_BYTES = 6
_SECRET_BYTES = 24  # 192 random bits: nobody guesses them, so a plain digest is enough.


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key. ``secret_sha256`` is compared, in constant time, with :func:`digest` of what came."""

    prefix: str
    secret_sha256: bytes
    realm: Realm
    role: str
    scopes: frozenset[str]
    label: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def actor(self) -> str:
        """How events name whoever acts with this key."""
        return f"key:{self.prefix}"


def digest(secret: str) -> bytes:
    """What is stored of a secret: 32 bytes."""
    return hashlib.sha256(secret.encode()).digest()


def create(
    cursor: psycopg.Cursor[Any],
    realm: Realm,
    *,
    role: str,
    scopes: Collection[str],
    label: str,
    expires_at: datetime | None = None,
) -> str:
    """Make a key and return it (``tsk_prefix_secret``): the only time that anybody sees the secret."""
    prefix, secret = secrets.token_hex(_PREFIX_BYTES), secrets.token_hex(_SECRET_BYTES)
    cursor.execute(_INSERT, (prefix, digest(secret), *realm, role, sorted(scopes), label, expires_at))
    return f"{MARK}_{prefix}_{secret}"


def find(cursor: psycopg.Cursor[Any], prefix: str) -> ApiKey | None:
    """The key with this prefix, usable or not."""
    cursor.execute(f"SELECT {_COLUMNS} FROM api_keys WHERE prefix = %s", (prefix,))
    row = cursor.fetchone()
    return None if row is None else _api_key(row)


def every(cursor: psycopg.Cursor[Any], realm: Realm | None = None, *, limit: int = 1_000) -> list[ApiKey]:
    """Keys, of one realm when named, the oldest first."""
    tenant, app = realm or (None, None)
    cursor.execute(_LIST, {"tenant": tenant, "app": app, "limit": limit})
    return [_api_key(row) for row in cursor]


def revoke(cursor: psycopg.Cursor[Any], prefix: str) -> bool:
    """Make a key unusable for good; returns whether there was such a key that was not revoked yet."""
    cursor.execute(
        "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE prefix = %s AND revoked_at IS NULL", (prefix,)
    )
    return cursor.rowcount == 1


def _api_key(row: tuple[Any, ...]) -> ApiKey:
    prefix, secret_sha256, tenant, app, role, scopes, *rest = row
    return ApiKey(prefix, bytes(secret_sha256), Realm(tenant, app), role, frozenset(scopes), *rest)


_COLUMNS = "prefix, secret_sha256, tenant_id, app_id, role, scopes, label, created_at, expires_at, revoked_at"

_INSERT = """
    INSERT INTO api_keys (prefix, secret_sha256, tenant_id, app_id, role, scopes, label, expires_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""

_LIST = f"""
    SELECT {_COLUMNS} FROM api_keys
    WHERE (%(tenant)s::text IS NULL OR (tenant_id = %(tenant)s AND app_id = %(app)s))
    ORDER BY created_at, prefix LIMIT %(limit)s
"""
