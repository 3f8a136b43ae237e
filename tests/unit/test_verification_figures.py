"""What a store shows is held against the books, one thing after the other; each figure that differs is named."""

from collections.abc import Iterator
from typing import Any

import pytest

from query.verify.books import Books, CouponBook
from query.verify.figures import DIFFERENCES_MAX, Shown, told_to_facts, told_to_read_models, violations_of

REALM = ("demo", "shop")


@pytest.fixture
def books() -> Books:
    """Ann holds a coupon of a template of five, paid 10.00, and what one order used is settled."""
    books = Books()
    books.coupons[REALM, "c1"] = CouponBook("ann", version=3)
    books.templates[REALM, "t1"].stock = 5
    books.templates[REALM, "t1"].issued = 1
    books.orders[REALM, "o1"].settled["c0"] = 100
    books.budgets[REALM, "b1"].limit_minor = 900
    books.budgets[REALM, "b1"].reserved["2026"] = 0
    books.payments[REALM, "p1"] = 1_000
    books.events_by_type[REALM, "coupon.claimed.v1"] = 1
    books.events_by_type[REALM, "saga.heard.v1"] = 7
    return books


def redis(**changes: dict[str, Any] | None) -> Iterator[Shown]:
    """What Redis shows when it is right, but for these kinds: with these figures, or not at all."""
    right: dict[str, tuple[str, dict[str, Any]]] = {
        "coupon": ("c1", {"status": "claimed", "version": 3}),
        "wallet": ("c1", {"user_id": "ann", "status": "claimed"}),
        "template": ("t1", {"stock": 5, "claimed": 1, "reserved": 0}),
        "budget": ("b1", {"limit": 900}),
        "order": ("o1", {"recorded": 100, "reversed": 0}),
    }
    for kind, (key, figures) in right.items():
        shown = changes.get(kind, figures)
        if shown is not None:
            yield Shown(kind, REALM, key, shown)


def clickhouse(*more: Shown) -> Iterator[Shown]:
    yield Shown("coupon", REALM, "c1", {"status": "claimed", "redeemed": 0})
    yield Shown("order", REALM, "o1", {"recorded": 100, "reversed": 0})
    yield Shown("budget", REALM, "b1", {"limit": 900})
    yield Shown("payment", REALM, "p1", {"amount": 1_000})
    yield Shown("events", REALM, "coupon.claimed.v1", {"count": 1})
    yield from more


def told(books: Books, shown: Iterator[Shown]) -> list[tuple[str, str, str]]:
    found = violations_of("Redis", told_to_read_models(books), shown)
    return [(each.invariant, each.subject, each.detail) for each in found]


def test_a_store_that_shows_what_the_log_says_differs_in_nothing(books: Books) -> None:
    assert told(books, redis()) == []
    assert list(violations_of("ClickHouse", told_to_facts(books), clickhouse())) == []


@pytest.mark.parametrize(
    ("kind", "shown", "expected"),
    [
        ("coupon", {"status": "expired", "version": 3}, ("I8", "coupon/c1 status", "'claimed', Redis shows 'expired'")),
        ("coupon", {"status": "claimed", "version": 2}, ("I6", "coupon/c1 version", "3, Redis shows 2")),
        ("wallet", {"user_id": "bob", "status": "claimed"}, ("I8", "wallet/c1 user_id", "'ann', Redis shows 'bob'")),
        ("template", {"stock": 5, "claimed": 2, "reserved": 0}, ("I8", "template/t1 claimed", "1, Redis shows 2")),
        ("template", {"stock": None, "claimed": 1}, ("I8", "template/t1 stock", "5, Redis shows None")),
        ("budget", {"limit": 900, "reserved '2026'": 5}, ("I8", "budget/b1 reserved '2026'", "0, Redis shows 5")),
        ("order", None, ("I8", "order/o1 recorded", "100, Redis shows None")),
    ],
)
def test_each_figure_that_differs_is_named_with_both_values(
    books: Books, kind: str, shown: dict[str, Any] | None, expected: tuple[str, str, str]
) -> None:
    invariant, subject, detail = expected
    assert told(books, redis(**{kind: shown})) == [(invariant, f"demo/shop/{subject}", f"the log says {detail}")]


def test_what_the_log_does_not_know_is_named_and_a_coupon_in_a_second_wallet_too(books: Books) -> None:
    strangers = [
        Shown("coupon", REALM, "c9", {"status": "claimed", "version": 1}),
        Shown("coupon", ("other", "shop"), "c1", {"status": "claimed", "version": 3}),
        Shown("wallet", REALM, "c1", {"user_id": "eve", "status": "claimed"}),
        Shown("order", REALM, "o9", {"recorded": 0, "reversed": 0}),  # Without a coupon, nothing is settled.
    ]
    subjects = [subject for _, subject, _ in told(books, iter([*redis(), *strangers]))]
    assert subjects == [
        "demo/shop/coupon/c9 status",
        "demo/shop/coupon/c9 version",
        "demo/shop/wallet/c1 user_id",
        "other/shop/coupon/c1 status",
        "other/shop/coupon/c1 version",
    ]
    assert (REALM, "o9") not in books.orders


def test_a_thing_that_is_not_shown_is_missed(books: Books) -> None:
    subjects = [subject for _, subject, _ in told(books, redis(coupon=None, wallet=None))]
    assert [subject.removeprefix("demo/shop/") for subject in subjects] == [
        "coupon/c1 status",
        "coupon/c1 version",
        "wallet/c1 status",
        "wallet/c1 user_id",
    ]


def test_facts_are_counted_by_type_but_for_what_no_analyst_asks(books: Books) -> None:
    books.events_by_type[REALM, "coupon.claimed.v1"] = 2
    (found,) = violations_of("ClickHouse", told_to_facts(books), clickhouse())
    assert (found.invariant, found.subject) == ("I6", "demo/shop/events/coupon.claimed.v1 count")


def test_of_many_differences_the_first_ones_by_name_are_listed(books: Books) -> None:
    strangers = (Shown("order", REALM, f"o{n:04}", {"recorded": 1, "reversed": 0}) for n in reversed(range(500)))
    found = told(books, (each for part in (redis(), strangers) for each in part))
    assert len(found) == DIFFERENCES_MAX + 1
    assert found[0][1] == "demo/shop/order/o0000 recorded"
    assert found[-1][2] == f"more than {DIFFERENCES_MAX} figures differ; the rest is not listed"
