"""Group commit: decide many commands in memory under the append lock, append them together, answer after the commit.

Commands that arrive while a commit is in flight form the next batch; when the system is idle a command is a batch of
its own and waits for nobody. Any process may run an engine on the same log: the append lock makes one of them decide
at a time, and each reads what the others appended before it decides (docs/decisions, "Decide under the append lock").
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic, sleep
from typing import Any, Final, Literal, Protocol

from command.decisions import BatchView, Decision, Target, targets_of
from command.handlers.handler import Handler, Handlers
from command.ports import (
    AppendTransaction,
    Batch,
    CommandKey,
    EventLog,
    LoggedAnswer,
    StoreUnavailable,
    StreamConflict,
)
from command.refusal_counts import count_refusals
from command.states import SnapshotFormats, StateCache
from command.unit_of_work import HISTORY
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.position import Position
from contracts.refusals import CommandIdReused, Refusal
from contracts.registry import UnknownEventType

logger = logging.getLogger(__name__)

ATTEMPTS_MAX: Final = 5
BACKOFF_SECONDS: Final = 0.05
TAIL_EVENTS_MAX: Final = 5_000


class Busy(Exception):
    """The queue is full. Nothing was stored: retry with the same command id."""


class EngineStopped(Exception):
    """The engine is shutting down. Nothing was stored: retry with the same command id."""


class HandlerFailed(Exception):
    """A handler broke: our defect. Nothing of this command was stored."""


class StreamClosed(HandlerFailed):
    """A newer version wrote an event that the command depends on. Nothing was stored; that version can decide it."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Bounds of the engine."""

    batch_commands_max: int = 500
    queue_commands_max: int = 20_000
    cached_streams_max: int = 200_000
    snapshot_every_events: int = 1_000
    lock_ttl_seconds: int = 900


class EngineObserver(Protocol):
    """Whoever wants to know what the engine does: metrics and traces live outside of it."""

    def batch_committed(
        self, tickets: int, events: int, outcomes: Mapping[tuple[str, str], int], seconds: float
    ) -> None:
        """A batch is durable. ``outcomes`` counts (command type, code)."""
        ...

    def batch_failed(self, tickets: int, error: Exception) -> None:
        """A batch was rolled back, or its fate is unknown; it is retried."""
        ...


class NobodyWatches:
    """The observer of those who need none."""

    def batch_committed(
        self, tickets: int, events: int, outcomes: Mapping[tuple[str, str], int], seconds: float
    ) -> None:
        """Ignored."""

    def batch_failed(self, tickets: int, error: Exception) -> None:
        """Ignored."""


Outcome = Answer | Exception
Listener = Callable[[Outcome], None]


@dataclass(slots=True)
class _Ticket:
    """A command in the queue and whoever waits for its answer."""

    envelope: CommandEnvelope
    listener: Listener
    content_hash: str
    sent_before: bool = False  # We tried to commit it and do not know whether it landed.

    @property
    def key(self) -> CommandKey:
        return CommandKey(self.envelope.realm, self.envelope.command_id)


@dataclass(slots=True)
class _Verdict:
    """What was decided about one ticket: an answer to log, one already logged, or an error that is not logged."""

    ticket: _Ticket
    logged: LoggedAnswer | None = None
    error: Exception | None = None
    is_new: bool = False
    last_event: int = -1
    first: "_Verdict | None" = None  # The same id came twice in one batch: the answer is the first one's.


