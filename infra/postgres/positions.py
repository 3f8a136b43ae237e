"""Where each follower stands in the log, for followers whose effect is in this database too."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg

LANE_MARK: Final = "@"  # Between a follower's name and that of one of its lanes; no follower's own name has it.


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


def begin_lanes(cursor: psycopg.Cursor[Any], follower: str, epoch: str, lanes: Collection[str]) -> Mapping[str, int]:
    """Where a follower stands in each of its lanes, by the names of their positions.

    One that has no position yet, or an older one than the follower itself, gets the follower's. Raises EpochChanged.
    """
    base = read(cursor, follower, epoch)
    cursor.execute(_BEGIN_LANES, (sorted(lanes), epoch, base))
    cursor.execute(
        "SELECT follower, epoch, log_offset FROM follower_positions WHERE follower = ANY(%s)", (list(lanes),)
    )
    offsets: dict[str, int] = {}
    for lane, own, offset in cursor:
        if own != epoch:
            raise EpochChanged(lane, own, epoch)
        offsets[lane] = offset
    return offsets


def raise_to_lanes(cursor: psycopg.Cursor[Any], follower: str, epoch: str, lanes: Collection[str]) -> int:
    """Move a follower to where all of its lanes have come by now, never back; returns where it is then."""
    cursor.execute(_RAISE, {"follower": follower, "epoch": epoch, "lanes": list(lanes), "count": len(lanes)})
    return read(cursor, follower, epoch)


def reset(cursor: psycopg.Cursor[Any], follower: str, epoch: str, offset: int = 0) -> None:
    """Put a follower somewhere in an epoch: an operator's decision, with the follower stopped."""
    cursor.execute(_RESET, (follower, epoch, offset))


def every(cursor: psycopg.Cursor[Any]) -> list[FollowerPosition]:
    """All followers, by name; those that hear lanes as a whole."""
    cursor.execute(_EVERY, (LANE_MARK,))
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

# In the order of their names, as whoever moves several: two that lock the same rows do not block each other for good.
_BEGIN_LANES = """
    INSERT INTO follower_positions (follower, epoch, log_offset)
    SELECT lane, begun.epoch, begun.log_offset
    FROM unnest(%s::text[]) AS lane CROSS JOIN (VALUES (%s::text, %s::bigint)) AS begun (epoch, log_offset)
    ORDER BY lane
    ON CONFLICT (follower) DO UPDATE
    SET log_offset = excluded.log_offset, updated_at = clock_timestamp()
    WHERE follower_positions.epoch = excluded.epoch AND follower_positions.log_offset < excluded.log_offset
"""

_RAISE = """
    INSERT INTO follower_positions (follower, epoch, log_offset)
    SELECT %(follower)s, %(epoch)s, min(log_offset) FROM follower_positions
    WHERE follower = ANY(%(lanes)s) AND epoch = %(epoch)s HAVING count(*) = %(count)s
    ON CONFLICT (follower) DO UPDATE
    SET log_offset = excluded.log_offset, updated_at = clock_timestamp()
    WHERE follower_positions.epoch = excluded.epoch AND follower_positions.log_offset < excluded.log_offset
"""

_EVERY = """
    SELECT follower, epoch, log_offset, updated_at FROM follower_positions
    WHERE position(%s IN follower) = 0 ORDER BY follower
"""
