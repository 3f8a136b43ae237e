"""How an import's commands reach the engine: in order, under ids of their own, until every one has its final answer."""

from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from time import sleep
from typing import Final, Protocol

from command.engine import Busy, EngineStopped, HandlerFailed
from command.ports import StoreUnavailable
from contracts.commands import Command
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from infra.imports.errors import EngineUnreachable, HandlerBroke

ATTEMPTS_MAX: Final = 8
BACKOFF_SECONDS: Final = 0.1
BACKOFF_SECONDS_MAX: Final = 5.0
ANSWER_SECONDS_MAX: Final = 120.0


class CommandSink(Protocol):
    """What an import needs of the engine."""

    def submit_many(self, envelopes: Sequence[CommandEnvelope]) -> list[Future[Answer]]:
        """Queue commands, kept together and in order. Raises Busy or EngineStopped."""
        ...


@dataclass(frozen=True, slots=True)
class InFlight:
    """Commands that were sent together, and where their answers will be."""

    envelopes: Sequence[CommandEnvelope]
    futures: Sequence[Future[Answer]]


class Sender:
    """Sends one import's commands. Sending twice does nothing twice: every id is derived from the row."""

    def __init__(self, sink: CommandSink, realm: Realm, import_id: str) -> None:
        self._sink = sink
        self._realm = realm
        self._prefix = f"import:{import_id}"

    def envelope(self, suffix: str, command: Command) -> CommandEnvelope:
        """A command under the id ``import:{import_id}:{suffix}``."""
        return CommandEnvelope(
            realm=self._realm,
            command_id=f"{self._prefix}:{suffix}",
            command=command,
            actor=self._prefix,
            correlation_id=self._prefix,
        )

    def submit(self, envelopes: Sequence[CommandEnvelope]) -> InFlight:
        """Queue commands, waiting while the engine is busy. Raises EngineUnreachable when it stays so."""
        reason: Exception | None = None
        for attempt in range(ATTEMPTS_MAX):
            try:
                return InFlight(envelopes, self._sink.submit_many(envelopes) if envelopes else [])
            except Busy as busy:
                reason = busy
            except EngineStopped as stopped:
                raise EngineUnreachable(str(stopped)) from stopped
            sleep(_backoff_seconds(attempt))
        raise EngineUnreachable(f"the engine stayed busy: {reason}") from reason

    def answers(self, sent: InFlight) -> list[Answer]:
        """Wait for the final answers. When the store was out of reach all are sent again: what landed is replayed.

        Raises EngineUnreachable when that does not help, HandlerBroke when the engine fails on one of them.
        """
        reason: Exception | None = None
        for attempt in range(ATTEMPTS_MAX):
            try:
                return [_answer(*pair) for pair in zip(sent.envelopes, sent.futures, strict=True)]
            except (StoreUnavailable, FutureTimeout) as lost:
                reason = lost
            except EngineStopped as stopped:
                raise EngineUnreachable(str(stopped)) from stopped
            sleep(_backoff_seconds(attempt))
            sent = self.submit(sent.envelopes)
        raise EngineUnreachable(f"no answer from the engine: {reason}") from reason


def _answer(envelope: CommandEnvelope, future: Future[Answer]) -> Answer:
    try:
        return future.result(ANSWER_SECONDS_MAX)
    except HandlerFailed as failure:
        raise HandlerBroke(f"command {envelope.command_id}: {failure}") from failure


def _backoff_seconds(attempt: int) -> float:
    return min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * 2.0**attempt)
