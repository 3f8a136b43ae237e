"""Hears how checkouts went, so that whoever placed an order can be answered with the outcome.

One thread follows the log for all waiting requests: the saga that decides may run in any process.
"""

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, Final, NamedTuple, Protocol

import structlog

from command.domain.orders import ORDER
from command.outcomes import outcome_after, outcome_of
from command.ports import EventLog, StoreUnavailable, StreamHistory
from contracts.envelope import Recorded
from contracts.events import CheckoutReady, CheckoutRefused, Event
from contracts.identity import Realm, stream_id

logger = structlog.get_logger(__name__)

BATCH_EVENTS_MAX: Final = 1_000
WAIT_SECONDS: Final = 0.025
IDLE_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 0.5
TOPICS: Final = (CheckoutReady.type, CheckoutRefused.type)


class Feed(Protocol):
    """The log as followers read it."""

    def head(self) -> int:
        """The offset of the last event. Raises StoreUnavailable."""
        ...

    def read(self, after: int, limit: int, topics: Sequence[str] = ()) -> Sequence[Recorded]:
        """Events after an offset, in order. Raises StoreUnavailable."""
        ...

    def wait(self, timeout_seconds: float) -> bool:
        """Return when something may have been appended, or when the time is over."""
        ...


class _Awaited(NamedTuple):
    stream: str
    attempt: int


class CheckoutWatch:
    """Resolves what requests wait for; it reads the log only while somebody waits.

    It is a hint like every wake-up: whoever runs out of time looks into the log once more (``recorded``).
    """

    def __init__(self, feed: Feed, log: EventLog) -> None:
        self._feed = feed
        self._log = log
        self._awaited: dict[_Awaited, list[asyncio.Future[Mapping[str, Any]]]] = {}
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkout-watch", daemon=True)

    def start(self) -> None:
        """Begin to follow the log."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Stop following; whoever still waits runs into its own time limit."""
        self._stopping.set()
        self._wanted.set()
        self._thread.join(timeout_seconds)

    def expect(self, realm: Realm, order_id: str, attempt: int) -> "asyncio.Future[Mapping[str, Any]]":
        """Resolves to an outcome that is recorded from now on. Ask, then look for an earlier one; cancel when done."""
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        awaited = _Awaited(stream_id(realm, "checkout", order_id), attempt)
        with self._lock:
            self._awaited.setdefault(awaited, []).append(future)
            self._wanted.set()
        future.add_done_callback(lambda done: self._forget(awaited, done))
        return future

    def recorded(self, realm: Realm, order_id: str, attempt: int) -> Mapping[str, Any] | None:
        """The checkout as it stands, once this attempt (or a later one) was decided. Raises StoreUnavailable.

        A hold whose order was cancelled or taken up again is about to go: nobody is told to pay for it.
        """
        streams = stream_id(realm, "checkout", order_id), stream_id(realm, ORDER.name, order_id)
        with self._log.reading() as view:
            histories = view.histories(streams)
        outcome: Mapping[str, Any] | None = None
        for event in _events(histories.get(streams[0])):
            outcome = outcome_after(outcome, event)
        if outcome is None or outcome.get("attempt", 0) < attempt:
            return None
        order = reduce(ORDER.evolve, _events(histories.get(streams[1])), ORDER.initial)
        is_going = order.cancelled or order.attempt > outcome["attempt"]
        return None if outcome["status"] == "ready" and is_going else outcome

    def _run(self) -> None:
        after: int | None = None
        while not self._stopping.is_set():
            if not self._wanted.is_set():
                after = None
                self._wanted.wait(IDLE_SECONDS)
                continue
            try:
                after = self._follow(after)
            except StoreUnavailable:
                logger.warning("checkout_watch_interrupted", exc_info=True)
                self._stopping.wait(RETRY_SECONDS)
            except Exception:  # Nobody is left without an answer: they look for themselves when their time is over.
                logger.exception("checkout_watch_failed")
                self._stopping.wait(RETRY_SECONDS)

    def _follow(self, after: int | None) -> int:
        """Read on once, tell who waits, and return how far we are."""
        head = self._feed.head()
        if after is None:
            after = head
            self._look_back()
        batch = self._feed.read(after, BATCH_EVENTS_MAX, TOPICS)
        for recorded in batch:
            self._tell(recorded)
        if len(batch) == BATCH_EVENTS_MAX:
            return batch[-1].offset
        if not batch:
            self._feed.wait(WAIT_SECONDS)
        # Whatever else there is up to the head seen before reading is of no interest to us.
        return max(after, head, *(recorded.offset for recorded in batch[-1:]))

    def _look_back(self) -> None:
        """Tell of what was recorded between somebody's beginning to wait and our beginning to read."""
        with self._lock:
            awaited = list(self._awaited)
        with self._log.reading() as view:
            histories = view.histories({each.stream for each in awaited})
        for history in histories.values():
            for recorded in history.events:
                self._tell(recorded)

    def _tell(self, recorded: Recorded) -> None:
        event = recorded.event
        if not isinstance(event, CheckoutReady | CheckoutRefused) or (outcome := outcome_of(event)) is None:
            return
        with self._lock:
            futures = self._awaited.pop(_Awaited(recorded.stream, event.attempt), [])
        for future in futures:
            future.get_loop().call_soon_threadsafe(_resolve, future, outcome)

    def _forget(self, awaited: _Awaited, done: "asyncio.Future[Mapping[str, Any]]") -> None:
        with self._lock:
            others = [future for future in self._awaited.get(awaited, ()) if future is not done]
            if others:
                self._awaited[awaited] = others
            else:
                self._awaited.pop(awaited, None)
            if not self._awaited:
                self._wanted.clear()


def _events(history: StreamHistory | None) -> Iterator[Event]:
    return (recorded.event for recorded in (history.events if history else ()))


def _resolve(future: "asyncio.Future[Mapping[str, Any]]", outcome: Mapping[str, Any]) -> None:
    if not future.done():
        future.set_result(outcome)
