"""The store feed: the log in batches after an offset, woken by LISTEN, guaranteed by the caller's poll."""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock

import psycopg
from eventsourcing.persistence import Notification, PersistenceError

from command.ports import StoreUnavailable
from contracts.envelope import Recorded
from contracts.registry import EVENTS, EventRegistry, UnknownEventType
from infra.postgres.connections import DEFAULT_TIMEOUTS, BoundedConnection, Timeouts, connect, translated
from infra.postgres.epoch import read_epoch
from infra.postgres.mapper import EventMapper, UnreadableEvent
from infra.postgres.recorder import ShardRecorder, StoredRow, abandon, datastore

_BACKOFF_FIRST_SECONDS = 0.1
_BACKOFF_MAX_SECONDS = 5.0


class StoreFeed:
    """One follower's view of the log.

    A follower loops: ``read`` after its position; when nothing comes, ``wait`` for its poll interval and read again.
    ``read``, ``head`` and ``epoch`` may be called from several threads, ``wait`` from one at a time. Like the log, a
    feed is made in the process that uses it.
    """

    def __init__(
        self, dsn: str, *, shard: int = 0, timeouts: Timeouts = DEFAULT_TIMEOUTS, registry: EventRegistry = EVENTS
    ) -> None:
        self._dsn = dsn
        self._shard = shard
        self._timeouts = timeouts
        self._mapper = EventMapper(registry)
        self._opening = Lock()
        self._recorder: ShardRecorder | None = None
        self._listener: BoundedConnection | None = None
        self._backoff_seconds = _BACKOFF_FIRST_SECONDS
        self._no_listening_before = 0.0

    def read(self, after: int, limit: int, topics: Sequence[str] = ()) -> Sequence[Recorded]:
        """Up to ``limit`` events after an offset, in the order of the log; only of ``topics`` when some are named.

        An event that this version cannot read ends the batch before it; once it is the first, it raises
        UnknownEventType or UnreadableEvent, so that a follower halts exactly there and never passes over it. (Naming
        topics does pass over unknown types: that is for looking, not for following.) Raises StoreUnavailable.
        """
        with self._looking() as recorder:
            rows = recorder.read_notifications(after, limit, topics)
        return self._readable(rows)

    def read_on(self, after: int, limit: int, unheeded: Collection[str]) -> tuple[Sequence[Recorded], int]:
        """As ``read``, but without events of these types, which are not even parsed; and up to where that was.

        For followers of which some types are none of their business, by name: all others are read, known or not.
        """
        with self._looking() as recorder:
            rows = recorder.read_notifications(after, limit)
        heeded = [row for row in rows if row.topic not in unheeded]
        events = self._readable(heeded)
        if len(events) < len(heeded):
            return events, heeded[len(events)].id - 1  # Right before what cannot be read.
        return events, rows[-1].id if rows else after

    def read_stored(self, after: int, limit: int) -> Sequence[StoredRow]:
        """As ``read``, but as it is stored: nothing of it is parsed, known or unknown. Raises StoreUnavailable."""
        with self._looking() as recorder:
            return recorder.read_rows(after, limit)

    def wait(self, timeout_seconds: float) -> bool:
        """Return early (True) when something was appended, or might have been, else False after the time-out.

        Only a hint: a lost connection is mended in the background of later calls, and meanwhile the time-out is what
        wakes the caller. Never raises because the store is away.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            if self._listener is None:
                return self._listen(deadline)
            return any(True for _ in self._listener.notifies(timeout=timeout_seconds, stop_after=1))
        except (psycopg.Error, OSError):
            self._stop_listening()
            _sleep_until(deadline)
            return False

    def head(self) -> int:
        """The offset of the last event in the log, 0 when it is empty. Raises StoreUnavailable."""
        with self._looking() as recorder:
            return recorder.read_head()

    def epoch(self) -> str:
        """The store's epoch at this moment. Raises StoreUnavailable, also when the shard was never opened."""
        with self._looking() as recorder, recorder.datastore.get_connection() as connection:
            epoch = read_epoch(connection.cursor(row_factory=psycopg.rows.tuple_row), self._shard)
        if epoch is None:
            raise StoreUnavailable(f"shard {self._shard} has no epoch yet: nobody has opened it for writing")
        return epoch

    def close(self) -> None:
        """Give back the connections. A feed that is used again opens new ones."""
        self._stop_listening()
        with self._opening:
            if self._recorder is not None:
                self._recorder.datastore.close()
                self._recorder = None

    def _readable(self, rows: Sequence[Notification]) -> list[Recorded]:
        events: list[Recorded] = []
        for row in rows:
            try:
                events.append(self._mapper.to_domain_event(row))
            except (UnknownEventType, UnreadableEvent):
                if not events:
                    raise
                break
        return events

    def _listen(self, deadline: float) -> bool:
        if time.monotonic() < self._no_listening_before:
            _sleep_until(deadline)
            return False
        self._listener = connect(self._dsn, self._timeouts, name="listen", autocommit=True)
        self._listener.execute("LISTEN stored_events")
        self._backoff_seconds = _BACKOFF_FIRST_SECONDS
        return True  # Something may have been appended before we listened.

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(psycopg.Error):
                listener.close()
        self._no_listening_before = time.monotonic() + self._backoff_seconds
        self._backoff_seconds = min(2 * self._backoff_seconds, _BACKOFF_MAX_SECONDS)

    def _opened(self) -> ShardRecorder:
        with self._opening:
            if self._recorder is None:
                self._recorder = ShardRecorder(datastore(self._dsn, self._timeouts, name="feed"), self._shard)
            return self._recorder

    @contextmanager
    def _looking(self) -> Iterator[ShardRecorder]:
        """The recorder; after a failure the next look has another one.

        What idles in its pool broke with the connection that failed, and each would cost a failure of its own.
        """
        with _translated():
            recorder = self._opened()
        try:
            with _translated():
                yield recorder
        except StoreUnavailable:
            with self._opening:
                if self._recorder is recorder:
                    self._recorder = None
                    abandon(recorder.datastore)
            raise


def _sleep_until(deadline: float) -> None:
    time.sleep(max(0.0, deadline - time.monotonic()))


@contextmanager
def _translated() -> Iterator[None]:
    """The library wraps psycopg's errors in its own."""
    try:
        with translated():
            yield
    except PersistenceError as error:
        raise StoreUnavailable(str(error)) from error
