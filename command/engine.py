"""Group commit: decide many commands in memory, append them together, answer after the commit.

Commands that arrive while a commit is in flight form the next batch; when the system is idle a command is a batch of
its own and waits for nobody. In a rush a batch is waited for, two milliseconds at most, until about as many are there
as the last time: each batch has its price, and callers who were just answered are about to ask again.

Any process may run an engine on the same log; there is no leader. Two ways to append:

- *Ahead* (the usual way): a batch is decided on top of the one before it, stored by then or not, and is appended on the
  condition that nobody else appended since. One exchange with the store. Where there is enough to do, a batch is sent
  and the next one is decided while the store works: half of the callers are decided for while the others are stored.
- *Under the lock*: after a condition failed, or anything else went wrong, the batch is decided while nobody else can
  append. It always gets on; it is the only way that retries, and it looks into the command log before it does.

An engine goes ahead again as soon as it found the log where it had left it (docs/decisions/0012, 0023).
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic, sleep
from typing import Final, NamedTuple, Protocol

from command.decider import Decider, HandlerFailed, Plan, StreamClosed, Verdict
from command.handlers.handler import Handlers
from command.ports import EventLog, HeadMoved, PreparedAppend, StoreUnavailable, StreamConflict
from command.tickets import Busy, EngineStopped, Listener, Outcome, Submitting, Ticket, TicketQueue
from command.wake import Wake
from contracts.envelope import Answer, CommandEnvelope
from contracts.position import Position
from contracts.registry import UnknownEventType

__all__ = [
    "Busy", "Engine", "EngineObserver", "EngineSettings", "EngineStopped", "HandlerFailed", "Listener", "Outcome",
    "StreamClosed",
]  # fmt: skip

logger = logging.getLogger(__name__)

ATTEMPTS_MAX: Final = 5
BACKOFF_SECONDS: Final = 0.05
STORE_SECONDS: Final = 1.0  # How long to listen to store and callers alike; then to the store alone.
AHEAD_FROM_BYTES: Final = 16 * 1024  # A batch of so much content is worth deciding while another is stored.
RUSH_COMMANDS_MIN: Final = 8  # A batch of fewer is no rush: nobody is waited for after it.


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Bounds of the engine. A batch ends at whichever of its three bounds it meets first.

    ``ahead_from``: that many waiting commands are worth deciding while a batch is being stored; for fewer a batch of
    their own costs more than the overlap brings. ``gather_seconds`` is how long a batch in a rush may be waited for,
    until ``gathered_commands_max`` or as many as the last time are there.
    """

    batch_commands_max: int = 500
    batch_bytes_max: int = 8 * 1024 * 1024
    batch_events_max: int = 10_000
    queue_commands_max: int = 20_000
    queue_bytes_max: int = 256 * 1024 * 1024
    cached_streams_max: int = 200_000
    snapshot_every_events: int = 1_000
    lock_ttl_seconds: int = 900
    ahead_from: int = 32
    gathered_commands_max: int = 32
    gather_seconds: float = 0.002


class EngineObserver(Protocol):
    """Whoever wants to know what the engine does: metrics and traces live outside of it."""

    def batch_committed(
        self, tickets: int, events: int, outcomes: Mapping[tuple[str, str], int], seconds: float
    ) -> None:
        """A batch is durable. ``outcomes`` counts (command type, code)."""
        ...

    def batch_overtaken(self, tickets: int) -> None:
        """Another process appended first; nothing was stored, and the batch is decided again under the lock."""
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

    def batch_overtaken(self, tickets: int) -> None:
        """Ignored."""

    def batch_failed(self, tickets: int, error: Exception) -> None:
        """Ignored."""


