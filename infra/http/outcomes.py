"""Hears how checkouts went, so that whoever placed an order can be answered with the outcome.

One thread follows the log for all waiting requests: the saga that decides may run in any process.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple, Protocol

import structlog

from command.ports import EventLog, StoreUnavailable
from contracts.envelope import Recorded
from contracts.events import CheckoutCompleted, CheckoutReady, CheckoutRefused, Event
from contracts.identity import Realm, stream_id

logger = structlog.get_logger(__name__)

BATCH_EVENTS_MAX: Final = 1_000
WAIT_SECONDS: Final = 0.025
RETRY_SECONDS: Final = 0.5
TOPICS: Final = frozenset({CheckoutReady.type, CheckoutRefused.type, CheckoutCompleted.type})


class Feed(Protocol):
    """The log as followers read it."""

    def read(self, after: int, limit: int, topics: AbstractSet[str] | None = None) -> Sequence[Recorded]:
        """Events after an offset, in order. Raises StoreUnavailable."""
        ...

    def wait(self, after: int, timeout_seconds: float) -> None:
        """Return when there may be something after an offset, or when the time is over."""
        ...


class _Awaited(NamedTuple):
    stream: str
    attempt: int


class CheckoutWatch:
    """Resolves what requests wait for. ``expect`` belongs to the event loop, everything else to the watch's thread.

    ``head`` says where the log ends now: what happened before somebody waits is of no interest.
    """

    def __init__(self, feed: Feed, log: EventLog, head: Callable[[], int]) -> None:
        self._feed = feed
        self._log = log
        self._head = head
        self._awaited: dict[_Awaited, list[asyncio.Future[Mapping[str, Any]]]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkout-watch", daemon=True)

    def start(self) -> None:
        """Begin to follow the log."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Stop following; whoever still waits runs into its own time limit."""
        self._stopping.set()
        self._thread.join(timeout_seconds)

    def expect(self, realm: Realm, order_id: str, attempt: int) -> "asyncio.Future[Mapping[str, Any]]":
        """Resolves to the outcome once it is recorded. Ask before sending what causes it; cancel when done."""
        future: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        awaited = _Awaited(stream_id(realm, "checkout", order_id), attempt)
        with self._lock:
            self._awaited.setdefault(awaited, []).append(future)
        future.add_done_callback(lambda done: self._forget(awaited, done))
        return future

    def recorded(self, realm: Realm, order_id: str, attempt: int) -> Mapping[str, Any] | None:
        """The latest outcome of this attempt that is recorded already. Raises StoreUnavailable."""
        stream = stream_id(realm, "checkout", order_id)
        with self._log.reading() as view:
            history = view.histories((stream,)).get(stream)
        outcome: Mapping[str, Any] | None = None
        current = 0
        for recorded in history.events if history else ():
            event = recorded.event
            current = event.attempt if isinstance(event, CheckoutReady | CheckoutRefused) else current
            if current >= attempt and (told := outcome_of(event)) is not None:
                outcome = told
        return outcome

    def _run(self) -> None:
        after: int | None = None
        while not self._stopping.is_set():
            try:
                if after is None:
                    after = self._head()
                batch = self._feed.read(after, BATCH_EVENTS_MAX, TOPICS)
                for recorded in batch:
                    self._tell(recorded)
                    after = recorded.offset
                if not batch:
                    self._feed.wait(after, WAIT_SECONDS)
            except StoreUnavailable:
                # Waiting requests run into their time limit and say where to look; nothing is lost.
                logger.warning("checkout_watch_interrupted", exc_info=True)
                self._stopping.wait(RETRY_SECONDS)
            except Exception:
                logger.exception("checkout_watch_failed")
                self._stopping.wait(RETRY_SECONDS)

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


def outcome_of(event: Event) -> Mapping[str, Any] | None:
    """What a caller is told of a checkout's step; None for steps that are no answer to placing an order."""
    match event:
        case CheckoutReady():
            told = event.model_dump(mode="json", exclude={"order_id"})
            return {"status": "ready", **told}
        case CheckoutRefused():
            return {"status": "refused", **event.model_dump(mode="json", exclude={"order_id"})}
        case CheckoutCompleted():
            return {"status": "completed", **event.model_dump(mode="json", exclude={"order_id"})}
    return None


def _resolve(future: "asyncio.Future[Mapping[str, Any]]", outcome: Mapping[str, Any]) -> None:
    if not future.done():
        future.set_result(outcome)
