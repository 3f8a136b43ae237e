"""What the log says, figure by figure, so that each store can be asked for the same ones (I6, I8)."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from query.verify.books import Books, Realm
from query.verify.raw import Violation

VERSION: Final = "version"
EVENTS: Final = "events"

DIFFERENCES_MAX: Final = 100  # Per store: whoever has more rebuilds it anyway.


class Figure(NamedTuple):
    """The name of one number or state: whose, of what, which one and what about it."""

    realm: Realm
    kind: str  # coupon, wallet, template, budget, settlement, payment, refund, events
    key: str
    what: str

    def __str__(self) -> str:
        return f"{'/'.join(self.realm)}/{self.kind}/{self.key} {self.what}"


Figures = dict[Figure, Any]


def read_model_figures(books: Books) -> Figures:
    """What Redis must show: every coupon (also in its owner's wallet), template, budget and order's settlement."""
    figures: Figures = {}
    for (realm, coupon_id), coupon in books.coupons.items():
        status = "claimed" if coupon.status == "held" else coupon.status
        figures[Figure(realm, "coupon", coupon_id, "status")] = status
        figures[Figure(realm, "coupon", coupon_id, VERSION)] = coupon.version
        figures[Figure(realm, "wallet", coupon.user_id, coupon_id)] = status
    for (realm, template_id), template in books.templates.items():
        figures[Figure(realm, "template", template_id, "stock")] = template.stock
        figures[Figure(realm, "template", template_id, "claimed")] = template.issued
        figures[Figure(realm, "template", template_id, "reserved")] = template.reserved
    figures.update(_budget_figures(books))
    for (realm, order_id), order in books.orders.items():
        figures[Figure(realm, "order", order_id, "recorded")] = order.settled.total()
        figures[Figure(realm, "order", order_id, "reversed")] = order.reversed.total()
    return figures


def fact_figures(books: Books) -> Figures:
    """What ClickHouse must show: coupons, budgets, settlements, every payment and refund, and how many events."""
    figures: Figures = {}
    for (realm, coupon_id), coupon in books.coupons.items():
        status = "claimed" if coupon.status == "held" else coupon.status
        figures[Figure(realm, "coupon", coupon_id, "status")] = status
        figures[Figure(realm, "coupon", coupon_id, "redeemed")] = coupon.redeemed_minor
    figures.update(_budget_figures(books))
    for (realm, order_id), order in books.orders.items():
        figures[Figure(realm, "order", order_id, "recorded")] = order.settled.total()
        figures[Figure(realm, "order", order_id, "reversed")] = order.reversed.total()
    for (realm, payment_id), amount in books.payments.items():
        figures[Figure(realm, "payment", payment_id, "amount")] = amount
    for (realm, refund_id), amount in books.refunds.items():
        figures[Figure(realm, "refund", refund_id, "amount")] = amount
    for (realm, event_type), count in books.events_by_type.items():
        if event_type not in NOT_FACTS:
            figures[Figure(realm, EVENTS, event_type, "count")] = count
    return figures


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


def _budget_figures(books: Books) -> Figures:
    figures: Figures = {}
    for (realm, budget_id), budget in books.budgets.items():
        figures[Figure(realm, "budget", budget_id, "limit")] = budget.limit_minor
        for name, amounts in (
            ("reserved", budget.reserved),
            ("committed", budget.committed),
            ("credited", budget.credited),
        ):
            for period, amount in amounts.items():
                figures[Figure(realm, "budget", budget_id, f"{name} {period!r}")] = amount
    return figures


def differences(store: str, expected: Mapping[Figure, Any], actual: Mapping[Figure, Any]) -> Iterator[Violation]:
    """Every figure in which a store differs from the log, the first DIFFERENCES_MAX of them. A zero may be absent."""
    reported = 0
    for figure in sorted(expected.keys() | actual.keys()):
        told, shown = expected.get(figure), actual.get(figure)
        if told == shown or (not told and not shown and figure.what not in {"status", "stock"}):
            continue
        reported += 1
        if reported > DIFFERENCES_MAX:
            yield Violation("I8", store, f"more than {DIFFERENCES_MAX} figures differ; the rest is not listed")
            return
        # A version or a number of events is about what was heard, not about what it adds up to.
        invariant = "I6" if figure.what == VERSION or figure.kind == EVENTS else "I8"
        yield Violation(invariant, str(figure), f"the log says {told!r}, {store} shows {shown!r}")
