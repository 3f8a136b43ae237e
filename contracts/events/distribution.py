"""What happens to a distribution: one template given to a list of users, chunk by chunk, until the list is done."""

from typing import ClassVar

from contracts.events.base import Event
from contracts.values import Value


class DistributionProgress(Value):
    """Where a distribution stands after an event. Rows count from 1; it is done when ``next_row > users``."""

    users: int
    next_row: int
    issued: int
    refused: int


class RefusedRows(Value):
    """The rows that were refused for one reason, and the users they name, in the same order."""

    code: str
    detail: str
    rows: tuple[int, ...]
    user_ids: tuple[str, ...]


class DistributionStarted(Event):
    """A list of users is to get one coupon of the template for each of its rows. ``users_sha256``: which list."""

    type: ClassVar[str] = "distribution.started.v1"

    distribution_id: str
    template_id: str
    progress: DistributionProgress
    users_sha256: str | None = None


class DistributionUsersRefused(Event):
    """Rows of one chunk that got no coupon, by reason; ``distribution.advanced`` of the same chunk follows."""

    type: ClassVar[str] = "distribution.users_refused.v1"

    distribution_id: str
    template_id: str
    refused: tuple[RefusedRows, ...]


class DistributionAdvanced(Event):
    """One chunk of rows, from ``first_row`` on, was decided in one go: so many issued, so many refused."""

    type: ClassVar[str] = "distribution.advanced.v1"

    distribution_id: str
    template_id: str
    first_row: int
    issued: int
    refused: int
    progress: DistributionProgress


class DistributionPaused(Event):
    """No further chunk until it is resumed."""

    type: ClassVar[str] = "distribution.paused.v1"

    distribution_id: str
    template_id: str
    reason: str
    progress: DistributionProgress


class DistributionResumed(Event):
    """Chunks go on where they stopped."""

    type: ClassVar[str] = "distribution.resumed.v1"

    distribution_id: str
    template_id: str
    progress: DistributionProgress


class DistributionCancelled(Event):
    """It ended for ever before its last row; what was issued stays issued."""

    type: ClassVar[str] = "distribution.cancelled.v1"

    distribution_id: str
    template_id: str
    reason: str
    progress: DistributionProgress


class DistributionCompleted(Event):
    """Every row was decided."""

    type: ClassVar[str] = "distribution.completed.v1"

    distribution_id: str
    template_id: str
    progress: DistributionProgress
