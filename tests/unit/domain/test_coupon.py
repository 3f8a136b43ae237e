"""Coupons outside our own checkout: external locks, expiry, revocation, and who may do what when."""

from datetime import timedelta
from typing import Any

import pytest

from command.domain.checkout import CHECKOUT
from command.domain.coupon import COUPON
from contracts.commands import (
    Command,
    EndCouponLock,
    ExpireCoupon,
    LockCoupon,
    RedeemCoupon,
    ReleaseCoupon,
    RevokeCoupon,
)
from contracts.events import (
    BudgetReleased,
    CheckoutReleased,
    CouponExpired,
    CouponLocked,
    CouponRedeemed,
    CouponReleased,
    CouponRevoked,
)
from contracts.refusals import (
    AlreadyLocked,
    AlreadyRedeemed,
    CouponHasExpired,
    CouponNotYetValid,
    CouponWasRevoked,
    LockExpired,
    NotLocked,
    UnknownCoupon,
)
from contracts.terms import FixedValidity
from tests.builders import DAY, budget, claim, coupon_of, held, paid, template
from tests.gwt import LOCK_TTL_SECONDS, NOON, Wait, given

MINE = coupon_of("alice")


def lock(order_id: str = "x1", discount_minor: int = 500, lock_seconds: int | None = 600) -> LockCoupon:
    return LockCoupon(coupon_id=MINE, order_id=order_id, discount_minor=discount_minor, lock_seconds=lock_seconds)


def redeem(order_id: str = "x1", discount_minor: int | None = None) -> RedeemCoupon:
    return RedeemCoupon(coupon_id=MINE, order_id=order_id, discount_minor=discount_minor)


def release(order_id: str = "x1") -> ReleaseCoupon:
    return ReleaseCoupon(coupon_id=MINE, order_id=order_id)


REVOKE = RevokeCoupon(coupon_id=MINE, reason="fraud")
EXPIRE = ExpireCoupon(coupon_id=MINE)
CLAIMED: list[Any] = [*template(), claim()]
LOCKED: list[Any] = [*CLAIMED, lock()]
USED: list[Any] = [*LOCKED, redeem()]


def lock_end(order_id: str = "x1", seconds: float = 600) -> EndCouponLock:
    return EndCouponLock(coupon_id=MINE, order_id=order_id, lock_until=NOON + timedelta(seconds=seconds))


# ---- Locks


def test_an_upstream_locks_redeems_and_is_marked_external() -> None:
    outcome = given(CLAIMED).when(lock(), redeem())
    outcome.then([CouponLocked, CouponRedeemed])
    assert [(event.external, event.discount_minor) for event in outcome.events] == [(True, 500), (True, 500)]  # type: ignore[attr-defined]


def test_the_redeeming_order_may_state_another_discount() -> None:
    (redeemed,) = given(LOCKED).when(redeem(discount_minor=321)).events
    assert isinstance(redeemed, CouponRedeemed)
    assert redeemed.discount_minor == 321


def test_a_lock_without_a_time_lasts_as_configured() -> None:
    (locked,) = given(CLAIMED).when(lock(lock_seconds=None)).events
    assert isinstance(locked, CouponLocked)
    assert locked.lock_until == NOON + timedelta(seconds=LOCK_TTL_SECONDS)


@pytest.mark.parametrize(
    ("past", "again"),
    [
        (LOCKED, lock()),
        (USED, redeem()),
        ([*LOCKED, release()], release()),
        ([*LOCKED, Wait(600), lock_end()], release()),
        ([*CLAIMED, REVOKE], REVOKE),
        ([*CLAIMED, Wait(30 * DAY), EXPIRE], EXPIRE),
        ([*LOCKED, Wait(600), lock_end()], lock_end()),
    ],
)
def test_asking_again_records_nothing_new(past: list[Any], again: Command) -> None:
    given(past).when(again).then_nothing()


def test_only_one_order_holds_a_coupon() -> None:
    given(LOCKED).when(lock("x2")).then_refused(AlreadyLocked)


