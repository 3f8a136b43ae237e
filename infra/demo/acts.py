"""The day as it happens: every act is an ordinary caller's requests over HTTP, on the tenant's business clock."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any, Final, Protocol

from infra.demo.client import Api, ApiError, Reply, chunks, gather_bounded
from infra.demo.day import (
    AFTERNOON,
    CURRENCY,
    EVENING,
    LOCK_MINUTES,
    MORNING,
    NOON,
    RUSH,
    SPRING_BUDGET,
    TINY_BUDGET,
    Day,
    Fate,
    Order,
    Template,
    rush_template,
)
from infra.demo.screen import ShownAct

BATCHES_UNDER_WAY_MAX: Final = 4
RACES: Final = 8  # Pairs of orders that want one and the same coupon.

_PAID_AT_ONCE: Final = frozenset(
    {Fate.PAID, Fate.PAID_TOLD_TWICE, Fate.CANCELLED_PAID, Fate.REFUNDED_PARTLY, Fate.REFUNDED_FULLY}
)


class Stage(Protocol):
    """What the acts need beside the API."""

    def act(self, label: str, total: int) -> ShownAct:
        """Begin a part of the day that is shown by itself."""
        ...

    async def settle(self) -> None:
        """Wait until sagas and timers have nothing left to do."""
        ...

    async def settle_all(self) -> None:
        """The same, until every read model and the facts show it, too."""
        ...


@dataclass
class Tally:
    """What callers were answered, and how long that took; counted by the demo itself, to be compared with the books."""

    claims: dict[str, Counter[str]] = field(default_factory=dict)  # Template -> code -> answers.
    coupons: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # (user, template) -> coupon ids.
    orders: Counter[str] = field(default_factory=Counter)  # Checkout's outcome -> orders.
    refusals: Counter[str] = field(default_factory=Counter)  # Code -> coupons that could not be used.
    fates: Counter[Fate] = field(default_factory=Counter)
    races: Counter[str] = field(default_factory=Counter)
    rush_seconds: float = 0.0
    rush_latencies: list[float] = field(default_factory=list)
    requests: int = 0

    def claim_answered(self, user: str, template_id: str, code: str, coupon_id: str | None) -> None:
        """One claim has its final answer."""
        self.claims.setdefault(template_id, Counter())[code] += 1
        if coupon_id is not None:
            self.coupons.setdefault((user, template_id), []).append(coupon_id)


class BusinessDay:
    """Plays a day."""

    def __init__(self, api: Api, day: Day, stage: Stage) -> None:
        self._api = api
        self._day = day
        self._stage = stage
        self.tally = Tally()

    async def play(self) -> None:
        """From morning to evening. Raises ApiError when the API answers what it must not."""
        await self._open_shop()
        await self._morning_claims()
        early, late = self._waves()
        await self._order_wave("Morning", early, MORNING + timedelta(hours=1))
        await self._rush()
        await self._order_wave("Afternoon", late, AFTERNOON)
        await self._races()
        await self._evening()

    # The shop.

    async def _open_shop(self) -> None:
        templates = (*self._day.templates, rush_template(self._day))
        with self._stage.act("Budgets and templates", 3 + 2 * len(templates)) as act:
            await self._advance(MORNING)
            for budget_id, limit_minor in (
                (SPRING_BUDGET, self._day.spring_limit_minor),
                (TINY_BUDGET, self._day.tiny_limit_minor),
            ):
                body = {"budget_id": budget_id, "name": budget_id, "currency": CURRENCY, "limit_minor": limit_minor}
                await self._api.must("/v1/budgets", body, key=f"budget-{budget_id}")
                act.done()
            for template in templates:
                await self._publish(template)
                act.done(2)
            act.done()
            act.say(f"2 budgets, {len(templates)} templates")

    async def _publish(self, template: Template) -> None:
        terms = {name: value for name, value in template.terms.items() if value is not None}
        body = {"template_id": template.template_id, "terms": terms}
        await self._api.must("/v1/templates", body, key=f"create-{template.template_id}")
        await self._api.must(f"/v1/templates/{template.template_id}/activate", key=f"activate-{template.template_id}")

    async def _morning_claims(self) -> None:
        commands = [
            ("claim_coupon", f"claim-{number}", {"template_id": template_id, "user_id": user})
            for number, (user, template_id) in enumerate(self._day.claims)
        ]
        with self._stage.act("Morning claims, in batches", len(commands)) as act:
            answers = await self.send_all(commands, act.done)
            for (user, template_id), answer in zip(self._day.claims, answers, strict=True):
                self.tally.claim_answered(user, template_id, _code(answer), _coupon_id(answer))
            accepted = sum(_code(answer) == "ok" for answer in answers)
            act.say(f"{accepted:,} claimed, {len(answers) - accepted:,} refused: over the user's limit")

    async def _rush(self) -> None:
        """Everybody at once, one request each: the store alone decides."""
        await self._advance(NOON)
        await (
            self._stage.settle()
        )  # The window opens by a timer; claims do not wait for it, but the clock must be heard.
        with self._stage.act(f"Noon rush for {self._day.rush_stock:,} coupons", len(self._day.rush_users)) as act:
            started = perf_counter()

            async def claim(user: str) -> None:
                asked = perf_counter()
                reply = await self._api.post(f"/v1/templates/{RUSH}/claims", {"user_id": user}, key=f"rush-{user}")
                self.tally.rush_latencies.append(perf_counter() - asked)
                self.tally.claim_answered(user, RUSH, reply.code, _coupon_id(reply.body) if reply.ok else None)

            await gather_bounded(self._day.rush_users, claim, workers=self._api.connections_max, done=act.done)
            self.tally.rush_seconds = perf_counter() - started
            codes = self.tally.claims[RUSH]
            rate = len(self._day.rush_users) / self.tally.rush_seconds
            act.say(f"{codes['ok']:,} got one, {codes.total() - codes['ok']:,} told it is gone; {rate:,.0f} answers/s")

    # Orders.

    def _waves(self) -> tuple[list[Order], list[Order]]:
        """Those who order in the morning, while breakfast coupons are valid, and those who come in the afternoon."""
        for order in self._day.orders:
            found = [
                self.tally.coupons[order.user_id, want][0]
                for want in order.wants
                if (order.user_id, want) in self.tally.coupons
            ]
            order.coupon_ids = tuple(found)
        middle = len(self._day.orders) // 3
        return list(self._day.orders[:middle]), list(self._day.orders[middle:])

    async def _order_wave(self, label: str, orders: Sequence[Order], at: datetime) -> None:
        await self._advance(at)
        with self._stage.act(f"{label}: orders, payments", 2 * len(orders)) as act:
            before = Counter(self.tally.orders)
            first = [order for order in orders if order.fate is Fate.PAID_FIRST]
            await self._each(first, self._pay_before_placing, act.done)
            await self._each(orders, self._place, act.done)
            await self._each(orders, self._decide_fate, act.done)
            await self._stage.settle()
            await self._each([order for order in orders if order.fate is Fate.REOPENED], self._reopen, act.done)
            await self._stage.settle()
            act.say(_in_words(self.tally.orders - before))
        with self._stage.act(f"{label}: locks end, late payments", len(orders)) as act:
            await self._advance(at + timedelta(minutes=LOCK_MINUTES + 1))
            await self._stage.settle()
            await self._each([order for order in orders if order.fate is Fate.PAID_LATE], self._pay, act.done)
            await self._stage.settle()
            fates = Counter(order.fate for order in orders)
            act.say(f"{fates[Fate.ABANDONED]} ran out, {fates[Fate.PAID_LATE]} paid late and held again")

    async def _pay_before_placing(self, order: Order) -> None:
        """The payment service was faster than the order service: it knows the amount from a quote."""
        quote = await self._api.must("/v1/orders/quote", _order_body(order, quote=True), key=f"quote-{order.order_id}")
        order.payable_minor = quote["data"]["payable_minor"]
        if quote["data"]["unusable"]:
            order.coupon_ids = ()
            order.payable_minor = order.total_minor
        await self._pay(order)

    async def _place(self, order: Order) -> None:
        """Place; whoever's coupon is refused cancels and orders again without it."""
        checkout = await self._placed(order)
        if checkout["status"] == "refused":
            for refusal in checkout["refusals"]:
                self.tally.refusals[refusal["code"]] += 1
            await self._cancel(order)
            order.order_id += "-again"
            order.coupon_ids = ()
            checkout = await self._placed(order)
        order.payable_minor = checkout["payable_minor"]
        lines = checkout.get("lines") or ()
        order.shares = {line["line_id"]: line["amount_minor"] - line["discount_minor"] for line in lines}

    async def _placed(self, order: Order) -> Mapping[str, Any]:
        """The checkout's outcome: with the answer, or from the order's address when that took longer."""
        reply = await self._api.post("/v1/orders", _order_body(order), key=f"place-{order.order_id}")
        if not reply.ok:
            raise ApiError(f"placing {order.order_id} was answered {reply.status}: {reply.body}")
        checkout: Mapping[str, Any] | None = reply.body.get("checkout")
        if checkout is None:
            checkout = await self._outcome_later(order, reply)
        self.tally.orders[checkout["status"]] += 1
        return checkout

    async def _outcome_later(self, order: Order, reply: Reply) -> Mapping[str, Any]:
        await self._stage.settle_all()
        read = await self._api.get(f"/v1/orders/{order.order_id}?min_position={reply.body['position']}")
        checkout: Mapping[str, Any] | None = ((read.body or {}).get("data") or {}).get("checkout")
        if checkout is None:
            raise ApiError(f"order {order.order_id} has no outcome: {read.status} {read.body}")
        return checkout

    async def _decide_fate(self, order: Order) -> None:
        """What the customer and the payment service do right after the order was placed."""
        self.tally.fates[order.fate] += 1
        if order.fate in _PAID_AT_ONCE and order.payable_minor:
            await self._pay(order)
        if order.fate is Fate.PAID_TOLD_TWICE and order.payable_minor:
            await self._pay(order, again=True)
        if order.fate is Fate.PAYMENT_FAILED and order.payable_minor:
            await self._report_payment(order, "failed", f"pay-{order.order_id}")
        if order.fate in {Fate.CANCELLED, Fate.REOPENED}:
            await self._cancel(order)

    async def _reopen(self, order: Order) -> None:
        """The customer changed their mind: held anew, then paid."""
        await self._api.must(f"/v1/orders/{order.order_id}/reopen", key=f"reopen-{order.order_id}")
        await self._pay(order)

    async def _races(self) -> None:
        """Two orders want one coupon: one gets it, the other learns why not."""
        winners = [user for user in self._day.rush_users if (user, RUSH) in self.tally.coupons][:RACES]
        with self._stage.act("Two orders want one coupon", len(winners)) as act:
            for user in winners:
                pair = [self._racer(user, letter) for letter in "ab"]
                outcomes = await asyncio.gather(*(self._placed(order) for order in pair))
                for order, outcome in zip(pair, outcomes, strict=True):
                    codes = [refusal["code"] for refusal in outcome.get("refusals") or ()]
                    self.tally.races["won" if outcome["status"] == "ready" else codes[0]] += 1
                    if outcome["status"] == "ready":
                        order.payable_minor = outcome["payable_minor"]
                        await self._pay(order)
                    else:
                        await self._cancel(order)
                act.done()
            act.say(_in_words(self.tally.races))

    def _racer(self, user: str, letter: str) -> Order:
        lines = [
            {
                "line_id": "1",
                "sku": "hand-grinder",
                "category": "gear",
                "shop_id": "roastery",
                "quantity": 1,
                "unit_price_minor": 7_900,
            }
        ]
        order = Order(f"race-{user}-{letter}", user, (RUSH,), lines, 0, Fate.PAID)
        order.coupon_ids = tuple(self.tally.coupons[user, RUSH])
        return order

    async def _evening(self) -> None:
        """Goods come back; then the day's last timers."""
        await self._advance(EVENING)
        orders = [order for order in self._day.orders if order.payable_minor]
        partly = [order for order in orders if order.fate is Fate.REFUNDED_PARTLY]
        fully = [order for order in orders if order.fate is Fate.REFUNDED_FULLY]
        cancelled = [order for order in orders if order.fate is Fate.CANCELLED_PAID]
        with self._stage.act("Refunds", len(partly) + 2 * len(fully) + 2 * len(cancelled)) as act:
            await self._each(cancelled, self._cancel, act.done)
            await self._each(cancelled, self._refund_all, act.done)
            await self._each(partly, self._refund_one_line, act.done)
            await self._each(fully, self._refund_one_line, act.done)
            await self._each(fully, self._refund_the_rest, act.done)
            await self._stage.settle_all()
            act.say(f"{len(partly)} partly, {len(fully)} in two parts, {len(cancelled)} after a cancellation")

    # What the upstream reports.

    async def _pay(self, order: Order, *, again: bool = False) -> None:
        """The payment service tells it under its own id; told again it is the same payment (under another command)."""
        command = f"pay-{order.order_id}-again" if again else f"pay-{order.order_id}"
        if order.payable_minor:
            await self._report_payment(order, "succeeded", command)

    async def _report_payment(self, order: Order, status: str, command: str) -> None:
        body = {
            "payment_id": f"p-{order.order_id}",
            "order_id": order.order_id,
            "status": status,
            "amount_minor": order.payable_minor if status == "succeeded" else 0,
            "currency": CURRENCY,
        }
        await self._api.must("/v1/payments", body, key=command)

    async def _cancel(self, order: Order) -> None:
        await self._api.must(f"/v1/orders/{order.order_id}/cancel", {}, key=f"cancel-{order.order_id}")

    async def _refund_one_line(self, order: Order) -> None:
        line_id = next(iter(order.shares))
        await self._refund(order, "line", order.shares[line_id], [line_id])

    async def _refund_the_rest(self, order: Order) -> None:
        first, *others = order.shares
        amount = order.payable_minor - order.shares[first]
        await self._refund(order, "rest", amount, others)

    async def _refund_all(self, order: Order) -> None:
        await self._refund(order, "all", order.payable_minor, list(order.shares))

    async def _refund(self, order: Order, part: str, amount_minor: int, line_ids: Iterable[str]) -> None:
        body = {
            "refund_id": f"r-{order.order_id}-{part}",
            "order_id": order.order_id,
            "amount_minor": amount_minor,
            "currency": CURRENCY,
            "lines": [{"line_id": line_id} for line_id in line_ids],
        }
        await self._api.must("/v1/refunds", body, key=f"refund-{order.order_id}-{part}")

    # Helpers.

    async def _advance(self, to: datetime) -> None:
        await self._api.must("/v1/clock", {"to": to.isoformat()}, key=f"clock-{to.isoformat()}")

    async def _each(
        self, items: Sequence[Order], work: Callable[[Order], Awaitable[None]], done: Callable[[], None]
    ) -> None:
        await gather_bounded(items, work, workers=self._api.connections_max, done=done)

    async def send_all(
        self, commands: Sequence[tuple[str, str, Mapping[str, Any]]], done: Callable[[int], None]
    ) -> list[Mapping[str, Any]]:
        """Many commands (type, id, data) through the batch route, some batches at a time; their answers in order."""
        return await send_all(self._api, commands, done)


