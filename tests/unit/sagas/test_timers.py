"""Which facts set and clear which timers, and what a due one asks for."""

from datetime import datetime, timedelta

import pytest

from contracts.commands import CloseTemplate, Command, EndCouponLock, EndOrderLock, ExpireCoupon, OpenTemplate
from contracts.envelope import Metadata, Recorded
from contracts.events import (
    BorrowingBegan,
    BorrowingTold,
    CouponClaimed,
    CouponExpired,
    CouponLocked,
    CouponRedeemed,
    CouponReleased,
    CouponReturned,
    CouponRevoked,
    Event,
    TemplateActivated,
    TemplateCreated,
    TemplateEnded,
    TemplateOpened,
    TemplateRevised,
    TemplateShortened,
)
from contracts.identity import stream_id
from contracts.terms import AmountOff, CouponRef, FixedValidity, Terms
from sagas.timers import ClearTimer, DueTimer, SetTimer, TimerChange, changes_of, command_of
from tests.unit.sagas.stories import NOON, REALM, UNREDEEMED, completed, ready, refused, released

MIDNIGHT = NOON + timedelta(hours=12)
LATER = NOON + timedelta(days=30)
ABOUT = CouponRef(
    template_id="t1", terms_version=1, campaign_id="m1", shop_id=None, source="platform", user_id="u1", currency="GBP"
)
TERMS = Terms(
    name="ten off",
    campaign_id="m1",
    currency="GBP",
    discount=AmountOff(amount_minor=1_000),
    claim_from=NOON,
    claim_until=MIDNIGHT,
    validity=FixedValidity(valid_from=NOON, valid_until=LATER),
)


def changes(event: Event) -> tuple[TimerChange, ...]:
    metadata = Metadata("e1", NOON, NOON, "somebody", "k1", "k1")
    return changes_of(Recorded(1, stream_id(REALM, "coupon", "c1"), 1, event, metadata))


def locked(*, external: bool) -> CouponLocked:
    return CouponLocked(
        coupon_id="c1", about=ABOUT, order_id="o1", discount_minor=0, lock_until=MIDNIGHT, external=external
    )


def free_again(valid_until: datetime | None = LATER) -> tuple[CouponReleased, CouponReturned]:
    released_coupon = CouponReleased(
        coupon_id="c1",
        about=ABOUT,
        order_id="o1",
        discount_minor=0,
        cause="released",
        released_at=NOON,
        valid_until=valid_until,
    )
    returned = CouponReturned(
        coupon_id="c1", about=ABOUT, order_id="o1", refund_id="r1", discount_minor=0, valid_until=valid_until
    )
    return released_coupon, returned


def test_an_activated_template_opens_and_closes_with_its_window() -> None:
    assert changes(TemplateActivated(template_id="t1", claim_from=NOON, claim_until=MIDNIGHT)) == (
        SetTimer("template_open", "t1", NOON),
        SetTimer("template_close", "t1", MIDNIGHT),
    )


def test_a_draft_has_no_timers() -> None:
    assert changes(TemplateCreated(template_id="t1", terms=TERMS)) == ()


def test_a_shortened_template_closes_earlier() -> None:
    assert changes(TemplateShortened(template_id="t1", claim_until=NOON)) == (SetTimer("template_close", "t1", NOON),)


def test_a_revised_template_opens_and_closes_with_its_new_window() -> None:
    assert changes(TemplateRevised(template_id="t1", terms_version=2, terms=TERMS)) == (
        SetTimer("template_open", "t1", NOON),
        SetTimer("template_close", "t1", MIDNIGHT),
    )


def test_an_opened_template_has_only_its_end_before_it() -> None:
    assert changes(TemplateOpened(template_id="t1", opened_at=NOON)) == (ClearTimer("template_open", "t1"),)


def test_an_ended_template_waits_for_nothing() -> None:
    ended = TemplateEnded(template_id="t1", cause="terminated", reason="", ended_at=NOON)
    assert changes(ended) == (ClearTimer("template_open", "t1"), ClearTimer("template_close", "t1"))


def test_a_claimed_coupon_expires_when_its_validity_ends() -> None:
    claimed = CouponClaimed(
        coupon_id="c1",
        about=ABOUT,
        channel="direct",
        reference=None,
        nth=1,
        valid_from=NOON,
        valid_until=LATER,
    )
    assert changes(claimed) == (SetTimer("coupon_expiry", "c1", LATER),)


