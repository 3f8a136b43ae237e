"""What it means to whoever sent a command that there is no answer to it."""

import asyncio

from command.engine import Busy, EngineStopped, HandlerFailed, StreamClosed
from command.ports import StoreUnavailable
from command.tickets import NeverFits
from command.unit_of_work import NotYet
from contracts.registry import UnknownEventType
from infra.entry.problems import Problem


def problem_for(error: Exception) -> Problem:
    """Any exception as a problem; the cause of an ``internal`` one is for the log only."""
    match error:
        case Problem():
            return error
        case Busy():
            return _busy(error)
        case NotYet():
            return Problem("busy", f"{error}; retry with the same Idempotency-Key")
        case EngineStopped():
            return Problem("stopping", "this process is shutting down; retry with the same Idempotency-Key")
        case StoreUnavailable():
            detail = "the store did not answer; whether the command took effect is not known: retry with the same id"
            return Problem("store_unavailable", detail)
        case TimeoutError() | asyncio.CancelledError():
            return Problem("answer_late", "no answer in time; retry with the same Idempotency-Key to learn it")
        case StreamClosed() | UnknownEventType():
            return Problem(
                "newer_version_needed", "a newer version changed this; it is closed here until we are upgraded"
            )
        case HandlerFailed():
            problem = Problem("internal", "this command failed by a defect of ours; nothing of it was stored")
        case _:
            problem = Problem("internal", "something failed that should not; the request id leads to it")
    problem.__cause__ = error
    return problem


def _busy(error: Busy) -> Problem:
    if isinstance(error, NeverFits):
        detail = f"{error}; nothing was queued: send smaller batches, or raise TESSERA_QUEUE_COMMANDS_MAX"
        return Problem("batch_too_large", detail)
    return Problem("busy", "too many commands are waiting; retry with the same Idempotency-Key")
