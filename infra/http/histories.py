"""What was recorded of one coupon, straight from the log."""

import asyncio
from concurrent.futures import Executor
from typing import Any, Final

from command.ports import EventLog
from contracts.envelope import Recorded
from contracts.identity import Realm, stream_id
from contracts.position import Position
from query.ports import BadCursor, Page

CURSOR_DIGITS_MAX: Final = 18


class LogHistories:
    """Reads streams on ``blocking``. A cursor is the version of the last event of the page before."""

    def __init__(self, log: EventLog, blocking: Executor) -> None:
        self._log = log
        self._blocking = blocking

    async def position(self) -> Position:
        """Where the log ends. Raises StoreUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._blocking, self._head)

    async def coupon(self, realm: Realm, coupon_id: str, *, cursor: str | None, limit: int) -> Page:
        """A coupon's events in order; an unknown coupon has none. Raises BadCursor, StoreUnavailable."""
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= CURSOR_DIGITS_MAX):
            raise BadCursor
        after = int(cursor or 0)
        if "\x00" in coupon_id:
            return Page([], None)  # No text column of PostgreSQL can hold it, so there is no such coupon.
        loop = asyncio.get_running_loop()
        events = await loop.run_in_executor(self._blocking, self._events, stream_id(realm, "coupon", coupon_id))
        following = [recorded for recorded in events if recorded.version > after]
        shown = following[:limit]
        next_cursor = str(shown[-1].version) if len(following) > limit else None
        return Page([_view(recorded) for recorded in shown], next_cursor)

    def _head(self) -> Position:
        with self._log.reading() as view:
            return Position(self._log.shard, self._log.epoch, view.last_offset)

    def _events(self, stream: str) -> list[Recorded]:
        # No snapshot hashes are named, so the history is whole; a coupon's is short.
        with self._log.reading() as view:
            history = view.histories((stream,)).get(stream)
        return list(history.events) if history is not None else []


def _view(recorded: Recorded) -> dict[str, Any]:
    metadata = recorded.metadata
    return {
        "type": recorded.event.type,
        "version": recorded.version,
        "event_id": metadata.event_id,
        "occurred_at": metadata.occurred_at.isoformat(),
        "recorded_at": metadata.recorded_at.isoformat(),
        "actor": metadata.actor,
        "command_id": metadata.command_id,
        "data": recorded.event.model_dump(mode="json"),
    }