def test_the_same_order_cannot_change_its_discount_while_it_holds_the_coupon() -> None:
    given(LOCKED).when(lock(discount_minor=501)).then_refused(AlreadyLocked)


@pytest.mark.parametrize("command", [redeem("x2"), release("x2")])
def test_only_the_owner_of_the_lock_redeems_or_releases_it(command: Command) -> None:
    given(LOCKED).when(command).then_refused(NotLocked)


@pytest.mark.parametrize("command", [redeem(), release()])
def test_what_nobody_holds_is_neither_redeemed_nor_released(command: Command) -> None:
    given(CLAIMED).when(command).then_refused(NotLocked)


def test_what_was_never_claimed_is_unknown_to_whoever_gives_it_up() -> None:
    given([*template()]).when(release()).then_refused(UnknownCoupon)


def test_the_lock_holds_until_its_end_and_not_at_its_end() -> None:
    given([*LOCKED, Wait(599.999999)]).when(redeem()).then([CouponRedeemed])
    given([*LOCKED, Wait(600)]).when(redeem()).then_refused(LockExpired)


def test_after_the_timer_recorded_the_end_the_owner_still_learns_why() -> None:
    given([*LOCKED, Wait(600), lock_end()]).when(redeem()).then_refused(LockExpired)


def test_a_lock_that_ended_is_free_for_the_next_order_without_waiting_for_the_timer() -> None:
    outcome = given([*LOCKED, Wait(700)]).when(lock("x2"))
    outcome.then([CouponReleased, CouponLocked])
    released = outcome.events[0]
    assert isinstance(released, CouponReleased)
    assert (released.cause, released.released_at) == ("lock_ended", NOON + timedelta(seconds=600))


def test_a_lock_s_end_is_recorded_when_it_is_true_and_only_for_that_lock() -> None:
    world = given(LOCKED)
    world.when(lock_end()).then_not_yet()
    world.and_given([Wait(600)])
    world.when(lock_end("x2")).then_nothing()
    world.when(lock_end(seconds=601)).then_nothing()
    world.when(lock_end()).then([CouponReleased])


def test_a_late_release_says_that_the_lock_had_ended() -> None:
    (released,) = given([*LOCKED, Wait(700)]).when(release()).events
    assert isinstance(released, CouponReleased)
    assert (released.cause, released.released_at) == ("lock_ended", NOON + timedelta(seconds=600))


def test_a_released_coupon_can_be_locked_again() -> None:
    given([*LOCKED, release()]).when(lock("x2")).then([CouponLocked])


@pytest.mark.parametrize("command", [lock("x2"), lock(), release(), REVOKE, redeem("x2")])
def test_a_used_coupon_is_used(command: Command) -> None:
    given(USED).when(command).then_refused(AlreadyRedeemed)


@pytest.mark.parametrize("command", [lock(), redeem(), EXPIRE, REVOKE])
def test_nothing_can_be_asked_of_an_unknown_coupon(command: Command) -> None:
    given().when(command).then_refused(UnknownCoupon)


@pytest.mark.parametrize("command", [redeem("o1"), release("o1")])
def test_an_upstream_cannot_reach_into_a_hold_of_our_own_checkout(command: Command) -> None:
    given([*CLAIMED, *held(MINE)]).when(command).then_refused(NotLocked)


def test_an_upstream_s_lock_releases_an_ended_hold_of_our_checkout_with_its_whole_order() -> None:
    past = [budget(), *template(budget_ids=("b1",)), claim(), *held(MINE)]
    given(past).when(lock()).then_refused(AlreadyLocked)
    given([*past, Wait(LOCK_TTL_SECONDS)]).when(lock()).then(
        [CouponReleased, BudgetReleased, CheckoutReleased, CouponLocked]
    )


# ---- Validity


