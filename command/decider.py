"""Turns a batch of commands into what is to be stored for them, on top of the states that it keeps in memory."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Literal

from command.decisions import BatchView, Decision, clock_of, targets_of
from command.handlers.handler import Handler, Handlers
from command.ports import (
    AppendTransaction,
    Batch,
    CommandKey,
    LoggedAnswer,
    ReadView,
    StoreUnavailable,
    StreamConflict,
)
from command.refusal_counts import count_refusals
from command.states import SnapshotFormats, StateCache
from command.tickets import Ticket
from command.unit_of_work import HISTORY, NotYet
from contracts.envelope import CommandEnvelope
from contracts.identity import Realm
from contracts.refusals import CommandIdReused, Refusal
from contracts.registry import UnknownEventType

logger = logging.getLogger(__name__)

TAIL_EVENTS_MAX: Final = 5_000

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

    __slots__ = ("batch", "undecided", "verdicts", "view")

    def __init__(self, view: BatchView, verdicts: list[Verdict], batch: Batch, undecided: Sequence[Ticket]) -> None:
        self.view = view
        self.verdicts = verdicts
        self.batch = batch
        self.undecided = undecided  # Too much for one transaction: for the next one.

    @property
    def tickets(self) -> list[Ticket]:
        """The tickets that it answers."""
        return [verdict.ticket for verdict in self.verdicts]

    @property
    def stores_something(self) -> bool:
        """Whether there is anything to append: not when all was answered before."""
        return bool(self.batch.events or self.batch.answers)

    @property
    def is_a_guess(self) -> bool:
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
    ) -> None:
        self._handlers = handlers
        self._snapshot_every_events = snapshot_every_events
        self._batch_events_max = batch_events_max
        self._lock_ttl_seconds = lock_ttl_seconds
        self._formats = SnapshotFormats()
        self._cache = StateCache(cached_streams_max)
        self._with_history: set[Realm] = set()
        self._last_now: datetime | None = None

    def forget(self) -> None:
        """Drop every state; they are read again when they are needed."""
        self._cache.clear()
        self._with_history.clear()

    def unlearn(self, plan: Plan) -> None:
        """Go back to the states before a plan that was not stored and never will be. Of several, the latest first."""
        for stream in plan.view.entries.keys() - plan.view.loaded.keys():
            self._cache.drop(stream)
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

    def decide(
        self, view: ReadView, tickets: Sequence[Ticket], *, ahead: bool = False, after: Plan | None = None
    ) -> Plan:
        """Decide tickets in order. ``after``: the plan that is being stored meanwhile and counts as stored.

        ``ahead``: the view has not looked yet and does not know the time; guesses are made with that of the last one.

        Raises StoreUnavailable, or whatever the store raises; what a handler raises is its ticket's verdict.
        """
        batch = BatchView(
            view,
            self._cache,
            self._formats,
            earlier=None if after is None else after.view,
            assumed_now=self._last_now if ahead else None,
        )
        pending = {} if after is None else {each.ticket.key: each for each in after.verdicts if each.is_new}
        logged = self._look(batch, tickets, pending)
        self._last_now = batch.store_now
        verdicts: list[Verdict] = []
        undecided: Sequence[Ticket] = ()
        for place, ticket in enumerate(tickets):
            if len(batch.events) >= self._batch_events_max:
                undecided = tickets[place:]
                break
            if (known := logged.get(ticket.key)) is not None:
                verdict = Verdict(ticket, _replay(ticket, known))
            elif (first := pending.get(ticket.key)) is not None:
                verdict = Verdict(ticket, error=first.error, first=first)
            else:
                verdict = pending[ticket.key] = self._verdict(batch, ticket)
            verdicts.append(verdict)
        plan = Plan(batch, verdicts, self._batch_of(batch, verdicts), undecided)
        batch.conclude()
        self._cache.put_all(batch.entries)
        return plan

    def dry_run(self, view: ReadView, envelope: CommandEnvelope, at: datetime | None) -> Decided:
        """What would be decided, from what is stored alone; at a time in the past from what had occurred by then.

        Touches nothing that is remembered, and may run in any thread.
        """
        batch = BatchView(view, None, self._formats)
        if at is not None and at < batch.now_of(envelope.realm):
            batch = BatchView(view, None, self._formats, until=at)
        return self._handle(Decision(batch, envelope, lock_ttl_seconds=self._lock_ttl_seconds, at=at), envelope)

    def _look(
        self, view: BatchView, tickets: Sequence[Ticket], pending: Mapping[CommandKey, Verdict]
    ) -> Mapping[CommandKey, LoggedAnswer]:
        """One round trip when all states are known, two when not: counters to look for depend on states."""
        targets = [clock_of(realm) for realm in {ticket.envelope.realm for ticket in tickets}]
        ready: list[Ticket] = []
        waiting: list[Ticket] = []
        for ticket in tickets:
            command = ticket.envelope.command
            touched = targets_of(ticket.envelope.realm, self._handlers[type(command)].touches(command))
            missing = view.unknown(touched)
            targets += touched if missing else ()
            (waiting if missing else ready).append(ticket)
        keys = [ticket.key for ticket in tickets if ticket.key not in pending]
        logged = view.look(targets, keys, self._count_keys(view, ready))
        if waiting and (counted := self._count_keys(view, waiting)):
            view.look((), (), counted)
        return logged

    def _count_keys(self, view: BatchView, tickets: Sequence[Ticket]) -> list[str]:
        keys: list[str] = []
        for ticket in tickets:
            handler = self._handler(ticket.envelope)
            if handler.counts is not None:  # Most commands count nothing.
                decision = self._decision(view, ticket.envelope)
                with suppress(Refusal):  # A hint about something unknown: the handler will say so itself.
                    keys += decision.count_keys(handler.counts(decision, ticket.envelope.command))
        return keys

    def _verdict(self, view: BatchView, ticket: Ticket) -> Verdict:
        envelope = ticket.envelope
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
        """Run a handler. Raises HandlerFailed for anything but a refusal or a lost store."""
        try:
            return "accepted", "ok", "", self._handler(envelope).handle(decision, envelope.command)
        except Refusal as refusal:
            return "refused", refusal.code, refusal.detail, refusal.data
        except (StoreUnavailable, StreamConflict, NotYet):
            raise
        except UnknownEventType as failure:
            raise StreamClosed(str(failure)) from failure
        except Exception as failure:
            logger.exception("handler_failed", extra={"command_type": envelope.command.type})
            raise HandlerFailed(f"{envelope.command.type} failed: {type(failure).__name__}") from failure


def _replay(ticket: Ticket, known: LoggedAnswer) -> LoggedAnswer:
    """The first answer, if the content is the same; else a refusal, which is not logged: the id is taken."""
    if known.content_hash == ticket.content_hash:
        return known
    refusal = CommandIdReused(command_type=known.command_type)
    return known._replace(status="refused", code=refusal.code, detail=refusal.detail, data=refusal.data)
