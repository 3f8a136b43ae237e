"""Logs for tests of projections: streams written by hand, with every event type in one story."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from contracts.envelope import Metadata, Recorded
from contracts.events import (
    AdjustmentReported,
    BreakClosed,
    BreakOpened,
    BudgetBranched,
    BudgetCommitted,
    BudgetCreated,
    BudgetCredited,
    BudgetLeaseClosed,
    BudgetLeaseGranted,
    BudgetLeaseOpened,
    BudgetLeaseSettled,
    BudgetLeaseWanted,
    BudgetReleased,
    BudgetReserved,
    BudgetShared,
    BudgetThresholdReached,
    BudgetToppedUp,
    BudgetUnshared,
    CheckoutCompleted,
    CheckoutCompletedUnredeemed,
    CheckoutReady,
    CheckoutRefunded,
    CheckoutRefused,
    CheckoutReleased,
    ClockAdvanced,
    CodeAssigned,
    CodeBatchAssigned,
    CodeBatchGenerated,
    CodeBatchVoided,
    CodeUsed,
    CodeVoided,
    CouponClaimed,
    CouponExpired,
    CouponLocked,
    CouponRedeemed,
    CouponReleased,
    CouponReturned,
    CouponRevoked,
    DistributionAdvanced,
    DistributionCancelled,
    DistributionCompleted,
    DistributionPaused,
    DistributionProgress,
    DistributionResumed,
    DistributionStarted,
    DistributionUsersRefused,
    EndedCommand,
    Event,
    ImportRowsSetAside,
    OrderCancelled,
    OrderNoted,
    OrderPlaced,
    OrderReopened,
    PaymentFailed,
    PaymentNoted,
    PaymentSucceeded,
    RefundSucceeded,
    RefusalCount,
    RefusalsCounted,
    RefusedRows,
    RowSetAside,
    SagaHeard,
    SagaResolved,
    SentCommand,
    TemplateActivated,
    TemplateCouponIssued,
    TemplateCouponsIssued,
    TemplateCreated,
    TemplateEnded,
    TemplateOpened,
    TemplatePaused,
    TemplateReservationCancelled,
    TemplateReservationConfirmed,
    TemplateResumed,
    TemplateRevised,
    TemplateShortened,
    TemplateStockIncreased,
    TemplateStockReserved,
)
from contracts.events.code import IndexRange
from contracts.events.settlement import SettlementRecorded, SettlementReversed
from contracts.identity import Realm, stream_id
from contracts.orders import (
    BudgetShare,
    CouponRefusal,
    FrozenLine,
    HeldCoupon,
    LineDiscount,
    OrderLine,
    RefundLine,
)
from contracts.registry import EVENTS
from contracts.terms import AmountOff, CouponRef, Terms, ValidityAfterClaim
from tests.golden.release import FOLDER as GOLDEN

ACME = Realm("acme", "shop")
NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)


class Story:
    """A log in the making: each :meth:`tell` is the next event, a second after the one before."""

    def __init__(self, realm: Realm = ACME, began: datetime = NOON, first_offset: int = 1) -> None:
        self.realm = realm
        self.log: list[Recorded] = []
        self._began = began
        self._first_offset = first_offset
        self._versions: dict[str, int] = {}

    def tell(self, kind: str, key: str, event: Event, *, at: datetime | None = None) -> Recorded:
        """The next event of a stream."""
        stream = stream_id(self.realm, kind, key)
        version = self._versions.get(stream, 0) + 1
        self._versions[stream] = version
        offset = self._first_offset + len(self.log)
        moment = at or self._began + timedelta(seconds=len(self.log))
        metadata = Metadata(
            event_id=f"e{offset}",
            occurred_at=moment,
            recorded_at=self._began + timedelta(seconds=len(self.log)),
            actor="key:test",
            command_id=f"c{offset}",
            correlation_id="story",
        )
        recorded = Recorded(offset, stream, version, event, metadata)
        self.log.append(recorded)
        return recorded


def terms(**changes: Any) -> Terms:
    """Ten off, a thousand in stock, unless said otherwise."""
    told: dict[str, Any] = {
        "name": "Ten off",
        "campaign_id": "spring",
        "currency": "GBP",
        "discount": AmountOff(amount_minor=1_000),
        "stock": 1_000,
        "claim_from": NOON,
        "claim_until": NOON + timedelta(days=30),
        "validity": ValidityAfterClaim(duration_seconds=86_400),
    }
    return Terms(**(told | changes))


def about(template_id: str = "t1", user_id: str = "u1", **changes: Any) -> CouponRef:
    """What a coupon's events repeat."""
    told: dict[str, Any] = {
        "template_id": template_id,
        "terms_version": 1,
        "campaign_id": "spring",
        "shop_id": None,
        "source": "platform",
        "user_id": user_id,
        "currency": "GBP",
    }
    return CouponRef(**(told | changes))


