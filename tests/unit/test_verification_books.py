"""Verification's own books: what they make of time."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from query.verify.books import Books
from query.verify.raw import RawEvent

WALL = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
EVENING = datetime(2026, 3, 2, 21, 0, tzinfo=UTC)
LOCK_UNTIL = EVENING + timedelta(minutes=15)
ABOUT = {"template_id": "t", "terms_version": 1, "user_id": "ann"}


@pytest.mark.parametrize(("minutes", "overdue"), [(0, []), (15, []), (17, ["acme/shop/coupon/c"])])
def test_locks_are_overdue_by_the_clock_of_their_realm_and_not_by_the_wall(minutes: int, overdue: list[str]) -> None:
    offsets = count(1)

    def event(kind: str, key: str, type_: str, at: datetime, **data: Any) -> RawEvent:
        offset = next(offsets)
        stream = f"acme/shop/{kind}/{key}"
        return RawEvent(offset, stream, offset, type_, str(offset), "acme", "shop", at, WALL, f"cmd-{offset}", data)

    lock = {"order_id": "o", "discount_minor": 10, "lock_until": LOCK_UNTIL.isoformat()}
    now = EVENING + timedelta(minutes=minutes)
    books = Books()
    books.fold(
        (
            event("clock", "main", "clock.advanced.v1", WALL, to=EVENING.isoformat()),
            event("coupon", "c", "coupon.claimed.v1", EVENING, coupon_id="c", about=ABOUT),
            event("coupon", "c", "coupon.locked.v1", EVENING, coupon_id="c", about=ABOUT, **lock),
            event("clock", "main", "clock.advanced.v1", EVENING, to=now.isoformat()),
        )
    )
    assert [each.subject for each in books.overdue_locks()] == overdue


# Distributions.

Told = tuple[str, str, str, dict[str, Any]]  # Stream's kind and key, event, payload.
TERMS = {"stock": 10, "claims_per_user_max": 1}


def stands(next_row: int, issued: int, refused: int) -> dict[str, int]:
    return {"users": 4, "next_row": next_row, "issued": issued, "refused": refused}


def of_template(event: str, **data: Any) -> Told:
    return ("template", "t", f"template.{event}.v1", {"template_id": "t", **data})


def of_distribution(event: str, **data: Any) -> Told:
    return ("distribution", "d", f"distribution.{event}.v1", {"distribution_id": "d", "template_id": "t", **data})


def of_coupon(user: str) -> Told:
    about = {**ABOUT, "user_id": user}
    return ("coupon", f"c-{user}", "coupon.claimed.v1", {"coupon_id": f"c-{user}", "about": about})


def refusal(*rows: int) -> Told:
    return of_distribution("users_refused", refused=[{"code": "user_limit_reached", "rows": rows}])


BEGUN = [of_template("created", terms=TERMS)], [of_distribution("started", progress=stands(1, 0, 0))]
FIRST = [
    of_template("coupons_issued", quantity=2, claimed=2),
    of_coupon("ann"),
    of_coupon("bob"),
    refusal(3),
    of_distribution("advanced", first_row=1, issued=2, refused=1, progress=stands(4, 2, 1)),
]
SECOND = [
    of_template("coupons_issued", quantity=1, claimed=3),
    of_coupon("cid"),
    of_distribution("advanced", first_row=4, issued=1, refused=0, progress=stands(5, 3, 1)),
    of_distribution("completed", progress=stands(5, 3, 1)),
]


def violations(*commands: list[Told]) -> set[tuple[str, str]]:
    """What is found in a log that these commands wrote: the invariant and the event's stream and version."""
    offsets, versions, books = count(1), Counter[str](), Books()
    for number, events in enumerate(commands):
        for kind, key, type_, data in events:
            offset, stream = next(offsets), f"acme/shop/{kind}/{key}"
            versions[stream] += 1
            place = (offset, stream, versions[stream], type_, str(offset), "acme", "shop", WALL, WALL, f"cmd-{number}")
            books.fold((RawEvent(*place, data),))
    return {(each.invariant, each.subject.removeprefix("acme/shop/")) for each in books.finish()}


def without(events: list[Told], index: int) -> list[Told]:
    return [*events[:index], *events[index + 1 :]]


def test_a_distribution_that_was_carried_out_breaks_nothing() -> None:
    assert violations(*BEGUN, FIRST, SECOND) == set()


