"""A reference model of the promotion side: the rules once more, as naively as possible, one realm, one currency.

It knows nothing of events or streams. Discounts are fixed amounts on one-line orders, so that whoever reads it sees at
once that it is right; arithmetic has property tests of its own.
"""

from dataclasses import dataclass, field

LOCK_SECONDS = 900


@dataclass
class ModelTemplate:
    """``status``: draft, active, paused, ended. ``until`` is the end of the claim window, in seconds."""

    stock: int
    per_user: int
    amount: int
    until: int
    budget: str | None
    status: str = "draft"
    claimed: int = 0


@dataclass
class ModelCoupon:
    """``state``: held, locked, redeemed. ``until`` is the end of its validity, ``lock_until`` of its lock."""

    template: str
    user: str
    until: int
    state: str = "held"
    order: str | None = None
    external: bool = False
    lock_until: int = 0


@dataclass
class ModelOrder:
    """``state``: none, held, refused, released, completed, refunded."""

    user: str
    amount: int
    coupons: list[str]
    state: str = "none"
    lock_until: int = 0
    discounts: dict[str, int] = field(default_factory=dict)
    refunded: bool = False


@dataclass
class ModelBudget:
    """Amounts in minor units."""

    limit: int
    reserved: int = 0
    spent: int = 0


class Model:
    """What must be answered; methods change the model and return the expected code."""

    def __init__(self) -> None:
        self.now = 0
        self.templates: dict[str, ModelTemplate] = {}
        self.coupons: dict[str, ModelCoupon] = {}
        self.orders: dict[str, ModelOrder] = {}
        self.budgets: dict[str, ModelBudget] = {}

    def claim(self, template_id: str, user: str) -> str:
        """What a claim is answered; the caller adds the coupon when it is ``ok``."""
        template = self.templates[template_id]
        mine = sum(1 for coupon in self.coupons.values() if (coupon.template, coupon.user) == (template_id, user))
        if template.status == "draft":
            return "not_active"
        if template.status == "ended" or self.now >= template.until:
            return "ended"
        if template.status == "paused":
            return "paused"
        if template.claimed >= template.stock:
            return "template_exhausted"
        if mine >= template.per_user:
            return "user_limit_reached"
        template.claimed += 1
        return "ok"

    def lapse(self) -> None:
        """Locks whose time is over hold nobody any more; their orders hold nothing."""
        for order in self.orders.values():
            if order.state == "held" and self.now >= order.lock_until:
                self._free(order, "released")
        for coupon in self.coupons.values():
            if coupon.state == "locked" and coupon.external and self.now >= coupon.lock_until:
                coupon.state, coupon.order = "held", None

    def usable(self, coupon_id: str) -> bool:
        """Whether somebody may lock the coupon now."""
        coupon = self.coupons[coupon_id]
        return coupon.state == "held" and self.now < coupon.until

    def lock(self, coupon_id: str, order_id: str) -> bool:
        """An upstream with its own checkout locks a coupon. Returns whether it may."""
        coupon = self.coupons[coupon_id]
        if coupon.state == "locked" and coupon.order == order_id and coupon.external:
            return True
        if not self.usable(coupon_id):
            return False
        coupon.state, coupon.order, coupon.external = "locked", order_id, True
        coupon.lock_until = self.now + LOCK_SECONDS
        return True

    def redeem(self, coupon_id: str, order_id: str) -> bool:
        """It uses the coupon. Returns whether it may."""
        coupon = self.coupons[coupon_id]
        if coupon.state == "redeemed":
            return coupon.order == order_id and coupon.external
        if coupon.state != "locked" or coupon.order != order_id or not coupon.external:
            return False
        coupon.state = "redeemed"
        return True

    def hold(self, order_id: str) -> bool:
        """The order's one decision. Returns whether everything is held now."""
        order = self.orders[order_id]
        wanted: dict[str, int] = {}
        left = order.amount
        needed: dict[str, int] = {}
        for coupon_id in order.coupons:
            coupon = self.coupons[coupon_id]
            template = self.templates[coupon.template]
            discount = min(template.amount, left)
            if coupon.user != order.user or not self.usable(coupon_id) or discount == 0:
                order.state = "refused"
                return False
            left -= discount
            wanted[coupon_id] = discount
            if template.budget:
                needed[template.budget] = needed.get(template.budget, 0) + discount
        for budget_id, amount in needed.items():
            budget = self.budgets[budget_id]
            if budget.limit - budget.reserved - budget.spent < amount:
                order.state = "refused"
                return False
        for budget_id, amount in needed.items():
            self.budgets[budget_id].reserved += amount
        for coupon_id in wanted:
            coupon = self.coupons[coupon_id]
            coupon.state, coupon.order, coupon.external = "locked", order_id, False
        order.state, order.discounts, order.lock_until = "held", wanted, self.now + LOCK_SECONDS
        return True

    def pay(self, order_id: str) -> None:
        """A payment for a held order redeems everything."""
        order = self.orders[order_id]
        for coupon_id, discount in order.discounts.items():
            coupon = self.coupons[coupon_id]
            coupon.state = "redeemed"
            if budget_id := self.templates[coupon.template].budget:
                self.budgets[budget_id].reserved -= discount
                self.budgets[budget_id].spent += discount
        order.state = "completed"

    def release(self, order_id: str) -> None:
        """Everything held is given back."""
        order = self.orders[order_id]
        if order.state == "held":
            self._free(order, "released")

    def refund(self, order_id: str) -> None:
        """All money went back: the budget is credited and the coupons are returned."""
        order = self.orders[order_id]
        for coupon_id, discount in order.discounts.items():
            coupon = self.coupons[coupon_id]
            coupon.state, coupon.order = "held", None
            if budget_id := self.templates[coupon.template].budget:
                self.budgets[budget_id].spent -= discount
        order.state = "refunded"

    def _free(self, order: ModelOrder, state: str) -> None:
        for coupon_id, discount in order.discounts.items():
            coupon = self.coupons[coupon_id]
            coupon.state, coupon.order = "held", None
            if budget_id := self.templates[coupon.template].budget:
                self.budgets[budget_id].reserved -= discount
        order.state, order.discounts = state, {}
