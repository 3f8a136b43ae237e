"""What would be answered by now: commands decided together on what is stored, and nothing of it kept.

The states that dry runs needed last are remembered, and the store is asked what came after them: one look for all that
are asked at once, and each is decided on what one look showed, which is one instant of the store. Nothing is locked and
no transaction opened; whoever else appends, here or in other processes, neither waits nor is missed
(docs/decisions/0031).
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from command.decider import HandlerFailed, StreamClosed, handled
from command.decisions import BatchView, Decision, Target, clock_of, targets_of
from command.handlers.handler import Handler, Handlers
from command.ports import EventLog, Glance, StoreUnavailable, Wanted
from command.states import Entry, SnapshotFormats, StateCache, fold
from command.unit_of_work import Kind, NotYet
from contracts.envelope import Answer, CommandEnvelope
from contracts.position import Position
from contracts.registry import UnknownEventType

logger = logging.getLogger(__name__)

REMEMBERED_STREAMS_MAX: Final = 20_000
LOOKS_MAX: Final = 4  # An order's quote takes three at most.
STREAMS_MAX: Final = 500  # Of one command. Folding thousands holds up whoever shares the look, and the thread.


class BetterAlone(Exception):
    """It takes more looks or more streams than dry runs that are asked for together shall wait for."""


class DryRuns:
    """Answers dry runs on one log. For one thread at a time, and so is what it is given of the log: a glance."""

    def __init__(self, log: EventLog, handlers: Handlers, *, lock_ttl_seconds: int) -> None:
        self._log = log
        self._handlers = handlers
        self._lock_ttl_seconds = lock_ttl_seconds
        self._formats = SnapshotFormats()
        self._remembered = StateCache(REMEMBERED_STREAMS_MAX)
        self._epoch: str | None = None  # The history that the remembered states are of.
        self._last_now: datetime | None = None

    def answers(self, envelopes: Sequence[CommandEnvelope]) -> list[Answer | Exception]:
        """What would be answered to each by now; for one that cannot be decided, why (as the engine would tell it).

        BetterAlone in the place of an answer: ask the engine for that one by itself. Raises StoreUnavailable.
        """
        try:
            return self._together(envelopes)
        except StoreUnavailable:
            raise
        except Exception as failure:  # What one of them is about cannot be read: the others' can.
            if len(envelopes) > 1:
                return [outcome for envelope in envelopes for outcome in self.answers([envelope])]
            logger.exception("dry_run_failed", extra={"command_type": envelopes[0].command.type})
            return [(StreamClosed if isinstance(failure, UnknownEventType) else HandlerFailed)(str(failure))]

    def _together(self, envelopes: Sequence[CommandEnvelope]) -> list[Answer | Exception]:
        glance = self._log.glancing()
        self._notice_restore()
        runs = [_DryRun(envelope, self._handlers[type(envelope.command)]) for envelope in envelopes]
        for _ in range(LOOKS_MAX):
            for run in (run for run in runs if run.outcome is None):
                self._rehearse(glance, run)
                run.require_few_streams()
            if not (left := [run for run in runs if run.outcome is None]):
                break
            seen, counts = self._look(glance, left)
            position = Position(self._log.shard, self._log.epoch, glance.last_offset)
            for run in left:
                view = _SeenView(glance, self._formats, seen.get, counts)
                run.decide(view, self._decision(view, run.envelope), position)
        return [run.outcome or BetterAlone(f"it was looked for {LOOKS_MAX} times") for run in runs]

    def _rehearse(self, glance: Glance, run: "_DryRun") -> None:
        """Decide on what is remembered, only to learn what it takes: a look for all of it is spared those before it."""
        if self._last_now is None:
            return
        view = _SeenView(glance, self._formats, self._remembered.get, {}, now=self._last_now)
        with suppress(Exception):  # What is remembered may be over by now, and told of nobody.
            run.handler.handle(self._decision(view, run.envelope), run.envelope.command)
        run.learn(view)

    def _look(self, glance: Glance, runs: Iterable["_DryRun"]) -> tuple[Mapping[str, Entry], Mapping[str, int]]:
        kinds: dict[str, Kind[Any]] = {}
        counts: dict[str, int] = {}
        for run in runs:
            kinds |= run.streams
            counts |= dict.fromkeys(run.counts, 0)
        before = {stream: entry for stream in kinds if (entry := self._remembered.get(stream)) is not None}
        known = {stream: entry.version for stream, entry in before.items()}
        told = glance.look(Wanted(list(kinds), self._formats.hashes(kinds.values()), (), list(counts), known))
        seen = {
            stream: fold(kind, told.histories.get(stream), self._formats, before.get(stream))
            for stream, kind in kinds.items()
        }
        self._remembered.put_all(seen)
        self._last_now = glance.store_now
        return seen, counts | dict(told.counts)

    def _notice_restore(self) -> None:
        if self._log.epoch != self._epoch:
            self._remembered.clear()
            self._epoch = self._log.epoch

    def _decision(self, view: BatchView, envelope: CommandEnvelope) -> Decision:
        return Decision(view, envelope, lock_ttl_seconds=self._lock_ttl_seconds)


class _NotSeen(NotYet):
    """It takes a stream that was not looked for."""


class _SeenView(BatchView):
    """What one look showed. It notes what else it is asked for; what is decided then is no answer."""

    def __init__(
        self,
        glance: Glance,
        formats: SnapshotFormats,
        seen: Callable[[str], Entry | None],
        counts: Mapping[str, int],
        *,
        now: datetime | None = None,
    ) -> None:
        super().__init__(glance, None, formats, assumed_now=now)
        self._seen = seen
        self.counts.update(counts)
        self.missing: dict[str, Kind[Any]] = {}
        self.missing_counts: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Whether it had all that it was asked for."""
        return not (self.missing or self.missing_counts)

    def _before(self, stream: str) -> Entry | None:
        return self._seen(stream)

    def prefetch(self, targets: Iterable[Target]) -> None:
        """Raises _NotSeen for streams that are not there."""
        if missing := self.unknown(targets):
            self.missing |= missing
            raise _NotSeen(", ".join(missing))

    def count(self, key: str) -> int:
        """One that is not there is 0 for now: most are, and what else it takes shows all the same."""
        if key not in self.counts:
            self.missing_counts.add(key)
        return self.counts.get(key, 0)