def claimed(coupon_id: str, ref: CouponRef, nth: int = 1) -> CouponClaimed:
    """A coupon for a day."""
    return CouponClaimed(
        coupon_id=coupon_id,
        about=ref,
        channel="direct",
        reference=None,
        nth=nth,
        valid_from=NOON,
        valid_until=NOON + timedelta(days=1),
    )


def locked(coupon_id: str, ref: CouponRef, order_id: str, discount_minor: int = 1_000) -> CouponLocked:
    """Held for a quarter of an hour."""
    return CouponLocked(
        coupon_id=coupon_id,
        about=ref,
        order_id=order_id,
        discount_minor=discount_minor,
        lock_until=NOON + timedelta(minutes=15),
    )


def redeemed(coupon_id: str, ref: CouponRef, order_id: str, discount_minor: int = 1_000) -> CouponRedeemed:
    """Used up."""
    return CouponRedeemed(coupon_id=coupon_id, about=ref, order_id=order_id, discount_minor=discount_minor)


def everything(realm: Realm = ACME, *, first_offset: int = 1, began: datetime = NOON) -> Sequence[Recorded]:
    """A log in which every event type happens at least once, in an order that could have been."""
    story = Story(realm, began, first_offset)
    _templates(story)
    _budgets(story)
    _bought_and_returned(story)
    _other_ends(story)
    _operations(story)
    _leases(story)
    _distribution(story)
    _lending(story)
    _codes(story)
    return story.log


class _BatchIds(TypedDict):
    batch_id: str
    template_id: str


def _codes(story: Story) -> None:
    """A batch of which one code was given to a user who used it, one was voided, and a range, too."""
    tell, of = story.tell, _BatchIds(batch_id="k1-1", template_id="t1")
    sealed = CodeBatchGenerated(**of, campaign_id="spring", name="", key_id="k1", number=1, count=9, valid_until=None)
    tell("code_batch", "k1-1", sealed)
    tell("code_batch", "k1-1", CodeBatchAssigned(**of, assigned=1, next_index=1))
    tell("code", "k1-1.0", CodeAssigned(**of, index=0, user_id="ann"))
    tell("code", "k1-1.0", CodeUsed(**of, index=0, user_id="ann", coupon_id="c1"))
    tell("code", "k1-1.1", CodeVoided(**of, index=1, reason="lost"))
    rest = (IndexRange(first_index=2, last_index=8),)
    tell("code_batch", "k1-1", CodeBatchVoided(**of, ranges=rest, reason="lost"))


def claims(realm: Realm, users: int, *, first_offset: int = 1) -> Sequence[Recorded]:
    """One template, one claim for each user: two events a claim."""
    story = Story(realm, first_offset=first_offset)
    story.tell("template", "t1", TemplateCreated(template_id="t1", terms=terms(stock=users)))
    story.tell("template", "t1", TemplateActivated(template_id="t1"))
    for nth in range(1, users + 1):
        issued = TemplateCouponIssued(
            template_id="t1", terms_version=1, coupon_id=f"c{nth}", user_id=f"u{nth}", claimed=nth
        )
        story.tell("template", "t1", issued)
        story.tell("coupon", f"c{nth}", claimed(f"c{nth}", about(user_id=f"u{nth}")))
    return story.log


