"""Sends commands to the engine and waits for their answers, for no longer than it may."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from time import monotonic
from typing import Protocol

from command.engine import Busy, EngineStopped, HandlerFailed
from command.ports import StoreUnavailable
from command.unit_of_work import NotYet
from contracts.envelope import Answer, CommandEnvelope
from infra.sagas.checkpoints import At, Checkpoint

Outcome = Answer | Exception

# Nothing final is known after these: the same command may be sent again.
NO_ANSWER = (TimeoutError, Busy, EngineStopped, HandlerFailed, NotYet, StoreUnavailable)


class Submits(Protocol):
    """What a saga worker needs of an engine."""

    def submit_many(self, envelopes: Iterable[CommandEnvelope]) -> list[Future[Answer]]:
        """Queue commands, kept in order. Raises Busy or EngineStopped, and then queues none of them."""
        ...


def send(
    engine: Submits, envelopes: Sequence[CommandEnvelope], *, wait_seconds: float, submitted: At, checkpoint: Checkpoint
) -> list[Outcome]:
    """Each command's final answer, or why there is none. Raises Busy or EngineStopped when none was taken."""
    futures = engine.submit_many(envelopes)
    checkpoint(submitted)
    deadline = monotonic() + wait_seconds
    return [_outcome(future, deadline) for future in futures]


def _outcome(future: Future[Answer], deadline: float) -> Outcome:
    try:
        return future.result(max(0.0, deadline - monotonic()))
    except NO_ANSWER as error:
        return error


def describe(error: Exception) -> str:
    """An error as it is kept beside what it delays."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