def test_a_coupon_is_usable_from_its_first_instant_to_just_before_its_last() -> None:
    validity = FixedValidity(valid_from=NOON + timedelta(hours=1), valid_until=NOON + timedelta(hours=2))
    past = [*template(validity=validity), claim()]
    given([*past, Wait(3599.999999)]).when(lock()).then_refused(CouponNotYetValid)
    given([*past, Wait(3600)]).when(lock()).then([CouponLocked])
    given([*past, Wait(7199.999999)]).when(lock()).then([CouponLocked])
    given([*past, Wait(7200)]).when(lock()).then_refused(CouponHasExpired)


def test_expiry_is_recorded_when_it_is_true() -> None:
    world = given(CLAIMED)
    world.when(EXPIRE).then_not_yet()
    (expired,) = world.when(EXPIRE, after=31 * DAY).events
    assert isinstance(expired, CouponExpired)
    assert expired.expired_at == NOON + timedelta(days=30)
    world.when(lock()).then_refused(CouponHasExpired)


def nearly_expired(*more: Any) -> list[Any]:
    """Locked for ten minutes, five minutes before the validity ends."""
    return [*CLAIMED, Wait(30 * DAY - 300), lock(), *more]


def test_a_lock_taken_in_time_keeps_its_right_past_the_validity() -> None:
    given(nearly_expired(Wait(400), EXPIRE)).when(redeem()).then([CouponRedeemed])


def test_a_lock_that_ends_after_the_validity_leaves_an_expired_coupon() -> None:
    outcome = given(nearly_expired(Wait(700))).when(EXPIRE)
    outcome.then([CouponReleased, CouponExpired])
    expired = outcome.events[1]
    assert isinstance(expired, CouponExpired)
    assert expired.expired_at == NOON + timedelta(days=30, seconds=300)


def test_released_after_its_validity_a_coupon_expires_in_the_same_decision() -> None:
    given(nearly_expired(Wait(400))).when(release()).then([CouponReleased, CouponExpired])


def test_an_ended_hold_of_our_checkout_is_released_before_its_coupon_expires() -> None:
    past = [*CLAIMED, Wait(30 * DAY - 60), *held(MINE)]
    given([*past, Wait(120)]).when(EXPIRE).then_nothing()
    given([*past, Wait(LOCK_TTL_SECONDS)]).when(EXPIRE).then([CouponReleased, CouponExpired, CheckoutReleased])


# ---- Revocation


def test_an_operator_takes_a_coupon_away() -> None:
    world = given(CLAIMED)
    world.when(REVOKE).then([CouponRevoked])
    world.when(lock()).then_refused(CouponWasRevoked)


def test_a_locked_coupon_is_released_before_it_is_revoked() -> None:
    outcome = given(LOCKED).when(REVOKE)
    outcome.then([CouponReleased, CouponRevoked])
    assert isinstance(outcome.events[0], CouponReleased)
    assert outcome.events[0].cause == "revoked"
    given([*LOCKED, REVOKE]).when(redeem()).then_refused(CouponWasRevoked)


def test_revoking_one_coupon_of_a_held_order_releases_the_whole_order() -> None:
    other = coupon_of("alice", "t2")
    past = [budget(), *template(budget_ids=("b1",)), *template("t2"), claim(), claim(template_id="t2")]
    world = given([*past, *held(MINE, other)])
    world.when(REVOKE).then([CouponReleased, CouponRevoked, BudgetReleased, CouponReleased, CheckoutReleased])
    statuses = [world.world.state(COUPON, key).status for key in (MINE, other)]
    assert (statuses, world.world.state(CHECKOUT, "o1").status) == (["revoked", "claimed"], "released")


@pytest.mark.parametrize("past", [[*CLAIMED, Wait(30 * DAY)], [*CLAIMED, Wait(30 * DAY), EXPIRE]])
def test_an_expired_coupon_cannot_be_revoked(past: list[Any]) -> None:
    given(past).when(REVOKE).then_refused(CouponHasExpired)


def test_a_coupon_that_our_checkout_redeemed_cannot_be_revoked() -> None:
    given([*CLAIMED, *paid(MINE)]).when(REVOKE).then_refused(AlreadyRedeemed)
