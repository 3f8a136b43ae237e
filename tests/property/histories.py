"""Random histories of commands, through the real engine and handlers, against a naive reference model.

After every step the answers agree with the model; at the end the log balances in the eyes of verification's own books,
every answer is what it was (I4), and every state folded from events equals the live one (I7).
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from command.engine import Engine, EngineSettings
from command.handlers import HANDLERS, KINDS
from command.ports import EventLog
from command.states import SnapshotFormats, fold
from contracts.commands import (
    ActivateTemplate,
    AdvanceClock,
    ClaimCoupon,
    Command,
    CreateBudget,
    CreateTemplate,
    HoldForOrder,
    IncreaseTemplateStock,
    LockCoupon,
    PauseTemplate,
    PlaceOrder,
    RedeemCoupon,
    RedeemForOrder,
    RefundForOrder,
    ReleaseForOrder,
    ReportPayment,
    ReportRefund,
    ResumeTemplate,
    TerminateTemplate,
)
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.orders import OrderLine
from contracts.terms import AmountOff, Terms, ValidityAfterClaim
from tests.property.books_of import violations_of
from tests.property.reference import LOCK_SECONDS, Model, ModelBudget, ModelCoupon, ModelOrder, ModelTemplate

REALM = Realm("acme", "shop:1")
START = datetime(2030, 1, 1, tzinfo=UTC)
VALID_SECONDS = 2_000
USERS = st.sampled_from(["ann", "bob", "cy"])
PICK = st.integers(0, 10_000)


class Histories(RuleBasedStateMachine):
    """Every rule sends commands and tells the model the same; whatever the model expects must be the answer."""

    make_log: Callable[[], EventLog]
    steps: ClassVar[int] = 0  # Rules carried out by all machines of the class.

    @staticmethod
    def close_log(log: Any) -> None:
        """Nothing to close in memory."""

    @staticmethod
    def beside(log: Any) -> EventLog:
        """The same log over connections of its own; in memory there are none."""
        return cast(EventLog, log)

    def __init__(self) -> None:
        super().__init__()
        self.log = type(self).make_log()
        # Small bounds, so that a short history crosses them: snapshots, evictions, batches of two.
        bounds = EngineSettings(batch_commands_max=2, cached_streams_max=5, snapshot_every_events=3, ahead_from=1)
        self.engine = Engine(self.log, HANDLERS, bounds)
        self.engine.start()
        self.beside_log = type(self).beside(self.log)
        self.dry_runs = self.engine.dry_runs_over(self.beside_log)
        self.model = Model()
        self.sent: list[tuple[CommandEnvelope, Answer]] = []

    def teardown(self) -> None:
        for envelope, first in self.sent[-20:]:
            again = self.engine.execute(envelope)
            assert (again.status, again.code, again.data) == (first.status, first.code, first.data)
            assert again.replayed
        self.engine.stop()
        assert violations_of(self.log) == []
        self._live_equals_replayed()
        for log in (self.beside_log, self.log):
            type(self).close_log(log)

    @invariant()
    def another_step(self) -> None:
        type(self).steps += 1

    def send(self, command: Command) -> Answer:
        envelope = CommandEnvelope(REALM, f"c{len(self.sent)}", command, actor="property", correlation_id="corr")
        (foreseen,) = self.dry_runs.answers([envelope])
        answer = self.engine.execute(envelope)
        assert isinstance(foreseen, Answer), foreseen
        assert (foreseen.status, foreseen.code, foreseen.data) == (answer.status, answer.code, answer.data)
        self.sent.append((envelope, answer))
        return answer

    def accepted(self, command: Command) -> Any:
        answer = self.send(command)
        assert answer.accepted, (command, answer.code, answer.detail)
        return answer.data

    @initialize(
        limit=st.integers(50, 250),
        stocks=st.lists(st.integers(1, 3), min_size=2, max_size=2),
        amounts=st.lists(st.integers(20, 120), min_size=2, max_size=2),
        per_user=st.integers(1, 2),
        claims=st.lists(st.tuples(PICK, USERS), min_size=3, max_size=6),
    )
    def a_day_that_has_begun(
        self, limit: int, stocks: list[int], amounts: list[int], per_user: int, claims: list[tuple[int, str]]
    ) -> None:
        """A history that starts from nothing rarely gets far enough to be interesting."""
        self.accepted(AdvanceClock(to=START))
        self.a_budget(limit=limit)
        for stock, amount in zip(stocks, amounts, strict=True):
            self.a_template(
                stock=stock, per_user=per_user, amount=amount, window=5_000, with_budget=True, activate=True
            )
        for pick, user in claims:
            self.a_claim(pick=pick, user=user)

    @rule(seconds=st.sampled_from([1, 30, LOCK_SECONDS, VALID_SECONDS]))
    def time_passes(self, seconds: int) -> None:
        self.model.now += seconds
        self.accepted(AdvanceClock(to=START + timedelta(seconds=self.model.now)))
        self.model.lapse()

    @precondition(lambda self: len(self.model.budgets) < 2)
    @rule(limit=st.integers(1, 250))
    def a_budget(self, limit: int) -> None:
        budget_id = f"b{len(self.model.budgets)}"
        self.accepted(CreateBudget(budget_id=budget_id, currency="EUR", limit_minor=limit))
        self.model.budgets[budget_id] = ModelBudget(limit)

    @precondition(lambda self: len(self.model.templates) < 4)
    @rule(
        stock=st.integers(0, 3),
        per_user=st.integers(1, 2),
        amount=st.integers(1, 120),
        window=st.sampled_from([100, 5_000]),
        with_budget=st.booleans(),
        activate=st.sampled_from([True, True, False]),
    )
    def a_template(
        self, *, stock: int, per_user: int, amount: int, window: int, with_budget: bool, activate: bool
    ) -> None:
        template_id = f"t{len(self.model.templates)}"
        budget = next(iter(self.model.budgets), None) if with_budget else None
        until = self.model.now + window
        terms = Terms(
            name=template_id,
            campaign_id="c",
            currency="EUR",
            discount=AmountOff(amount_minor=amount),
            stock=stock,
            claims_per_user_max=per_user,
            claim_from=START,
            claim_until=START + timedelta(seconds=until),
            validity=ValidityAfterClaim(duration_seconds=VALID_SECONDS),
            budget_ids=(budget,) if budget else (),
        )
        self.accepted(CreateTemplate(template_id=template_id, terms=terms))
        self.model.templates[template_id] = ModelTemplate(stock, per_user, amount, until, budget)
        if activate:
            self.accepted(ActivateTemplate(template_id=template_id))
            self.model.templates[template_id].status = "active"

    @precondition(lambda self: self.model.templates)
    @rule(pick=PICK, what=st.sampled_from(["pause", "resume", "terminate", "stock", "stock"]))
    def a_template_changes(self, pick: int, what: str) -> None:
        template_id, template = _nth(self.model.templates, pick)
        if template.status == "ended" or self.model.now >= template.until:
            return
        if what == "stock":
            self.accepted(IncreaseTemplateStock(template_id=template_id, by=1))
            template.stock += 1
        elif what == "pause" and template.status == "active":
            self.accepted(PauseTemplate(template_id=template_id))
            template.status = "paused"
        elif what == "resume" and template.status == "paused":
            self.accepted(ResumeTemplate(template_id=template_id))
            template.status = "active"
        elif what == "terminate":
            self.accepted(TerminateTemplate(template_id=template_id))
            template.status = "ended"

    @precondition(lambda self: self.model.templates)
    @rule(pick=PICK, user=USERS)
    def a_claim(self, pick: int, user: str) -> None:
        template_id, _ = _nth(self.model.templates, pick)
        expected = self.model.claim(template_id, user)
        answer = self.send(ClaimCoupon(template_id=template_id, user_id=user))
        assert answer.code == expected
        if expected == "ok":
            until = self.model.now + VALID_SECONDS
            self.model.coupons[answer.data["coupon_id"]] = ModelCoupon(template_id, user, until)

    @precondition(lambda self: self.model.coupons)
    @rule(pick=PICK, redeem=st.sampled_from([False, False, True]))
    def an_upstream_checks_out_by_itself(self, *, pick: int, redeem: bool) -> None:
        coupon_id, _ = _nth(self.model.coupons, pick)
        order_id = f"external{len(self.sent)}"
        expected = self.model.lock(coupon_id, order_id)
        answer = self.send(LockCoupon(coupon_id=coupon_id, order_id=order_id))
        assert answer.accepted == expected, answer.code
        if redeem:
            expected = self.model.redeem(coupon_id, order_id)
            answer = self.send(RedeemCoupon(coupon_id=coupon_id, order_id=order_id))
            assert answer.accepted == expected, answer.code

    @precondition(lambda self: self.model.coupons)
    @rule(picks=st.lists(PICK, min_size=1, max_size=3), amount=st.integers(1, 300), by=st.none() | USERS)
    def an_order(self, picks: list[int], amount: int, by: str | None) -> None:
        coupons = list(dict.fromkeys(_nth(self.model.coupons, pick)[0] for pick in picks))
        user = by or self.model.coupons[coupons[0]].user
        mine = [coupon for coupon in coupons if self.model.coupons[coupon].user == user] or coupons
        order_id = f"o{len(self.model.orders)}"
        line = OrderLine(line_id="1", sku="sku", unit_price_minor=amount)
        self.accepted(
            PlaceOrder(order_id=order_id, user_id=user, currency="EUR", coupon_ids=tuple(mine), lines=(line,))
        )
        self.model.orders[order_id] = ModelOrder(user, amount, mine)
        held = self.model.hold(order_id)
        data = self.accepted(HoldForOrder(order_id=order_id, attempt=1))
        assert data["status"] == ("held" if held else "refused"), data

    @precondition(lambda self: any(order.state == "held" for order in self.model.orders.values()))
    @rule(pick=PICK, pays=st.sampled_from([True, True, False]))
    def a_held_order_is_decided(self, *, pick: int, pays: bool) -> None:
        held = {key: order for key, order in self.model.orders.items() if order.state == "held"}
        order_id, order = _nth(held, pick)
        if not pays:
            self.accepted(ReleaseForOrder(order_id=order_id, cause="payment_failed"))
            self.model.release(order_id)
            return
        payable = order.amount - sum(order.discounts.values())
        payment_id = f"p{order_id}" if payable else None
        if payment_id:
            self.accepted(
                ReportPayment(
                    payment_id=payment_id, order_id=order_id, status="succeeded", amount_minor=payable, currency="EUR"
                )
            )
        data = self.accepted(RedeemForOrder(order_id=order_id, payment_id=payment_id))
        assert data["status"] == "completed", data
        self.model.pay(order_id)

    @precondition(lambda self: any(order.state == "completed" for order in self.model.orders.values()))
    @rule(pick=PICK)
    def a_completed_order_is_refunded(self, pick: int) -> None:
        order_id, order = _nth({key: it for key, it in self.model.orders.items() if it.state == "completed"}, pick)
        payable = order.amount - sum(order.discounts.values())
        if not payable:
            return
        self.accepted(ReportRefund(refund_id=f"r{order_id}", order_id=order_id, amount_minor=payable, currency="EUR"))
        self.accepted(RefundForOrder(order_id=order_id, refund_id=f"r{order_id}"))
        self.model.refund(order_id)

    @precondition(lambda self: self.sent)
    @rule(pick=PICK)
    def somebody_retries(self, pick: int) -> None:
        envelope, first = self.sent[pick % len(self.sent)]
        again = self.engine.execute(envelope)
        assert (again.status, again.code, again.data) == (first.status, first.code, first.data)

    @precondition(lambda self: self.sent)
    @rule(pick=PICK)
    def somebody_reuses_an_id(self, pick: int) -> None:
        envelope, _ = self.sent[pick % len(self.sent)]
        other = CommandEnvelope(REALM, envelope.command_id, ClaimCoupon(template_id="x", user_id="x"), "x", "x")
        assert self.engine.execute(other).code == "command_id_reused"

    def _live_equals_replayed(self) -> None:
        formats = SnapshotFormats()
        with self.log.reading() as view:
            streams = {recorded.stream for recorded in view.events_after(0, 100_000)}
            replayed = view.histories(sorted(streams))
            for stream, history in replayed.items():
                kind = KINDS.get(stream.split("/")[2])
                if kind is None:
                    continue
                from_events = fold(kind, history, formats)
                with_snapshot = view.histories([stream], schema_hashes=formats.hashes([kind]))[stream]
                live = fold(kind, with_snapshot, formats)
                assert (live.state, live.version) == (from_events.state, from_events.version)


def _nth(things: dict[str, Any], pick: int) -> tuple[str, Any]:
    return list(things.items())[pick % len(things)]
