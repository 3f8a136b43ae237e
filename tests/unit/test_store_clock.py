"""The store's time between two looks."""

from datetime import UTC, datetime, timedelta

from command.store_clock import StoreClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_what_the_store_told_is_carried_forward_until_it_is_too_old() -> None:
    seconds = [7.0]
    clock = StoreClock(1.0, lambda: seconds[0])
    assert clock.now is None
    clock.told(NOON)
    seconds[0] += 0.75
    assert clock.now == NOON + timedelta(seconds=0.75)
    seconds[0] += 0.25
    assert clock.now is None
    clock.told(NOON + timedelta(hours=1))
    assert clock.now == NOON + timedelta(hours=1)


def test_nothing_is_carried_forward_of_what_was_forgotten_or_is_never_good() -> None:
    clock = StoreClock(1.0, lambda: 0.0)
    clock.told(NOON)
    clock.forget()
    assert clock.now is None
    always_asks = StoreClock()
    always_asks.told(NOON)
    assert always_asks.now is None