def _templates(story: Story) -> None:
    tell = story.tell
    tell("template", "t1", TemplateCreated(template_id="t1", terms=terms()))
    tell("template", "t1", TemplateActivated(template_id="t1", claim_from=NOON, claim_until=NOON + timedelta(days=30)))
    tell("template", "t1", TemplateOpened(template_id="t1", opened_at=NOON))
    tell("template", "t1", TemplateStockIncreased(template_id="t1", by=500, stock=1_500))
    tell("template", "t1", TemplateShortened(template_id="t1", claim_until=NOON + timedelta(days=20)))
    tell("template", "t1", TemplateRevised(template_id="t1", terms_version=2, terms=terms(name="Two", stock=3)))
    reserved: dict[str, Any] = {"template_id": "t1", "reservation_id": "r1", "user_id": "u9"}
    tell("template", "t1", TemplateStockReserved(**reserved, quantity=5, reserved=5))
    tell("template", "t1", TemplateReservationConfirmed(**reserved, quantity=2, reserved=3))
    tell("template", "t1", TemplateReservationCancelled(**reserved, quantity=3, reserved=0, reason="changed his mind"))
    for nth, user in enumerate(("u1", "u1", "u2", "u3", "u4"), start=1):
        issued = TemplateCouponIssued(template_id="t1", terms_version=2, coupon_id=f"c{nth}", user_id=user, claimed=nth)
        tell("template", "t1", issued)
        tell("coupon", f"c{nth}", claimed(f"c{nth}", about(user_id=user, terms_version=2)))
    tell("template", "t1", TemplatePaused(template_id="t1", reason="checking"))
    tell("template", "t1", TemplateResumed(template_id="t1"))
    tell("template", "t2", TemplateCreated(template_id="t2", terms=terms(name="Endless", stock=None, shop_id="s1")))
    ended = TemplateEnded(template_id="t2", cause="terminated", reason="no use", ended_at=NOON)
    tell("template", "t2", ended)


def _lending(story: Story) -> None:
    """What shards tell each other of one order, as the golden examples have it."""
    for kind, key, names in (
        ("borrowing", "o-1001", ("began", "asked", "answered", "postponed", "told")),
        ("loan", "o-1001@1", ("answered", "changed")),
    ):
        for name in names:
            stored = f"{kind}.{name}.v1"
            story.tell(kind, key, EVENTS.load(stored, json.loads((GOLDEN / f"{stored}.json").read_text())))


def _distribution(story: Story) -> None:
    """Two of three rows get a coupon; one user is refused."""
    tell, of = story.tell, {"distribution_id": "d1", "template_id": "t1"}

    def stands(next_row: int, issued: int, refused: int) -> DistributionProgress:
        return DistributionProgress(users=3, next_row=next_row, issued=issued, refused=refused)

    tell("distribution", "d1", DistributionStarted(**of, progress=stands(1, 0, 0)))
    tell("distribution", "d1", DistributionPaused(**of, reason="wait", progress=stands(1, 0, 0)))
    tell("distribution", "d1", DistributionResumed(**of, progress=stands(1, 0, 0)))
    bulk = TemplateCouponsIssued(template_id="t1", terms_version=2, quantity=2, claimed=7, distribution_id="d1")
    tell("template", "t1", bulk)
    for nth, user in enumerate(("u11", "u12"), start=6):
        tell("coupon", f"c{nth}", claimed(f"c{nth}", about(user_id=user, terms_version=2)))
    none_left = RefusedRows(code="template_exhausted", detail="None is left.", rows=(3,), user_ids=("u13",))
    tell("distribution", "d1", DistributionUsersRefused(**of, refused=(none_left,)))
    advanced = DistributionAdvanced(**of, first_row=1, issued=2, refused=1, progress=stands(4, 2, 1))
    tell("distribution", "d1", advanced)
    tell("distribution", "d1", DistributionCompleted(**of, progress=stands(4, 2, 1)))
    other = {"distribution_id": "d2", "template_id": "t1"}
    tell("distribution", "d2", DistributionCancelled(**other, reason="wrong list", progress=stands(1, 0, 0)))


