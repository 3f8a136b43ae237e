"""The books folded from the raw log, checked at every event: stock, limits, coupon states, budgets, refunds, realms."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from query.verify.codes import BATCH_EVENTS, CODE_MOVES, CodeBooks
from query.verify.crossing import CROSSING_EVENTS, CrossingBooks
from query.verify.leases import LeaseBook
from query.verify.raw import RawEvent, Violation

# Timers record the end of a lock soon after it, in the realm's own time.
TIMERS_GET: Final = timedelta(minutes=1)

_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)

Realm = tuple[str, str]
Key = tuple[Realm, str]

HELD: Final = "held"
LOCKED: Final = "locked"
REDEEMED: Final = "redeemed"
EXPIRED: Final = "expired"
REVOKED: Final = "revoked"

# Which states an event may find a coupon in, and the state it leaves it in.
COUPON_MOVES: Final[dict[str, tuple[frozenset[str | None], str]]] = {
    "coupon.claimed.v1": (frozenset({None}), HELD),
    "coupon.locked.v1": (frozenset({HELD}), LOCKED),
    "coupon.released.v1": (frozenset({LOCKED}), HELD),
    "coupon.redeemed.v1": (frozenset({LOCKED}), REDEEMED),
    "coupon.returned.v1": (frozenset({REDEEMED}), HELD),
    "coupon.expired.v1": (frozenset({HELD}), EXPIRED),
    "coupon.revoked.v1": (frozenset({HELD}), REVOKED),
}

# A late payment that is honoured takes a coupon that its order holds no more: free again by then, or expired.
HONOURED: Final = frozenset({HELD, EXPIRED})

# Recorded by the machinery itself, not by a command: counted refusals of a batch, what sagas heard and what was ended
# of them by hand.
NOBODY_S_COMMAND: Final = frozenset({"refusals.counted.v1", "saga.heard.v1", "saga.resolved.v1"})


@dataclass(slots=True)
class CouponBook:
    """One coupon: its state, whose it is, and the lock or use it is bound to."""

    user_id: str
    status: str = HELD
    order_id: str | None = None
    locked_minor: int = 0
    redeemed_minor: int = 0
    external: bool = False
    version: int = 0
    lock_until: str = ""


@dataclass(slots=True)
class TemplateBook:
    """One template: stock and limits per terms version, and how many coupons are in which state."""

    stock: int | None = None
    terms: dict[int, Any] = field(default_factory=dict)
    reserved: int = 0
    reservations: dict[str, int] = field(default_factory=dict)  # Under which version of the terms each was made.
    issued: int = 0  # Counted by template.coupon_issued and template.coupons_issued.
    states: Counter[str] = field(default_factory=Counter)  # Counted by coupon events.
    claims: Counter[str] = field(default_factory=Counter)  # How many coupons each user claimed.

    @property
    def claimed(self) -> int:
        """How many coupon streams began."""
        return self.states.total()


@dataclass(slots=True)
class DistributionBook:
    """One distribution: how many rows it has, which is next, and what became of those before."""

    users: int = 0
    next_row: int = 1
    issued: int = 0
    refused: int = 0
    is_over: bool = False


@dataclass(slots=True)
class CommandBook:
    """What the events of one command, which follow each other, add up to: of the bulk event, coupons and refusals."""

    command: tuple[Realm, str] | None = None
    issued: int = 0
    claimed: int = 0
    refused_rows: list[int] = field(default_factory=list)


@dataclass(slots=True)
class BudgetBook:
    """One budget: its limit and, per period, what is reserved, committed and credited."""

    limit_minor: int = 0
    reserved: Counter[str] = field(default_factory=Counter)
    committed: Counter[str] = field(default_factory=Counter)
    credited: Counter[str] = field(default_factory=Counter)
    honoured: set[str] = field(default_factory=set)  # Periods in which a late payment was honoured over the limit.
    open: dict[tuple[str, str], int] = field(default_factory=dict)  # (order, coupon) -> reserved and not yet settled.
    leases: LeaseBook = field(default_factory=LeaseBook)

    def available(self, period: str) -> int:
        """Limit (of a branch: what it was lent) - reserved - committed + credited."""
        limit = self.limit_minor + self.leases.here(period)
        return limit - self.reserved[period] - self.committed[period] + self.credited[period]


@dataclass(slots=True)
class OrderBook:
    """What the settlement ledger says of one order, per coupon."""

    settled: Counter[str] = field(default_factory=Counter)
    reversed: Counter[str] = field(default_factory=Counter)


class Books:
    """Folds the log. ``violations`` grows as events break rules; ``finish`` adds what only shows at the end."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.coupons: dict[Key, CouponBook] = {}
        self.templates: dict[Key, TemplateBook] = defaultdict(TemplateBook)
        self.budgets: dict[Key, BudgetBook] = defaultdict(BudgetBook)
        self.orders: dict[Key, OrderBook] = defaultdict(OrderBook)
        self.distributions: dict[Key, DistributionBook] = defaultdict(DistributionBook)
        self.codes = CodeBooks()
        self.crossing = CrossingBooks()
        self.payments: dict[Key, int] = {}
        self.refunds: dict[Key, int] = {}
        self.events_by_type: Counter[tuple[Realm, str]] = Counter()
        self.last_offset = 0
        self._business_now: dict[Realm, datetime] = {}
        self._versions: dict[str, int] = {}
        self._event_ids: set[str] = set()
        self._commands: dict[tuple[Realm, str], tuple[int, int]] = {}
        self._now_deciding = CommandBook()
        self._handlers: dict[str, Callable[[RawEvent], None]] = {
            "template.created.v1": self._template_terms,
            "template.revised.v1": self._template_terms,
            "template.stock_increased.v1": self._template_stock,
            "template.coupon_issued.v1": self._coupon_issued,
            "template.coupons_issued.v1": self._coupons_issued,
            "template.stock_reserved.v1": self._stock_reserved,
            "template.reservation_confirmed.v1": self._reservation_ended,
            "template.reservation_cancelled.v1": self._reservation_ended,
            "budget.created.v1": self._budget_limit,
            "budget.topped_up.v1": self._budget_limit,
            "budget.reserved.v1": self._budget_reserved,
            "budget.committed.v1": self._budget_committed,
            "budget.released.v1": self._budget_released,
            "budget.credited.v1": self._budget_credited,
            "budget.lease_granted.v1": self._lease_granted,
            "budget.lease_settled.v1": self._lease_settled,
            "budget.lease_opened.v1": self._lease_opened,
            "budget.lease_closed.v1": self._lease_closed,
            "distribution.started.v1": self._distribution_started,
            "distribution.users_refused.v1": self._users_refused,
            "distribution.advanced.v1": self._distribution_advanced,
            "distribution.cancelled.v1": self._distribution_over,
            "distribution.completed.v1": self._distribution_over,
            "settlement.recorded.v1": self._settled,
            "settlement.reversed.v1": self._settlement_reversed,
            "payment.succeeded.v1": self._paid,
            "refund.succeeded.v1": self._refunded,
            **dict.fromkeys(COUPON_MOVES, self._coupon_moved),
            **dict.fromkeys(CROSSING_EVENTS, self.crossing.moved),
            **dict.fromkeys(BATCH_EVENTS, lambda event: self.violations.extend(self.codes.batch_told(event))),
            **dict.fromkeys(CODE_MOVES, lambda event: self.violations.extend(self.codes.code_moved(event))),
        }

    def fold(self, events: Iterable[RawEvent]) -> None:
        """Take in events in the order of the log."""
        for event in events:
            self._check_place(event)
            self.events_by_type[event.realm, event.type] += 1
            self._business_now[event.realm] = max(_shown_by(event), self._business_now.get(event.realm, _BEGINNING))
            if self._now_deciding.command != (command := (event.realm, event.command_id)):
                self._now_deciding = CommandBook(command)
            if (handler := self._handlers.get(event.type)) is not None:
                handler(event)
            self.last_offset = event.offset

    def finish(self) -> list[Violation]:
        """Everything found, with the check of the end: every template's coupons add up."""
        for (realm, template_id), book in self.templates.items():
            if book.issued != book.claimed:
                subject = f"{'/'.join(realm)}/template/{template_id}"
                self._report("I11", subject, f"{book.issued} coupons issued, but {book.claimed} coupons exist", None)
        self.violations.extend(self.codes.finish())
        return self.violations

    def overdue_locks(self) -> Iterator[Violation]:
        """I9: locks whose end the timers should have recorded by now, in the realm's own time."""
        for (realm, coupon_id), coupon in self.coupons.items():
            if coupon.status == LOCKED and self._is_overdue(realm, coupon):
                detail = f"locked for {coupon.order_id} until {coupon.lock_until}, neither redeemed nor released"
                yield Violation("I9", f"{'/'.join(realm)}/coupon/{coupon_id}", detail)

    def _is_overdue(self, realm: Realm, coupon: CouponBook) -> bool:
        return datetime.fromisoformat(coupon.lock_until) + TIMERS_GET < self._business_now[realm]

    def guard_counters(self) -> Iterator[tuple[str, int]]:
        """What must be counted of each user's claims of each template, and of each batch of codes, with its key."""
        for (realm, template_id), template in self.templates.items():
            counter = f"{'/'.join(map(_escape, realm))}/claims:{_guard_part(template_id)}"
            for user_id, claims in template.claims.items():
                yield f"{counter}:{_guard_part(user_id)}", claims
        for realm, (name, *parts), value in self.codes.counters():
            yield f"{'/'.join(map(_escape, realm))}/{':'.join((name, *map(_guard_part, parts)))}", value

    # I2, I5, I10: places, ids and owners of events.

    def _check_place(self, event: RawEvent) -> None:
        expected = self._versions.get(event.stream, 0) + 1
        if event.version != expected:
            self._broken("I5", event, f"version {event.version} follows {expected - 1}")
        self._versions[event.stream] = event.version
        if event.event_id in self._event_ids:
            self._broken("I2", event, f"event id {event.event_id} was stored before")
        self._event_ids.add(event.event_id)
        owner = "/".join(_escape(part) for part in event.realm)
        if not event.stream.startswith(f"{owner}/"):
            self._broken("I10", event, f"an event of {owner} in a stream of another realm")
        self._check_command_is_in_one_place(event)

    def _check_command_is_in_one_place(self, event: RawEvent) -> None:
        """All events of one command were stored in one go; a second group is a second effect."""
        if event.type in NOBODY_S_COMMAND:
            return
        key = (event.realm, event.command_id)
        first, last = self._commands.get(key, (event.offset, self.last_offset))
        if last != self.last_offset:
            self._broken("I2", event, f"command {event.command_id} already had its effect at {first}..{last}")
        self._commands[key] = (first, event.offset)

    def commands(self) -> dict[tuple[Realm, str], tuple[int, int]]:
        """Every command id that events name, with the offsets of its first and last event."""
        return self._commands

    # I1: stock and limits.

    def _template_terms(self, event: RawEvent) -> None:
        book = self._template(event)
        version = event.data.get("terms_version", 1)
        book.terms[version] = event.data["terms"]
        if event.type == "template.created.v1":
            book.stock = event.data["terms"]["stock"]

    def _template_stock(self, event: RawEvent) -> None:
        self._template(event).stock = event.data["stock"]

    def _coupon_issued(self, event: RawEvent) -> None:
        book = self._template(event)
        book.issued += 1
        self._check_stock(event, book)

    def _coupons_issued(self, event: RawEvent) -> None:
        book, quantity = self._template(event), event.data["quantity"]
        book.issued += quantity
        self._now_deciding.issued += quantity
        if event.data["claimed"] != book.issued:
            self._broken("I11", event, f"says that {event.data['claimed']} are issued, but {book.issued} are")
        self._check_stock(event, book)

    def _stock_reserved(self, event: RawEvent) -> None:
        book = self._template(event)
        book.reserved += event.data["quantity"]
        book.reservations[event.data["reservation_id"]] = max(book.terms, default=1)
        self._check_stock(event, book)

    def _reservation_ended(self, event: RawEvent) -> None:
        self._template(event).reserved -= event.data["quantity"]

    def _check_stock(self, event: RawEvent, book: TemplateBook) -> None:
        # A confirmed reservation's coupons are issued in the same transaction as its end: never both counted for long.
        if book.stock is not None and max(book.issued, book.claimed) + book.reserved > book.stock:
            taken = max(book.issued, book.claimed)
            self._broken("I1", event, f"{taken} claimed + {book.reserved} reserved > stock {book.stock}")

    def _check_user_limit(self, event: RawEvent, book: TemplateBook, user_id: str, terms_version: int) -> None:
        book.claims[user_id] += 1
        # What was reserved was promised: terms that were revised since take nothing of it back.
        promised = book.reservations.get(event.data.get("reference") or "", terms_version)
        limits = [(book.terms.get(version) or {}).get("claims_per_user_max") for version in (terms_version, promised)]
        limit = None if None in limits else max(limit for limit in limits if limit is not None)
        claims = book.claims[user_id]
        if limit is not None and claims > limit:
            self._broken("I1", event, f"user {user_id} claimed {claims} of at most {limit}")

    # I2, I11: distributions. Every row is decided once, in order, and what a chunk says is what it did.

    def _distribution_started(self, event: RawEvent) -> None:
        self._distribution(event).users = event.data["progress"]["users"]

    def _users_refused(self, event: RawEvent) -> None:
        self._now_deciding.refused_rows += [row for each in event.data["refused"] for row in each["rows"]]

    def _distribution_advanced(self, event: RawEvent) -> None:
        book, data, did = self._distribution(event), event.data, self._now_deciding
        first, rows = data["first_row"], data["issued"] + data["refused"]
        if first != book.next_row or book.is_over or first + rows - 1 > book.users:
            self._broken("I2", event, f"decides {rows} rows from {first} on; next is {book.next_row} of {book.users}")
        if not data["issued"] == did.issued == did.claimed:
            told = f"{data['issued']} coupons issued, {did.issued} taken out of the stock"
            self._broken("I11", event, f"{told}, but {did.claimed} coupons exist")
        within = all(first <= row < first + rows for row in did.refused_rows)
        if not (data["refused"] == len(set(did.refused_rows)) == len(did.refused_rows) and within):
            self._broken("I2", event, f"{data['refused']} rows refused, but it names {len(did.refused_rows)}")
        book.next_row = first + rows
        book.issued += data["issued"]
        book.refused += data["refused"]
        self._check_progress(event, book)

    def _distribution_over(self, event: RawEvent) -> None:
        book = self._distribution(event)
        book.is_over = True
        if event.type == "distribution.completed.v1" and book.next_row != book.users + 1:
            self._broken("I2", event, f"completed at row {book.next_row} of {book.users}")
        self._check_progress(event, book)

    def _check_progress(self, event: RawEvent, book: DistributionBook) -> None:
        told = {"users": book.users, "next_row": book.next_row, "issued": book.issued, "refused": book.refused}
        if event.data["progress"] != told:
            self._broken("I2", event, f"says it stands at {event.data['progress']}, but it stands at {told}")

    # I9, I11: coupon states.

    def _coupon_moved(self, event: RawEvent) -> None:
        data, about = event.data, event.data["about"]
        key = (event.realm, data["coupon_id"])
        coupon = self.coupons.get(key)
        allowed, after = COUPON_MOVES[event.type]
        before = coupon.status if coupon is not None else None
        if before not in (HONOURED if data.get("honoured") else allowed):
            self._broken("I11", event, f"{event.type} finds the coupon {before or 'unclaimed'}")
        template = self.templates[event.realm, about["template_id"]]
        if not template.terms:
            self._broken("I10", event, f"template {about['template_id']} is not of this realm")
        if coupon is None:
            coupon = self.coupons[key] = CouponBook(about["user_id"])
            template.states[after] += 1
            self._now_deciding.claimed += 1
            if data.get("channel") == "code":
                self.codes.coupon_claimed(event)
            self._check_user_limit(event, template, about["user_id"], about["terms_version"])
            self._check_stock(event, template)
        else:
            template.states[coupon.status] -= 1
            template.states[after] += 1
        self._check_value(event, coupon)
        coupon.status, coupon.version = after, event.version
        if about["user_id"] != coupon.user_id:
            self._broken("I10", event, f"the coupon is {coupon.user_id}'s, not {about['user_id']}'s")

    def _check_value(self, event: RawEvent, coupon: CouponBook) -> None:
        data = event.data
        if event.type == "coupon.locked.v1":
            coupon.order_id, coupon.locked_minor = data["order_id"], data["discount_minor"]
            coupon.external = data.get("external", False)
            coupon.lock_until = data["lock_until"]
        elif event.type == "coupon.redeemed.v1":
            if data["order_id"] != coupon.order_id and not data.get("honoured"):
                self._broken("I9", event, f"redeemed for {data['order_id']}, locked for {coupon.order_id}")
            stated_later = coupon.external and coupon.locked_minor == 0
            if data["discount_minor"] > coupon.locked_minor and not data.get("honoured") and not stated_later:
                self._broken("I9", event, f"redeemed {data['discount_minor']} > locked {coupon.locked_minor}")
            coupon.redeemed_minor = data["discount_minor"]
        elif event.type == "coupon.released.v1" and data["order_id"] != coupon.order_id:
            self._broken("I9", event, f"released by {data['order_id']}, locked for {coupon.order_id}")

    def _settled(self, event: RawEvent) -> None:
        self.orders[event.realm, event.data["order_id"]].settled[event.data["coupon_id"]] += event.data[
            "discount_minor"
        ]

    def _settlement_reversed(self, event: RawEvent) -> None:
        order, coupon_id = self.orders[event.realm, event.data["order_id"]], event.data["coupon_id"]
        order.reversed[coupon_id] += event.data["discount_minor"]
        if order.reversed[coupon_id] > order.settled[coupon_id]:
            given, settled = order.reversed[coupon_id], order.settled[coupon_id]
            self._broken("I9", event, f"{given} given back of {settled} redeemed by coupon {coupon_id}")

    # I12: budgets.

    def _budget_limit(self, event: RawEvent) -> None:
        self._budget(event).limit_minor = event.data["limit_minor"]

    def _budget_reserved(self, event: RawEvent) -> None:
        book, data = self._budget(event), event.data
        book.reserved[data["period"]] += data["amount_minor"]
        book.open[data["order_id"], data["coupon_id"]] = data["amount_minor"]
        self._check_available(event, book)

    def _budget_committed(self, event: RawEvent) -> None:
        book, data = self._budget(event), event.data
        if data.get("honoured"):
            book.honoured.add(data["period"])
        self._settle_reservation(event, book, also_when_absent=bool(data.get("honoured")))
        book.committed[data["period"]] += data["amount_minor"]
        self._check_available(event, book)

    def _budget_released(self, event: RawEvent) -> None:
        self._settle_reservation(event, self._budget(event), also_when_absent=False)

    def _settle_reservation(self, event: RawEvent, book: BudgetBook, *, also_when_absent: bool) -> None:
        data = event.data
        reserved = book.open.pop((data["order_id"], data["coupon_id"]), None)
        if reserved is None:
            if not also_when_absent:
                self._broken("I12", event, f"order {data['order_id']} had reserved nothing")
            return
        book.reserved[data["period"]] -= reserved

    def _budget_credited(self, event: RawEvent) -> None:
        book, data = self._budget(event), event.data
        book.credited[data["period"]] += data["amount_minor"]
        if book.credited[data["period"]] > book.committed[data["period"]]:
            self._broken("I12", event, f"more credited than committed in period {data['period']!r}")

    # I12: leases. What home has lent is reserved there; the books of both sides are compared in query/verify/leases.py.

    def _lease_granted(self, event: RawEvent) -> None:
        book, data = self._budget(event), event.data
        if (detail := book.leases.grant(data)) is not None:
            self._broken("I12", event, detail)
        book.reserved[data["period"]] += data["reserved_delta_minor"]
        self._check_available(event, book)

    def _lease_settled(self, event: RawEvent) -> None:
        book, data = self._budget(event), event.data
        before = book.leases.out(data)
        if (detail := book.leases.settle(data)) is not None:
            self._broken("I12", event, detail)
        reserved = max(book.leases.out(data), 0) - max(before, 0)
        if reserved != data["reserved_delta_minor"]:
            self._broken("I12", event, f"{data['reserved_delta_minor']} reserved for the holder, not {reserved}")
        book.reserved[data["period"]] += reserved
        book.committed[data["period"]] += data["committed_delta_minor"]
        book.credited[data["period"]] += data["credited_delta_minor"]
        if data.get("honoured"):
            book.honoured.add(data["period"])
        self._check_available(event, book)

    def _lease_opened(self, event: RawEvent) -> None:
        if (detail := self._budget(event).leases.open(event.data)) is not None:
            self._broken("I12", event, detail)

    def _lease_closed(self, event: RawEvent) -> None:
        book = self._budget(event)
        book.leases.close(event.data)
        self._check_available(event, book)

    def _check_available(self, event: RawEvent, book: BudgetBook) -> None:
        period = event.data["period"]
        if book.available(period) < 0 and period not in book.honoured:
            self._broken("I12", event, f"available is {book.available(period)} in period {period!r}")

    def _paid(self, event: RawEvent) -> None:
        self.payments[event.realm, event.data["payment_id"]] = event.data["amount_minor"]

    def _refunded(self, event: RawEvent) -> None:
        self.refunds[event.realm, event.data["refund_id"]] = event.data["amount_minor"]

    def _template(self, event: RawEvent) -> TemplateBook:
        return self.templates[event.realm, event.data["template_id"]]

    def _distribution(self, event: RawEvent) -> DistributionBook:
        return self.distributions[event.realm, event.data["distribution_id"]]

    def _budget(self, event: RawEvent) -> BudgetBook:
        return self.budgets[event.realm, event.data["budget_id"]]

    def _broken(self, invariant: str, event: RawEvent, detail: str) -> None:
        self._report(invariant, f"{event.stream}@{event.version}", detail, event.offset)

    def _report(self, invariant: str, subject: str, detail: str, offset: int | None) -> None:
        self.violations.append(Violation(invariant, subject, detail, offset))


def _shown_by(event: RawEvent) -> datetime:
    """What the realm's clock showed with this event. The first time a clock is set, the event itself has wall time."""
    return datetime.fromisoformat(event.data["to"]) if event.type == "clock.advanced.v1" else event.occurred_at


def _escape(part: str) -> str:
    """The rule for parts of stream ids, written down a second time on purpose."""
    for char, code in (("%", "%25"), ("/", "%2F"), ("{", "%7B"), ("}", "%7D")):
        part = part.replace(char, code)
    return part


def _guard_part(part: str) -> str:
    return _escape(part).replace(":", "%3A")
