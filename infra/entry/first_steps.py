"""Commands queued together with what their sagas will ask for first, so that both are decided in one transaction."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from command.tickets import Busy
from contracts.envelope import Answer, CommandEnvelope
from infra.entry.bridge import AnswerBridge

# What an order's saga will ask for because of a command's fact, to be decided together with it; None: it is left to it.
FirstStep = Callable[[CommandEnvelope], CommandEnvelope | None]


def no_first_step(_envelope: CommandEnvelope) -> None:
    """Every step is for the saga to ask for."""


def queued(
    bridge: AnswerBridge, first_step: FirstStep, envelopes: Sequence[CommandEnvelope]
) -> "list[asyncio.Future[Answer]]":
    """A batch queued with its first steps, or without them when there is no room for both. Raises as the bridge."""
    sent = with_first_steps(first_step, envelopes)
    if len(sent) > len(envelopes):
        with suppress(Busy):
            answers = dict(zip(map(id, sent), bridge.submit(sent), strict=True))
            mine = [answers.pop(id(envelope)) for envelope in envelopes]
            leave_alone(answers.values())
            return mine
    return bridge.submit(envelopes)


def with_first_steps(first_step: FirstStep, envelopes: Sequence[CommandEnvelope]) -> list[CommandEnvelope]:
    """The commands, each with what its saga would send first right behind it."""
    followed = ((envelope, first_step(envelope)) for envelope in envelopes)
    return [each for pair in followed for each in pair if each is not None]


def leave_alone(steps: Iterable["asyncio.Future[Answer]"]) -> None:
    """Whether these come off is the saga's business: it sends again what did not."""
    for step in steps:
        step.add_done_callback(lambda done: done.cancelled() or done.exception())