@pytest.mark.parametrize(
    ("commands", "found"),
    [
        ([without(FIRST, 2), SECOND], ("I11", "distribution/d@3")),
        ([without(FIRST, 0), SECOND], ("I11", "template/t")),
        ([[*FIRST[:2], of_coupon("ann2"), *FIRST[3:]], without(SECOND, 1)], ("I11", "distribution/d@4")),
        ([without(FIRST, 3), SECOND], ("I2", "distribution/d@2")),
        ([[*FIRST[:3], refusal(4), FIRST[4]], SECOND], ("I2", "distribution/d@3")),
        ([FIRST, FIRST], ("I2", "distribution/d@5")),
        ([SECOND], ("I2", "distribution/d@2")),
        ([FIRST, SECOND, [of_template("coupons_issued", quantity=8, claimed=11)]], ("I1", "template/t@4")),
        ([FIRST, SECOND, [of_template("coupons_issued", quantity=1, claimed=9)]], ("I11", "template/t@4")),
        ([FIRST, [of_distribution("completed", progress=stands(4, 2, 1))]], ("I2", "distribution/d@4")),
        ([[*FIRST[:4], of_distribution("advanced", first_row=1, issued=2, refused=1, progress=stands(4, 3, 0))]],
         ("I2", "distribution/d@3")),
        ([FIRST, [of_distribution("cancelled", progress=stands(4, 2, 1))], SECOND], ("I2", "distribution/d@5")),
        ([FIRST, [of_template("coupons_issued", quantity=1, claimed=3), of_coupon("ann")]], ("I11", "coupon/c-ann@2")),
    ],
    ids=[
        "a coupon is missing", "nothing left the stock", "a coupon that no chunk counted", "a refused row has no name",
        "a refused row of another chunk", "rows decided twice", "rows left out", "more than the stock",
        "a total that is wrong", "completed too early",
        "progress that does not add up", "decided after it was cancelled", "a coupon given twice",
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_distribution_is_named(commands: list[list[Told]], found: tuple[str, str]) -> None:
    assert found in violations(*BEGUN, *commands)


# Coupons whose late payment is honoured.

CREATED = [of_template("created", terms=TERMS)]
CLAIMED = [of_template("coupon_issued"), of_coupon("ann")]


def moved(event: str, order_id: str = "o", **data: Any) -> list[Told]:
    of = {"coupon_id": "c-ann", "about": ABOUT, "order_id": order_id, "discount_minor": 10}
    return [("coupon", "c-ann", f"coupon.{event}.v1", of | data)]


LOCKED, RELEASED = moved("locked", lock_until=LOCK_UNTIL.isoformat()), moved("released")


@pytest.mark.parametrize(
    "meanwhile",
    [[], [moved("expired")], [moved("locked", "other", lock_until=LOCK_UNTIL.isoformat()), moved("released", "other")]],
    ids=["nothing happened", "the coupon expired", "another order had it"],
)
def test_a_late_payment_may_be_honoured_with_a_coupon_that_its_order_holds_no_more(meanwhile: list[list[Told]]) -> None:
    told = [CREATED, CLAIMED, LOCKED, RELEASED, *meanwhile, moved("redeemed", honoured=True)]
    assert violations(*told) == set()


def test_a_coupon_in_other_hands_is_honoured_for_nobody_and_one_that_is_not_held_is_redeemed_by_nobody() -> None:
    lost = [CREATED, CLAIMED, moved("locked", "other", lock_until=LOCK_UNTIL.isoformat())]
    assert violations(*lost, moved("redeemed", honoured=True)) == {("I11", "coupon/c-ann@3")}
    gone = [CREATED, CLAIMED, LOCKED, RELEASED, moved("expired")]
    assert violations(*gone, moved("redeemed")) == {("I11", "coupon/c-ann@5")}


@pytest.mark.parametrize(("before", "after", "found"), [(2, 1, False), (None, 1, False), (1, 2, False), (1, 1, True)])
def test_what_was_reserved_is_kept_to_by_terms_that_were_revised_since(
    before: int | None, after: int, found: bool
) -> None:
    reserved = of_template("stock_reserved", reservation_id="r", user_id="ann", quantity=1)
    revised = of_template("revised", terms=TERMS | {"claims_per_user_max": after}, terms_version=2)
    confirmed = of_template("reservation_confirmed", reservation_id="r", user_id="ann", quantity=1)
    about = ABOUT | {"terms_version": 2}
    second = {"coupon_id": "c-ann2", "about": about, "channel": "reservation", "reference": "r"}
    told = [
        [of_template("created", terms=TERMS | {"claims_per_user_max": before})],
        [of_template("coupon_issued"), of_coupon("ann")],
        [reserved],
        [revised],
        [confirmed, of_template("coupon_issued"), ("coupon", "c-ann2", "coupon.claimed.v1", second)],
    ]
    assert (("I1", "coupon/c-ann2@1") in violations(*told)) is found
