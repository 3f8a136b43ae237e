"""What the callers do: a rush for few coupons, orders with coupons and budgets, payments, refunds, cancels, gifts."""

import random
from typing import Any, Final

from tests.chaos.load import Say, pick

CURRENCY: Final = "GBP"
STOCK: Final = 300
BUDGET_MINOR: Final = 150_000
OFF_MINOR: Final = 1_000
PRICE_MINOR: Final = 5_000
GIFT_USERS: Final = 100
_TERMS: Final[dict[str, Any]] = {
    "name": "Ten off",
    "campaign_id": "chaos",
    "currency": CURRENCY,
    "discount": {"kind": "amount_off", "amount_minor": OFF_MINOR},
    "claim_from": "2020-01-01T00:00:00Z",
    "claim_until": "2120-01-01T00:00:00Z",
    "validity": {"kind": "after_claim", "duration_seconds": 864_000},
    "claims_per_user_max": 1,
}
_FATES: Final = ((60, "pay"), (12, "payment_failed"), (13, "cancel"), (15, "leave"))
_AFTERWARDS: Final = ((60, "keep"), (25, "refund_a_part"), (15, "refund_all"))


class Shop:
    """A shop that opens anew for every group of cycles: so stocks run out again and again, and the log stays varied."""

    def __init__(self) -> None:
        self.season = 0
        self.gifts = 0

    async def open(self, say: Say) -> None:
        """A hot template of few coupons, one without end, one that spends a budget, and one to be given away."""
        self.season += 1
        pot = self._name("pot")
        await say("/v1/budgets", {"budget_id": pot, "currency": CURRENCY, "limit_minor": BUDGET_MINOR})
        for name, more in (
            ("hot", {"stock": STOCK}),
            ("wide", {}),
            ("paid", {"budget_ids": [pot]}),
            ("gift", {"stock": 1_000_000}),
        ):
            await say("/v1/templates", {"template_id": self._name(name), "terms": _TERMS | more})
            await say(f"/v1/templates/{self._name(name)}/activate", {})

    async def visit(self, say: Say, chance: random.Random, number: int) -> None:
        """One customer's visit, as its ``number`` and chance will have it."""
        user = f"u{self.season}-{number}"
        what = pick(chance, ((40, "claim"), (58, "order"), (2, "gift")))
        if what == "claim":
            for name in ("hot", "hot", "wide"):  # One per user: the second one is refused.
                await say(f"/v1/templates/{self._name(name)}/claims", {"user_id": user})
        elif what == "order":
            await self._order(say, chance, user, f"o{self.season}-{number}")
        else:
            await self.give(say, f"{self.season}-{number}", GIFT_USERS)

    async def give(self, say: Say, name: str, users: int) -> None:
        """Hand a coupon to each user of a list; a worker does it, chunk by chunk."""
        self.gifts += users
        names = [f"g{name}-{number}" for number in range(users)]
        body = {"template_id": self._name("gift"), "distribution_id": f"d{name}", "user_ids": names}
        await say("/v1/distributions", body)

    async def _order(self, say: Say, chance: random.Random, user: str, order_id: str) -> None:
        claimed = await say(f"/v1/templates/{self._name('paid')}/claims", {"user_id": user})
        lines = [{"line_id": "big", "sku": "big", "unit_price_minor": PRICE_MINOR, "quantity": 1}]
        coupons = [claimed.data["coupon_id"]]
        order = {"order_id": order_id, "user_id": user, "currency": CURRENCY, "coupon_ids": coupons, "lines": lines}
        placed = await say("/v1/orders", order)
        payable = (placed.body.get("checkout") or {}).get("payable_minor", PRICE_MINOR - OFF_MINOR)
        fate = pick(chance, _FATES)
        if fate == "cancel":
            await say(f"/v1/orders/{order_id}/cancel", {})
        if fate == "payment_failed":
            await self._pay(say, f"f-{order_id}", order_id, 0, "failed")
        if fate == "pay":
            await self._pay(say, f"p-{order_id}", order_id, int(payable), "succeeded")
            await self._regret(say, chance, order_id, int(payable))

    async def _pay(self, say: Say, payment_id: str, order_id: str, amount_minor: int, status: str) -> None:
        body = {"payment_id": payment_id, "order_id": order_id, "status": status, "currency": CURRENCY}
        await say("/v1/payments", body | {"amount_minor": amount_minor})

    async def _regret(self, say: Say, chance: random.Random, order_id: str, paid_minor: int) -> None:
        what = pick(chance, _AFTERWARDS)
        if what == "keep":
            return
        amount = paid_minor if what == "refund_all" else paid_minor // 3
        body = {"refund_id": f"r-{order_id}", "order_id": order_id, "currency": CURRENCY, "amount_minor": amount}
        await say("/v1/refunds", body)

    def _name(self, what: str) -> str:
        return f"{what}-{self.season}"
