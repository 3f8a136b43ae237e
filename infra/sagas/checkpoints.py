"""Every point at which a part of the saga worker can die, so that a test can let it die there."""

from collections.abc import Callable
from enum import StrEnum

Checkpoint = Callable[["At"], None]


class At(StrEnum):
    """What has just been done when the checkpoint is called."""

    FACTS_READ = "facts_read"
    FACTS_DECIDED = "facts_decided"
    MEMORY_WRITTEN = "memory_written"  # Inside the transaction: everything is written, nothing committed.
    MEMORY_COMMITTED = "memory_committed"
    COMMANDS_READ = "commands_read"
    COMMANDS_SUBMITTED = "commands_submitted"
    COMMANDS_ANSWERED = "commands_answered"
    COMMANDS_SETTLED = "commands_settled"
    TIMERS_READ = "timers_read"
    TIMERS_SUBMITTED = "timers_submitted"
    TIMERS_ANSWERED = "timers_answered"
    TIMERS_SETTLED = "timers_settled"


def pass_by(at: At) -> None:
    """Go on: what production does at every checkpoint."""
