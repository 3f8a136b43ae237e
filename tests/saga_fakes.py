"""The sagas' store and feed in memory, beside the log in memory: what simulation and quick tests run sagas on."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from command.ports import Batch, StreamHistory
from contracts.envelope import Recorded
from contracts.identity import Realm
from infra.postgres.dead_letters import BEHIND, ParkedEvent
from infra.postgres.outbox import PendingCommand
from infra.postgres.positions import EpochChanged, PositionMoved
from infra.sagas.hearing import Hearing, Standing, TimerKey
from infra.sagas.ports import FOLLOWER, FactFeed, Found, LanePlaces, Move, Owed, Place, Retry, SagaStore
from sagas.lending import LETTERS
from sagas.timers import ClearTimer, DueTimer
from tests.fakes import InMemoryEventLog


@dataclass(slots=True)
class Debt:
    """One row of the outbox."""

    command: PendingCommand
    attempts: int = 0
    retry_at: datetime | None = None
    last_error: str | None = None
    refused: tuple[str, str] | None = None


@dataclass(slots=True)
class Alarm:
    """One row of the timers."""

    timer: DueTimer
    attempts: int = 0
    retry_at: datetime | None = None
    last_error: str | None = None


@dataclass(slots=True)
class SagaTables:
    """What lies beside the log. Changed by commits only; for tests to look at."""

    positions: dict[str, tuple[str, int]] = field(default_factory=dict)  # Follower -> epoch, offset.
    outbox: dict[int, Debt] = field(default_factory=dict)  # In the order of sending.
    timers: dict[TimerKey, Alarm] = field(default_factory=dict)
    clocks: dict[Realm, datetime] = field(default_factory=dict)
    standings: dict[tuple[Realm, str, str], Standing] = field(default_factory=dict)
    parked: dict[tuple[str, int], ParkedEvent] = field(default_factory=dict)  # Stream, version.
    last_id: int = 0


class InMemorySagaStore:
    """Implements the port on a log in memory, whose next commit may be lost. All parts and processes may share it."""

    def __init__(self, log: InMemoryEventLog) -> None:
        self._log = log
        self.tables = SagaTables()

    @property
    def epoch(self) -> str:
        """Which history."""
        return self._log.epoch

    def place(self) -> Place:
        """Where the ear stands."""
        with self._log.reading():
            pass  # The log tells of a restore once; whoever asks again is in the present epoch.
        return Place(self._offset(FOLLOWER), frozenset(stream for stream, _ in self.tables.parked))

    def lanes(self, names: Collection[str]) -> LanePlaces:
        """Where the ear stands in each of its lanes."""
        base, parked = self.place()
        for name in names:
            self.tables.positions[name] = (self.epoch, max(base, self._offset(name)))
        return LanePlaces({name: self._offset(name) for name in names}, parked)

    def raise_to_lanes(self, names: Collection[str]) -> int:
        """Move the ear's own position to where all of its lanes have come."""
        heard = max(self._offset(FOLLOWER), min(map(self._offset, names)))
        self.tables.positions[FOLLOWER] = (self.epoch, heard)
        return heard

    def count(self, after: int, upto: int) -> int:
        """How many events the log has there."""
        with self._log.reading() as view:
            return sum(event.offset <= upto for event in view.events_after(after, upto - after))

    def histories(self, streams: Collection[str]) -> Mapping[str, StreamHistory]:
        """What sagas remember."""
        with self._log.reading() as view:
            return view.histories(streams)

    def keep(
        self,
        hearing: Hearing,
        moves: Sequence[Move],
        *,
        done: Sequence[ParkedEvent] = (),
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Everything in one commit."""
        with self._log.appending() as transaction:
            for move in moves:
                if self._offset(move.follower) != move.expected:
                    raise PositionMoved(move.follower, move.expected)
            transaction.append(Batch(events=hearing.events(transaction.store_now)))
            before_commit()
            transaction.effects.append(lambda: self._write(hearing, moves, done, self._log.now()))

    def _offset(self, follower: str) -> int:
        epoch, offset = self.tables.positions.get(follower, (self.epoch, 0))
        if epoch != self.epoch:
            raise EpochChanged(follower, epoch, self.epoch)
        return offset

    def _write(self, hearing: Hearing, moves: Sequence[Move], done: Sequence[ParkedEvent], now: datetime) -> None:
        tables = self.tables
        for move in moves:
            tables.positions[move.follower] = (self.epoch, move.offset)
        self._owe(hearing.commands())
        for key, change in hearing.timers.items():
            if isinstance(change, ClearTimer):
                tables.timers.pop(key, None)
            else:
                tables.timers[key] = Alarm(change)
        for standing in hearing.standings():
            place = (standing.realm, standing.process, standing.key)
            before = tables.standings.get(place, standing)
            since = before.since if before.step == standing.step else standing.since
            tables.standings[place] = replace(standing, since=since)
        for realm, shows in hearing.clocks.items():
            tables.clocks[realm] = max(shows, tables.clocks.get(realm, shows))
        for fact, reason, _ in hearing.failures:
            self._park(fact, reason, now)
        for fact in hearing.behind:
            tables.parked.setdefault((fact.stream, fact.version), _parked(fact, BEHIND, 0, now))
        for parked in done:
            tables.parked.pop((parked.stream, parked.version), None)

    def _owe(self, commands: Sequence[PendingCommand]) -> None:
        queued = {(debt.command.realm, debt.command.command_id) for debt in self.tables.outbox.values()}
        for command in commands:
            if (command.realm, command.command_id) not in queued:
                queued.add((command.realm, command.command_id))
                self.tables.last_id += 1
                self.tables.outbox[self.tables.last_id] = Debt(command)

    def _park(self, fact: Recorded, reason: str, now: datetime) -> None:
        parked = self.tables.parked
        for (stream, version), later in parked.items():
            if stream == fact.stream and version > fact.version:
                parked[stream, version] = replace(later, requeued_at=None)
        before = parked.get((fact.stream, fact.version))
        attempts = 1 + (before.attempts if before is not None else 0)
        parked[fact.stream, fact.version] = _parked(fact, reason, attempts, before.parked_at if before else now)

    def requeue(self, stream: str | None = None) -> None:
        """What an operator does to have parked events tried again."""
        for key, event in self.tables.parked.items():
            if stream in {None, event.stream}:
                self.tables.parked[key] = replace(event, requeued_at=self._log.now())

    def parked(self, stream: str, limit: int) -> Sequence[ParkedEvent]:
        """What is parked of one stream."""
        return [event for event in self._parked_in_order() if event.stream == stream][:limit]

    def requeued(self, limit: int) -> Sequence[ParkedEvent]:
        """What an operator wants tried again."""
        return [event for event in self._parked_in_order() if event.requeued_at is not None][:limit]

    def _parked_in_order(self) -> list[ParkedEvent]:
        return sorted(self.tables.parked.values(), key=lambda event: event.offset)

    def next_commands(self, limit: int, *, letters: bool = False) -> Found[Owed]:
        """The first pending command of each saga, oldest first."""
        now, heads, seen = self._log.now(), list[Owed](), set[tuple[Realm, str]]()
        for number, debt in self.tables.outbox.items():
            command = debt.command
            if debt.refused is not None or (command.realm, command.saga_key) in seen:
                continue
            seen.add((command.realm, command.saga_key))
            if command.saga_key.startswith(LETTERS) == letters and _is_ready(debt.retry_at, now):
                heads.append(Owed(number, debt.attempts, command))
        return Found(self.epoch, heads[:limit])

    def settle_commands(
        self,
        epoch: str,
        *,
        accepted: Collection[int],
        refused: Mapping[int, tuple[str, str]],
        unanswered: Mapping[int, str],
        retry: Retry,
    ) -> None:
        """Note what became of commands. Another process may have settled them before."""

        def write() -> None:
            if epoch != self.epoch:
                return
            outbox, now = self.tables.outbox, self._log.now()
            for number in accepted:
                outbox.pop(number, None)
            for number in refused.keys() & outbox.keys():
                outbox[number].refused = refused[number]
                outbox[number].attempts += 1
            for number in unanswered.keys() & outbox.keys():
                _delay(outbox[number], unanswered[number], retry, now)

        with self._log.appending() as transaction:
            transaction.effects.append(write)

    def due_timers(self, limit: int, realms_max: int) -> Found[DueTimer]:
        """Timers whose time has come, realm by realm, the one that waits longest first."""
        now, due = self._log.now(), defaultdict[Realm, list[DueTimer]](list)
        for alarm in self.tables.timers.values():
            timer = alarm.timer
            if timer.due_at <= self.tables.clocks.get(timer.realm, now) and _is_ready(alarm.retry_at, now):
                due[timer.realm].append(timer)
        for timers in due.values():
            timers.sort(key=lambda timer: (timer.due_at, timer.kind, timer.key))
        first = sorted(due.values(), key=lambda timers: (timers[0].due_at, timers[0].realm))[:realms_max]
        share = max(1, limit // max(1, len(first)))
        return Found(self.epoch, [timer for timers in first for timer in timers[:share]][:limit])

    def settle_timers(
        self, epoch: str, *, fired: Sequence[DueTimer], unanswered: Sequence[tuple[DueTimer, str]], retry: Retry
    ) -> None:
        """Note what became of timers."""

        def write() -> None:
            if epoch != self.epoch:
                return
            timers, now = self.tables.timers, self._log.now()
            for timer in fired:
                if self._is_still_set(timer):
                    del timers[timer.realm, timer.kind, timer.key]
            for timer, error in unanswered:
                if self._is_still_set(timer):
                    _delay(timers[timer.realm, timer.kind, timer.key], error, retry, now)

        with self._log.appending() as transaction:
            transaction.effects.append(write)

    def _is_still_set(self, timer: DueTimer) -> bool:
        alarm = self.tables.timers.get((timer.realm, timer.kind, timer.key))
        return alarm is not None and alarm.timer.set_by == timer.set_by

    def close(self) -> None:
        """Nothing to give back."""


class InMemoryFeed:
    """The log in memory, as an ear reads it."""

    def __init__(self, log: InMemoryEventLog) -> None:
        self._log = log

    def read(self, after: int, limit: int) -> Sequence[Recorded]:
        """Up to ``limit`` events after an offset."""
        with self._log.reading() as view:
            return view.events_after(after, limit)

    def read_on(self, after: int, limit: int, unheeded: Collection[str]) -> tuple[Sequence[Recorded], int]:
        """The same without events of these types, and up to where that was."""
        events = self.read(after, limit)
        return [event for event in events if event.event.type not in unheeded], events[-1].offset if events else after


def _is_ready(retry_at: datetime | None, now: datetime) -> bool:
    return retry_at is None or retry_at <= now


def _delay(waiting: Debt | Alarm, error: str, retry: Retry, now: datetime) -> None:
    seconds = min(retry.seconds_max, retry.seconds_first * 2 ** min(waiting.attempts, 20))
    waiting.retry_at = now + timedelta(seconds=seconds)
    waiting.attempts += 1
    waiting.last_error = error


def _parked(fact: Recorded, reason: str, attempts: int, parked_at: datetime) -> ParkedEvent:
    return ParkedEvent(FOLLOWER, fact.stream, fact.version, fact.offset, reason, attempts, parked_at, None)


def _is_a_saga_store(store: InMemorySagaStore) -> SagaStore:
    """Lets the type checker prove that the fake fits the port."""
    return store


def _is_a_fact_feed(feed: InMemoryFeed) -> FactFeed:
    """And this one its own."""
    return feed
