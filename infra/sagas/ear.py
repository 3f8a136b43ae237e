"""What every ear of the sagas does with facts, wherever it has them from: hear, store all of it at once, remember."""

import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final

from contracts.envelope import Recorded
from infra.postgres.dead_letters import ParkedEvent
from infra.sagas.checkpoints import At, Checkpoint, pass_by
from infra.sagas.hearing import Hearing, Saga, fold_saga, streams_of
from infra.sagas.ports import FactFeed, Move, SagaStore
from infra.sagas.settings import SagaSettings

logger = logging.getLogger(__name__)

PARKED_MAX: Final = 1_000


class Ear(ABC):
    """Hears facts for sagas and timers. For one thread."""

    def __init__(
        self,
        store: SagaStore,
        feed: FactFeed,
        settings: SagaSettings | None = None,
        *,
        checkpoint: Checkpoint = pass_by,
        on_commands: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._feed = feed
        self._settings = settings or SagaSettings()
        self._checkpoint = checkpoint
        self._on_commands = on_commands
        self._memories: OrderedDict[str, Saga] = OrderedDict()
        self._parked: frozenset[str] = frozenset()
        self._owes = False  # Whether anything is to be sent for what was heard last.
        self.is_calm = False  # Whether sagas heard something the last time, and nothing is to be sent for it.

    @property
    @abstractmethod
    def offset(self) -> int:
        """Up to where the log was heard; 0 before the first look."""

    def run_once(self) -> int:
        """Hear one batch; returns how many events it had (0: nothing new).

        Raises StoreUnavailable, KafkaUnavailable, StreamConflict and PositionMoved, after which it may be called again,
        and EpochChanged, UnknownEventType, UnreadableEvent, FactsSkipped and UnknownProcessVersion, which need help.
        """
        self.is_calm = self._owes = False
        try:
            return self._run_once()
        except Exception:
            self._forget()
            raise

    def close(self) -> None:
        """Give the store's connection back."""
        self._store.close()

    @abstractmethod
    def _run_once(self) -> int: ...

    @abstractmethod
    def _here(self, stream: str) -> Move | None:
        """The position that a stream's facts depend on, as it is; None when another process has it."""

    def _forget(self) -> None:
        """After any failure what is remembered may be wrong: read it again."""
        self._memories.clear()

    def _hear(self, facts: Sequence[Recorded], parked: Collection[str]) -> Hearing:
        self._load(streams_of(facts))
        hearing = Hearing(self._memories, parked)
        for fact in facts:
            hearing.take(fact)
        return hearing

    def _load(self, streams: Iterable[str]) -> None:
        """Bring memories in, all missing ones in one query."""
        missing = [stream for stream in streams if stream not in self._memories]
        if not missing:
            return
        histories = self._store.histories(missing)
        for stream in missing:
            history = histories.get(stream)
            self._memories[stream] = fold_saga(stream, history.events if history is not None else ())

    def _keep(self, hearing: Hearing, moves: Sequence[Move], *, done: Sequence[ParkedEvent] = ()) -> None:
        written = partial(self._checkpoint, At.MEMORY_WRITTEN)
        self._store.keep(hearing, moves, done=done, before_commit=written)
        for stream, saga in hearing.sagas.items():
            self._memories[stream] = saga
            self._memories.move_to_end(stream)
        while len(self._memories) > self._settings.memories_max:
            self._memories.popitem(last=False)
        self._parked |= {failure.fact.stream for failure in hearing.failures}
        if hearing.commands():
            self._owes = True
            self._on_commands()
        self.is_calm = bool(hearing.heard) and not self._owes

    # Parked facts that an operator wants to be tried again.

    def _retry_requeued(self) -> int:
        """Try again what was requeued, stream by stream, in order. Returns how many facts were heard."""
        if not self._parked:
            return 0
        requeued = self._store.requeued(PARKED_MAX)
        return sum(self._retry_stream(stream) for stream in dict.fromkeys(row.stream for row in requeued))

    def _retry_stream(self, stream: str) -> int:
        """Hear the parked facts of one stream until one fails again; those that came meanwhile included."""
        here = self._here(stream)
        if here is None:
            return 0
        parked = self._store.parked(stream, PARKED_MAX)
        for done, row in enumerate(parked):
            facts = () if row.is_dropped else self._feed.read(row.offset - 1, 1)  # Given up: passed over unheard.
            hearing = self._hear(facts, self._parked - {stream})
            self._keep(hearing, (here,), done=() if hearing.failures else (row,))
            if hearing.failures:
                return done
        if len(parked) < PARKED_MAX:
            self._parked -= {stream}
        logger.info("parked_facts_heard", extra={"stream": stream, "count": len(parked)})
        return len(parked)
