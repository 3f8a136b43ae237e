"""Fires due timers: in bulk, by the business time of their realm, and once in effect."""

import logging
from collections.abc import Sequence
from typing import Final

from contracts.envelope import Answer, CommandEnvelope
from infra.sagas.checkpoints import At, Checkpoint, pass_by
from infra.sagas.ports import Found, SagaStore
from infra.sagas.sending import Outcome, Submits, describe, send
from infra.sagas.settings import SagaSettings
from sagas.timers import DueTimer, command_of

logger = logging.getLogger(__name__)

ACTOR: Final = "timer"


class TimerService:
    """Sends the command of each due timer and forgets the timer when it was answered. For one thread."""

    def __init__(
        self,
        store: SagaStore,
        engine: Submits,
        settings: SagaSettings | None = None,
        *,
        checkpoint: Checkpoint = pass_by,
    ) -> None:
        self._store = store
        self._engine = engine
        self._settings = settings or SagaSettings()
        self._checkpoint = checkpoint

    def run_once(self) -> int:
        """Fire one batch; returns how many timers it had (0: nothing is due).

        Raises Busy and StoreUnavailable, after which it may be called again, and EngineStopped.
        """
        due = self._store.due_timers(self._settings.timers_max, self._settings.realms_max)
        if not due.items:
            return 0
        self._checkpoint(At.TIMERS_READ)
        outcomes = send(
            self._engine,
            [_envelope(timer, due.epoch) for timer in due.items],
            wait_seconds=self._settings.answer_wait_seconds,
            submitted=At.TIMERS_SUBMITTED,
            checkpoint=self._checkpoint,
        )
        self._checkpoint(At.TIMERS_ANSWERED)
        self._settle(due, outcomes)
        self._checkpoint(At.TIMERS_SETTLED)
        return len(due.items)

    def close(self) -> None:
        """Give the store's connection back."""
        self._store.close()

    def _settle(self, due: Found[DueTimer], outcomes: Sequence[Outcome]) -> None:
        fired: list[DueTimer] = []
        unanswered: list[tuple[DueTimer, str]] = []
        for timer, outcome in zip(due.items, outcomes, strict=True):
            if isinstance(outcome, Answer):
                fired.append(timer)
                if not outcome.accepted:
                    # What it waited for is no longer so, or somebody was quicker: there is nothing left to record.
                    logger.info("timer_refused", extra={"timer": timer.command_id, "code": outcome.code})
            else:
                unanswered.append((timer, describe(outcome)))
                logger.warning("timer_unanswered", extra={"timer": timer.command_id, "error": describe(outcome)})
        self._store.settle_timers(due.epoch, fired=fired, unanswered=unanswered, retry=self._settings.retry)


def _envelope(timer: DueTimer, asked_in: str) -> CommandEnvelope:
    return CommandEnvelope(
        realm=timer.realm,
        command_id=timer.command_id,
        command=command_of(timer),
        actor=ACTOR,
        correlation_id=timer.command_id,
        asked_in=asked_in,
    )
