"""Several engines on one store: one is killed or stopped under load; nothing is lost, doubled, oversold or held up."""

import os
import signal
from contextlib import ExitStack
from time import monotonic, sleep

import pytest

from tests.audit import audit, violations
from tests.faults.fleet import EngineProcess, Gone, Load, fleet, stop_holding_the_lock
from tests.faults.shop import STOCK, customers, sold

pytestmark = pytest.mark.faults

LONG = os.environ.get("TESSERA_TEST_EFFORT") == "long"
ONLY_LONG = pytest.mark.skipif(not LONG, reason="the quieter half of it: TESSERA_TEST_EFFORT=long")
CALLERS = 24  # Per process.
KILLS = 20 if LONG else 2
STOPS = 3 if LONG else 1
STOPPED_SECONDS = 30.0
BLOCKED_SECONDS_MAX = 5.0  # What everybody else on the store is promised.


def begin(load: Load, *processes: EngineProcess) -> None:
    """Keep processes busy, and wait until they are."""
    for process in processes:
        load.join(process, CALLERS)
    for process in processes:
        load.wait_for_more(2 * CALLERS, process)


def assert_balance(load: Load, dsn: str) -> None:
    """Everything that callers were told is stored, once; every invariant holds; the hot coupon is sold out exactly."""
    assert audit(dsn, load.told) == []
    assert violations(dsn) == []
    assert sold(dsn) == STOCK


def test_processes_killed_under_load_lose_nothing_and_leave_nothing_done_twice(shop: str) -> None:
    load = Load(customers())
    with ExitStack() as stack:
        survivor, victim = stack.enter_context(fleet(shop, ["survivor", "victim0"]))
        begin(load, survivor, victim)
        for number in range(1, KILLS + 1):
            if number % 2:  # In the middle of a batch, with the lock; the others: wherever it is.
                stop_holding_the_lock(victim, shop)
            killed_at = monotonic()
            victim.signal(signal.SIGKILL)
            load.wait_for_more(2 * CALLERS, survivor)
            gap = load.longest_gap([survivor], killed_at, monotonic())
            assert gap < BLOCKED_SECONDS_MAX, f"the survivor waited for {gap:.1f} s"
            (victim,) = stack.enter_context(fleet(shop, [f"victim{number}"]))
            begin(load, victim)
            load.wait_for_more(CALLERS, survivor)
        load.wait(lambda: load.acknowledged() > 8 * STOCK, "everything to be sold out")
        load.finish()
    assert sum(isinstance(error, Gone) for error in load.errors) >= KILLS, "they were killed while nobody waited"
    assert_balance(load, shop)


@pytest.mark.parametrize(
    "elsewhere",
    [pytest.param(True, id="callers_go_elsewhere"), pytest.param(False, id="callers_wait", marks=ONLY_LONG)],
)
def test_a_process_stopped_with_the_append_lock_blocks_nobody_for_long_and_wakes_up_to_no_harm(
    shop: str, *, elsewhere: bool
) -> None:
    load = Load(customers())
    with fleet(shop, ["first", "second", "sleeper"]) as (*others, sleeper):
        begin(load, *others, sleeper)
        for _ in range(STOPS):
            stopped_at = monotonic()
            stop_holding_the_lock(sleeper, shop)
            if elsewhere:
                load.leave(sleeper)
            for other in others:
                load.wait_for_more(CALLERS, other)
            if LONG:
                sleep(max(0.0, stopped_at + STOPPED_SECONDS - monotonic()))
            gap = load.longest_gap(others, stopped_at, monotonic())
            print(f"stopped for {monotonic() - stopped_at:.1f} s; the others waited for at most {gap:.1f} s")
            sleeper.signal(signal.SIGCONT)
            begin(load, sleeper) if elsewhere else load.wait_for_more(2 * CALLERS, sleeper)
            assert gap < BLOCKED_SECONDS_MAX, f"the others waited for {gap:.1f} s"
        load.wait(lambda: load.acknowledged() > 8 * STOCK, "everything to be sold out")
        load.finish()
    assert_balance(load, shop)
