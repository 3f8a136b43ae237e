"""Several engines on one store: one is killed or stopped under load; nothing is lost, doubled, oversold or held up."""

import os
import signal
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import count
from time import monotonic, sleep

import psycopg
import pytest

from contracts.commands import LockCoupon, RedeemCoupon
from tests.audit import audit, violations
from tests.builders import claim
from tests.faults.conftest import engine_on
from tests.faults.fleet import EngineProcess, Flow, Gone, Load, fleet, stop_holding_the_lock
from tests.faults.shop import STOCK, customers, publish, sold

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


def test_processes_whose_clocks_are_weeks_apart_decide_alike_by_the_clock_of_the_store(shop: str) -> None:
    """By its own clock one would say that the day is over, the other one that it has not begun; locks would be over."""
    day, days = timedelta(days=1), {"ahead": 20.0, "behind": -20.0}
    with engine_on(shop) as engine:
        publish(engine, "today", claim_from=datetime.now(UTC) - day, claim_until=datetime.now(UTC) + day)
    load, clocks = Load(map(visit, count())), {name: each * day.total_seconds() for name, each in days.items()}
    with fleet(shop, list(clocks), clocks_ahead_seconds=clocks) as processes:
        begin(load, *processes)
        load.wait_for_more(20 * CALLERS, processes[0])
        load.wait_for_more(20 * CALLERS, processes[1])
        load.finish()
    assert {told.code for told in load.told} == {"ok"}
    with psycopg.connect(shop) as connection:
        at_the_store = "recorded_at BETWEEN clock_timestamp() - interval '1 hour' AND clock_timestamp()"
        (strange,) = connection.execute(
            f"SELECT count(*) FROM events WHERE NOT ({at_the_store} AND occurred_at = recorded_at)"
        ).fetchone() or (None,)
    assert strange == 0
    assert audit(shop, load.told) == []
    assert violations(shop) == []


def visit(number: int) -> Flow:
    """A coupon is claimed, locked and redeemed, each by whichever process comes."""
    claimed = yield claim(f"visitor{number}", "today")
    if not claimed.accepted:
        return
    coupon_id, order_id = claimed.data["coupon_id"], f"visit{number}"
    yield LockCoupon(coupon_id=coupon_id, order_id=order_id, discount_minor=1_000)
    yield RedeemCoupon(coupon_id=coupon_id, order_id=order_id)


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
