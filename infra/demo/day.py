"""What the day will hold, drawn from a seed: shelves, coupons, customers, and what becomes of each order. Pure."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from infra.simulator.scenarios import Pay, Place, Scenario, catalogue
from infra.simulator.scenarios import draw as draw_scenarios

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


@dataclass(frozen=True, slots=True)
class Template:
    """A coupon template as the merchant wants it, and the share of customers who claim one in the morning."""

    template_id: str
    what: str
    terms: dict[str, Any]
    share: float
    tries: int = 1  # How often each of those customers tries.


@dataclass(frozen=True, slots=True)
class Order:
    """One order and what becomes of it. ``wants`` names templates; the coupons themselves are known once claimed."""

    order_id: str
    user_id: str
    wants: tuple[str, ...]
    lines: tuple[dict[str, Any], ...]
    shipping_minor: int
    scenario: Scenario


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
    orders = tuple(_orders(random, claims, max(40, round(800 * scale))))
    return Day(
        templates=templates,
        customers=customers,
        claims=tuple(claims),
        rush_users=tuple(f"r{number:06d}" for number in range(10 * rush_stock)),
        rush_stock=rush_stock,
        orders=orders,
        spring_limit_minor=max(100_000, round(500_000 * scale)),
        tiny_limit_minor=max(1_600, round(20_000 * scale)),
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


def _orders(random: Random, claims: Sequence[tuple[str, str]], count: int) -> list[Order]:
    """Customers with coupons order, once each, so that nobody's coupon is wanted by two: that race is played by itself.

    Every course of events that leaves no break behind happens, however small the day.
    """
    held: dict[str, list[str]] = {}
    for user, template_id in claims:
        if template_id not in held.setdefault(user, []):
            held[user].append(template_id)
    clean = [scenario for scenario in catalogue(LOCK_MINUTES * 60).values() if not scenario.breaks]
    buyers = random.sample(sorted(held), min(count, len(held)))
    scenarios = draw_scenarios(random.randrange(1 << 30), len(buyers), clean)
    return [
        _order(random, number, user, _wants(random, held[user], scenario), scenario)
        for number, (user, scenario) in enumerate(zip(buyers, scenarios, strict=True), start=1)
    ]


def _wants(random: Random, held: Sequence[str], scenario: Scenario) -> list[str]:
    """One or two coupons. Who pays before or after the hold must find them usable then: else it is a break."""
    fleeting = set() if _pays_within_the_hold(scenario) else {BREAKFAST, TINY}
    lasting = [template for template in held if template not in fleeting]
    return random.sample(lasting, k=min(len(lasting), random.choice((1, 1, 2))))


def _pays_within_the_hold(scenario: Scenario) -> bool:
    before = itertools.takewhile(lambda step: not isinstance(step, Pay), scenario.steps)
    return not any(isinstance(step, Pay) for step in scenario.steps) or [*map(type, before)] == [Place]


def _order(random: Random, number: int, user: str, wants: Sequence[str], scenario: Scenario) -> Order:
    shelf = random.sample(_SHELF, k=random.randint(2, 5))
    lines = tuple(
        {
            "line_id": str(index),
            "sku": sku,
            "category": category,
            "shop_id": shop,
            "quantity": random.choice((1, 1, 1, 2, 3)),
            "unit_price_minor": price,
        }
        for index, (sku, category, shop, price) in enumerate(shelf, start=1)
    )
    return Order(f"o{number:05d}", user, tuple(wants), lines, random.choice((0, 390, 490)), scenario)


def _iso(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
