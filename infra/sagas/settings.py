"""Bounds of the saga worker."""

from dataclasses import dataclass

from infra.sagas.ports import Retry


@dataclass(frozen=True, slots=True)
class SagaSettings:
    """How much at once, how long to wait, and from when on something counts as stuck."""

    facts_max: int = 1_000  # Heard in one transaction.
    memories_max: int = 50_000  # Kept between batches.
    commands_max: int = 500  # Sent together.
    timers_max: int = 1_000  # Fired together.
    realms_max: int = 1_000  # With due timers, looked at together.
    gather_seconds: float = 0.05  # After hearing something: what comes meanwhile is heard together …
    gather_calm_seconds: float = 0.1  # … and for longer when nothing had to be sent for it.
    poll_seconds: float = 0.025  # What guarantees the feed; notifications only make it quicker.
    timer_poll_seconds: float = 0.2
    answer_wait_seconds: float = 30.0
    backoff_seconds_max: float = 1.0
    halted_again_seconds: float = 5.0  # A part that halted looks again whether somebody has helped.
    retry_seconds_first: float = 0.2  # What got no answer is tried again after this, then ever less often …
    retry_seconds_max: float = 60.0  # … but never less often than this.
    stuck_attempts: int = 5
    stuck_seconds: float = 300.0

    @property
    def retry(self) -> Retry:
        """When to try again what got no answer."""
        return Retry(self.retry_seconds_max, self.retry_seconds_first)
