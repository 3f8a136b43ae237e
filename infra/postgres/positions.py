"""Where each follower stands in the log, for followers whose effect is in this database too."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg


class EpochChanged(Exception):
    """The store was restored since this follower last moved: its offset belongs to another history."""

    def __init__(self, follower: str, own: str, store: str) -> None:
        super().__init__(
            f"follower {follower!r} stands in epoch {own}, the store is in epoch {store}: the store was restored to "
            f"an earlier state and offsets mean something else now. What is kept in the store is taken along by "
            f"`tessera restored`; then it goes on."
        )
        self.follower, self.own, self.store = follower, own, store


class PositionMoved(Exception):
    """Somebody else moved this follower: two processes follow under one name. The later one must read again."""

    def __init__(self, follower: str, expected: int) -> None:
        super().__init__(f"follower {follower!r} is no longer at offset {expected}: another process moved it")
        self.follower = follower


@dataclass(frozen=True, slots=True)
class FollowerPosition:
    """One follower's place. Everything up to ``offset`` has taken effect."""

    follower: str
    epoch: str
    offset: int
    updated_at: datetime


def read(cursor: psycopg.Cursor[Any], follower: str, epoch: str) -> int:
    """The offset up to which the follower is done, 0 for a new one. Raises EpochChanged."""
    cursor.execute("SELECT epoch, log_offset FROM follower_positions WHERE follower = %s", (follower,))
    row = cursor.fetchone()
    if row is None:
        return 0
    own, offset = row
    if own != epoch:
        raise EpochChanged(follower, own, epoch)
    return int(offset)


def advance(cursor: psycopg.Cursor[Any], follower: str, epoch: str, *, expected: int, offset: int) -> None:
    """Move on from ``expected``, inside the transaction that stores the effect.

    Raises EpochChanged or PositionMoved; the transaction must then be rolled back.
    """
    if offset < expected:
        raise ValueError(f"a follower moves forwards: {offset} is before {expected}")
    if expected == 0:
        cursor.execute(_START, (follower, epoch))
    cursor.execute(_ADVANCE, (offset, follower, epoch, expected))
    if cursor.rowcount == 1:
        return
    read(cursor, follower, epoch)  # Raises when the epoch is why.
    raise PositionMoved(follower, expected)


def reset(cursor: psycopg.Cursor[Any], follower: str, epoch: str, offset: int = 0) -> None:
    """Put a follower somewhere in an epoch: an operator's decision, with the follower stopped."""
    cursor.execute(_RESET, (follower, epoch, offset))


def every(cursor: psycopg.Cursor[Any]) -> list[FollowerPosition]:
    """All followers, by name."""
    cursor.execute("SELECT follower, epoch, log_offset, updated_at FROM follower_positions ORDER BY follower")
    return [FollowerPosition(*row) for row in cursor]


_START = """
    INSERT INTO follower_positions (follower, epoch, log_offset) VALUES (%s, %s, 0) ON CONFLICT (follower) DO NOTHING
"""

_ADVANCE = """
    UPDATE follower_positions SET log_offset = %s, updated_at = clock_timestamp()
    WHERE follower = %s AND epoch = %s AND log_offset = %s
"""

_RESET = """
    INSERT INTO follower_positions (follower, epoch, log_offset) VALUES (%s, %s, %s)
    ON CONFLICT (follower) DO UPDATE
    SET epoch = excluded.epoch, log_offset = excluded.log_offset, updated_at = clock_timestamp()
"""
