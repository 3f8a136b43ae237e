"""What every process manager is: a key for each fact, a reaction, a memory, and a version that a running saga keeps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from contracts.commands import Command
from contracts.envelope import Recorded
from contracts.events import EndedCommand, SagaHeard, SagaResolved, SentCommand

M = TypeVar("M")

Details = Mapping[str, Any]

KIND: Final = "saga"
COMMAND_ID_PREFIX: Final = "saga:"  # Of ids that are derived from facts; no caller may use it.


class MemoryIsFull(Exception):
    """One saga would have to remember more than it may. The fact is parked, not lost; it can be heard again later."""


@dataclass(frozen=True, slots=True)
class Fact:
    """The little of a recorded event that a memory is folded from; ``details`` is JSON.

    ``source`` and ``version`` are its place in its stream (``order/o1``, 3): facts of one stream come in order.
    """

    type: str
    event_id: str
    source: str
    version: int
    details: Details


@dataclass(frozen=True, slots=True)
class Reaction:
    """Where a fact leads: the step after it, and what is asked of the write side."""

    step: str
    commands: tuple[Command, ...] = ()


@dataclass(frozen=True, slots=True)
class Process(Generic[M]):
    """One version of a process manager: pure functions, of which ``learn`` and ``give_up`` never raise.

    ``excerpt`` keeps what ``learn`` needs of an event; ``react`` sees the memory that already knows the fact,
    but still stands at the step before it. ``give_up`` forgets commands that an operator ended, and says by the step
    whether anything else is waited for.
    """

    name: str
    version: int
    initial: M
    excerpt: Callable[[Recorded], Details]
    is_news: Callable[[M, Fact], bool]
    learn: Callable[[M, Fact], M]
    react: Callable[[M, Recorded], Reaction]
    at_step: Callable[[M, str], M]
    give_up: Callable[[M, Sequence[EndedCommand]], M]
    step_of: Callable[[M], str]

    def hear(self, memory: M, key: str, recorded: Recorded) -> SagaHeard | None:
        """What is to be remembered and sent because of one fact; None for a fact heard before.

        Raises MemoryIsFull when the fact has to wait.
        """
        fact = fact_of(recorded, self.excerpt(recorded))
        if not self.is_news(memory, fact):
            return None
        reaction = self.react(self.learn(memory, fact), recorded)
        return SagaHeard(
            process=self.name,
            process_version=self.version,
            key=key,
            fact_type=fact.type,
            fact_event_id=fact.event_id,
            fact={"source": fact.source, "version": fact.version, **fact.details},
            step=reaction.step,
            sends=tuple(_sent(fact, command) for command in reaction.commands),
        )

    def resolve(self, memory: M, key: str, ended: Sequence[EndedCommand], reason: str) -> SagaResolved:
        """What is to be remembered when an operator ends commands that were refused for good."""
        return SagaResolved(
            process=self.name,
            process_version=self.version,
            key=key,
            reason=reason,
            step=self.step_of(self.give_up(memory, ended)),
            ended=tuple(ended),
        )

    def evolve(self, memory: M, heard: SagaHeard | SagaResolved) -> M:
        """Remember what was heard. Sends nothing: what is to be sent is told once, by :meth:`hear`."""
        if isinstance(heard, SagaResolved):
            return self.at_step(self.give_up(memory, heard.ended), heard.step)
        details = dict(heard.fact)
        source, version = details.pop("source"), details.pop("version")
        fact = Fact(heard.fact_type, heard.fact_event_id, source, version, details)
        return self.at_step(self.learn(memory, fact), heard.step)


def fact_of(recorded: Recorded, details: Details) -> Fact:
    """A recorded event as a saga keeps it."""
    source = f"{recorded.name.kind}/{recorded.name.key}"
    return Fact(recorded.event.type, recorded.metadata.event_id, source, recorded.version, details)


def saga_key(process: str, key: str) -> str:
    """The key of a saga's own stream: ``checkout:o1``."""
    return f"{process}:{key}"


def command_id_of(fact_event_id: str, command: Command) -> str:
    """An id that only this fact can give: heard twice, it is the same command and answered once."""
    # Waiting refunds are all sent because of one fact: the refund tells them apart.
    refund_id = getattr(command, "refund_id", None)
    return f"{COMMAND_ID_PREFIX}{fact_event_id}:{command.type}" + (f":{refund_id}" if refund_id is not None else "")


def _sent(fact: Fact, command: Command) -> SentCommand:
    command_id = command_id_of(fact.event_id, command)
    return SentCommand(command_id=command_id, type=command.type, payload=command.model_dump(mode="json"))
