"""A template's terms: what a coupon takes off, for whom, when, and what happens at the edges."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contracts.values import AmountMinor, Count, Currency, Id, Instant, PositiveMinor, StrictValue, Text, Value, Zone

BASIS_POINTS = 10_000
SCOPE_ENTRIES_MAX = 1_000
BUDGETS_MAX = 5


class AmountOff(StrictValue):
    """A fixed amount off what the coupon applies to."""

    kind: Literal["amount_off"] = "amount_off"
    amount_minor: PositiveMinor


class PercentOff(StrictValue):
    """A share of what the coupon applies to, in basis points: 1,250 is 12.5 %."""

    kind: Literal["percent_off"] = "percent_off"
    percent_bp: Annotated[int, Field(gt=0, le=BASIS_POINTS)]


Discount = Annotated[AmountOff | PercentOff, Field(discriminator="kind")]

Selection = Annotated[tuple[Id, ...], Field(max_length=SCOPE_ENTRIES_MAX)]


class Selector(StrictValue):
    """Lines by SKU, category or shop; a line matches when any list names it."""

    skus: Selection = ()
    categories: Selection = ()
    shops: Selection = ()


class Scope(StrictValue):
    """Which lines a coupon applies to. No inclusion means the whole order; an exclusion always wins."""

    include: Selector = Selector()
    exclude: Selector = Selector()


class FixedValidity(StrictValue):
    """Usable in ``[valid_from, valid_until)``, whenever it was claimed."""

    kind: Literal["fixed"] = "fixed"
    valid_from: Instant
    valid_until: Instant

    @model_validator(mode="after")
    def _window_is_not_empty(self) -> Self:
        if self.valid_from >= self.valid_until:
            raise ValueError("valid_from must be before valid_until")
        return self


class ValidityAfterClaim(StrictValue):
    """Usable for so many seconds from the claim on."""

    kind: Literal["after_claim"] = "after_claim"
    duration_seconds: Annotated[int, Field(gt=0, le=10 * 366 * 86_400)]


Validity = Annotated[FixedValidity | ValidityAfterClaim, Field(discriminator="kind")]


class PeriodLimit(StrictValue):
    """At most so many claims of one user in one calendar period of the template's zone."""

    period: Literal["day", "week", "month"]
    claims_max: Annotated[int, Field(gt=0, le=1_000_000)]


class Stacking(StrictValue):
    """How it meets other coupons of one order: lower priority numbers go first, an exclusive one stands alone."""

    priority: Annotated[int, Field(ge=-1_000, le=1_000)] = 0
    exclusive: bool = False


class Terms(StrictValue):
    """One version of a template's terms. Windows are half-open; amounts are minor units of ``currency``."""

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    campaign_id: Id
    shop_id: Id | None = None
    category: Id | None = None
    description: Text = ""
    source: Literal["platform", "shop"] = "platform"
    currency: Currency
    zone: Zone = "UTC"
    discount: Discount
    minimum_spend_minor: AmountMinor = 0
    discount_max_minor: PositiveMinor | None = None
    rounding: Literal["half_even", "half_up"] = "half_even"
    scope: Scope = Scope()
    stacking: Stacking = Stacking()
    stock: Count | None = None  # None: unlimited.
    claims_per_user_max: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    claims_per_period: PeriodLimit | None = None
    claim_from: Instant
    claim_until: Instant
    validity: Validity
    budget_ids: Annotated[tuple[Id, ...], Field(max_length=BUDGETS_MAX)] = ()
    on_full_refund: Literal["return", "keep"] = "return"
    on_late_payment: Literal["refuse", "honour"] = "refuse"
    claimed_stay_valid: bool = True  # A pause or an end of the template does nothing to coupons claimed before it.

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.claim_from >= self.claim_until:
            raise ValueError("claim_from must be before claim_until")
        if self.source == "shop" and self.shop_id is None:
            raise ValueError("a shop's template must name its shop_id")
        if len(set(self.budget_ids)) != len(self.budget_ids):
            raise ValueError("budget_ids must not repeat")
        return self


class CouponRef(Value):
    """What every coupon event repeats, because reports group by it and nobody joins to understand an event."""

    template_id: str
    terms_version: int
    campaign_id: str
    shop_id: str | None
    source: Literal["platform", "shop"]
    user_id: str
    currency: str