def _budgets(story: Story) -> None:
    tell = story.tell
    created = BudgetCreated(
        budget_id="b1",
        name="Spring",
        currency="GBP",
        limit_minor=10_000,
        recurs=None,
        zone="UTC",
        when_short="refuse",
        thresholds_percent=(50, 80, 100),
    )
    tell("budget", "b1", created)
    tell("budget", "b1", BudgetToppedUp(budget_id="b1", by_minor=5_000, limit_minor=15_000))
    monthly = created.model_copy(update={"budget_id": "b2", "recurs": "month"})
    tell("budget", "b2", monthly)
    of_b2: dict[str, Any] = {
        "budget_id": "b2",
        "currency": "GBP",
        "period": "2026-03",
        "order_id": "o9",
        "coupon_id": "c9",
    }
    tell("budget", "b2", BudgetReserved(**of_b2, amount_minor=6_000))
    reached = BudgetThresholdReached(
        budget_id="b2", currency="GBP", period="2026-03", threshold_percent=50, used_minor=6_000, limit_minor=10_000
    )
    tell("budget", "b2", reached)
    tell("budget", "b2", BudgetReleased(**of_b2, amount_minor=6_000))
    tell("budget", "b2", BudgetCommitted(**of_b2, amount_minor=700, honoured=True))


def _leases(story: Story) -> None:
    """A budget that another shard spends from, and the branch of one that lives elsewhere."""
    tell, until = story.tell, NOON + timedelta(minutes=15)
    created = BudgetCreated(
        budget_id="b6",
        name="Lent",
        currency="GBP",
        limit_minor=15_000,
        recurs=None,
        zone="UTC",
        when_short="refuse",
        thresholds_percent=(50, 80, 100),
    )
    tell("budget", "b6", created)
    home: dict[str, Any] = {"budget_id": "b6", "currency": "GBP", "holder": "1"}
    tell("budget", "b6", BudgetShared(**home))
    lent: dict[str, Any] = {"period": "", "number": 1, "amount_minor": 750, "left_minor": 14_250, "until": until}
    tell("budget", "b6", BudgetLeaseGranted(**home, **lent, reserved_delta_minor=750))
    settled = BudgetLeaseSettled(
        **home,
        period="",
        number=1,
        opened_minor=750,
        returned_minor=150,
        committed_minor=600,
        credited_minor=100,
        out_minor=100,
        reserved_delta_minor=-650,
        committed_delta_minor=600,
        credited_delta_minor=100,
    )
    tell("budget", "b6", settled)
    tell("budget", "b6", BudgetUnshared(**home))
    branch: dict[str, Any] = {"budget_id": "b7", "currency": "GBP"}
    terms_of_branch: dict[str, Any] = {"name": "Far", "recurs": None, "zone": "UTC", "when_short": "refuse"}
    tell("budget", "b7", BudgetBranched(**branch, **terms_of_branch))
    tell("budget", "b7", BudgetLeaseOpened(**branch, **lent))
    waits = {"order_id": "o7", "attempt": 1}
    wanted = BudgetLeaseWanted(
        **branch, period="", order_id="o7", needed_minor=900, command_type="hold_for_order", payload=waits
    )
    tell("budget", "b7", wanted)
    tell("budget", "b7", BudgetLeaseClosed(**branch, period="", number=1, returned_minor=750, final=True))


