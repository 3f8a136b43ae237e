"""The watch tells whoever waits how a checkout went, whoever decided it, and reads nothing while nobody waits."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest

from command.ports import Batch, NewEvent, StoreUnavailable
from contracts.envelope import Metadata, Recorded
from contracts.events import CheckoutCompleted, CheckoutReady, CheckoutRefused, CheckoutReleased, Event
from contracts.identity import Realm, stream_id
from infra.http.outcomes import WAIT_SECONDS, CheckoutWatch
from tests.fakes import InMemoryEventLog

ACME = Realm("acme", "shop")
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class FakeFeed:
    """The in-memory log as a feed."""

    def __init__(self, log: InMemoryEventLog) -> None:
        self._log = log
        self.looks = 0
        self.reads = 0
        self.away = False
        self.appended = threading.Event()

    def head(self) -> int:
        self.looks += 1
        if self.away:
            raise StoreUnavailable("away")
        with self._log.reading() as view:
            return view.last_offset

    def read(self, after: int, limit: int, topics: Sequence[str] = ()) -> Sequence[Recorded]:
        self.reads += 1
        with self._log.reading() as view:
            return [each for each in view.events_after(after, limit) if each.event.type in topics]

    def wait(self, timeout_seconds: float) -> bool:
        return self.appended.wait(timeout_seconds)


@pytest.fixture
def log() -> InMemoryEventLog:
    """An empty log."""
    return InMemoryEventLog()


@pytest.fixture
def feed(log: InMemoryEventLog) -> FakeFeed:
    """Its feed."""
    return FakeFeed(log)


@pytest.fixture
def watch(log: InMemoryEventLog, feed: FakeFeed) -> Iterator[CheckoutWatch]:
    """A watch that runs."""
    watch = CheckoutWatch(feed, log)
    watch.start()
    yield watch
    watch.stop()


def append(log: InMemoryEventLog, *events: Event) -> None:
    """Record events of order o1's checkout."""
    stream = stream_id(ACME, "checkout", "o1")
    with log.appending() as transaction:
        history = transaction.histories((stream,)).get(stream)
        first = len(history.events) + 1 if history else 1
        metadata = Metadata("e", NOON, NOON, "test", "k", "r")
        transaction.append(
            Batch([NewEvent(stream, version, event, metadata) for version, event in enumerate(events, start=first)])
        )


def ready(attempt: int) -> CheckoutReady:
    """A hold of nothing."""
    return CheckoutReady(
        order_id="o1",
        attempt=attempt,
        user_id=None,
        currency="EUR",
        total_minor=5,
        shipping_minor=0,
        discount_minor=0,
        payable_minor=5,
        lines=(),
        coupons=(),
        lock_until=NOON,
    )


def refused(attempt: int) -> CheckoutRefused:
    """A hold that did not come about."""
    return CheckoutRefused(order_id="o1", attempt=attempt, currency="EUR", refusals=())


async def test_whoever_waits_is_told(log: InMemoryEventLog, watch: CheckoutWatch) -> None:
    waiting = [watch.expect(ACME, "o1", 1) for _ in range(3)]
    append(log, ready(1))
    told = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert [(each["status"], each["payable_minor"]) for each in told] == [("ready", 5)] * 3


async def test_each_attempt_and_each_order_has_its_own_outcome(log: InMemoryEventLog, watch: CheckoutWatch) -> None:
    first, second = watch.expect(ACME, "o1", 1), watch.expect(ACME, "o1", 2)
    others = [watch.expect(ACME, "o2", 1), watch.expect(Realm("globex", "shop"), "o1", 1)]
    append(log, refused(1), ready(2))
    assert (await asyncio.wait_for(first, 10))["status"] == "refused"
    assert (await asyncio.wait_for(second, 10))["status"] == "ready"
    assert not any(other.done() for other in others)


async def test_nobody_waiting_means_nothing_is_read(
    feed: FakeFeed, log: InMemoryEventLog, watch: CheckoutWatch
) -> None:
    watch.expect(ACME, "o1", 1).cancel()
    append(log, ready(1))
    async with asyncio.timeout(10):  # Whoever reads on without end looks every WAIT_SECONDS.
        looks = -1
        while looks != feed.looks:
            looks = feed.looks
            await asyncio.sleep(20 * WAIT_SECONDS)
    later = watch.expect(ACME, "o1", 2)
    append(log, ready(2))
    assert (await asyncio.wait_for(later, 10))["attempt"] == 2
    assert feed.looks > looks


async def test_a_store_that_comes_back_is_read_again(
    log: InMemoryEventLog, feed: FakeFeed, watch: CheckoutWatch
) -> None:
    feed.away = True
    waiting = watch.expect(ACME, "o1", 1)
    await asyncio.sleep(0)
    feed.away = False
    while feed.reads == 0:  # noqa: ASYNC110 - only from here on does it see what is appended.
        await asyncio.sleep(0.01)
    append(log, ready(1))
    assert (await asyncio.wait_for(waiting, 10))["status"] == "ready"


def test_what_is_recorded_already_is_found(log: InMemoryEventLog, feed: FakeFeed) -> None:
    watch = CheckoutWatch(feed, log)
    assert watch.recorded(ACME, "o1", 1) is None
    append(log, ready(1))
    assert (watch.recorded(ACME, "o1", 1) or {})["status"] == "ready"
    assert watch.recorded(ACME, "o1", 2) is None
    completed = CheckoutCompleted(
        order_id="o1", payment_id="p", currency="EUR", discount_minor=0, payable_minor=5, coupons=()
    )
    append(log, completed)
    assert (watch.recorded(ACME, "o1", 1) or {})["status"] == "completed"


def test_a_released_checkout_is_told_as_released(log: InMemoryEventLog, feed: FakeFeed) -> None:
    watch = CheckoutWatch(feed, log)
    released = CheckoutReleased(
        order_id="o1", attempt=1, currency="EUR", discount_minor=0, cause="order_cancelled", released_at=NOON
    )
    append(log, ready(1), released)
    told = watch.recorded(ACME, "o1", 1) or {}
    assert (told["status"], told["cause"], told["payable_minor"]) == ("released", "order_cancelled", 5)
    assert watch.recorded(ACME, "o1", 2) is None
    append(log, refused(2))
    assert watch.recorded(ACME, "o1", 1) == watch.recorded(ACME, "o1", 2)
    assert "payable_minor" not in (watch.recorded(ACME, "o1", 2) or {})
