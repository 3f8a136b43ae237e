"""The store's time between two looks."""

from datetime import UTC, datetime, timedelta

from command import store_clock
from command.store_clock import ASKING_SECONDS_MAX, StoreClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_what_the_store_told_is_carried_forward_until_it_is_too_old() -> None:
    seconds = [7.0]
    clock = StoreClock(1.0, lambda: seconds[0])
    assert clock.now is None
    clock.told(NOON, 7.0)
    seconds[0] += 0.75
    assert clock.now == NOON + timedelta(seconds=0.75)
    seconds[0] += 0.25
    assert clock.now is None
    clock.told(NOON + timedelta(hours=1), 8.0)
    assert clock.now == NOON + timedelta(hours=1)


def test_what_took_long_to_be_heard_is_not_carried_forward() -> None:
    clock = StoreClock(1.0, lambda: 8.0)
    clock.told(NOON, 8.0 - ASKING_SECONDS_MAX)
    assert clock.now == NOON
    clock.told(NOON, 8.0 - 2 * ASKING_SECONDS_MAX)
    assert clock.now is None


def test_nothing_is_carried_forward_of_what_was_forgotten_or_is_never_good() -> None:
    clock = StoreClock(1.0, lambda: 0.0)
    clock.told(NOON, 0.0)
    clock.forget()
    assert clock.now is None
    always_asks = StoreClock()
    always_asks.told(NOON, store_clock.seconds())
    assert always_asks.now is None