def _bought_and_returned(story: Story) -> None:
    """The vector of the domain: 50.00 + 10.00, 10.00 off -> 8.33 / 1.67; the 50.00 line comes back, then the rest."""
    tell = story.tell
    ref = about(user_id="u1", terms_version=2)
    shares = (LineDiscount(line_id="1", discount_minor=833), LineDiscount(line_id="2", discount_minor=167))
    of_b1: dict[str, Any] = {"budget_id": "b1", "currency": "GBP", "period": "", "order_id": "o1", "coupon_id": "c1"}
    tell("order", "o1", placed("o1", "u1", ("c1",)))
    tell("order", "o1", OrderNoted(order_id="o1", status="accepted"))
    tell("coupon", "c1", locked("c1", ref, "o1"))
    tell("budget", "b1", BudgetReserved(**of_b1, amount_minor=1_000))
    held = HeldCoupon(
        coupon_id="c1",
        about=ref,
        discount_minor=1_000,
        lines=shares,
        budgets=(BudgetShare(budget_id="b1", period="", amount_minor=1_000),),
        on_full_refund="return",
    )
    ready = CheckoutReady(
        order_id="o1",
        attempt=1,
        user_id="u1",
        currency="GBP",
        total_minor=6_250,
        shipping_minor=250,
        discount_minor=1_000,
        payable_minor=5_250,
        lines=(
            FrozenLine(line_id="1", quantity=1, amount_minor=5_000, discount_minor=833),
            FrozenLine(line_id="2", quantity=2, amount_minor=1_000, discount_minor=167),
        ),
        coupons=(held,),
        lock_until=NOON + timedelta(minutes=15),
    )
    tell("checkout", "o1", ready)
    heard = SagaHeard(
        process="checkout",
        process_version=1,
        key="o1",
        fact_type="order.placed.v1",
        fact_event_id="e1",
        fact={"order_id": "o1"},
        step="holding",
        sends=(SentCommand(command_id="saga:e1:hold_for_order", type="hold_for_order", payload={"order_id": "o1"}),),
    )
    tell("saga", "checkout:o1", heard)
    tell("payment", "p1", PaymentNoted(payment_id="p1", order_id="o1", status="initiated"))
    tell("payment", "p1", PaymentSucceeded(payment_id="p1", order_id="o1", amount_minor=5_250, currency="GBP"))
    tell("coupon", "c1", redeemed("c1", ref, "o1"))
    tell("budget", "b1", BudgetCommitted(**of_b1, amount_minor=1_000))
    recorded: dict[str, Any] = {"order_id": "o1", "coupon_id": "c1", "about": ref}
    tell("settlement", "o1", SettlementRecorded(**recorded, discount_minor=1_000, lines=shares))
    completed = CheckoutCompleted(
        order_id="o1", payment_id="p1", currency="GBP", discount_minor=1_000, payable_minor=5_250
    )
    tell("checkout", "o1", completed)
    tell("saga", "checkout:o1", heard.model_copy(update={"fact_type": "checkout.completed.v1", "step": "completed"}))
    ended = EndedCommand(command_id="x", type="refund_for_order", payload={}, code="currency_mismatch", detail="")
    tell(
        "saga",
        "checkout:o1",
        SagaResolved(
            process="checkout", process_version=1, key="o1", reason="by hand", step="completed", ended=(ended,)
        ),
    )
    back = RefundSucceeded(
        refund_id="f1", order_id="o1", amount_minor=4_167, currency="GBP", lines=(RefundLine(line_id="1"),)
    )
    tell("refund", "f1", back)
    first_share = (LineDiscount(line_id="1", discount_minor=833),)
    tell("settlement", "o1", SettlementReversed(**recorded, refund_id="f1", discount_minor=833, lines=first_share))
    tell("budget", "b1", BudgetCredited(**of_b1, refund_id="f1", amount_minor=833))
    refunded = CheckoutRefunded(
        order_id="o1",
        refund_id="f1",
        currency="GBP",
        refunded_minor=4_167,
        credited_minor=833,
        excess_minor=0,
        full=False,
        returned_coupon_ids=(),
    )
    tell("checkout", "o1", refunded)
    # The rest comes back in the next month: another partition.
    later = NOON + timedelta(days=3)
    tell("refund", "f2", back.model_copy(update={"refund_id": "f2", "amount_minor": 833, "lines": ()}), at=later)
    rest = (LineDiscount(line_id="2", discount_minor=167),)
    tell("settlement", "o1", SettlementReversed(**recorded, refund_id="f2", discount_minor=167, lines=rest), at=later)
    returned = CouponReturned(coupon_id="c1", about=ref, order_id="o1", refund_id="f2", discount_minor=1_000)
    tell("coupon", "c1", returned, at=later)
    full = refunded.model_copy(
        update={
            "refund_id": "f2",
            "refunded_minor": 833,
            "credited_minor": 167,
            "full": True,
            "returned_coupon_ids": ("c1",),
        }
    )
    tell("checkout", "o1", full, at=later)


