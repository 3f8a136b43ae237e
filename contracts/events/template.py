"""What happens to a coupon template: its life cycle, its stock and its terms."""

from typing import ClassVar, Literal

from contracts.events.base import Event
from contracts.terms import Terms
from contracts.values import Instant


class TemplateCreated(Event):
    """A draft: nothing can be claimed yet."""

    type: ClassVar[str] = "template.created.v1"

    template_id: str
    terms: Terms


class TemplateActivated(Event):
    """The template may be claimed from, within its claim window ``[claim_from, claim_until)``."""

    type: ClassVar[str] = "template.activated.v1"

    template_id: str
    claim_from: Instant | None = None  # So that opening and closing can be timed from this event alone.
    claim_until: Instant | None = None


class TemplateOpened(Event):
    """The claim window began; recorded by a timer, true since ``opened_at``."""

    type: ClassVar[str] = "template.opened.v1"

    template_id: str
    opened_at: Instant


class TemplatePaused(Event):
    """Claims are refused until it is resumed."""

    type: ClassVar[str] = "template.paused.v1"

    template_id: str
    reason: str


class TemplateResumed(Event):
    """Claims are accepted again."""

    type: ClassVar[str] = "template.resumed.v1"

    template_id: str


class TemplateEnded(Event):
    """No claim for ever: the window closed (true since ``ended_at``) or somebody terminated it."""

    type: ClassVar[str] = "template.ended.v1"

    template_id: str
    cause: Literal["window_closed", "terminated"]
    reason: str
    ended_at: Instant


class TemplateStockIncreased(Event):
    """More coupons may be claimed."""

    type: ClassVar[str] = "template.stock_increased.v1"

    template_id: str
    by: int
    stock: int


class TemplateShortened(Event):
    """The claim window ends earlier than it was said."""

    type: ClassVar[str] = "template.shortened.v1"

    template_id: str
    claim_until: Instant


class TemplateRevised(Event):
    """New terms for coupons claimed from now on; claimed ones keep theirs."""

    type: ClassVar[str] = "template.revised.v1"

    template_id: str
    terms_version: int
    terms: Terms


class TemplateCouponIssued(Event):
    """One coupon left the stock. ``claimed`` is the template's total after it."""

    type: ClassVar[str] = "template.coupon_issued.v1"

    template_id: str
    terms_version: int
    coupon_id: str
    user_id: str
    claimed: int
    reservation_id: str | None = None


class TemplateCouponsIssued(Event):
    """Many coupons left the stock at once, one ``coupon.claimed`` each. ``claimed`` is the total after it.

    A chunk of a distribution, or claims that were decided in one batch: then it bears the first one's command id.
    """

    type: ClassVar[str] = "template.coupons_issued.v1"

    template_id: str
    terms_version: int
    quantity: int
    claimed: int
    distribution_id: str | None = None


class TemplateStockReserved(Event):
    """Stock set aside for one user. ``reserved`` is the template's total after it."""

    type: ClassVar[str] = "template.stock_reserved.v1"

    template_id: str
    reservation_id: str
    user_id: str
    quantity: int
    reserved: int
    period: str = ""  # The limit period that it counts in; "" when the terms limit no period.


class TemplateReservationConfirmed(Event):
    """The reserved coupons were claimed; each has its own ``template.coupon_issued``."""

    type: ClassVar[str] = "template.reservation_confirmed.v1"

    template_id: str
    reservation_id: str
    user_id: str
    quantity: int
    reserved: int


class TemplateReservationCancelled(Event):
    """The reserved stock is free again."""

    type: ClassVar[str] = "template.reservation_cancelled.v1"

    template_id: str
    reservation_id: str
    user_id: str
    quantity: int
    reserved: int
    reason: str
