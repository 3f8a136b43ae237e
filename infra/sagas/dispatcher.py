"""Sends what sagas owe: pending commands go to the engine until each has its final answer."""

import logging
from collections.abc import Sequence

import orjson

from contracts.envelope import Answer, CommandEnvelope
from contracts.registry import UnknownCommandType, command_class
from infra.postgres.outbox import PendingCommand
from infra.sagas.checkpoints import At, Checkpoint, pass_by
from infra.sagas.ports import Found, Owed, SagaStore
from infra.sagas.sending import Outcome, Submits, describe, send
from infra.sagas.settings import SagaSettings

logger = logging.getLogger(__name__)


class Dispatcher:
    """The sagas' voice. Sending twice is safe: the engine answers a command id once. For one thread."""

    def __init__(
        self,
        store: SagaStore,
        engine: Submits,
        settings: SagaSettings | None = None,
        *,
        checkpoint: Checkpoint = pass_by,
        letters: bool = False,
    ) -> None:
        """``letters``: sends only what goes between shards, instead of everything else."""
        self._store = store
        self._engine = engine
        self._letters = letters
        self._settings = settings or SagaSettings()
        self._checkpoint = checkpoint

    def run_once(self) -> int:
        """Send one batch and note the answers; returns how many commands it had (0: nothing is due).

        Raises Busy and StoreUnavailable, after which it may be called again, and EngineStopped.
        """
        owed = self._store.next_commands(self._settings.commands_max, letters=self._letters)
        if not owed.items:
            return 0
        self._checkpoint(At.COMMANDS_READ)
        outcomes = self._send(owed)
        self._checkpoint(At.COMMANDS_ANSWERED)
        self._settle(owed, outcomes)
        self._checkpoint(At.COMMANDS_SETTLED)
        return len(owed.items)

    def close(self) -> None:
        """Give the store's connection back."""
        self._store.close()

    def _send(self, owed: Found[Owed]) -> list[Outcome]:
        """The outcome of each; what cannot even be read is an outcome of its own and hinders no other."""
        asked_in = None if self._letters else owed.epoch  # A letter's shard has a history of its own.
        readable = [_envelope(each.command, asked_in) for each in owed.items]
        envelopes = [envelope for envelope in readable if isinstance(envelope, CommandEnvelope)]
        answered = iter(
            send(
                self._engine,
                envelopes,
                wait_seconds=self._settings.answer_wait_seconds,
                submitted=At.COMMANDS_SUBMITTED,
                checkpoint=self._checkpoint,
            )
        )
        return [next(answered) if isinstance(each, CommandEnvelope) else each for each in readable]

    def _settle(self, owed: Found[Owed], outcomes: Sequence[Outcome]) -> None:
        accepted: list[int] = []
        refused: dict[int, tuple[str, str]] = {}
        unanswered: dict[int, str] = {}
        for each, outcome in zip(owed.items, outcomes, strict=True):
            if not isinstance(outcome, Answer):
                unanswered[each.id] = describe(outcome)
                self._log_unanswered(each, outcome)
            elif outcome.accepted:
                accepted.append(each.id)
            else:
                refused[each.id] = (outcome.code, outcome.detail)
                logger.error("saga_command_refused", extra={**_about(each), "code": outcome.code})
        self._store.settle_commands(
            owed.epoch, accepted=accepted, refused=refused, unanswered=unanswered, retry=self._settings.retry
        )

    def _log_unanswered(self, owed: Owed, error: Exception) -> None:
        stuck = owed.attempts + 1 >= self._settings.stuck_attempts
        level, event = (logging.ERROR, "saga_command_stuck") if stuck else (logging.WARNING, "saga_command_unanswered")
        logger.log(level, event, extra={**_about(owed), "error": describe(error)})


def _envelope(pending: PendingCommand, asked_in: str | None) -> CommandEnvelope | Exception:
    try:
        # Commands are strict: instants and tuples are read from JSON text, never from the values it stands for.
        command = command_class(pending.command_type).model_validate_json(orjson.dumps(pending.payload))
    except (UnknownCommandType, ValueError) as error:
        return error
    return CommandEnvelope(
        realm=pending.realm,
        command_id=pending.command_id,
        command=command,
        actor=pending.actor,
        correlation_id=pending.correlation_id,
        causation_id=pending.causation_id,
        traceparent=pending.traceparent,
        asked_in=asked_in,
    )


def _about(owed: Owed) -> dict[str, object]:
    command = owed.command
    return {
        "tenant": command.realm.tenant_id,
        "app": command.realm.app_id,
        "saga": command.saga_key,
        "command_id": command.command_id,
        "attempts": owed.attempts + 1,
    }
