"""What may become of an order, as plain data: what the order system tells, in which order, and where it must end."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

WHOLE_BP: Final = 10_000


@dataclass(frozen=True, slots=True)
class Place:
    """Tell of the order."""


@dataclass(frozen=True, slots=True)
class Pay:
    """A payment of all that is payable succeeds; told ``times`` times."""

    payment: str = "1"
    times: int = 1


@dataclass(frozen=True, slots=True)
class FailToPay:
    """A payment does not go through."""

    payment: str = "1"


@dataclass(frozen=True, slots=True)
class Cancel:
    """The customer, or (``rejected``) the merchant, gives the order up."""

    rejected: bool = False


@dataclass(frozen=True, slots=True)
class Reopen:
    """The customer takes it up again."""


@dataclass(frozen=True, slots=True)
class Refund:
    """A share of what was payable goes back, in basis points, or (None) all that did not yet; ``excess_minor`` more."""

    refund: str = "1"
    share_bp: int | None = None
    excess_minor: int = 0


@dataclass(frozen=True, slots=True)
class Pass:
    """Business time passes."""

    seconds: int


Step = Place | Pay | FailToPay | Cancel | Reopen | Refund | Pass


@dataclass(frozen=True, slots=True)
class Scenario:
    """One course of events. ``ends_in``: the saga's step, of an order whose coupons could be held.

    ``breaks``: the kinds of breaks that reconciliation must show for it in the end.
    """

    name: str
    steps: tuple[Step, ...]
    ends_in: str
    breaks: frozenset[str] = frozenset()
    weight: int = 1


def catalogue(lock_seconds: int) -> dict[str, Scenario]:
    """All scenarios, by name. ``lock_seconds``: how long a hold lasts."""
    lapse = Pass(lock_seconds)
    scenarios = (
        Scenario("pays", (Place(), Pay()), "completed", weight=50),
        Scenario("pays_and_tells_it_twice", (Place(), Pay(times=2)), "completed", weight=6),
        Scenario("pays_before_the_order_is_told", (Pay(), Place()), "completed", weight=4),
        Scenario("pays_late", (Place(), lapse, Pay()), "completed", weight=5),
        Scenario(
            "pays_twice",
            (Place(), Pay("1"), Pay("2")),
            "completed",
            frozenset({"duplicate_payment", "payment_mismatch"}),
        ),
        Scenario("never_pays", (Place(), lapse), "released", weight=6),
        Scenario("fails_to_pay", (Place(), FailToPay()), "released", weight=6),
        Scenario("fails_then_pays", (Place(), FailToPay("1"), Pay("2")), "completed", weight=2),
        Scenario("cancels_before_paying", (Place(), Cancel()), "cancelled", weight=6),
        Scenario("is_rejected", (Place(), Cancel(rejected=True)), "cancelled", weight=1),
        Scenario("cancels_after_paying", (Place(), Pay(), Cancel(), Refund()), "refunded", weight=3),
        Scenario("pays_after_cancelling", (Place(), Cancel(), Pay(), Refund()), "refunded", weight=1),
        Scenario("reopens_and_pays", (Place(), Cancel(), Reopen(), Pay()), "completed", weight=2),
        Scenario("refunded_in_part", (Place(), Pay(), Refund(share_bp=2_500)), "partly_refunded", weight=6),
        Scenario(
            "refunded_in_two_parts", (Place(), Pay(), Refund("1", share_bp=3_333), Refund("2")), "refunded", weight=4
        ),
        Scenario("refund_told_before_the_payment", (Place(), Refund(), Pay()), "refunded", weight=1),
        Scenario(
            "refunded_too_much",
            (Place(), Pay(), Refund(excess_minor=500)),
            "refunded",
            frozenset({"refund_exceeds_payment"}),
        ),
    )
    return {scenario.name: scenario for scenario in scenarios}


def draw(seed: int, count: int, scenarios: Sequence[Scenario]) -> list[Scenario]:
    """As many as wanted, by their weights; the same seed draws the same. Each comes at least once if there is room."""
    random = Random(seed)
    drawn = random.choices(scenarios, weights=[scenario.weight for scenario in scenarios], k=count)
    first = list(scenarios)[:count]
    drawn[: len(first)] = first
    random.shuffle(drawn)
    return drawn