def _other_ends(story: Story) -> None:
    tell = story.tell
    ref = about(user_id="u2", terms_version=2)
    tell("order", "o2", placed("o2", "u2", ("c3",)))
    tell("coupon", "c3", locked("c3", ref, "o2"))
    tell("payment", "p2", PaymentFailed(payment_id="p2", order_id="o2", reason="no money"))
    released = CouponReleased(
        coupon_id="c3", about=ref, order_id="o2", discount_minor=1_000, cause="payment_failed", released_at=NOON
    )
    tell("coupon", "c3", released)
    let_go = CheckoutReleased(
        order_id="o2", attempt=1, currency="GBP", discount_minor=1_000, cause="payment_failed", released_at=NOON
    )
    tell("checkout", "o2", let_go)
    tell("order", "o2", OrderCancelled(order_id="o2", cause="cancelled", reason="too slow"))
    tell("order", "o2", OrderReopened(order_id="o2", attempt=2))
    no = (CouponRefusal(coupon_id="c3", code="coupon_expired", detail="too late", missing_minor=None),)
    tell("checkout", "o2", CheckoutRefused(order_id="o2", attempt=2, currency="GBP", refusals=no))
    unredeemed = CheckoutCompletedUnredeemed(
        order_id="o2", payment_id="p3", currency="GBP", discount_minor=1_000, payable_minor=5_250, refusals=no
    )
    tell("checkout", "o2", unredeemed)
    tell("coupon", "c3", CouponExpired(coupon_id="c3", about=ref, expired_at=NOON + timedelta(days=1)))
    ref3 = about(user_id="u3", terms_version=2)
    tell("coupon", "c4", CouponRevoked(coupon_id="c4", about=ref3, reason="fraud"))
    ref4 = about(user_id="u4", terms_version=2)
    external = locked("c5", ref4, "x1", 350).model_copy(update={"external": True})
    tell("coupon", "c5", external)
    tell("coupon", "c5", redeemed("c5", ref4, "x1", 350).model_copy(update={"external": True}))
    orphan = RefundSucceeded(refund_id="f3", order_id=None, amount_minor=1_048, currency="GBP", exact_amount="10.485")
    tell("refund", "f3", orphan)
    adjusted = AdjustmentReported(
        adjustment_id="a1",
        order_id=None,
        amount_minor=-1_106_206,
        currency="GBP",
        reason="bad debt",
        exact_amount="-11062.06",
    )
    tell("adjustment", "a1", adjusted)
    corrected = {"adjustment_id": "a2", "order_id": "o2", "amount_minor": 5, "exact_amount": None}
    tell("adjustment", "a2", adjusted.model_copy(update=corrected))


def _operations(story: Story) -> None:
    tell = story.tell
    counts = (
        RefusalCount(template_id="t1", command="claim_coupon", code="user_limit_reached", count=7),
        RefusalCount(template_id="t1", command="claim_coupon", code="paused", count=2),
        RefusalCount(template_id="t1", command="lock_coupon", code="already_locked", count=1),
        RefusalCount(template_id=None, command="place_order", code="unknown_coupon", count=3),
    )
    tell("refusals", "2026-03-31", RefusalsCounted(counts=counts))
    opened = BreakOpened(
        break_id="k1",
        kind="orphan_refund",
        severity="warning",
        subject="f3",
        currency="GBP",
        amount_minor=1_048,
        detail="names no order",
        event_ids=("e1", "e2"),
        since=NOON,
    )
    tell("break", "k1", opened)
    tell("break", "k2", opened.model_copy(update={"break_id": "k2", "kind": "lock_leaked", "subject": "c9"}))
    tell("break", "k2", BreakClosed(break_id="k2", kind="lock_leaked", subject="c9", reason="it was released"))
    rows = (
        RowSetAside(row="7", outcome="refused", code="already_redeemed", detail="used", amount="10.485"),
        RowSetAside(row="9", outcome="parked", code="no_issue", detail="never mailed"),
    )
    tell("import", "i1", ImportRowsSetAside(import_id="i1", statement="sales", rows=rows))
    for hours in (1, 2, 3):
        tell("clock", "main", ClockAdvanced(to=NOON + timedelta(hours=hours)))


def placed(order_id: str, user_id: str | None, coupon_ids: Iterable[str] = ()) -> OrderPlaced:
    """50.00 + 10.00 and 2.50 shipping; the second line's price has three decimals upstream."""
    lines = (
        OrderLine(line_id="1", sku="kettle", unit_price_minor=5_000),
        OrderLine(line_id="2", sku="cup", quantity=2, unit_price_minor=500, amount_minor=1_000, exact_amount="10.004"),
    )
    return OrderPlaced(
        order_id=order_id,
        user_id=user_id,
        currency="GBP",
        coupon_ids=tuple(coupon_ids),
        shipping_minor=250,
        lines=lines,
    )
