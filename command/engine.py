"""Group commit: decide many commands in memory, append them together, answer after the commit.

Commands that arrive while a commit is in flight form the next batch; when the system is idle a command is a batch of
its own and waits for nobody. In a rush, where hardly anybody came before the last batch was answered, the next one is
waited for a moment until about as many are there: each batch has its price, and callers who were just answered are
about to ask again.

Any process may run an engine on the same log; there is no leader. Two ways to append:

- *Ahead* (the usual way): a batch is decided on top of the one before it, stored by then or not, and is appended on the
  condition that nobody else appended since. Two exchanges with the store: a look at what it depends on, and the append;
  one where the append itself shows whether what a look would have brought was guessed right (docs/decisions/0028).
  Where there is enough to do, a batch is sent and the next one is looked for and decided while the store works: half of
  the callers are decided for while the others are stored. Nothing is waited for that need not be (``turn``): whichever
  of the two exchanges there is news of first is gone on with.
- *Under the lock*: after a condition failed, or anything else went wrong, the batch is decided while nobody else can
  append. It always gets on; it is the only way that retries, and it looks into the command log before it does.

An engine goes ahead again as soon as it found the log where it had left it (docs/decisions/0012, 0023).
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from sys import maxsize
from time import monotonic, sleep
from typing import Final, NamedTuple, Protocol

from command.bell import Bell, ThreadBell
from command.decider import Decider, HandlerFailed, Plan, StreamClosed, Verdict
from command.dry_runs import DryRuns
from command.handlers.handler import Handlers
from command.ports import EventLog, HeadMoved, Look, PreparedAppend, StoreUnavailable, StreamConflict
from command.store_clock import StoreClock, seconds
from command.tickets import Busy, EngineStopped, Listener, Outcome, Submitting, Ticket, TicketQueue
from contracts.envelope import Answer, CommandEnvelope
from contracts.position import Position
from contracts.registry import UnknownEventType

__all__ = [
    "Busy", "Engine", "EngineObserver", "EngineSettings", "EngineStopped", "HandlerFailed", "Listener", "Outcome",
    "Pause", "StreamClosed",
]  # fmt: skip

logger = logging.getLogger(__name__)

ATTEMPTS_MAX: Final = 5
BACKOFF_SECONDS: Final = 0.05
STORE_SECONDS: Final = 1.0  # How long to listen to store and callers alike; then to the store alone.
AHEAD_FROM_BYTES: Final = 16 * 1024  # A batch of so much content is worth deciding while another is stored.
GATHERED_COMMANDS_MIN: Final = 8  # A batch of fewer is no rush: nobody is waited for after it.
NOBODY: Final = maxsize  # No number of commands is worth waking for.


Steps = Generator[Look, None, Plan]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Bounds of the engine. A batch ends at whichever of its three bounds it meets first.

    ``ahead_from``: that many waiting commands are worth deciding while a batch is being stored; for fewer a batch of
    their own costs more than the overlap brings. ``gather_seconds`` is how long a batch in a rush may be waited for at
    most, until ``gathered_commands_max`` or as many as the last time are there; never longer than that one took.
    ``snapshot_every_events``: who has no stream in memory (a quote, another process) reads as many events at most.
    ``look_every_seconds``: after a look so old the store is asked again what time it is; a batch before that is decided
    without one where it can be (0: none is).
    """

    batch_commands_max: int = 500
    batch_bytes_max: int = 8 * 1024 * 1024
    batch_events_max: int = 10_000
    queue_commands_max: int = 20_000
    queue_bytes_max: int = 256 * 1024 * 1024
    cached_streams_max: int = 200_000
    snapshot_every_events: int = 100
    lock_ttl_seconds: int = 900
    ahead_from: int = 32
    gathered_commands_max: int = 32
    gather_seconds: float = 0.002
    look_every_seconds: float = 1.0


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

    def batch_misjudged(self, tickets: int) -> None:
        """What was guessed instead of looked for was wrong; nothing was stored, it is decided again under the lock."""
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

    def batch_misjudged(self, tickets: int) -> None:
        """Ignored."""

    def batch_failed(self, tickets: int, error: Exception) -> None:
        """Ignored."""


