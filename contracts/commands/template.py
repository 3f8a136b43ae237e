"""What merchants ask of templates; opening and closing are asked by timers."""

from typing import Annotated, ClassVar

from pydantic import Field

from contracts.commands.base import Command
from contracts.terms import Terms
from contracts.values import Id, Instant, Quantity, Text


class CreateTemplate(Command):
    """Draft a template. Without an id one is derived from the command id."""

    type: ClassVar[str] = "create_template"

    template_id: Id | None = None
    terms: Terms


class ActivateTemplate(Command):
    """Let a draft be claimed from."""

    type: ClassVar[str] = "activate_template"

    template_id: Id


class PauseTemplate(Command):
    """Refuse claims for a while."""

    type: ClassVar[str] = "pause_template"

    template_id: Id
    reason: Text = ""


class ResumeTemplate(Command):
    """Accept claims again."""

    type: ClassVar[str] = "resume_template"

    template_id: Id


class TerminateTemplate(Command):
    """End the template for ever."""

    type: ClassVar[str] = "terminate_template"

    template_id: Id
    reason: Text = ""


class IncreaseTemplateStock(Command):
    """Add stock; it never goes down."""

    type: ClassVar[str] = "increase_template_stock"

    template_id: Id
    by: Quantity


class ShortenTemplate(Command):
    """End the claim window earlier."""

    type: ClassVar[str] = "shorten_template"

    template_id: Id
    claim_until: Instant


class ReviseTemplate(Command):
    """Give new terms to coupons claimed from now on. Currency and stock stay as they are."""

    type: ClassVar[str] = "revise_template"

    template_id: Id
    terms: Terms


class ReserveTemplateStock(Command):
    """Set stock aside for one user; it counts towards the user's limits."""

    type: ClassVar[str] = "reserve_template_stock"

    template_id: Id
    reservation_id: Id
    user_id: Id
    quantity: Annotated[int, Field(gt=0, le=1_000)]


class ConfirmTemplateReservation(Command):
    """Turn a reservation into claimed coupons."""

    type: ClassVar[str] = "confirm_template_reservation"

    template_id: Id
    reservation_id: Id


class CancelTemplateReservation(Command):
    """Give reserved stock back."""

    type: ClassVar[str] = "cancel_template_reservation"

    template_id: Id
    reservation_id: Id
    reason: Text = ""


class OpenTemplate(Command):
    """Record that the claim window began (a timer's)."""

    type: ClassVar[str] = "open_template"

    template_id: Id


class CloseTemplate(Command):
    """Record that the claim window ended (a timer's)."""

    type: ClassVar[str] = "close_template"

    template_id: Id
