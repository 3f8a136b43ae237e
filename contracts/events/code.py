"""What happens to batches of codes and to single codes. No event holds a code's text: that needs the batch's key."""

from typing import ClassVar

from contracts.events.base import Event
from contracts.values import Instant, Value


class IndexRange(Value):
    """Indices of a batch, both ends included."""

    first_index: int
    last_index: int


class CodeBatchGenerated(Event):
    """A batch of codes exists: ``count`` of them, indices from 0 on, sealed under ``key_id`` as its ``number``-th."""

    type: ClassVar[str] = "code_batch.generated.v1"

    batch_id: str
    template_id: str
    campaign_id: str
    name: str
    key_id: str
    number: int
    count: int
    valid_until: Instant | None


class CodeBatchAssigned(Event):
    """Codes went to users, one each; the next ones to go begin at ``next_index``."""

    type: ClassVar[str] = "code_batch.assigned.v1"

    batch_id: str
    template_id: str
    assigned: int
    next_index: int


class CodeBatchVoided(Event):
    """Codes that nobody used by now are void for ever. ``ranges``: those that were not void before.

    ``codes``: how many of them were neither used nor void one by one; early events do not say.
    """

    type: ClassVar[str] = "code_batch.voided.v1"

    batch_id: str
    template_id: str
    ranges: tuple[IndexRange, ...]
    reason: str
    codes: int | None = None


class CodeAssigned(Event):
    """Only this user may use the code."""

    type: ClassVar[str] = "code.assigned.v1"

    batch_id: str
    index: int
    template_id: str
    user_id: str


class CodeUsed(Event):
    """The code claimed this coupon for this user; it does nothing ever after."""

    type: ClassVar[str] = "code.used.v1"

    batch_id: str
    index: int
    template_id: str
    user_id: str
    coupon_id: str


class CodeVoided(Event):
    """The code was taken out of use before anybody used it."""

    type: ClassVar[str] = "code.voided.v1"

    batch_id: str
    index: int
    template_id: str
    reason: str
