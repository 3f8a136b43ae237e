"""One batch of facts being heard: everything that is to be stored if it commits, and nothing stored yet."""

import logging
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from command.ports import NewEvent
from contracts.envelope import Metadata, Recorded
from contracts.events import ClockAdvanced, Event, SagaHeard, SagaResolved
from contracts.identity import Realm, stream_id
from infra.postgres.outbox import PendingCommand
from sagas import checkout, lending
from sagas.process import COMMAND_ID_PREFIX, KIND, Process, saga_key
from sagas.timers import ClearTimer, DueTimer, SetTimer, changes_of, changes_timers

logger = logging.getLogger(__name__)

ACTOR: Final = f"saga:{checkout.NAME}"
FRAMES_MAX: Final = 8  # Of the traceback that is kept with a fact that could not be heard.

TimerKey = tuple[Realm, str, str]


class UnknownProcessVersion(Exception):
    """A running saga began with a process that this binary does not have; going on with another would be guessing."""

    def __init__(self, stream: str, version: int) -> None:
        super().__init__(f"saga {stream} runs on version {version} of its process, which this binary does not know")


@dataclass(frozen=True, slots=True)
class Saga:
    """One running saga: the process it began with, its memory, and how long its stream is."""

    process: Process[Any] = checkout.CURRENT
    memory: Any = checkout.CURRENT.initial
    version: int = 0


class HeardFact(NamedTuple):
    """One new entry of one saga's stream."""

    stream: str
    version: int
    fact: Recorded
    heard: SagaHeard


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one saga stands. ``since`` is business time."""

    realm: Realm
    process: str
    key: str
    process_version: int
    step: str
    because: str
    version: int
    since: datetime


class Failure(NamedTuple):
    """A fact that could not be heard, why, and where it failed."""

    fact: Recorded
    reason: str
    detail: str = ""


@dataclass(slots=True)
class Hearing:
    """Hears facts one by one on top of known sagas; ``parked`` are streams that wait behind a fact that failed."""

    known: Mapping[str, Saga]
    parked: Collection[str]
    sagas: dict[str, Saga] = field(default_factory=dict)
    heard: list[HeardFact] = field(default_factory=list)
    letters: list[PendingCommand] = field(default_factory=list)
    timers: dict[TimerKey, DueTimer | ClearTimer] = field(default_factory=dict)
    clocks: dict[Realm, datetime] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    behind: list[Recorded] = field(default_factory=list)
    _newly_parked: set[str] = field(default_factory=set)
    _answered: set[tuple[Realm, str]] = field(default_factory=set)  # Sagas' commands whose effects are in this batch.

    def take(self, fact: Recorded) -> None:
        """Hear one fact. One that breaks is set aside with all later ones of its stream; others go on."""
        if fact.metadata.command_id.startswith(COMMAND_ID_PREFIX):
            self._answered.add((fact.realm, fact.metadata.command_id))
        if not concerns_sagas(fact.event):
            return
        if fact.stream in self.parked or fact.stream in self._newly_parked:
            self.behind.append(fact)
            return
        try:
            self._hear(fact)
        except Exception as error:
            # Pure code fails the same way each time: trying again at once could not help.
            logger.exception("fact_parked", extra={"stream": fact.stream, "offset": fact.offset})
            detail = "".join(traceback.format_exception(error, limit=-FRAMES_MAX))
            self.failures.append(Failure(fact, f"{type(error).__name__}: {error}", detail))
            self._newly_parked.add(fact.stream)

    @property
    def is_empty(self) -> bool:
        """Whether nothing needs to be stored but the position."""
        return not (self.heard or self.letters or self.timers or self.clocks or self.failures or self.behind)

    def _hear(self, fact: Recorded) -> None:
        heard = self._tell_saga(fact)
        changes = changes_of(fact)
        letters = [_letter(fact, letter) for letter in lending.letters_of(fact)] if lending.carries(fact.event) else []
        # Nothing below fails: a fact takes effect as a whole or not at all.
        if heard is not None:
            self.heard.append(heard)
            saga = self._saga(heard.stream)
            self.sagas[heard.stream] = Saga(saga.process, saga.process.evolve(saga.memory, heard.heard), heard.version)
        self.letters += letters
        for change in changes:
            self.timers[fact.realm, change.kind, change.key] = _timer(fact, change)
        if isinstance(fact.event, ClockAdvanced):
            self.clocks[fact.realm] = fact.event.to

    def _tell_saga(self, fact: Recorded) -> HeardFact | None:
        stream = saga_stream(fact)
        if stream is None:
            return None
        saga = self._saga(stream)
        key = checkout.route(fact.event)
        assert key is not None
        heard = saga.process.hear(saga.memory, key, fact)
        return None if heard is None else HeardFact(stream, saga.version + 1, fact, heard)

    def _saga(self, stream: str) -> Saga:
        return self.sagas.get(stream) or self.known[stream]

    # What it amounts to, in the words of the tables.

    def events(self, recorded_at: datetime) -> list[NewEvent]:
        """The new entries of the sagas' memories."""
        return [_entry(heard, recorded_at) for heard in self.heard]

    def commands(self) -> list[PendingCommand]:
        """What is to be sent, in order: all but commands whose effect was heard of already.

        Whoever told the fact may have sent the saga's first step with it (``first_step``); an event under a
        command's id proves that it was accepted. What is not proven is sent, and answered once by its id.
        """
        owed = (command for heard in self.heard for command in _commands(heard))
        sent = [command for command in owed if (command.realm, command.command_id) not in self._answered]
        return [*sent, *self.letters]

    def standings(self) -> list[Standing]:
        """Where each saga stands that heard something."""
        return [_standing(heard) for heard in {heard.stream: heard for heard in self.heard}.values()]

    def timers_set(self) -> list[DueTimer]:
        """Timers to set."""
        return [timer for timer in self.timers.values() if isinstance(timer, DueTimer)]

    def timers_cleared(self) -> list[tuple[Realm, ClearTimer]]:
        """Timers to clear."""
        return [(realm, timer) for (realm, _, _), timer in self.timers.items() if isinstance(timer, ClearTimer)]


