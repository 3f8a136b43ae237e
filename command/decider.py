"""Turns a batch of commands into what is to be stored for them, on top of the states that it keeps in memory."""

import logging
from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import chain, compress, groupby
from operator import not_
from typing import Any, Final, Literal

from command.decisions import BatchView, Decision, Target, clock_of, targets_of
from command.handlers.handler import Handler, Handlers
from command.ports import (
    AppendTransaction,
    Batch,
    CommandKey,
    Glance,
    LoggedAnswer,
    Look,
    ReadView,
    StoreUnavailable,
    StreamConflict,
)
from command.refusal_counts import count_refusals
from command.states import SnapshotFormats, StateCache
from command.store_clock import StoreClock
from command.tickets import Ticket
from command.unit_of_work import HISTORY, NotYet
from contracts.envelope import CommandEnvelope
from contracts.identity import Realm
from contracts.refusals import CommandIdReused, Refusal
from contracts.registry import UnknownEventType

logger = logging.getLogger(__name__)

TAIL_EVENTS_MAX: Final = 5_000
LOOKS_AFTER_A_WRONG_GUESS: Final = 100  # Batches. Whoever asks again mostly is not the only one.
LOOKS_AFTER_A_VAIN_GUESS: Final = 10  # It cost a decision, and no append.
GUESSED_COUNTS_MAX: Final = 1_000  # Of a batch of more a look is a small part, and a wrong guess a large one.
RUSH_COMMANDS_MIN: Final = 4  # Fewer are decided one by one at less expense.

Decided = tuple[Literal["accepted", "refused"], str, str, Mapping[str, Any]]  # Status, code, detail, data.


class HandlerFailed(Exception):
    """A handler broke: our defect. Nothing of this command was stored."""


class StreamClosed(HandlerFailed):
    """A newer version wrote an event that the command depends on. Nothing was stored; that version can decide it."""


class Verdict:
    """What was decided about one ticket: an answer to log, one already logged, or an error that is not logged."""

    __slots__ = ("error", "first", "is_new", "last_event", "logged", "offset", "ticket")

    def __init__(
        self,
        ticket: Ticket,
        logged: LoggedAnswer | None = None,
        *,
        error: Exception | None = None,
        first: "Verdict | None" = None,
        last_event: int | None = None,
    ) -> None:
        self.ticket = ticket
        self.logged = logged
        self.error = error
        self.first = first  # The same id came twice while neither was stored: the answer is the first one's.
        self.is_new = last_event is not None
        self.last_event = -1 if last_event is None else last_event
        self.offset = 0 if logged is None else logged.offset  # Of what is new: known once it is stored.

    def locate(self, offsets: Sequence[int], log_stands_at: int) -> None:
        """After the commit: fill in where the effect is: at its last event, or (for none) where the log stands."""
        if self.first is not None and self.first.logged is not None:
            self.logged, self.offset = _replay(self.ticket, self.first.logged), self.first.offset
        elif self.is_new:
            self.offset = offsets[self.last_event] if self.last_event >= 0 else log_stands_at


class Plan:
    """A decided batch: what to store, and what to answer once it is stored."""

    __slots__ = ("batch", "undecided", "verdicts", "view", "was_guessed")

    def __init__(
        self,
        view: BatchView,
        verdicts: list[Verdict],
        batch: Batch,
        undecided: Sequence[Ticket],
        *,
        was_guessed: bool = False,
    ) -> None:
        self.view = view
        self.verdicts = verdicts
        self.batch = batch
        self.undecided = undecided  # Too much for one transaction: for the next one.
        self.was_guessed = was_guessed  # Decided without a look: appending it shows whether that was right.

    @property
    def tickets(self) -> list[Ticket]:
        """The tickets that it answers."""
        return [verdict.ticket for verdict in self.verdicts]

    @property
    def asked(self) -> list[Ticket]:
        """All tickets of its batch: those, and the ones that are left for the next transaction."""
        return [*self.tickets, *self.undecided]

    def note_sent(self, epoch: str | None, head: int) -> None:
        """It was sent after ``head``, and is stored or not: answers in the log from there on are no earlier ones."""
        if self.was_guessed and not self.batch.events:  # Its answers would be where earlier ones may be.
            return
        first = head + 1 if self.batch.events else head
        for verdict in self.verdicts:
            ticket = verdict.ticket
            if verdict.is_new and (ticket.sent_from is None or ticket.sent_from[0] != epoch):
                ticket.sent_from = epoch, first

    @property
    def stores_something(self) -> bool:
        """Whether there is anything to append: not when all was answered before."""
        return bool(self.batch.events or self.batch.answers)

    @property
    def is_unproven(self) -> bool:
        """Whether it says no to somebody and appends nothing: then no append would tell that others were quicker."""
        return not self.stores_something and any(verdict.error is not None for verdict in self.verdicts)


