"""What the day will hold, drawn from a seed: shelves, coupons, customers, and what becomes of each order. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from random import Random
from typing import Any, Final

CURRENCY: Final = "EUR"
MORNING: Final = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)  # A Monday.
NOON: Final = MORNING.replace(hour=12)
AFTERNOON: Final = MORNING.replace(hour=14)
EVENING: Final = MORNING.replace(hour=20)
LOCK_MINUTES: Final = 15  # The configured time of a hold, on the business clock.

SPRING_BUDGET: Final = "spring"
TINY_BUDGET: Final = "tiny"

RUSH: Final = "rush-10-off"
BREAKFAST: Final = "breakfast-3-off"
TINY: Final = "tiny-8-off"


class Fate(StrEnum):
    """What becomes of an order, as its customer and the payment service decide."""

    PAID = "paid"
    PAID_TOLD_TWICE = "paid, told twice"
    PAID_FIRST = "payment told before the order"
    PAID_LATE = "paid after the lock ended"
    PAYMENT_FAILED = "payment failed"
    CANCELLED = "cancelled before payment"
    CANCELLED_PAID = "cancelled after payment, refunded"
    ABANDONED = "never paid"
    REFUNDED_PARTLY = "paid, one line refunded"
    REFUNDED_FULLY = "paid, refunded in two parts"
    REOPENED = "cancelled, reopened, paid"


_FATES: Final[dict[Fate, int]] = {
    Fate.PAID: 50,
    Fate.PAID_TOLD_TWICE: 6,
    Fate.PAID_FIRST: 4,
    Fate.PAID_LATE: 5,
    Fate.PAYMENT_FAILED: 8,
    Fate.CANCELLED: 6,
    Fate.CANCELLED_PAID: 3,
    Fate.ABANDONED: 6,
    Fate.REFUNDED_PARTLY: 6,
    Fate.REFUNDED_FULLY: 4,
    Fate.REOPENED: 2,
}


_PAID_OUTSIDE_THE_HOLD: Final = frozenset({Fate.PAID_FIRST, Fate.PAID_LATE, Fate.REOPENED})


@dataclass(frozen=True, slots=True)
class Template:
    """A coupon template as the merchant wants it, and the share of customers who claim one in the morning."""

    template_id: str
    what: str
    terms: dict[str, Any]
    share: float
    tries: int = 1  # How often each of those customers tries.


@dataclass(slots=True)
class Order:
    """One order to be placed. ``wants`` names templates; the coupons themselves are known once claimed."""

    order_id: str
    user_id: str
    wants: tuple[str, ...]
    lines: list[dict[str, Any]]
    shipping_minor: int
    fate: Fate
    coupon_ids: tuple[str, ...] = ()
    payable_minor: int = 0
    shares: dict[str, int] = field(default_factory=dict)  # What the customer paid for each line.

    @property
    def total_minor(self) -> int:
        """Before any discount, shipping included."""
        amounts: list[int] = [line["quantity"] * line["unit_price_minor"] for line in self.lines]
        return self.shipping_minor + sum(amounts)


@dataclass(frozen=True, slots=True)
class Day:
    """Everything that is drawn before the day begins."""

    templates: tuple[Template, ...]
    customers: tuple[str, ...]
    claims: tuple[tuple[str, str], ...]  # (user, template), in the order of claiming.
    rush_users: tuple[str, ...]
    rush_stock: int
    orders: tuple[Order, ...]
    spring_limit_minor: int
    tiny_limit_minor: int


_SHELF: Final = (
    # SKU, category, shop, price
    ("espresso-beans", "coffee", "roastery", 1_490),
    ("filter-beans", "coffee", "roastery", 1_290),
    ("hand-grinder", "gear", "roastery", 7_900),
    ("kettle", "gear", "roastery", 5_450),
    ("rye-bread", "bread", "bakery", 480),
    ("sourdough", "bread", "bakery", 620),
    ("cinnamon-buns", "pastry", "bakery", 990),
    ("oat-milk", "dairy", "grocer", 229),
    ("dark-chocolate", "sweets", "grocer", 349),
    ("honey", "sweets", "grocer", 899),
)


def draw(seed: int, scale: float) -> Day:
    """The day of a seed; ``scale`` 1.0 is 10,000 users for 1,000 coupons and some hundred orders."""
    random = Random(seed)
    customers = tuple(f"u{number:05d}" for number in range(max(60, round(3_000 * scale))))
    templates = _templates()
    claims = [
        (user, template.template_id)
        for template in templates
        for user in customers
        if random.random() < template.share
        for _ in range(template.tries)
    ]
    random.shuffle(claims)
    rush_stock = max(10, round(1_000 * scale))
    orders = tuple(_orders(random, customers, templates, max(40, round(800 * scale))))
    return Day(
        templates=templates,
        customers=customers,
        claims=tuple(claims),
        rush_users=tuple(f"r{number:06d}" for number in range(10 * rush_stock)),
        rush_stock=rush_stock,
        orders=orders,
        spring_limit_minor=max(150_000, round(3_000_000 * scale)),
        tiny_limit_minor=max(2_400, round(40_000 * scale)),
    )


def _templates() -> tuple[Template, ...]:
    return (
        Template(
            "welcome-5-off",
            "5.00 off from 25.00",
            _terms(
                "Welcome",
                {"kind": "amount_off", "amount_minor": 500},
                minimum=2_500,
                budgets=[SPRING_BUDGET],
                per_user=1,
            ),
            share=0.6,
        ),
        Template(
            "spring-15-percent",
            "15 % off, at most 20.00, from 30.00, two per user",
            _terms(
                "Spring",
                {"kind": "percent_off", "percent_bp": 1_500},
                minimum=3_000,
                cap=2_000,
                budgets=[SPRING_BUDGET],
                per_user=2,
            ),
            share=0.2,
            tries=3,  # The third is one too many.
        ),
        Template(
            "bakery-20-percent",
            "20 % off the bakery's lines, paid by the shop",
            _terms(
                "Bakery week",
                {"kind": "percent_off", "percent_bp": 2_000},
                shop_id="bakery",
                source="shop",
                scope={"include": {"shops": ["bakery"]}},
                per_user=1,
            ),
            share=0.2,
        ),
        Template(
            BREAKFAST,
            "3.00 off, valid for two hours",
            _terms("Breakfast", {"kind": "amount_off", "amount_minor": 300}, valid_for=timedelta(hours=2), per_user=1),
            share=0.1,
        ),
        Template(
            TINY,
            "8.00 off, from a budget that runs out",
            _terms(
                "Tiny", {"kind": "amount_off", "amount_minor": 800}, minimum=1_000, budgets=[TINY_BUDGET], per_user=1
            ),
            share=0.08,
        ),
    )


def rush_template(day: Day) -> Template:
    """The one that everybody wants at noon: limited stock, one per user."""
    terms = _terms("Noon rush", {"kind": "amount_off", "amount_minor": 1_000}, minimum=2_000, per_user=1)
    window = {"claim_from": _iso(NOON), "claim_until": _iso(NOON + timedelta(hours=1))}
    return Template(
        RUSH, f"10.00 off, {day.rush_stock:,} only, noon to one", terms | window | {"stock": day.rush_stock}, 0.0
    )


def _terms(
    name: str,
    discount: dict[str, Any],
    *,
    minimum: int = 0,
    cap: int | None = None,
    budgets: Sequence[str] = (),
    per_user: int | None = None,
    valid_for: timedelta = timedelta(days=14),
    **more: Any,
) -> dict[str, Any]:
    return {
        "name": name,
        "campaign_id": "spring-2026",
        "currency": CURRENCY,
        "discount": discount,
        "minimum_spend_minor": minimum,
        "discount_max_minor": cap,
        "claims_per_user_max": per_user,
        "claim_from": _iso(MORNING),
        "claim_until": _iso(MORNING + timedelta(days=7)),
        "validity": {"kind": "after_claim", "duration_seconds": int(valid_for.total_seconds())},
        "budget_ids": list(budgets),
        **more,
    }


def _orders(random: Random, customers: Sequence[str], templates: Sequence[Template], count: int) -> list[Order]:
    """Customers order once each, so that nobody's coupon is wanted by two orders; that race is planted by hand."""
    fates = random.choices(list(_FATES), weights=list(_FATES.values()), k=count)
    fates[: len(_FATES)] = list(_FATES)  # Every fate happens, however small the day.
    wanted = [template.template_id for template in templates]
    buyers = random.sample(customers, min(count, len(customers)))
    return [
        _order(random, number, user, _wants(random, wanted, fate), fate)
        for number, (user, fate) in enumerate(zip(buyers, fates, strict=False), start=1)
    ]


def _wants(random: Random, wanted: Sequence[str], fate: Fate) -> list[str]:
    """One or two templates. Who pays before or after the hold must find the coupon usable then: else it is a break."""
    fleeting = {BREAKFAST, TINY} if fate in _PAID_OUTSIDE_THE_HOLD else set()
    return random.sample([template for template in wanted if template not in fleeting], k=random.choice((1, 1, 2)))


def _order(random: Random, number: int, user: str, wants: Sequence[str], fate: Fate) -> Order:
    shelf = random.sample(_SHELF, k=random.randint(2, 5))
    lines = [
        {
            "line_id": str(index),
            "sku": sku,
            "category": category,
            "shop_id": shop,
            "quantity": random.choice((1, 1, 1, 2, 3)),
            "unit_price_minor": price,
        }
        for index, (sku, category, shop, price) in enumerate(shelf, start=1)
    ]
    return Order(f"o{number:05d}", user, tuple(wants), lines, random.choice((0, 390, 490)), fate)


def _iso(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