class _DryRun:
    """One command, what it is known to take, and what came of it."""

    __slots__ = ("counts", "envelope", "handler", "outcome", "streams")

    def __init__(self, envelope: CommandEnvelope, handler: Handler[Any]) -> None:
        self.envelope = envelope
        self.handler = handler
        self.outcome: Answer | Exception | None = None
        touched = targets_of(envelope.realm, handler.touches(envelope.command))
        self.streams: dict[str, Kind[Any]] = {each.stream: each.kind for each in (clock_of(envelope.realm), *touched)}
        self.counts: set[str] = set()

    def learn(self, view: _SeenView) -> None:
        """What it took in a view, there or not, is what it takes."""
        self.streams |= {stream: entry.kind for stream, entry in view.entries.items()} | view.missing
        self.counts |= view.counts.keys() | view.missing_counts

    def require_few_streams(self) -> None:
        """Else it is better alone."""
        if len(self.streams) > STREAMS_MAX:
            self.outcome = BetterAlone(f"it takes {len(self.streams)} streams")

    def decide(self, view: _SeenView, decision: Decision, position: Position) -> None:
        """On what was seen, or learn what else has to be."""
        outcome: Answer | Exception
        try:
            outcome = Answer(*handled(self.handler, decision, self.envelope), position)
        except (HandlerFailed, NotYet) as failure:
            outcome = failure.with_traceback(None)  # In which this frame would be: a cycle.
        if view.is_complete:
            self.outcome = outcome
        else:
            self.learn(view)