class Engine:
    """One committer thread over one event log. Answers are delivered on that thread, after the commit."""

    def __init__(
        self,
        log: EventLog,
        handlers: Handlers,
        settings: EngineSettings | None = None,
        observer: EngineObserver | None = None,
    ) -> None:
        self._log = log
        self._handlers = handlers
        self._settings = settings or EngineSettings()
        self._observer = observer or NobodyWatches()
        self._formats = SnapshotFormats()
        self._cache = StateCache(self._settings.cached_streams_max)
        self._with_history: set[Realm] = set()
        self._seen_offset: int | None = None  # The cache holds everything up to here; None: it holds nothing.
        self._queue: deque[_Ticket] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    # What callers use.

    def start(self) -> None:
        """Start the committer thread."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 30.0) -> None:
        """Refuse new commands, finish the queued ones, and stop; whatever is left after the time gets EngineStopped."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        while self._queue:
            _deliver(self._queue.popleft(), EngineStopped("the engine stopped before this command's turn"))

    @property
    def is_running(self) -> bool:
        """Whether commands are taken and worked off: the committer lives and nobody asked it to stop."""
        return self._thread.is_alive() and not self._stopping

    @property
    def queue_length(self) -> int:
        """How many commands wait."""
        return len(self._queue)

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        """Queue commands, kept in order; each listener hears an Answer or an exception, once, on the committer thread.

        Raises Busy or EngineStopped, and then queues none of them.
        """
        if self._stopping:
            raise EngineStopped("the engine is shutting down; retry with the same command id")
        if len(self._queue) + len(envelopes) > self._settings.queue_commands_max:
            raise Busy(f"{len(self._queue)} commands are waiting; retry with the same command id")
        self._queue.extend(_Ticket(envelope, listener, envelope.content_hash()) for envelope, listener in envelopes)
        self._wake.set()

    def submit_many(self, envelopes: Iterable[CommandEnvelope]) -> list[Future[Answer]]:
        """Queue commands, kept in order. Raises as submit_to; a future raises StoreUnavailable or HandlerFailed."""
        futures: list[Future[Answer]] = []
        pairs: list[tuple[CommandEnvelope, Listener]] = []
        for envelope in envelopes:
            future: Future[Answer] = Future()
            futures.append(future)
            pairs.append((envelope, _resolver(future)))
        self.submit_to(pairs)
        return futures

    def submit(self, envelope: CommandEnvelope) -> Future[Answer]:
        """Queue one command."""
        return self.submit_many((envelope,))[0]

    def execute(self, envelope: CommandEnvelope, timeout_seconds: float = 30.0) -> Answer:
        """Queue one command and wait for its answer."""
        return self.submit(envelope).result(timeout_seconds)

    def dry_run(self, envelope: CommandEnvelope, at: datetime | None = None) -> Answer:
        """What would be answered, now or at another business time, storing nothing. Runs on the caller's thread.

        At a time in the past only what had occurred by then is known. Raises StoreUnavailable or HandlerFailed.
        """
        with self._log.reading() as view:
            batch = BatchView(view, None, self._formats)
            past = at is not None and at < batch.now_of(envelope.realm)
            if past:
                batch = BatchView(view, None, self._formats, until=at)
            decision = Decision(batch, envelope, lock_ttl_seconds=self._settings.lock_ttl_seconds, at=at)
            status, code, detail, data = _handle(self._handlers[type(envelope.command)], decision, envelope)
            return Answer(status, code, detail, data, self._position(view.last_offset))

    # The committer thread.

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._queue:
                self._commit(self._take_batch())
            if self._stopping:
                return

    def _take_batch(self) -> list[_Ticket]:
        batch: list[_Ticket] = []
        while self._queue and len(batch) < self._settings.batch_commands_max:
            batch.append(self._queue.popleft())
        return batch

    def _commit(self, tickets: list[_Ticket]) -> None:
        """Commit a batch, retrying what may be retried; a command that spoils the batch is found and fails alone."""
        error: Exception = StoreUnavailable("not tried")
        for attempt in range(ATTEMPTS_MAX):
            try:
                verdicts = self._attempt(tickets)
            except (StoreUnavailable, StreamConflict) as failure:
                error = failure
                self._forget(tickets, failure)
                sleep(BACKOFF_SECONDS * 2**attempt)
            except Exception as failure:  # noqa: BLE001 - whatever it is, one command's spoil is not the others'.
                self._forget(tickets, failure)
                self._find_spoiler(tickets, failure)
                return
            else:
                self._answer(verdicts)
                return
        final = error if isinstance(error, StoreUnavailable) else StoreUnavailable(str(error))
        for ticket in tickets:
            _deliver(ticket, final)

    def _find_spoiler(self, tickets: list[_Ticket], failure: Exception) -> None:
        if len(tickets) == 1:
            logger.error("command_failed", exc_info=failure, extra={"command_id": tickets[0].envelope.command_id})
            kind = StreamClosed if isinstance(failure, UnknownEventType) else HandlerFailed
            _deliver(tickets[0], kind(str(failure)))
            return
        middle = len(tickets) // 2
        self._commit(tickets[:middle])
        self._commit(tickets[middle:])

    def _forget(self, tickets: list[_Ticket], failure: Exception) -> None:
        """After any failure the cached states may be wrong, and the batch may have landed after all."""
        self._cache.clear()
        self._with_history.clear()
        self._seen_offset = None
        for ticket in tickets:
            ticket.sent_before = True
        self._observer.batch_failed(len(tickets), failure)

    def _attempt(self, tickets: list[_Ticket]) -> list[_Verdict]:
        started = monotonic()
        with self._log.appending() as transaction:
            self._catch_up(transaction)
            view = BatchView(transaction, self._cache, self._formats)
            verdicts = self._decide_all(transaction, view, tickets)
            batch = self._batch_of(view, verdicts)
            offsets: Sequence[int] = transaction.append(batch) if batch.events or batch.answers else ()
            last_offset = transaction.last_offset
        # Only now, after the commit, may anybody see the new states.
        self._cache.put_all(view.entries)
        self._seen_offset = offsets[-1] if offsets else last_offset
        for verdict in verdicts:
            _locate(verdict, offsets, self._seen_offset)
        outcomes = Counter((v.ticket.envelope.command.type, v.logged.code) for v in verdicts if v.logged and v.is_new)
        self._observer.batch_committed(len(tickets), len(offsets), outcomes, monotonic() - started)
        return verdicts

    def _catch_up(self, transaction: AppendTransaction) -> None:
        """Fold into the cache what other processes appended since our last batch."""
        if self._seen_offset is None or transaction.last_offset - self._seen_offset > TAIL_EVENTS_MAX:
            self._cache.clear()
        elif transaction.last_offset > self._seen_offset:
            try:
                for recorded in transaction.events_after(self._seen_offset, TAIL_EVENTS_MAX):
                    self._cache.follow(recorded)
            except UnknownEventType:  # A newer version writes, too. Only its own streams are closed to this one.
                self._cache.clear()
        self._seen_offset = transaction.last_offset

    def _decide_all(self, transaction: AppendTransaction, view: BatchView, tickets: list[_Ticket]) -> list[_Verdict]:
        logged = transaction.answers({ticket.key for ticket in tickets})
        self._prefetch(view, [ticket for ticket in tickets if ticket.key not in logged])
        verdicts: list[_Verdict] = []
        decided: dict[CommandKey, _Verdict] = {}
        for ticket in tickets:
            if (known := logged.get(ticket.key)) is not None:
                verdict = _Verdict(ticket, logged=_replay(ticket, known))
            elif (first := decided.get(ticket.key)) is not None:
                verdict = _Verdict(ticket, error=first.error, first=first)
            else:
                verdict = decided[ticket.key] = self._decide(view, ticket)
            verdicts.append(verdict)
        return verdicts

    def _prefetch(self, view: BatchView, tickets: list[_Ticket]) -> None:
        """Two queries for the whole batch: the states, then the counters that depend on them."""
        targets: list[Target] = []
        for ticket in tickets:
            handler = self._handler(ticket.envelope)
            targets += targets_of(ticket.envelope.realm, handler.touches(ticket.envelope.command))
        view.prefetch(targets)
        keys: list[str] = []
        for ticket in tickets:
            decision = self._decision(view, ticket.envelope)
            with suppress(Refusal):  # A hint about something unknown: the handler will say so itself.
                keys += decision.count_keys(self._handler(ticket.envelope).counts(decision, ticket.envelope.command))
        view.prefetch_counts(keys)

    def _decide(self, view: BatchView, ticket: _Ticket) -> _Verdict:
        envelope = ticket.envelope
        try:
            decision = self._decision(view, envelope)
            status, code, detail, data = _handle(self._handler(envelope), decision, envelope)
        except HandlerFailed as failure:
            return _Verdict(ticket, error=failure)
        if status == "accepted":
            self._note_history(decision)
            decision.keep()
        logged = LoggedAnswer(ticket.key, envelope.command.type, ticket.content_hash, status, code, detail, data)
        return _Verdict(ticket, logged=logged, is_new=True, last_event=len(view.events) - 1)

    def _note_history(self, decision: Decision) -> None:
        """Once per realm: from its first event on, a business clock may not start in its past."""
        if decision.recorded and decision.realm not in self._with_history:
            if decision.count(HISTORY) == 0:
                decision.add(HISTORY, 1)
            self._with_history.add(decision.realm)

    def _batch_of(self, view: BatchView, verdicts: list[_Verdict]) -> Batch:
        new = [verdict for verdict in verdicts if verdict.is_new]
        count_refusals(
            view, [(v.ticket.envelope, v.logged.code) for v in new if v.logged and v.logged.status == "refused"]
        )
        return Batch(
            events=view.events,
            answers=[verdict.logged for verdict in new if verdict.logged is not None],
            answer_events=[verdict.last_event for verdict in new],
            counts=view.changed_counts(),
            snapshots=view.due_snapshots(self._settings.snapshot_every_events),
        )

    def _answer(self, verdicts: list[_Verdict]) -> None:
        for verdict in verdicts:
            logged = verdict.logged
            if verdict.error is not None or logged is None:
                _deliver(verdict.ticket, verdict.error or HandlerFailed("no verdict"))
                continue
            replayed = not verdict.is_new and not verdict.ticket.sent_before
            position = self._position(logged.offset)
            _deliver(verdict.ticket, Answer(logged.status, logged.code, logged.detail, logged.data, position, replayed))

    def _decision(self, view: BatchView, envelope: CommandEnvelope) -> Decision:
        return Decision(view, envelope, lock_ttl_seconds=self._settings.lock_ttl_seconds, at=None)

    def _handler(self, envelope: CommandEnvelope) -> Handler[Any]:
        return self._handlers[type(envelope.command)]

    def _position(self, offset: int) -> Position:
        return Position(self._log.shard, self._log.epoch, offset)