async def send_all(
    api: Api, commands: Sequence[tuple[str, str, Mapping[str, Any]]], done: Callable[[int], None] = lambda _n: None
) -> list[Mapping[str, Any]]:
    """Many commands (type, id, data) through the batch route; their answers in order. Raises ApiError."""

    async def send(part: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
        entries = [{"type": kind, "command_id": command_id, "data": data} for kind, command_id, data in part]
        body = await api.must("/v1/commands", {"commands": entries}, key=f"batch-{part[0][1]}")
        done(len(part))
        answers: list[Mapping[str, Any]] = body["answers"]
        return answers

    batches = await gather_bounded(chunks(commands), send, workers=BATCHES_UNDER_WAY_MAX)
    return [answer for batch in batches for answer in batch]


def _order_body(order: Order, *, quote: bool = False) -> dict[str, Any]:
    body = {
        "order_id": order.order_id,
        "user_id": order.user_id,
        "currency": CURRENCY,
        "coupon_ids": list(order.coupon_ids),
        "shipping_minor": order.shipping_minor,
        "lines": order.lines,
    }
    return {name: value for name, value in body.items() if not (quote and name == "order_id")}


def _code(answer: Mapping[str, Any]) -> str:
    return "ok" if answer.get("status") == "accepted" else str(answer.get("code"))


def _coupon_id(answer: Mapping[str, Any]) -> str | None:
    data = answer.get("data") or {}
    coupon_id = data.get("coupon_id") if answer.get("status") == "accepted" else None
    return None if coupon_id is None else str(coupon_id)


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())
