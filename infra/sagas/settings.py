"""Bounds of the saga worker."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SagaSettings:
    """How much at once, how long to wait, and from when on something counts as stuck."""

    facts_max: int = 1_000  # Heard in one transaction.
    memories_max: int = 50_000  # Kept between batches.
    commands_max: int = 500  # Sent together.
    timers_max: int = 1_000  # Fired together.
    realms_max: int = 1_000  # With due timers, looked at together.
    poll_seconds: float = 0.025  # What guarantees the feed; notifications only make it quicker.
    timer_poll_seconds: float = 0.2
    answer_wait_seconds: float = 30.0
    backoff_seconds_max: float = 5.0
    stuck_attempts: int = 5
    stuck_seconds: float = 300.0
