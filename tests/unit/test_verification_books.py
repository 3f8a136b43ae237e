"""Verification's own books: what they make of time."""

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