class Engine(Submitting):
    """A thread over one event log that decides, has stored and answers. Answers are delivered after the commit."""

    def __init__(
        self,
        log: EventLog,
        handlers: Handlers,
        settings: EngineSettings | None = None,
        observer: EngineObserver | None = None,
        *,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        """``pause`` waits so many seconds before a failed batch is tried again."""
        self._log = log
        self._pause = pause
        self._settings = settings or EngineSettings()
        self._observer = observer or NobodyWatches()
        self._decider = Decider(
            handlers,
            cached_streams_max=self._settings.cached_streams_max,
            snapshot_every_events=self._settings.snapshot_every_events,
            batch_events_max=self._settings.batch_events_max,
            lock_ttl_seconds=self._settings.lock_ttl_seconds,
        )
        self._queue = TicketQueue(
            commands_max=self._settings.queue_commands_max, bytes_max=self._settings.queue_bytes_max
        )
        self._wake = Wake()
        self._worth_waking = 1  # How many commands must wait for the committer to be woken.
        self._taken = 0  # How many the latest batch took from the queue: in a rush as many come again.
        self._stopping = False
        self._seen_offset: int | None = None  # What the decider remembers holds up to here; None: it must forget.
        self._seen_epoch: str | None = None  # The history that it holds of.
        self._goes_ahead = False
        self._sent: _Sent | None = None  # On its way into the log, or there and not answered yet.
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    # What callers use.

    def start(self) -> None:
        """Start the thread."""
        self._wake.open()
        self._thread.start()

    def stop(self, timeout_seconds: float = 30.0) -> None:
        """Refuse new commands, finish the queued ones, and stop; whatever is left after the time gets EngineStopped."""
        self._queue.close()
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        while left := self._queue.take(commands_max=1_000, bytes_max=self._settings.queue_bytes_max):
            for ticket in left:
                _deliver(ticket, EngineStopped("the engine stopped before this command's turn"))

    @property
    def is_running(self) -> bool:
        """Whether commands are taken and worked off: the thread lives and nobody asked it to stop."""
        return self._thread.is_alive() and not self._stopping

    @property
    def queue_length(self) -> int:
        """How many commands wait."""
        return len(self._queue)

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        """Queue commands, kept in order; each listener hears an Answer or an exception, once, on the engine's thread.

        Raises Busy or EngineStopped, and then queues none of them.
        """
        self._queue.put_all([Ticket(envelope, listener) for envelope, listener in envelopes])
        if len(self._queue) >= self._worth_waking or self._queue.content_bytes >= AHEAD_FROM_BYTES:
            self._wake.set()

    def dry_run(self, envelope: CommandEnvelope, at: datetime | None = None) -> Answer:
        """What would be answered, now or at another business time, storing nothing. Runs on the caller's thread.

        At a time in the past only what had occurred by then is known. Raises StoreUnavailable or HandlerFailed.
        """
        with self._log.reading() as view:
            status, code, detail, data = self._decider.dry_run(view, envelope, at)
            return Answer(status, code, detail, data, self._position(view.last_offset))

    # The committer's thread. It alone decides, and alone touches what the decider remembers.

    def _run(self) -> None:
        while not (self._stopping and not self._queue):
            self._wake.wait()
            self._wake.clear()
            while self.turn():
                self._gather()

    def turn(self) -> bool:
        """Decide one batch and send it, once the one before it is stored. False when there is nothing to do.

        An engine that was never started may be driven by turns, on one thread.
        """
        if self._sent is not None and not self._is_worth_deciding(self._sent):
            self._land()
            return True
        tickets = self._take()
        if not tickets:  # Whoever stops us may have taken them.
            return self._sent is not None and self._land()
        decided = self._decide_ahead(tickets) if self._goes_ahead else None
        if self._land(decided) and decided is not None:
            self._send(decided)
        else:  # What was decided on top of a batch that was not stored is void.
            self._commit(tickets)
        return True

    def _is_worth_deciding(self, sent: "_Sent") -> bool:
        """Whether enough waits for a batch of its own while another is stored: half as much as is in that one."""
        return (
            len(self._queue) >= self._worth_deciding(sent)
            or self._queue.content_bytes >= max(AHEAD_FROM_BYTES, sent.content_bytes // 2)
        )  # fmt: skip

    def _worth_deciding(self, sent: "_Sent") -> int:
        return max(self._settings.ahead_from, len(sent.plan.verdicts) // 2)

    def _take(self) -> list[Ticket]:
        """The next batch: half of all that is there if that is worth it, so that another half is stored meanwhile."""
        settings, sent, queue = self._settings, self._sent, self._queue
        commands, content = len(queue), queue.content_bytes
        if sent is not None:
            commands, content = commands + len(sent.plan.verdicts), content + sent.content_bytes
        commands_max, bytes_max = settings.batch_commands_max, settings.batch_bytes_max
        if commands >= 2 * settings.ahead_from:
            commands_max = min((commands + 1) // 2, commands_max)
        elif content >= 2 * AHEAD_FROM_BYTES:
            bytes_max = min((content + 1) // 2, bytes_max)
        tickets = queue.take(commands_max=commands_max, bytes_max=bytes_max)
        self._taken = len(tickets)
        return tickets

    def _gather(self) -> None:
        """Wait a moment for those who are about to come, or for the store, before the next turn."""
        if (sent := self._sent) is not None:
            news = None if sent.append is None else sent.append.fileno()
            if news is not None and not self._is_worth_deciding(sent):
                self._wait_for(self._worth_deciding(sent), STORE_SECONDS, news)
            return
        # In a rush for as many as came the last time: a batch costs as much as twenty commands do. Those who were just
        # answered are about to send their next, and who serves them needs the interpreter for it.
        wanted = min(self._taken, self._settings.gathered_commands_max)
        if wanted >= RUSH_COMMANDS_MIN:
            self._wait_for(wanted, self._settings.gather_seconds)

    def _wait_for(self, commands: int, seconds: float, readable: int | None = None) -> None:
        """Wait until so many are waiting, or for the time, or until the file can be read from."""
        self._worth_waking = commands
        self._wake.clear()
        if len(self._queue) < commands and not self._stopping:  # Looked at after it was said what is worth waking.
            self._wake.wait(seconds, readable)
        self._worth_waking = 1

    def _decide_ahead(self, tickets: list[Ticket]) -> "_Decided | None":
        """Decide on top of what is being stored. None when that cannot be done: under the lock it will show why."""
        if self._log.epoch != self._seen_epoch:
            return None
        after = None if self._sent is None else self._sent.plan
        try:
            plan = self._decider.decide(self._log.glancing(), tickets, epoch=self._seen_epoch, ahead=True, after=after)
            append = self._log.prepared(plan.batch) if plan.stores_something else None
        except Exception as failure:
            logger.debug("not_decided_ahead", exc_info=failure)
            self._decide_from_scratch()
            return None
        if plan.is_a_guess:
            self._decider.unlearn(plan)
            return None
        return _Decided(plan, append)

    def _send(self, decided: "_Decided") -> None:
        """Have a plan stored where the log was left, and nowhere else; go on meanwhile."""
        plan, append = decided
        self._queue.put_back(plan.undecided)
        assert self._seen_offset is not None
        content_bytes = sum([verdict.ticket.content_bytes for verdict in plan.verdicts])
        sent = _Sent(plan, append, self._seen_offset, monotonic(), content_bytes)
        try:
            if append is not None:
                append.send_after(sent.head, epoch=self._seen_epoch)
        except Exception as failure:  # noqa: BLE001 - under the lock it will show what it is.
            self._recover(plan, failure)
            return
        self._sent = sent
        if append is None:  # All of it was answered before.
            self._land()

    def _land(self, decided_on_top: "_Decided | None" = None) -> bool:
        """Wait until what was sent is stored, and answer it. False when it was not: then it was decided again."""
        sent, self._sent = self._sent, None
        if sent is None:
            return True
        try:
            offsets = () if sent.append is None else sent.append.offsets()
            self._seen_offset = offsets[-1] if offsets else sent.head
            self._note_stored(sent.plan, offsets, monotonic() - sent.at)
        except Exception as failure:  # noqa: BLE001 - under the lock it will show what it is.
            self._recover(sent.plan, failure, None if decided_on_top is None else decided_on_top.plan)
            return False
        self._answer(sent.plan.verdicts)
        return True

    def _recover(self, plan: Plan, error: Exception, decided_on_top: Plan | None = None) -> None:
        """A batch was not stored as it was decided: decide it again, under the lock."""
        tickets = plan.tickets
        self._goes_ahead = False
        if isinstance(error, HeadMoved):
            for each in (decided_on_top, plan):  # The latest first.
                if each is not None:
                    self._decider.unlearn(each)
            self._observer.batch_overtaken(len(tickets))
        else:
            self._forget(tickets, error)
        self._commit(tickets)

    def _commit(self, tickets: Sequence[Ticket]) -> None:
        """Commit under the lock, retrying what may be retried; a command that spoils its batch fails alone."""
        while tickets:
            error: Exception = StoreUnavailable("not tried")
            for attempt in range(ATTEMPTS_MAX):
                try:
                    plan = self._attempt(tickets)
                except (StoreUnavailable, StreamConflict) as failure:
                    error = failure
                    self._forget(tickets, failure)
                    self._pause(BACKOFF_SECONDS * 2**attempt)
                except Exception as failure:  # noqa: BLE001 - whatever it is, one command's spoil is not the others'.
                    self._forget(tickets, failure)
                    self._find_spoiler(tickets, failure)
                    return
                else:
                    self._answer(plan.verdicts)
                    tickets = plan.undecided
                    break
            else:
                final = error if isinstance(error, StoreUnavailable) else StoreUnavailable(str(error))
                for ticket in tickets:
                    _deliver(ticket, final)
                return

    def _find_spoiler(self, tickets: Sequence[Ticket], failure: Exception) -> None:
        if len(tickets) == 1:
            logger.error("command_failed", exc_info=failure, extra={"command_id": tickets[0].envelope.command_id})
            kind = StreamClosed if isinstance(failure, UnknownEventType) else HandlerFailed
            _deliver(tickets[0], kind(str(failure)))
            return
        middle = len(tickets) // 2
        self._commit(tickets[:middle])
        self._commit(tickets[middle:])

    def _attempt(self, tickets: Sequence[Ticket]) -> Plan:
        """Decide and store under the append lock."""
        started = monotonic()
        with self._log.appending() as transaction:
            self._notice_restore()
            others_appended = self._decider.follow(transaction, self._seen_offset)
            plan = self._decider.decide(transaction, tickets, epoch=self._seen_epoch)
            offsets: Sequence[int] = transaction.append(plan.batch) if plan.stores_something else ()
            last_offset = transaction.last_offset
        self._seen_offset = last_offset
        self._goes_ahead = not others_appended
        self._note_stored(plan, offsets, monotonic() - started)
        return plan

    def _forget(self, tickets: Sequence[Ticket], failure: Exception) -> None:
        """After any failure the remembered states may be wrong, and the batch may have landed after all."""
        self._decide_from_scratch()
        for ticket in tickets:
            ticket.sent_before = True
        self._observer.batch_failed(len(tickets), failure)

    def _notice_restore(self) -> None:
        """The log tells of a new epoch once, and maybe not us but whoever reads beside us."""
        if self._log.epoch != self._seen_epoch:
            self._decide_from_scratch()
            self._seen_epoch = self._log.epoch

    def _decide_from_scratch(self) -> None:
        self._decider.forget()
        self._seen_offset = None
        self._goes_ahead = False

    # What happens to a plan that is stored.

    def _note_stored(self, plan: Plan, offsets: Sequence[int], seconds: float) -> None:
        assert self._seen_offset is not None
        for verdict in plan.verdicts:
            verdict.locate(offsets, self._seen_offset)
        outcomes = Counter(
            (v.ticket.envelope.command.type, v.logged.code) for v in plan.verdicts if v.logged and v.is_new
        )
        self._observer.batch_committed(len(plan.verdicts), len(offsets), outcomes, seconds)

    def _answer(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            ticket, logged = verdict.ticket, verdict.logged
            if verdict.error is not None or logged is None:
                _deliver(ticket, verdict.error or HandlerFailed("no verdict"))
                continue
            replayed = not verdict.is_new and not ticket.sent_before
            position = Position(self._log.shard, self._seen_epoch or self._log.epoch, verdict.offset)
            _deliver(ticket, Answer(logged.status, logged.code, logged.detail, logged.data, position, replayed))

    def _position(self, offset: int) -> Position:
        return Position(self._log.shard, self._log.epoch, offset)


class _Decided(NamedTuple):
    """A plan that was decided ahead, ready to be sent; nothing is to be sent when all was answered before."""

    plan: Plan
    append: PreparedAppend | None


class _Sent(NamedTuple):
    """A plan on its way into the log: after which offset, since when, and how much was asked for in it."""

    plan: Plan
    append: PreparedAppend | None
    head: int
    at: float
    content_bytes: int


def _deliver(ticket: Ticket, outcome: Outcome) -> None:
    try:
        ticket.listener(outcome)
    except Exception:  # A listener's defect must not stop the engine.
        logger.exception("answer_not_delivered", extra={"command_id": ticket.envelope.command_id})