def _handle(
    handler: Handler[Any], decision: Decision, envelope: CommandEnvelope
) -> tuple[Literal["accepted", "refused"], str, str, Mapping[str, Any]]:
    """Run a handler: (status, code, detail, data). Raises HandlerFailed for anything but a refusal or a lost store."""
    try:
        return "accepted", "ok", "", handler.handle(decision, envelope.command)
    except Refusal as refusal:
        return "refused", refusal.code, refusal.detail, refusal.data
    except (StoreUnavailable, StreamConflict):
        raise
    except UnknownEventType as failure:
        raise StreamClosed(str(failure)) from failure
    except Exception as failure:
        logger.exception("handler_failed", extra={"command_type": envelope.command.type})
        raise HandlerFailed(f"{envelope.command.type} failed: {type(failure).__name__}") from failure


def _replay(ticket: _Ticket, known: LoggedAnswer) -> LoggedAnswer:
    """The first answer, if the content is the same; else a refusal, which is not logged: the id is taken."""
    if known.content_hash == ticket.content_hash:
        return known
    refusal = CommandIdReused(command_type=known.command_type)
    return replace(known, status="refused", code=refusal.code, detail=refusal.detail, data=refusal.data)


def _locate(verdict: _Verdict, offsets: Sequence[int], log_stood_at: int) -> None:
    """Fill in where the effect is: at its last event, or (for none) where the log stood."""
    if verdict.first is not None and verdict.first.logged is not None:
        verdict.logged = _replay(verdict.ticket, verdict.first.logged)
    elif verdict.is_new and verdict.logged is not None:
        offset = offsets[verdict.last_event] if verdict.last_event >= 0 else log_stood_at
        verdict.logged = replace(verdict.logged, offset=offset)


def _deliver(ticket: _Ticket, outcome: Outcome) -> None:
    try:
        ticket.listener(outcome)
    except Exception:  # A listener's defect must not stop the committer.
        logger.exception("answer_not_delivered", extra={"command_id": ticket.envelope.command_id})


def _resolver(future: Future[Answer]) -> Listener:
    def resolve(outcome: Outcome) -> None:
        if not future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return resolve
