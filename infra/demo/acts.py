"""The day as it happens: every act is an ordinary caller's requests over HTTP, on the tenant's business clock."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any, Final, Protocol

import orjson

from contracts.commands import PlaceOrder
from contracts.orders import OrderLine
from infra.demo.client import Api, chunks, gather_bounded
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
    Order,
    Template,
    rush_template,
)
from infra.demo.orders import CallersWereTold, DemoUpstream
from infra.demo.screen import ShownAct
from infra.simulator.play import Play

BATCHES_UNDER_WAY_MAX: Final = 4
PAUSES_MAX: Final = 10  # Of one order.
RACES: Final = 8  # Pairs of orders that want one and the same coupon.


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
    told: CallersWereTold = field(default_factory=CallersWereTold)  # Of their orders.
    races: Counter[str] = field(default_factory=Counter)
    rush_seconds: float = 0.0
    rush_latencies: list[float] = field(default_factory=list)

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
        self._upstream = DemoUpstream(api)
        self.tally = Tally(told=self._upstream.told)

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

    def _waves(self) -> tuple[list[Play], list[Play]]:
        """Those who order in the morning, while breakfast coupons are valid, and those who come in the afternoon."""
        plays = [Play(self._placing(order), order.scenario) for order in self._day.orders]
        middle = len(plays) // 3
        return plays[:middle], plays[middle:]

    def _placing(self, order: Order) -> PlaceOrder:
        coupons = self.tally.coupons
        held = [coupons[order.user_id, want][0] for want in order.wants if (order.user_id, want) in coupons]
        told = {
            "order_id": order.order_id,
            "user_id": order.user_id,
            "currency": CURRENCY,
            "coupon_ids": held,
            "shipping_minor": order.shipping_minor,
            "lines": order.lines,
        }
        return PlaceOrder.model_validate_json(orjson.dumps(told))

    async def _order_wave(self, label: str, plays: Sequence[Play], at: datetime) -> None:
        """All orders go on side by side; where some let time pass, it passes once for all."""
        await self._advance(at)
        before = Counter(self.tally.told.outcomes)
        with self._stage.act(f"{label}: orders, payments, refunds", len(plays)) as act:
            under_way = [(play, play.moves()) for play in plays]
            under_way = await self._upstream.until_pause(under_way, act.done)
            await self._stage.settle()
            act.say(_in_words(self.tally.told.outcomes - before))
        with self._stage.act(f"{label}: locks end, late payments", max(1, len(under_way))) as act:
            await self._advance(at + timedelta(minutes=LOCK_MINUTES + 1))
            await self._stage.settle()
            late = len(under_way)
            for _ in range(PAUSES_MAX):
                if not under_way:
                    break
                under_way = await self._upstream.until_pause(under_way, act.done)
            await self._stage.settle()
            paid = sum(play.scenario.name == "pays_late" for play in plays)
            act.say(f"ran out: {late - paid}; paid late and held again: {paid}")

    async def _races(self) -> None:
        """Two orders want one coupon: one gets it, the other learns why not."""
        winners = [user for user in self._day.rush_users if (user, RUSH) in self.tally.coupons][:RACES]
        with self._stage.act("Two orders want one coupon", len(winners)) as act:
            for user in winners:
                pair = [self._racer(user, letter) for letter in "ab"]
                outcomes = await asyncio.gather(
                    *(self._upstream.place(order, f"place-{order.order_id}") for order in pair)
                )
                for order, outcome in zip(pair, outcomes, strict=True):
                    won = outcome["status"] == "ready"
                    self.tally.races["won" if won else outcome["refusals"][0]["code"]] += 1
                    path, body = f"/v1/orders/{order.order_id}/cancel", {}
                    if won:
                        path, body = "/v1/payments", _payment_of(order.order_id, outcome["payable_minor"])
                    await self._api.must(path, body, key=f"end-{order.order_id}")
                act.done()
            await self._stage.settle()
            act.say(_in_words(self.tally.races))

    def _racer(self, user: str, letter: str) -> PlaceOrder:
        grinder = OrderLine(line_id="1", sku="hand-grinder", quantity=1, unit_price_minor=7_900)
        return PlaceOrder(
            order_id=f"race-{user}-{letter}",
            user_id=user,
            currency=CURRENCY,
            coupon_ids=tuple(self.tally.coupons[user, RUSH]),
            lines=(grinder,),
        )

    async def _evening(self) -> None:
        """The day's last timers, and everybody's last word."""
        with self._stage.act("Evening: everything comes to rest", 1) as act:
            await self._advance(EVENING)
            await self._stage.settle_all()
            act.done()
            act.say("sagas, timers, read models and facts have nothing left to do")

    # Helpers.

    async def _advance(self, to: datetime) -> None:
        await self._api.must("/v1/clock", {"to": to.isoformat()}, key=f"clock-{to.isoformat()}")

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


def _payment_of(order_id: str, amount_minor: int) -> dict[str, Any]:
    return {
        "payment_id": f"p-{order_id}",
        "order_id": order_id,
        "status": "succeeded",
        "amount_minor": amount_minor,
        "currency": CURRENCY,
    }


def _code(answer: Mapping[str, Any]) -> str:
    return "ok" if answer.get("status") == "accepted" else str(answer.get("code"))


def _coupon_id(answer: Mapping[str, Any]) -> str | None:
    data = answer.get("data") or {}
    coupon_id = data.get("coupon_id") if answer.get("status") == "accepted" else None
    return None if coupon_id is None else str(coupon_id)


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())
