"""What the log says that each store must show, held against what it shows, one thing after the other (I6, I8).

A store may hold millions of coupons: what it shows streams by, and what it must show is looked up in the books.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from heapq import nsmallest
from typing import Any, Final, NamedTuple

from query.verify.books import HELD, Books, CouponBook, Key, Realm
from query.verify.raw import Violation

VERSION: Final = "version"
EVENTS: Final = "events"

DIFFERENCES_MAX: Final = 100  # Per store: whoever has more rebuilds it anyway.

# Events that no analyst asks for: clocks, the memory of sagas, how far a distribution has come, what shards tell each
# other of an order (what comes of it is in coupons, budgets and checkouts), and codes (whose claims are facts).
NOT_FACTS: Final = frozenset(
    {
        "clock.advanced.v1",
        "saga.heard.v1",
        "saga.resolved.v1",
        "borrowing.began.v1",
        "borrowing.asked.v1",
        "borrowing.answered.v1",
        "borrowing.postponed.v1",
        "borrowing.told.v1",
        "loan.answered.v1",
        "loan.changed.v1",
        "distribution.started.v1",
        "distribution.advanced.v1",
        "distribution.paused.v1",
        "distribution.resumed.v1",
        "distribution.cancelled.v1",
        "distribution.completed.v1",
        "code_batch.generated.v1",
        "code_batch.assigned.v1",
        "code_batch.voided.v1",
        "code.assigned.v1",
        "code.used.v1",
        "code.voided.v1",
    }
)


class Shown(NamedTuple):
    """One thing as a store shows it."""

    kind: str  # coupon, wallet (one coupon in one), template, budget, order, payment, refund, events
    realm: Realm
    key: str
    figures: Mapping[str, Any]


class Told(NamedTuple):
    """What the log says of all things of one kind: which there are, and the figures of each."""

    ids: Collection[Key]
    figures: Callable[[Key], Mapping[str, Any]]


class Figure(NamedTuple):
    """The name of one number or state: whose, of what, which one and what about it."""

    realm: Realm
    kind: str
    key: str
    what: str

    def __str__(self) -> str:
        return f"{'/'.join(self.realm)}/{self.kind}/{self.key} {self.what}"


class Difference(NamedTuple):
    """A figure of which the log says something else than the store shows."""

    figure: Figure
    told: Any
    shown: Any


def told_to_read_models(books: Books) -> dict[str, Told]:
    """What Redis must show: every coupon (also in its owner's wallet), template, budget and order's settlement."""

    def coupon(key: Key) -> Mapping[str, Any]:
        return {"status": _status(books.coupons[key]), VERSION: books.coupons[key].version}

    def in_wallet(key: Key) -> Mapping[str, Any]:
        return {"user_id": books.coupons[key].user_id, "status": _status(books.coupons[key])}

    def template(key: Key) -> Mapping[str, Any]:
        book = books.templates[key]
        return {"stock": book.stock, "claimed": book.issued, "reserved": book.reserved}

    return {
        "coupon": Told(books.coupons, coupon),
        "wallet": Told(books.coupons, in_wallet),
        "template": Told(books.templates, template),
        **_told_of_money(books),
    }


def told_to_facts(books: Books) -> dict[str, Told]:
    """What ClickHouse must show: coupons, budgets, settlements, every payment and refund, and how many events."""

    def coupon(key: Key) -> Mapping[str, Any]:
        return {"status": _status(books.coupons[key]), "redeemed": books.coupons[key].redeemed_minor}

    facts = {key: count for key, count in books.events_by_type.items() if key[1] not in NOT_FACTS}
    return {
        "coupon": Told(books.coupons, coupon),
        "payment": Told(books.payments, lambda key: {"amount": books.payments[key]}),
        "refund": Told(books.refunds, lambda key: {"amount": books.refunds[key]}),
        EVENTS: Told(facts, lambda key: {"count": facts[key]}),
        **_told_of_money(books),
    }


def _status(coupon: CouponBook) -> str:
    return "claimed" if coupon.status == HELD else coupon.status


def _told_of_money(books: Books) -> dict[str, Told]:
    def budget(key: Key) -> Mapping[str, Any]:
        book = books.budgets[key]
        sums = {"reserved": book.reserved, "committed": book.committed, "credited": book.credited}
        return {"limit": book.limit_minor, **_by_period(sums)}

    def order(key: Key) -> Mapping[str, Any]:
        return {"recorded": books.orders[key].settled.total(), "reversed": books.orders[key].reversed.total()}

    return {"budget": Told(books.budgets, budget), "order": Told(books.orders, order)}


def _by_period(sums: Mapping[str, Counter[str]]) -> dict[str, int]:
    return {figure_of(name, period): amount for name, amounts in sums.items() for period, amount in amounts.items()}


def figure_of(name: str, period: str) -> str:
    """What a budget's sum in one of its periods is called."""
    return f"{name} {period!r}"


def violations_of(store: str, told: Mapping[str, Told], shown: Iterable[Shown]) -> Iterator[Violation]:
    """Every figure in which a store differs from the log, the first DIFFERENCES_MAX of them."""
    found = nsmallest(DIFFERENCES_MAX + 1, _differences(told, shown), key=lambda difference: difference.figure)
    for figure, says, shows in found[:DIFFERENCES_MAX]:
        # A version or a number of events is about what was heard, not about what it adds up to.
        invariant = "I6" if figure.what == VERSION or figure.kind == EVENTS else "I8"
        yield Violation(invariant, str(figure), f"the log says {says!r}, {store} shows {shows!r}")
    if len(found) > DIFFERENCES_MAX:
        yield Violation("I8", store, f"more than {DIFFERENCES_MAX} figures differ; the rest is not listed")


def _differences(told: Mapping[str, Told], shown: Iterable[Shown]) -> Iterator[Difference]:
    unseen = {kind: set(each.ids) for kind, each in told.items()}
    for thing in shown:
        key, of_kind = (thing.realm, thing.key), told[thing.kind]
        unseen[thing.kind].discard(key)
        yield from _between(thing, of_kind.figures(key) if key in of_kind.ids else {})
    for kind, missing in unseen.items():
        for key in missing:
            yield from _between(Shown(kind, *key, {}), told[kind].figures(key))


def _between(thing: Shown, told: Mapping[str, Any]) -> Iterator[Difference]:
    """A zero may be absent."""
    if told == thing.figures:
        return
    for what in told.keys() | thing.figures.keys():
        says, shows = told.get(what), thing.figures.get(what)
        if says != shows and (says or shows or what in {"status", "stock"}):
            yield Difference(Figure(thing.realm, thing.kind, thing.key, what), says, shows)