class Engine(Submitting):
    """Decides, has stored and answers, over one event log. Answers are delivered after the commit.

    It runs on a thread of its own (``start``), or on whatever else calls ``run`` and brings a bell to wait by: the
    event loop of those who ask (docs/decisions/0027).
    """

    def __init__(
        self,
        log: EventLog,
        handlers: Handlers,
        settings: EngineSettings | None = None,
        observer: EngineObserver | None = None,
        *,
        pause: Callable[[float], None] = sleep,
        bell: Bell | None = None,
        stopwatch: Callable[[], float] = seconds,
    ) -> None:
        """``pause`` waits so many seconds before a failed batch is tried again, ``bell`` for commands and the store.

        ``stopwatch`` tells seconds that only ever rise: how old what the store told of the time is, and how long a
        batch took.
        """
        self._log = log
        self._handlers = handlers
        self._pause = pause
        self._stopwatch = stopwatch
        self._settings = settings or EngineSettings()
        self._observer = observer or NobodyWatches()
        self._decider = Decider(
            handlers,
            cached_streams_max=self._settings.cached_streams_max,
            snapshot_every_events=self._settings.snapshot_every_events,
            batch_events_max=self._settings.batch_events_max,
            lock_ttl_seconds=self._settings.lock_ttl_seconds,
            clock=StoreClock(self._settings.look_every_seconds, stopwatch),
        )
        self._queue = TicketQueue(
            commands_max=self._settings.queue_commands_max, bytes_max=self._settings.queue_bytes_max
        )
        self._bell = bell or ThreadBell()
        self._waits_for = AWAKE
        self._taken = 0  # How many the latest batch took from the queue: in a rush as many come again.
        self._begun_at = 0.0  # When it was begun, by the stopwatch.
        self._runs = False
        self._stopping = False
        self._seen_offset: int | None = None  # What the decider remembers holds up to here; None: it must forget.
        self._seen_epoch: str | None = None  # The history that it holds of.
        self._goes_ahead = False
        self._gathered = False  # Whether it was waited for whoever comes in a rush.
        # The way of a batch: looked for, decided and encoded, sent. No more than one at each place.
        self._deciding: _Deciding | None = None
        self._decided: _Decided | None = None
        self._sent: _Sent | None = None  # On its way into the log, or there and not answered yet.
        self._set_aside: list[list[Ticket]] = []  # To be decided under the lock, in this order.
        self._in_hand: Plan | Sequence[Ticket] = ()  # What the latest step took from its place.
        self._readable: set[int] = set()  # Where there is news from the store.
        self._thread: threading.Thread | None = None  # Its own, if it has one.

    # What callers use.

    def start(self) -> None:
        """Run on a thread of its own from now on."""
        self._bell.open()
        self._runs = True
        self._thread = threading.Thread(target=self.run, name="committer", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float = 30.0) -> None:
        """Refuse new commands, finish the queued ones, and stop; whatever is left after the time gets EngineStopped.

        Of an engine without a thread of its own this is the end: whoever runs it was asked to stop before.
        """
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join(timeout_seconds)
        self._turn_away()

    def ask_to_stop(self) -> None:
        """Refuse new commands; it ends once it has finished the queued ones."""
        self._queue.close()
        self._stopping = True
        self._bell.set()

    @property
    def is_running(self) -> bool:
        """Whether commands are taken and worked off: it runs and nobody asked it to stop."""
        return self._runs and not self._stopping

    @property
    def queue_length(self) -> int:
        """How many commands wait."""
        return len(self._queue)

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        """Queue commands, kept in order; each listener hears an Answer or an exception, once, where the engine runs.

        Raises Busy or EngineStopped, and then queues none of them.
        """
        self._queue.put_all([Ticket(envelope, listener) for envelope, listener in envelopes])
        if self._waits_for.is_over(self._queue):
            self._bell.set()

    def dry_run(self, envelope: CommandEnvelope, at: datetime | None = None) -> Answer:
        """What would be answered, now or at another business time, storing nothing. Runs on the caller's thread.

        At a time in the past only what had occurred by then is known. Raises StoreUnavailable or HandlerFailed.
        """
        with self._log.reading() as view:
            status, code, detail, data = self._decider.dry_run(view, envelope, at)
            return Answer(status, code, detail, data, self._position(view.last_offset))

    def dry_runs_over(self, log: EventLog) -> DryRuns:
        """Many dry runs together, decided as here, over connections of their own to the same log."""
        return DryRuns(log, self._handlers, lock_ttl_seconds=self._settings.lock_ttl_seconds)

    # What runs. It alone decides, and alone touches what the decider remembers.

    def run(self) -> None:
        """Decide, have stored and answer, until asked to stop and everybody is answered. Once."""
        self._runs = True
        readable: Collection[int] = ()
        try:
            while not self._stopping or self._has_work:
                pause = self.turn(readable)
                readable = () if pause is None else self._wait(pause)
        except BaseException:  # Cancelled, or a defect of ours: nobody shall wait for nobody.
            self._queue.close()
            self._abandon()
            self._turn_away()
            raise
        finally:
            self._runs = False

    def _wait(self, pause: "Pause") -> Collection[int]:
        """Wait for what ends a pause; the files that can be read from by then."""
        self._waits_for = pause
        self._bell.clear()
        readable: Collection[int] = ()
        # Looked at after it was said what is worth waking. Whoever is to stop waits for the store, and for no callers.
        if not pause.is_over(self._queue) and (pause.files or not self._stopping):
            readable = self._bell.wait(pause.seconds, pause.files)
        self._waits_for = AWAKE
        return readable

    @property
    def _has_work(self) -> bool:
        return bool(self._queue or self._deciding or self._decided or self._sent or self._set_aside)

    def turn(self, readable: Collection[int] = ()) -> "Pause | None":
        """Take one step; None when the next one may be taken at once, else what to wait for before it.

        ``readable``: those files of the last pause that can be read from. An engine that was never started may be
        driven by turns, on one thread.
        """
        self._readable.update(readable)
        deciding, sent = self._deciding, self._sent
        if self._set_aside and sent is None:
            self._in_hand = tickets = self._set_aside.pop(0)
            self._commit(tickets)
        elif deciding is not None and self._is_due(deciding, but_for=sent):
            self._go_on_deciding(deciding)
        elif self._may_begin():
            self._begin()
        elif sent is not None and self._is_due(sent, but_for=None if deciding and _is_late(deciding) else deciding):
            self._land(sent)
        elif self._decided is not None and sent is None:
            self._send(self._decided)
        else:
            return self._next_pause()
        return None

    def _is_due(self, exchange: "_Deciding | _Sent", *, but_for: "_Deciding | _Sent | None") -> bool:
        """Whether there is news of an exchange with the store.

        Or nothing but to wait for it would bring any; or it is late, and there is no other to be heard meanwhile.
        """
        if (file := exchange.file) is None:
            return True
        if file in self._readable:
            self._readable.discard(file)
            return True
        return but_for is None and _is_late(exchange)

    def _may_begin(self) -> bool:
        if not self._queue or self._deciding or self._decided or self._set_aside:
            return False
        if self._sent is not None:
            return self._until_worth_deciding(self._sent).is_over(self._queue)
        return self._gathered or 3 * len(self._queue) >= self._rush

    @property
    def _rush(self) -> int:
        """How many a batch is waited for; 0 when there is no rush.

        In a rush as many as came the last time: a batch costs as much as twenty commands do. Those who were just
        answered are about to send their next, and who serves them needs the interpreter for it. Where a third as many
        came before anybody was answered, they come whether we answer or not: to wait for them brings nothing but delay.
        """
        wanted = min(self._taken, self._settings.gathered_commands_max)
        return wanted if wanted >= GATHERED_COMMANDS_MIN else 0

    def _next_pause(self) -> "Pause":
        """Wait for the store, and for those who are about to come if a batch of theirs may be begun."""
        deciding, sent = self._deciding, self._sent
        under_way = [each.file for each in (deciding, sent) if each is not None]
        files = [file for file in under_way if file is not None]
        if deciding is not None or self._decided is not None or self._set_aside:
            return Pause(NOBODY, STORE_SECONDS, files)
        if sent is not None:
            return self._until_worth_deciding(sent, files)
        if self._rush and not self._gathered:
            self._gathered = True
            # No longer than the batch took: else most of those who come at random instants would come while we wait,
            # batches would become large because they are waited for, and be waited for because they are large.
            seconds = min(self._settings.gather_seconds, self._stopwatch() - self._begun_at)
            return Pause(self._rush, seconds, content_bytes=AHEAD_FROM_BYTES)
        return Pause(1)

    def _until_worth_deciding(self, sent: "_Sent", files: Sequence[int] = ()) -> "Pause":
        """Until enough waits for a batch of its own while another is stored: half as much as is in that one."""
        commands = max(1, self._settings.ahead_from, len(sent.plan.verdicts) // 2)
        return Pause(commands, STORE_SECONDS, files, max(AHEAD_FROM_BYTES, sent.content_bytes // 2))

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

    def _begin(self) -> None:
        """Take a batch and look what it depends on, to decide it on top of what is being stored."""
        self._in_hand = tickets = self._take()
        self._gathered = False
        self._begun_at = self._stopwatch()
        if not tickets:  # Whoever stops us may have taken them.
            return
        if not self._goes_ahead or self._log.epoch != self._seen_epoch:
            self._set_aside.append(tickets)
            return
        after = None if self._sent is None else self._sent.plan
        try:
            steps = self._decider.ahead(self._log.glancing(), tickets, epoch=self._seen_epoch, after=after)
        except Exception as failure:  # noqa: BLE001 - under the lock it will show what it is.
            self._give_up(tickets, failure)
        else:
            self._decide_on(tickets, steps)

    def _go_on_deciding(self, deciding: "_Deciding") -> None:
        """Take in what was seen, and decide, or look for what else it takes."""
        self._deciding, self._in_hand = None, deciding.tickets
        self._decide_on(deciding.tickets, deciding.steps)

    def _decide_on(self, tickets: list[Ticket], steps: Steps) -> None:
        """Up to the next look, or to a plan."""
        try:
            look = next(steps)
        except StopIteration as done:
            self._prepare(tickets, done.value)
        except Exception as failure:  # noqa: BLE001 - under the lock it will show what it is.
            self._give_up(tickets, failure)
        else:
            self._deciding = _Deciding(tickets, steps, look, monotonic())

    def _prepare(self, tickets: list[Ticket], plan: Plan) -> None:
        """Encode what was decided. What cannot be decided ahead is set aside: under the lock it will show why."""
        try:
            append = self._log.prepared(plan.batch) if plan.stores_something else None
        except Exception as failure:  # noqa: BLE001 - under the lock it will show what it is.
            self._give_up(tickets, failure)
            return
        if plan.is_unproven or (append is None and self._log.epoch != self._seen_epoch):
            self._decider.unlearn(plan)
            self._set_aside.append(tickets)
        else:
            self._decided = _Decided(plan, append)

    def _give_up(self, tickets: list[Ticket], failure: Exception) -> None:
        """What was not decided ahead is decided under the lock."""
        logger.debug("not_decided_ahead", exc_info=failure)
        self._decide_from_scratch()
        self._set_aside.append(tickets)

    def _send(self, decided: "_Decided", *, patient: bool = True) -> None:
        """Have a plan stored where the log was left, and nowhere else; go on meanwhile.

        Who is not patient does nothing where another thread of this process is appending.
        """
        plan, append = decided
        assert self._seen_offset is not None
        content_bytes = sum([verdict.ticket.content_bytes for verdict in plan.verdicts])
        sent = _Sent(plan, append, self._seen_offset, monotonic(), content_bytes)
        self._decided, self._in_hand = None, plan
        try:
            if append is not None and not append.send_after(sent.head, epoch=self._seen_epoch, patient=patient):
                self._decided = decided
                return
        except Exception as failure:  # noqa: BLE001 - under the lock it will show what it is.
            self._recover(plan, sent.head, failure)
        else:
            self._sent = sent
        self._queue.put_back(plan.undecided)

    def _land(self, sent: "_Sent") -> None:
        """Wait until what was sent is stored; send what was decided on top of it, and answer."""
        self._sent, self._in_hand = None, sent.plan
        try:
            offsets = () if sent.append is None else sent.append.offsets()
            self._seen_offset = offsets[-1] if offsets else sent.head
            self._note_stored(sent.plan, offsets, monotonic() - sent.at)
        except Exception as failure:  # noqa: BLE001 - under the lock it will show what it is.
            self._recover(sent.plan, sent.head, failure)
            return
        try:
            if self._decided is not None:  # The store does not wait until everybody is answered.
                self._send(self._decided, patient=False)
        finally:
            self._answer(sent.plan.verdicts)

    def _recover(self, plan: Plan, head: int, error: Exception) -> None:
        """A batch was not stored as it was decided, and what was decided on top of it is void: all of it once more."""
        decided, deciding = self._decided, self._deciding
        self._decided = self._deciding = None
        self._readable.clear()
        self._goes_ahead = False
        wrong_guess = plan.was_guessed and isinstance(error, StreamConflict)
        if wrong_guess:
            self._decider.guess_no_more()
        if wrong_guess or isinstance(error, HeadMoved):  # Surely nothing was stored.
            if decided is not None:  # The latest first.
                self._decider.unlearn(decided.plan)
            self._decider.unlearn(plan)
            observe = self._observer.batch_misjudged if wrong_guess else self._observer.batch_overtaken
            self._tell(observe, len(plan.verdicts))
        else:
            plan.note_sent(self._seen_epoch, head)
            self._forget(plan.tickets, error)
        again = [plan.tickets]
        if decided is not None:
            again.append(decided.plan.asked)
        if deciding is not None:
            again.append(deciding.tickets)
        self._set_aside[:0] = again

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
            plan.note_sent(self._seen_epoch, transaction.last_offset)
            offsets: Sequence[int] = transaction.append(plan.batch) if plan.stores_something else ()
            last_offset = transaction.last_offset
        self._seen_offset = last_offset
        self._goes_ahead = not others_appended
        self._note_stored(plan, offsets, monotonic() - started)
        return plan

    def _forget(self, tickets: Sequence[Ticket], failure: Exception) -> None:
        """After any failure the remembered states may be wrong, and the batch may have landed after all."""
        self._decide_from_scratch()
        self._tell(self._observer.batch_failed, len(tickets), failure)

    def _abandon(self) -> None:
        """Tell those whose commands were taken that nobody knows what came of them."""
        in_hand = self._in_hand.asked if isinstance(self._in_hand, Plan) else self._in_hand
        taken = [in_hand, *self._set_aside]
        if self._deciding is not None:
            taken.append(self._deciding.tickets)
        taken += [each.plan.asked for each in (self._decided, self._sent) if each is not None]
        ended = StoreUnavailable("the engine ended before it was known whether this was stored: ask again")
        for ticket in chain.from_iterable(taken):
            _deliver(ticket, ended)

    def _turn_away(self) -> None:
        """Tell those who still wait for their turn that it will not come."""
        while left := self._queue.take(commands_max=1_000, bytes_max=self._settings.queue_bytes_max):
            for ticket in left:
                _deliver(ticket, EngineStopped("the engine stopped before this command's turn"))

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
        self._tell(self._observer.batch_committed, len(plan.verdicts), len(offsets), outcomes, seconds)

    def _tell(self, observe: Callable[..., None], *about: object) -> None:
        try:
            observe(*about)
        except Exception:  # An observer's defect must not stop the engine.
            logger.exception("observer_failed")

    def _answer(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            ticket, logged = verdict.ticket, verdict.logged
            if verdict.error is not None or logged is None:
                _deliver(ticket, verdict.error or HandlerFailed("no verdict"))
                continue
            is_ours = verdict.is_new or self._is_what_was_sent(ticket, verdict.offset)
            position = Position(self._log.shard, self._seen_epoch or self._log.epoch, verdict.offset)
            _deliver(ticket, Answer(logged.status, logged.code, logged.detail, logged.data, position, not is_ours))

    def _is_what_was_sent(self, ticket: Ticket, offset: int) -> bool:
        """Whether an answer in the log is what we sent before a failure, and not one of long ago."""
        if ticket.sent_from is None:
            return False
        epoch, first = ticket.sent_from
        return epoch == self._seen_epoch and offset >= first

    def _position(self, offset: int) -> Position:
        return Position(self._log.shard, self._log.epoch, offset)


class Pause(NamedTuple):
    """What an engine waits for before its next step; the first of it counts.

    So many ``commands`` wait in the queue, or commands of so much content, so many ``seconds`` have passed (None: it
    takes as long as it takes), or one of the ``files`` can be read from.
    """

    commands: int
    seconds: float | None = None
    files: Sequence[int] = ()
    content_bytes: int = NOBODY

    def is_over(self, queue: TicketQueue) -> bool:
        """Whether enough is waiting."""
        return len(queue) >= self.commands or queue.content_bytes >= self.content_bytes


AWAKE: Final = Pause(1)  # Nobody waits: ringing costs nothing.


class _Deciding(NamedTuple):
    """A batch that is being decided ahead, up to a look: whose, how it goes on, what was sent, and since when."""

    tickets: list[Ticket]
    steps: Steps
    look: Look
    at: float

    @property
    def file(self) -> int | None:
        """What can be read from once there is news of the look."""
        return self.look.fileno()


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

    @property
    def file(self) -> int | None:
        """What can be read from once there is news of it."""
        return None if self.append is None else self.append.fileno()


def _is_late(exchange: _Deciding | _Sent) -> bool:
    """Whether there was no news of it for long."""
    return monotonic() - exchange.at > STORE_SECONDS


def _deliver(ticket: Ticket, outcome: Outcome) -> None:
    listener, ticket.listener = ticket.listener, _has_heard
    try:
        listener(outcome)
    except Exception:  # A listener's defect must not stop the engine.
        logger.exception("answer_not_delivered", extra={"command_id": ticket.envelope.command_id})


def _has_heard(_outcome: Outcome) -> None:
    """The listener of whom an outcome was told: each hears one."""
