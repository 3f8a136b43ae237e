"""Faults of every kind, planted the way they happen: upstream facts, lost steps, events past the deciders, damage.

Each is planted on orders of its own, so that exactly one break must show for it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from command.ports import Batch, CommandKey, LoggedAnswer, NewEvent
from contracts.commands import RefundForOrder
from contracts.envelope import CommandEnvelope, Metadata
from contracts.events import (
    BudgetCredited,
    CheckoutCompleted,
    CouponClaimed,
    CouponLocked,
    CouponRedeemed,
    Event,
    RefundSucceeded,
    TemplateCouponIssued,
)
from contracts.events.settlement import SettlementRecorded
from contracts.identity import Realm, stream_id
from contracts.orders import LineDiscount
from contracts.terms import CouponRef
from infra.demo.acts import Stage
from infra.demo.client import Api
from infra.demo.day import CURRENCY, EVENING, LOCK_MINUTES, RUSH, SPRING_BUDGET
from infra.postgres.log import PostgresEventLog

SABOTEUR: Final = "demo:saboteur"
FREE_OF_BUDGETS: Final = "fault-3-off"
BUDGETED: Final = "fault-budgeted"
SHORT_LIVED: Final = "fault-short-lived"
DISCOUNT_MINOR: Final = 300

_LINES: Final[tuple[dict[str, Any], ...]] = (
    {
        "line_id": "1",
        "sku": "kettle",
        "category": "gear",
        "shop_id": "roastery",
        "quantity": 1,
        "unit_price_minor": 5_450,
    },
    {"line_id": "2", "sku": "honey", "category": "sweets", "shop_id": "grocer", "quantity": 1, "unit_price_minor": 899},
)


@dataclass(frozen=True, slots=True)
class Planted:
    """One planted fault: the break that must show, on what, and how it was brought about.

    ``breaks`` names invariants that `verify` must report as well, because the log itself was tampered with.
    """

    kind: str
    subject: str
    how: str
    breaks: frozenset[str] = frozenset()


class Saboteur:
    """Plants one fault of each kind. The tenant's business clock moves on past the evening."""

    def __init__(self, api: Api, stage: Stage, log: PostgresEventLog, realm: Realm) -> None:
        self._api = api
        self._stage = stage
        self._log = log
        self._realm = realm
        self._numbers = iter(range(1, 1_000))

    async def plant(self) -> list[Planted]:
        """All of them, in an order in which none hides another."""
        await self._publish_templates()
        plants: Sequence[Callable[[], Awaitable[Planted]]] = (
            self._payment_mismatch,
            self._duplicate_payment,
            self._refund_exceeds_payment,
            self._orphan_payment,
            self._orphan_refund,
            self._refund_not_returned,
            self._redeemed_not_paid,
            self._discount_mismatch,
            self._budget_drift,
            self._oversold,
            self._paid_not_redeemed,
            self._lock_leaked,
        )
        planted = []
        with self._stage.act("Planting faults", len(plants)) as act:
            for plant in plants:
                planted.append(await plant())
                act.done()
            await self._stage.settle_all()
            act.say(f"{len(planted)} kinds: facts, lost steps, events past the deciders")
        return planted

    # What an upstream may tell.

    async def _payment_mismatch(self) -> Planted:
        order = await self._held("mismatch")
        await self._pay(order, order["payable_minor"] + 100)
        return Planted("payment_mismatch", order["order_id"], "paid 1.00 more than was payable")

    async def _duplicate_payment(self) -> Planted:
        order = await self._held("double")
        await self._pay(order, order["payable_minor"])
        await self._pay(order, order["payable_minor"], payment="second")
        return Planted("duplicate_payment", order["order_id"], "two different payments for one order")

    async def _refund_exceeds_payment(self) -> Planted:
        order = await self._held("generous")
        await self._pay(order, order["payable_minor"])
        await self._stage.settle()
        await self._refund(order["order_id"], order["payable_minor"] + 1_000)
        return Planted("refund_exceeds_payment", order["order_id"], "10.00 more refunded than was paid")

    async def _orphan_payment(self) -> Planted:
        await self._pay({"order_id": "o-nowhere"}, 4_200)
        return Planted("orphan_payment", "o-nowhere", "a payment for an order that nobody placed")

    async def _orphan_refund(self) -> Planted:
        await self._refund(None, 700, refund_id="r-nameless")
        return Planted("orphan_refund", "r-nameless", "a refund that names no order")

    async def _paid_not_redeemed(self) -> Planted:
        """The lock runs out, then the coupon, and only then the money comes."""
        order = await self._held("late", template=SHORT_LIVED)
        await self._advance(timedelta(minutes=LOCK_MINUTES + 1))
        await self._stage.settle()
        await self._advance(timedelta(hours=1))
        await self._stage.settle()
        await self._pay(order, order["payable_minor"])
        return Planted("paid_not_redeemed", order["order_id"], "paid after lock and coupon had ended")

    # Lost steps, and events appended past the deciders.

    async def _refund_not_returned(self) -> Planted:
        """The saga's command is answered before it is sent, so its step is lost."""
        order = await self._held("forgotten")
        await self._pay(order, order["payable_minor"])
        await self._stage.settle()
        order_id, refund_id = order["order_id"], "r-forgotten"
        fact = RefundSucceeded(
            refund_id=refund_id, order_id=order_id, amount_minor=order["payable_minor"], currency=CURRENCY
        )
        events = [(("refund", refund_id), fact)]
        lost = RefundForOrder(order_id=order_id, refund_id=refund_id)
        await self._append("lost-step", events, answer_to=lost)
        return Planted("refund_not_returned", order_id, "the saga's refund step was lost", frozenset({"I3"}))

    async def _redeemed_not_paid(self) -> Planted:
        order = await self._held("unpaid")
        coupon, about, line = (
            order["coupon_id"],
            order["about"],
            LineDiscount(line_id="1", discount_minor=DISCOUNT_MINOR),
        )
        order_id = order["order_id"]
        redeemed = CouponRedeemed(coupon_id=coupon, about=about, order_id=order_id, discount_minor=DISCOUNT_MINOR)
        settled = SettlementRecorded(
            order_id=order_id, coupon_id=coupon, about=about, discount_minor=DISCOUNT_MINOR, lines=(line,)
        )
        completed = CheckoutCompleted(
            order_id=order_id,
            payment_id=None,
            currency=CURRENCY,
            discount_minor=DISCOUNT_MINOR,
            payable_minor=order["payable_minor"],
        )
        await self._append(
            "unpaid",
            [(("coupon", coupon), redeemed), (("settlement", order_id), settled), (("checkout", order_id), completed)],
        )
        return Planted(
            "redeemed_not_paid", order_id, "completed past the deciders, without a payment", frozenset({"I3"})
        )

    async def _discount_mismatch(self) -> Planted:
        order = await self._held("altered")
        await self._pay(order, order["payable_minor"])
        await self._stage.settle()
        order_id, coupon = order["order_id"], order["coupon_id"]
        line = LineDiscount(line_id="1", discount_minor=100)
        more = SettlementRecorded(
            order_id=order_id, coupon_id=coupon, about=order["about"], discount_minor=100, lines=(line,)
        )
        await self._append("altered", [(("settlement", order_id), more)])
        return Planted(
            "discount_mismatch",
            f"{order_id}:{coupon}",
            "1.00 more in the settlement than the coupon gave",
            frozenset({"I3"}),
        )

    async def _budget_drift(self) -> Planted:
        order = await self._held("drifting", template=BUDGETED)
        await self._pay(order, order["payable_minor"])
        await self._stage.settle()
        order_id, coupon = order["order_id"], order["coupon_id"]
        credited = BudgetCredited(
            budget_id=SPRING_BUDGET,
            currency=CURRENCY,
            period="",
            order_id=order_id,
            coupon_id=coupon,
            refund_id="r-never",
            amount_minor=100,
        )
        await self._append("drift", [(("budget", SPRING_BUDGET), credited)])
        return Planted(
            "budget_drift", f"{SPRING_BUDGET}:{order_id}:{coupon}", "1.00 credited without a refund", frozenset({"I3"})
        )

    async def _oversold(self) -> Planted:
        """One coupon more than the stock of the rush."""
        coupon, now = "cfault0oversold0000000000", EVENING
        about = self._about(RUSH, "gatecrasher")
        view = await self._api.get(f"/v1/templates/{RUSH}")
        claimed = int(view.body["data"]["claimed"]) + 1
        issued = TemplateCouponIssued(
            template_id=RUSH, terms_version=1, coupon_id=coupon, user_id="gatecrasher", claimed=claimed
        )
        taken = CouponClaimed(
            coupon_id=coupon,
            about=about,
            channel="direct",
            reference=None,
            nth=1,
            valid_from=now,
            valid_until=now + timedelta(days=14),
        )
        await self._append("oversold", [(("template", RUSH), issued), (("coupon", coupon), taken)])
        return Planted("oversold", RUSH, "one more coupon than there was stock", frozenset({"I1", "I3"}))

    async def _lock_leaked(self) -> Planted:
        """A lock for an order that nobody knows, and no timer for it: its end passes unnoticed."""
        coupon_id = await self._claimed(FREE_OF_BUDGETS)
        about = self._about(FREE_OF_BUDGETS, self._user)
        locked = CouponLocked(
            coupon_id=coupon_id,
            about=about,
            order_id="o-ghost",
            discount_minor=DISCOUNT_MINOR,
            lock_until=self._now + timedelta(minutes=LOCK_MINUTES),
        )
        await self._append("leak", [(("coupon", coupon_id), locked)])
        return Planted("lock_leaked", coupon_id, "locked past the deciders for an unknown order", frozenset({"I3"}))

    # How things are done.

    async def _publish_templates(self) -> None:
        self._now = EVENING
        for template_id, budgets, seconds in (
            (FREE_OF_BUDGETS, [], 14 * 86_400),
            (BUDGETED, [SPRING_BUDGET], 14 * 86_400),
            (SHORT_LIVED, [], 1_800),
        ):
            terms = {
                "name": template_id,
                "campaign_id": "faults",
                "currency": CURRENCY,
                "discount": {"kind": "amount_off", "amount_minor": DISCOUNT_MINOR},
                "claim_from": EVENING.isoformat(),
                "claim_until": (EVENING + timedelta(days=7)).isoformat(),
                "validity": {"kind": "after_claim", "duration_seconds": seconds},
                "budget_ids": budgets,
            }
            body = {"template_id": template_id, "terms": terms}
            await self._api.must("/v1/templates", body, key=f"create-{template_id}")
            await self._api.must(f"/v1/templates/{template_id}/activate", key=f"activate-{template_id}")

    async def _claimed(self, template: str) -> str:
        self._user = f"fault-user-{next(self._numbers)}"
        path = f"/v1/templates/{template}/claims"
        body = await self._api.must(path, {"user_id": self._user}, key=f"fault-claim-{self._user}")
        return str(body["data"]["coupon_id"])

    async def _held(self, name: str, *, template: str = FREE_OF_BUDGETS) -> dict[str, Any]:
        """An order of its own that holds one coupon."""
        coupon_id = await self._claimed(template)
        order_id = f"o-{name}"
        body = {
            "order_id": order_id,
            "user_id": self._user,
            "currency": CURRENCY,
            "coupon_ids": [coupon_id],
            "lines": list(_LINES),
        }
        payable = sum(line["unit_price_minor"] for line in _LINES) - DISCOUNT_MINOR
        await self._api.must("/v1/orders", body, key=f"fault-place-{order_id}")
        await self._stage.settle()
        about = self._about(template, self._user)
        return {"order_id": order_id, "coupon_id": coupon_id, "payable_minor": payable, "about": about}

    async def _pay(self, order: Mapping[str, Any], amount_minor: int, *, payment: str = "first") -> None:
        payment_id = f"p-{order['order_id']}-{payment}"
        body = {
            "payment_id": payment_id,
            "order_id": order["order_id"],
            "status": "succeeded",
            "amount_minor": amount_minor,
            "currency": CURRENCY,
        }
        await self._api.must("/v1/payments", body, key=f"fault-{payment_id}")

    async def _refund(self, order_id: str | None, amount_minor: int, *, refund_id: str | None = None) -> None:
        refund_id = refund_id or f"r-{order_id}"
        body = {"refund_id": refund_id, "order_id": order_id, "amount_minor": amount_minor, "currency": CURRENCY}
        told = {name: value for name, value in body.items() if value is not None}
        await self._api.must("/v1/refunds", told, key=f"fault-{refund_id}")

    async def _advance(self, by: timedelta) -> None:
        self._now += by
        await self._api.must("/v1/clock", {"to": self._now.isoformat()}, key=f"clock-{self._now.isoformat()}")

    def _about(self, template_id: str, user_id: str) -> CouponRef:
        campaign = "spring-2026" if template_id == RUSH else "faults"
        return CouponRef(
            template_id=template_id,
            terms_version=1,
            campaign_id=campaign,
            shop_id=None,
            source="platform",
            user_id=user_id,
            currency=CURRENCY,
        )

    async def _append(
        self,
        name: str,
        events: Sequence[tuple[tuple[str, str], Event]],
        *,
        answer_to: RefundForOrder | None = None,
    ) -> None:
        """Store events that no decider ever saw, under a command that nobody sent."""
        await self._stage.settle()
        command_id = f"{SABOTEUR}:{name}"
        streams = [stream_id(self._realm, kind, key) for (kind, key), _ in events]
        with self._log.appending() as transaction:
            histories = transaction.histories(set(streams))
            now = transaction.store_now
            versions = {stream: history.events[-1].version for stream, history in histories.items() if history.events}
            new: list[NewEvent] = []
            for stream, (_, event) in zip(streams, events, strict=True):
                versions[stream] = versions.get(stream, 0) + 1
                event_id = f"{command_id}:{len(new)}"
                metadata = Metadata(event_id, self._now, now, SABOTEUR, command_id, SABOTEUR)
                new.append(NewEvent(stream, versions[stream], event, metadata))
            batch = Batch(events=new)
            if answer_to is not None:
                batch.answers.append(self._lost_answer(answer_to, new[0].metadata.event_id))
                batch.answer_events.append(-1)
            transaction.append(batch)

    def _lost_answer(self, command: RefundForOrder, fact_event_id: str) -> LoggedAnswer:
        """The answer that the saga's command will find: accepted, although nothing was done."""
        command_id = f"saga:{fact_event_id}:{command.type}:{command.refund_id}"
        envelope = CommandEnvelope(self._realm, command_id, command, SABOTEUR, SABOTEUR)
        key = CommandKey(self._realm, command_id)
        return LoggedAnswer(key, command.type, envelope.content_hash(), "accepted", "ok", "", {})