class Decider:
    """Decides batches, one after the other. It remembers the states of streams, those of undurable batches included.

    Whoever fails to store a plan must call :meth:`forget`, or :meth:`unlearn` when it surely was not stored: the states
    are wrong from then on. Not thread-safe.
    """

    def __init__(
        self,
        handlers: Handlers,
        *,
        cached_streams_max: int,
        snapshot_every_events: int,
        batch_events_max: int,
        lock_ttl_seconds: int,
        clock: StoreClock | None = None,
    ) -> None:
        """``clock``: what time it is at the store, for batches without a look; None: each has one."""
        self._handlers = handlers
        self._clock = clock or StoreClock()
        self._looks = 0  # So many batches are looked for, whatever could be guessed.
        self._snapshot_every_events = snapshot_every_events
        self._batch_events_max = batch_events_max
        self._lock_ttl_seconds = lock_ttl_seconds
        self._formats = SnapshotFormats()
        self._cache = StateCache(cached_streams_max)
        self._with_history: set[Realm] = set()
        self._new_histories: set[Realm] = set()  # Those that the plan in the making began.
        self._last_now: datetime | None = None
        self._epoch: str | None = None  # Of the view that is decided on.

    def forget(self) -> None:
        """Drop every state; they are read again when they are needed."""
        self._cache.clear()
        self._with_history.clear()
        self._clock.forget()

    def guess_no_more(self) -> None:
        """A guess was wrong: look again for a while."""
        self._looks = LOOKS_AFTER_A_WRONG_GUESS

    def unlearn(self, plan: Plan) -> None:
        """Go back to the states before a plan that was not stored and never will be. Of several, the latest first."""
        self._cache.drop_all((plan.view.entries.keys() | plan.view.begun.keys()) - plan.view.loaded.keys())
        self._cache.put_all(plan.view.loaded)
        self._with_history.clear()

    def follow(self, transaction: AppendTransaction, seen_offset: int | None) -> bool:
        """Take in what others appended after ``seen_offset`` (None: anything may have changed); whether they did."""
        news = 0 if seen_offset is None else transaction.last_offset - seen_offset
        if seen_offset is None or not 0 <= news <= TAIL_EVENTS_MAX:
            self.forget()
            return news > 0
        if news == 0:
            return False
        try:
            for recorded in transaction.events_after(seen_offset, TAIL_EVENTS_MAX, self._cache.__contains__):
                self._cache.follow(recorded)
        except UnknownEventType:  # A newer version writes, too. Only its own streams are closed to this one.
            self.forget()
        return True

    def decide(self, view: ReadView, tickets: Sequence[Ticket], *, epoch: str | None) -> Plan:
        """Decide tickets in order, and wait for every look.

        ``epoch`` is the view's; whoever asked in another one has to look again before it asks.

        Raises StoreUnavailable, or whatever the store raises; what a handler raises is its ticket's verdict.
        """
        steps = self._steps(BatchView(view, self._cache, self._formats), tickets, epoch, None)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                plan: Plan = done.value
                return plan

    def ahead(
        self, glance: Glance, tickets: Sequence[Ticket], *, epoch: str | None, after: Plan | None
    ) -> Generator[Look, None, Plan]:
        """Decide ahead, step by step: it yields each look that it sent and goes on once there is news of that.

        None is made where all states that commands name are remembered, the store's time is known, and appending the
        plan would show that anything else is not as it was guessed; what they do not name is asked for as it comes up.
        ``after``: the plan that is being stored meanwhile and counts as stored.
        Before the first look the time is not known: guesses of what to look for are made with that of the last one.
        Nothing is remembered before the last step: whoever wants no more may just leave it. Raises as :meth:`decide`.
        """
        earlier = None if after is None else after.view
        batch = partial(
            BatchView, glance, self._cache, self._formats, glance=glance, earlier=earlier, assumed_now=self._last_now
        )
        self._looks = max(0, self._looks - 1)
        now = None if self._looks else self._clock.now
        if now is not None and (plan := self._guessed(batch(), tickets, epoch, after, now)) is not None:
            return plan
        return (yield from self._steps(batch(), tickets, epoch, after))

    def _guessed(
        self, batch: BatchView, tickets: Sequence[Ticket], epoch: str | None, after: Plan | None, now: datetime
    ) -> Plan | None:
        """Decide as if no command was answered before and no counter was there; None where only a look can tell.

        Appending stores an answer to each command and each of the counters as new ones, and fails where there is one
        already (docs/decisions/0028).
        """
        self._epoch = epoch
        rushes = self._rushes(tickets)
        if not all(self._handler(rush[0].envelope).counts_anew for rush in rushes):
            return None
        batch.assume(now)
        if batch.unknown(chain(_clocks(rushes), *map(self._touched_by, rushes))):
            return None
        counts = self._count_keys(batch, rushes)
        if len(counts) > GUESSED_COUNTS_MAX:
            return None
        batch.guess_absent(counts)
        self._new_histories.clear()
        plan = self._planned(batch, tickets, rushes, {}, _pending(after))
        errors = any(verdict.error is not None for verdict in plan.verdicts)  # Those leave no answer.
        if errors or not batch.shows_wrong_guesses:
            self._with_history -= self._new_histories
            self._looks = LOOKS_AFTER_A_VAIN_GUESS
            return None
        plan.was_guessed = True
        self._remember(batch)
        return plan

    def _steps(
        self, batch: BatchView, tickets: Sequence[Ticket], epoch: str | None, after: Plan | None
    ) -> Generator[Look, None, Plan]:
        self._epoch = epoch
        pending, rushes = _pending(after), self._rushes(tickets)
        asked_at = self._clock.seconds
        logged = yield from self._look(batch, rushes, pending)
        self._last_now = batch.store_now
        self._clock.forget()  # Under the lock others' events were seen, whose times may be later than what was told.
        if batch.is_ahead and batch.time_runs:
            self._clock.told(batch.store_now, asked_at)
        plan = self._planned(batch, tickets, rushes, logged, pending)
        self._remember(batch)
        return plan

    def _planned(
        self,
        batch: BatchView,
        tickets: Sequence[Ticket],
        rushes: Sequence[Sequence[Ticket]],
        logged: Mapping[CommandKey, LoggedAnswer],
        pending: dict[CommandKey, Verdict],
    ) -> Plan:
        verdicts: list[Verdict] = []
        for rush in rushes:
            verdicts += self._together(batch, rush, logged, pending) or self._each(batch, rush, logged, pending)
        return Plan(batch, verdicts, self._batch_of(batch, verdicts), tickets[len(verdicts) :])

    def _remember(self, batch: BatchView) -> None:
        batch.conclude()
        self._cache.drop_all(batch.begun)  # Somebody may have looked before there was anything.
        self._cache.put_all(batch.begun_by_each)
        self._cache.put_all(batch.entries)

    def _rushes(self, tickets: Sequence[Ticket]) -> list[list[Ticket]]:
        return [list(rush) for _, rush in groupby(tickets, self._alike)]

    def dry_run(self, view: ReadView, envelope: CommandEnvelope, at: datetime | None) -> Decided:
        """What would be decided, from what is stored alone; at a time in the past from what had occurred by then.

        Touches nothing that is remembered, and may run in any thread.
        """
        batch = BatchView(view, None, self._formats)
        if at is not None and at < batch.now_of(envelope.realm):
            batch = BatchView(view, None, self._formats, until=at)
        return self._handle(Decision(batch, envelope, lock_ttl_seconds=self._lock_ttl_seconds, at=at), envelope)

    def _alike(self, ticket: Ticket) -> Hashable:
        """Tickets next to each other that have equal keys are a rush; most have one of their own."""
        command = ticket.envelope.command
        rush = self._handlers[type(command)].rush
        if rush is None or ticket.envelope.asked_in is not None:
            return ticket
        return type(command), ticket.envelope.realm, rush.alike(command)

    def _look(
        self, view: BatchView, rushes: Sequence[Sequence[Ticket]], pending: Mapping[CommandKey, Verdict]
    ) -> Generator[Look, None, Mapping[CommandKey, LoggedAnswer]]:
        """One round trip when all states are known, two when not: counters to look for depend on states."""
        targets = _clocks(rushes)
        touched = [self._touched_by(rush) for rush in rushes]
        missing = view.unknown(chain.from_iterable(touched))
        ready, waiting = rushes, []
        if missing:
            is_ready = [missing.keys().isdisjoint([target.stream for target in each]) for each in touched]
            ready = list(compress(rushes, is_ready))
            waiting = list(compress(rushes, map(not_, is_ready)))
            targets += [Target(stream, kind) for stream, kind in missing.items()]
        keys = [ticket.key for rush in rushes for ticket in rush if ticket.key not in pending]
        logged = yield from view.look(targets, keys, self._count_keys(view, ready))
        if waiting and (counted := self._count_keys(view, waiting)):
            yield from view.look((), (), counted)
        return logged

    def _touched_by(self, rush: Sequence[Ticket]) -> list[Target]:
        """What a rush will look at: its commands do not differ in that."""
        envelope = rush[0].envelope
        return targets_of(envelope.realm, self._handler(envelope).touches(envelope.command))

    def _count_keys(self, view: BatchView, rushes: Sequence[Sequence[Ticket]]) -> list[str]:
        keys: list[str] = []
        for rush in rushes:
            envelope = rush[0].envelope
            handler = self._handler(envelope)
            if handler.counts is None:  # Most commands count nothing.
                continue
            decision = self._decision(view, envelope)
            with suppress(Refusal):  # A hint about something unknown: the handler will say so itself.
                if handler.rush is not None and len(rush) > 1:
                    counted = handler.rush.counts(decision, [ticket.envelope.command for ticket in rush])
                else:
                    counted = handler.counts(decision, envelope.command)
                keys += decision.count_keys(counted)
        return keys

    def _each(
        self,
        view: BatchView,
        tickets: Sequence[Ticket],
        logged: Mapping[CommandKey, LoggedAnswer],
        pending: dict[CommandKey, Verdict],
    ) -> list[Verdict]:
        """One after the other; of fewer than all when the batch has become too large."""
        verdicts: list[Verdict] = []
        for ticket in tickets:
            if len(view.events) >= self._batch_events_max:
                break
            if (known := logged.get(ticket.key)) is not None:
                verdict = Verdict(ticket, _replay(ticket, known))
            elif (first := pending.get(ticket.key)) is not None:
                verdict = Verdict(ticket, error=first.error, first=first)
            else:
                verdict = pending[ticket.key] = self._verdict(view, ticket)
            verdicts.append(verdict)
        return verdicts

    def _together(
        self,
        view: BatchView,
        tickets: Sequence[Ticket],
        logged: Mapping[CommandKey, LoggedAnswer],
        pending: dict[CommandKey, Verdict],
    ) -> list[Verdict]:
        """A rush, all of it accepted in one go; none of it when that cannot be, and nothing is kept then."""
        if len(tickets) < RUSH_COMMANDS_MIN:
            return []
        handler = self._handler(tickets[0].envelope)
        if handler.rush is None:
            return []
        keys = {ticket.key for ticket in tickets}
        all_new = len(keys) == len(tickets) and logged.keys().isdisjoint(keys) and pending.keys().isdisjoint(keys)
        if not all_new or len(view.events) + len(tickets) > self._batch_events_max:
            return []
        envelopes = [ticket.envelope for ticket in tickets]
        decision = Decision(view, envelopes[0], lock_ttl_seconds=self._lock_ttl_seconds, rush=envelopes)
        try:
            told = handler.rush.handle(decision, [envelope.command for envelope in envelopes])
        except (StoreUnavailable, StreamConflict):
            raise
        except Exception:  # noqa: BLE001 - refused, or our defect: each by itself will show which.
            told = None
        if told is None:
            return []
        self._note_history(decision)
        decision.keep()
        first_event = len(view.events) - len(tickets)
        verdicts = [
            Verdict(ticket, _accepted(ticket, data), last_event=place)
            for place, (ticket, data) in enumerate(zip(tickets, told, strict=True), first_event)
        ]
        pending.update(zip([ticket.key for ticket in tickets], verdicts, strict=True))
        return verdicts

    def _verdict(self, view: BatchView, ticket: Ticket) -> Verdict:
        envelope = ticket.envelope
        if envelope.asked_in not in (None, self._epoch):
            return Verdict(ticket, error=NotYet(f"asked in epoch {envelope.asked_in}; the log's is {self._epoch}"))
        decision = self._decision(view, envelope)
        try:
            status, code, detail, data = self._handle(decision, envelope)
        except (HandlerFailed, NotYet) as failure:
            return Verdict(ticket, error=failure)
        if status == "accepted":
            self._note_history(decision)
            decision.keep()
        logged = LoggedAnswer(ticket.key, envelope.command.type, ticket.content_hash, status, code, detail, data)
        return Verdict(ticket, logged, last_event=len(view.events) - 1)

    def _note_history(self, decision: Decision) -> None:
        """Once per realm: from its first event on, a business clock may not start in its past."""
        if decision.recorded and decision.realm not in self._with_history:
            if decision.count(HISTORY) == 0:
                decision.add(HISTORY, 1)
            self._with_history.add(decision.realm)
            self._new_histories.add(decision.realm)

    def _batch_of(self, view: BatchView, verdicts: Sequence[Verdict]) -> Batch:
        new = [verdict for verdict in verdicts if verdict.is_new]
        refused = [(v.ticket.envelope, v.logged.code) for v in new if v.logged and v.logged.status == "refused"]
        if refused:
            count_refusals(view, refused)
        return Batch(
            events=view.events,
            answers=[verdict.logged for verdict in new if verdict.logged is not None],
            answer_events=[verdict.last_event for verdict in new],
            counts=view.changed_counts(),
            new_counts=view.new_counts(),
            snapshots=view.due_snapshots(self._snapshot_every_events),
        )

    def _decision(self, view: BatchView, envelope: CommandEnvelope) -> Decision:
        return Decision(view, envelope, lock_ttl_seconds=self._lock_ttl_seconds, at=None)

    def _handler(self, envelope: CommandEnvelope) -> Handler[Any]:
        return self._handlers[type(envelope.command)]

    def _handle(self, decision: Decision, envelope: CommandEnvelope) -> Decided:
        return handled(self._handler(envelope), decision, envelope)