def test_a_coupon_held_by_an_order_does_not_expire_and_is_timed_with_its_order() -> None:
    assert changes(locked(external=False)) == (ClearTimer("coupon_expiry", "c1"),)


def test_a_lock_from_outside_has_an_end_of_its_own() -> None:
    assert changes(locked(external=True)) == (
        ClearTimer("coupon_expiry", "c1"),
        SetTimer("coupon_lock_end", "c1", MIDNIGHT, {"order_id": "o1"}),
    )


@pytest.mark.parametrize("event", free_again())
def test_a_coupon_that_is_free_again_expires_when_its_validity_ends(event: Event) -> None:
    assert changes(event) == (ClearTimer("coupon_lock_end", "c1"), SetTimer("coupon_expiry", "c1", LATER))


@pytest.mark.parametrize("event", free_again(None))
def test_an_older_event_that_does_not_say_until_when_sets_nothing(event: Event) -> None:
    assert changes(event) == (ClearTimer("coupon_lock_end", "c1"),)


@pytest.mark.parametrize(
    "event",
    [
        CouponRedeemed(coupon_id="c1", about=ABOUT, order_id="o1", discount_minor=0),
        CouponExpired(coupon_id="c1", about=ABOUT, expired_at=NOON),
        CouponRevoked(coupon_id="c1", about=ABOUT, reason="fraud"),
    ],
)
def test_a_used_expired_or_revoked_coupon_waits_for_nothing(event: Event) -> None:
    assert changes(event) == (ClearTimer("coupon_expiry", "c1"), ClearTimer("coupon_lock_end", "c1"))


def test_a_held_order_is_let_go_when_its_lock_ends() -> None:
    assert changes(ready()) == (SetTimer("order_lock_end", "o1", ready().lock_until),)


@pytest.mark.parametrize("event", [completed(), UNREDEEMED, released()])
def test_an_order_that_holds_nothing_has_no_lock_to_end(event: Event) -> None:
    assert changes(event) == (ClearTimer("order_lock_end", "o1"),)


def test_a_refused_order_never_had_one() -> None:
    assert changes(refused()) == ()


@pytest.mark.parametrize(
    ("timer", "command"),
    [
        (DueTimer(REALM, "template_open", "t1", NOON, 1), OpenTemplate(template_id="t1")),
        (DueTimer(REALM, "template_close", "t1", NOON, 1), CloseTemplate(template_id="t1")),
        (DueTimer(REALM, "coupon_expiry", "c1", NOON, 1), ExpireCoupon(coupon_id="c1")),
        (
            DueTimer(REALM, "coupon_lock_end", "c1", NOON, 1, {"order_id": "o1"}),
            EndCouponLock(coupon_id="c1", order_id="o1", lock_until=NOON),
        ),
        (DueTimer(REALM, "order_lock_end", "o1", NOON, 1), EndOrderLock(order_id="o1", lock_until=NOON)),
    ],
)
def test_a_due_timer_asks_for_what_is_already_true(timer: DueTimer, command: Command) -> None:
    assert command_of(timer) == command


def test_a_timer_that_fires_twice_is_the_same_command() -> None:
    timer = DueTimer(REALM, "coupon_expiry", "c1", NOON, 3)
    assert timer.command_id == "timer:coupon_expiry:c1:2026-03-01T12:00:00+00:00:3"


def test_a_timer_set_again_for_the_same_instant_is_another_command() -> None:
    # Else the answer given while the coupon was locked would be given again when it is free, and it never expired.
    once, again = (DueTimer(REALM, "coupon_expiry", "c1", NOON, version) for version in (1, 3))
    assert once.command_id != again.command_id


def test_an_order_over_several_shards_is_timed_by_a_timer_of_its_own() -> None:
    # Its stream and the checkout's may be heard in any order: with one timer, one would undo what the other set.
    began = BorrowingBegan(order_id="o1", nth=1, attempt=1, lenders=(), until=LATER)
    told = BorrowingTold(order_id="o1", nth=1, word="release", cause="released", words=())
    assert changes(began) == (SetTimer("borrowing_end", "o1", LATER),)
    assert changes(told) == (ClearTimer("borrowing_end", "o1"),)
    assert command_of(DueTimer(REALM, "borrowing_end", "o1", LATER, 1)) == EndOrderLock(order_id="o1", lock_until=LATER)