def concerns_sagas(event: Event) -> bool:
    """Whether a saga, a timer or a clock depends on this event."""
    routed = checkout.route(event) is not None
    return routed or changes_timers(event) or lending.carries(event) or isinstance(event, ClockAdvanced)


def saga_stream(fact: Recorded) -> str | None:
    """The stream of the saga that hears this fact; None when none does."""
    key = checkout.route(fact.event)
    return None if key is None else stream_id(fact.realm, KIND, saga_key(checkout.NAME, key))


def fold_saga(stream: str, history: Iterable[Recorded]) -> Saga:
    """A saga from its own stream. Sends nothing. Raises UnknownProcessVersion."""
    entries = [recorded.event for recorded in history if isinstance(recorded.event, SagaHeard | SagaResolved)]
    if not entries:
        return Saga()
    process = checkout.VERSIONS.get(entries[0].process_version)
    if process is None:
        raise UnknownProcessVersion(stream, entries[0].process_version)
    memory = process.initial
    for entry in entries:
        memory = process.evolve(memory, entry)
    return Saga(process, memory, len(entries))


def streams_of(facts: Sequence[Recorded]) -> set[str]:
    """The streams of all sagas that hear these."""
    return {stream for fact in facts if (stream := saga_stream(fact)) is not None}


def _timer(fact: Recorded, change: SetTimer | ClearTimer) -> DueTimer | ClearTimer:
    if isinstance(change, ClearTimer):
        return change
    return DueTimer(fact.realm, change.kind, change.key, change.due_at, fact.version, change.data)


def _entry(heard: HeardFact, recorded_at: datetime) -> NewEvent:
    about = heard.fact.metadata
    metadata = Metadata(
        event_id=blake2b(f"{heard.stream}\n{about.event_id}".encode(), digest_size=16).hexdigest(),
        occurred_at=about.occurred_at,
        recorded_at=recorded_at,
        actor=ACTOR,
        command_id=f"heard:{about.event_id}",
        correlation_id=about.correlation_id,
        causation_id=about.event_id,
        traceparent=about.traceparent,
    )
    return NewEvent(heard.stream, heard.version, heard.heard, metadata)


def _commands(heard: HeardFact) -> list[PendingCommand]:
    about = heard.fact.metadata
    return [
        PendingCommand(
            saga_key=saga_key(heard.heard.process, heard.heard.key),
            realm=heard.fact.realm,
            command_id=sent.command_id,
            command_type=sent.type,
            payload=sent.payload,
            actor=ACTOR,
            correlation_id=about.correlation_id,
            causation_id=about.event_id,
            traceparent=about.traceparent,
            created_offset=heard.fact.offset,
        )
        for sent in heard.heard.sends
    ]


def _letter(fact: Recorded, letter: lending.Letter) -> PendingCommand:
    about = fact.metadata
    return PendingCommand(
        saga_key=letter.thread,
        realm=fact.realm,
        command_id=letter.command_id,
        command_type=letter.command.type,
        payload=letter.command.model_dump(mode="json"),
        actor=ACTOR,
        correlation_id=about.correlation_id,
        causation_id=about.event_id,
        traceparent=about.traceparent,
        created_offset=fact.offset,
    )


def _standing(heard: HeardFact) -> Standing:
    entry = heard.heard
    return Standing(
        heard.fact.realm,
        entry.process,
        entry.key,
        entry.process_version,
        entry.step,
        entry.fact_type,
        heard.version,
        heard.fact.metadata.occurred_at,
    )