def handled(handler: Handler[Any], decision: Decision, envelope: CommandEnvelope) -> Decided:
    """Run a handler. Raises HandlerFailed for anything but a refusal, a lost store or what cannot be decided yet."""
    try:
        return "accepted", "ok", "", handler.handle(decision, envelope.command)
    except Refusal as refusal:
        return "refused", refusal.code, refusal.detail, refusal.data
    except (StoreUnavailable, StreamConflict, NotYet):
        raise
    except UnknownEventType as failure:
        raise StreamClosed(str(failure)) from failure
    except Exception as failure:
        logger.exception("handler_failed", extra={"command_type": envelope.command.type})
        raise HandlerFailed(f"{envelope.command.type} failed: {type(failure).__name__}") from failure


def _clocks(rushes: Sequence[Sequence[Ticket]]) -> list[Target]:
    return [clock_of(realm) for realm in {rush[0].envelope.realm for rush in rushes}]


def _pending(after: Plan | None) -> dict[CommandKey, Verdict]:
    """What is answered by a plan that is not stored yet."""
    return {} if after is None else {each.ticket.key: each for each in after.verdicts if each.is_new}


def _accepted(ticket: Ticket, data: Mapping[str, Any]) -> LoggedAnswer:
    return LoggedAnswer(ticket.key, ticket.envelope.command.type, ticket.content_hash, "accepted", "ok", "", data)


def _replay(ticket: Ticket, known: LoggedAnswer) -> LoggedAnswer:
    """The first answer, if the content is the same; else a refusal, which is not logged: the id is taken."""
    if known.content_hash == ticket.content_hash:
        return known
    refusal = CommandIdReused(command_type=known.command_type)
    return known._replace(status="refused", code=refusal.code, detail=refusal.detail, data=refusal.data)
