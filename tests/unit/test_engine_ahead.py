"""Deciding a batch while the one before it is being stored: what if that one is overtaken, or lost?"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from command import engine as engine_module
from command.engine import Busy, Engine, EngineSettings, HandlerFailed
from command.handlers.handler import Handler, Handlers
from command.ports import AppendTransaction, Batch, CommandKey, Glance, StoreUnavailable
from command.unit_of_work import NotYet, UnitOfWork
from contracts.envelope import CommandEnvelope
from contracts.identity import stream_id
from infra.processes import wait_until
from tests.fakes import InMemoryEventLog
from tests.unit.test_engine import BARREL, HANDLERS, REALM, Notes, Pour, answers, asks, glasses, pour

PATIENCE_SECONDS = 10
TURNS_MAX = 10
LOOKS = EngineSettings(look_every_seconds=0.0)  # Before every batch.


class Gated(InMemoryEventLog):
    """A log whose appends after an offset wait until they may go on; something may happen to the one that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.before_append: Callable[[], None] = lambda: None
        self.appended_after = 0

    def append_after(self, head: int, batch: Batch, *, epoch: str | None = None) -> Sequence[int]:
        self.waiting.set()
        assert self.gate.wait(PATIENCE_SECONDS)
        happens, self.before_append = self.before_append, lambda: None
        happens()
        offsets = super().append_after(head, batch, epoch=epoch)
        self.appended_after += 1
        return offsets


@pytest.fixture
def log() -> Gated:
    return Gated()


@pytest.fixture
def notes() -> Notes:
    return Notes()


def started(log: InMemoryEventLog, notes: Notes, settings: EngineSettings = LOOKS, **more: Any) -> Engine:
    engine = Engine(log, HANDLERS, settings, notes, **more)
    engine.start()
    return engine


@pytest.fixture
def engine(log: Gated, notes: Notes) -> Iterator[Engine]:
    """An engine that goes ahead: its first batch, under the lock, found nobody else."""
    engine = started(log, notes)
    engine.execute(asks("first", barrel="other"))
    yield engine
    log.gate.set()
    engine.stop()


class Decided:
    """Tells when a command of this barrel has been decided."""

    def __init__(self, engine: Engine) -> None:
        self.count = 0
        self._seen = threading.Semaphore(0)
        handler = HANDLERS[Pour]
        handlers: Handlers = {Pour: Handler(self._pour, handler.touches, handler.counts)}
        engine._decider._handlers = handlers

    def _pour(self, uow, command):  # type: ignore[no-untyped-def]
        try:
            return pour(uow, command)
        finally:
            self.count += 1
            self._seen.release()

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._seen.acquire(timeout=PATIENCE_SECONDS)


def two_batches(engine: Engine, log: Gated) -> tuple[list, list]:  # type: ignore[type-arg]
    """The first waits to be stored, and the second has been decided on top of it."""
    decided = Decided(engine)
    log.gate.clear()
    log.waiting.clear()
    # Two at once, so that the queue is not empty when the first batch was sent.
    engine._settings = EngineSettings(batch_commands_max=2, ahead_from=1)
    first = engine.submit_many([asks("1"), asks("2"), asks("3")])
    decided.wait(3)
    assert log.waiting.wait(PATIENCE_SECONDS)
    return first[:2], first[2:]


def test_the_next_batch_is_decided_while_one_is_being_stored_and_answered_only_after_it_is_stored_itself(
    engine: Engine, log: Gated
) -> None:
    first, second = two_batches(engine, log)
    assert not any(future.done() for future in first + second)
    assert glasses(log) == []
    log.gate.set()
    assert [answer.data["glass"] for answer in answers(first + second)] == [1, 2, 3]
    assert log.appended_after == 2


def test_a_batch_that_another_process_overtook_is_decided_again_on_top_of_what_that_one_did(
    engine: Engine, log: Gated, notes: Notes
) -> None:
    rival = started(log, Notes())
    first, second = two_batches(engine, log)

    def overtake() -> None:
        answers(rival.submit_many([asks("theirs")]))

    log.before_append = overtake
    log.gate.set()
    assert [answer.data.get("glass") for answer in answers(first + second)] == [2, 3, None]
    assert glasses(log) == [1, 2, 3]
    assert (notes.overtaken, notes.failures) == (1, [])
    rival.stop()


def test_an_engine_that_was_overtaken_goes_ahead_again_once_it_is_alone(engine: Engine, log: Gated) -> None:
    rival = started(log, Notes())
    rival.execute(asks("theirs", barrel="r"))
    engine.execute(asks("1", barrel="a"))
    rival.stop()
    before = log.appended_after
    for n in (2, 3, 4):  # The first of them, under the lock, finds the log where it was left.
        engine.execute(asks(str(n), barrel="b"))
    assert log.appended_after == before + 2


@pytest.mark.parametrize("landed", [True, False])
def test_after_a_commit_of_unknown_fate_both_batches_are_decided_once_in_their_order(
    engine: Engine, log: Gated, *, landed: bool
) -> None:
    first, second = two_batches(engine, log)
    log.lose_next_commit(landed=landed)
    log.gate.set()
    assert [answer.data["glass"] for answer in answers(first + second)] == [1, 2, 3]
    assert [answer.replayed for answer in answers(first + second)] == [False, False, False]
    assert glasses(log) == [1, 2, 3]


def test_an_id_that_comes_again_while_the_first_one_is_being_stored_gets_its_answer(
    engine: Engine, log: Gated, notes: Notes
) -> None:
    decided = Decided(engine)
    log.gate.clear()
    engine._settings = EngineSettings(batch_commands_max=1, ahead_from=1)
    futures = engine.submit_many([asks("1"), asks("1"), asks("1", barrel="reused"), asks("2")])
    decided.wait(1)
    log.gate.set()
    first, again, reused, other = answers(futures)
    assert (first.data, again.data, other.data) == ({"glass": 1}, {"glass": 1}, {"glass": 2})
    assert (first.position, again.replayed, reused.code) == (again.position, True, "command_id_reused")
    assert glasses(log) == [1, 2]
    assert notes.failures == []  # Nobody tried to do it again.


def test_a_command_that_spoils_its_batch_when_it_is_stored_fails_alone(notes: Notes) -> None:
    def check(batch: Batch) -> None:
        if any(answer.key.command_id == "poison" for answer in batch.answers):
            raise ValueError("cannot be encoded")

    class Checked:
        """A transaction that cannot store what one command wrote."""

        def __init__(self, transaction: AppendTransaction) -> None:
            self._transaction = transaction

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transaction, name)

        def append(self, batch: Batch) -> Sequence[int]:
            check(batch)
            return self._transaction.append(batch)

    class Picky(InMemoryEventLog):
        """A log that cannot store what one command wrote."""

        def append_after(self, head: int, batch: Batch, *, epoch: str | None = None) -> Sequence[int]:
            check(batch)
            return super().append_after(head, batch, epoch=epoch)

        @contextmanager
        def appending(self) -> Iterator[Any]:
            with super().appending() as transaction:
                yield Checked(transaction)

    log = Picky()
    engine = started(log, notes)
    engine.execute(asks("warm", barrel="other"))
    futures = engine.submit_many([asks(str(n), barrel=f"b{n}") for n in range(136)])
    poison = engine.submit(asks("poison"))
    later = engine.submit_many([asks(f"later-{n}", barrel=f"c{n}") for n in range(63)])
    assert all(answer.accepted for answer in answers(futures + later))
    with pytest.raises(HandlerFailed, match="cannot be encoded"):
        poison.result(PATIENCE_SECONDS)
    assert glasses(log) == []
    engine.stop()


def test_more_than_one_transaction_should_hold_is_decided_in_several_and_in_order(log: Gated, notes: Notes) -> None:
    engine = started(log, notes, EngineSettings(batch_events_max=2))
    futures = engine.submit_many([asks(str(n), barrel=f"b{n // 3}") for n in range(9)])
    assert [answer.data["glass"] for answer in answers(futures)] == [1, 2, 3] * 3
    assert max(notes.batches) == 2
    engine.stop()


def test_a_queue_is_bounded_in_bytes_too_and_lets_in_again_what_it_has_room_for(log: Gated) -> None:
    size = len(asks("1").content())
    engine = Engine(log, HANDLERS, EngineSettings(queue_bytes_max=2 * size))
    waiting = engine.submit_many([asks("1"), asks("2")])
    with pytest.raises(Busy, match=f"2 commands of {2 * size} bytes"):
        engine.submit(asks("3"))
    engine.start()
    answers(waiting)
    assert engine.execute(asks("3")).accepted
    engine.stop()


def test_nothing_is_decided_on_top_of_a_batch_that_is_no_longer_the_latest() -> None:
    """A look ahead fails once; the batch is then stored under the lock, and the next one goes ahead again."""

    class Blind(Gated):
        blind = False

        def glancing(self) -> Glance:
            if self.blind:
                raise StoreUnavailable("not now")
            return super().glancing()

    def look_or_pour(uow: UnitOfWork, command: Pour) -> dict[str, Any]:
        return {"seen": uow.load(BARREL, command.barrel).poured} if command.breaks else pour(uow, command)

    log = Blind()
    engine = Engine(log, {Pour: Handler(look_or_pour, HANDLERS[Pour].touches)})
    engine.start()
    engine.execute(asks("warm", barrel="other"))
    engine.execute(asks("1"))  # Ahead.
    log.blind = True
    engine.execute(asks("2"))  # Under the lock.
    log.blind = False
    assert engine.execute(asks("look", breaks=True)).data == {"seen": 2}
    engine.stop()


def test_a_no_that_stores_nothing_is_not_said_before_looking_what_others_did() -> None:
    """Nothing else would show it: such a batch appends nothing, so nobody finds that the log has moved on."""

    def pour_after_the_first(uow: UnitOfWork, command: Pour) -> dict[str, Any]:
        if command.breaks and uow.load(BARREL, command.barrel).poured == 0:
            raise NotYet("nobody has begun")
        return pour(uow, Pour(barrel=command.barrel))

    log = InMemoryEventLog()
    early, rival = (Engine(log, {Pour: Handler(pour_after_the_first, HANDLERS[Pour].touches)}) for _ in range(2))
    early.start()
    rival.start()
    waits = asks("waits", breaks=True)
    for name in ("one", "two"):  # It goes ahead, and remembers that the barrel is untouched.
        early.execute(asks(name, barrel="other"))
        with pytest.raises(NotYet):
            early.execute(waits)
    rival.execute(asks("begins"))
    assert early.execute(waits).accepted
    early.stop()
    rival.stop()


def test_a_store_that_went_away_answers_so_and_the_engine_goes_on_when_it_is_back(log: Gated, notes: Notes) -> None:
    class Away(Gated):
        away = False

        def appending(self):  # type: ignore[no-untyped-def]
            if self.away:
                raise StoreUnavailable("gone")
            return super().appending()

        def glancing(self):  # type: ignore[no-untyped-def]
            if self.away:
                raise StoreUnavailable("gone")
            return super().glancing()

    away = Away()
    engine = started(away, notes)
    engine.execute(asks("1"))
    away.away = True
    with pytest.raises(StoreUnavailable):
        engine.execute(asks("2"))
    away.away = False
    assert engine.execute(asks("2")).data == {"glass": 2}
    with away.reading() as view:
        assert CommandKey(REALM, "2") in view.answers([CommandKey(REALM, "2")])
        assert len(view.histories([stream_id(REALM, BARREL.name, "b")])) == 1
    engine.stop()


RUSH = 8


class Years:
    """A stopwatch by which whatever was begun took a year."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self) -> float:
        self._seconds += 365 * 86_400
        return self._seconds


def many(prefix: str, count: int) -> list[CommandEnvelope]:
    return [asks(f"{prefix}-{number}", barrel=f"{prefix}-{number}") for number in range(count)]


def test_in_a_rush_a_batch_is_waited_for_until_as_many_are_there_as_the_last_time(log: Gated, notes: Notes) -> None:
    engine = started(log, notes, EngineSettings(gather_seconds=PATIENCE_SECONDS), stopwatch=Years())
    answers(engine.submit_many(many("rush", RUSH)))
    assert wait_until(lambda: engine._waits_for.commands == RUSH, timeout_seconds=PATIENCE_SECONDS)
    half = engine.submit_many(many("one", RUSH // 2))
    answers([*half, *engine.submit_many(many("other", RUSH // 2))])
    assert notes.batches == [RUSH, RUSH]
    engine.stop()


def test_a_stop_ends_the_waiting_for_a_rush_and_answers_who_came(log: Gated, notes: Notes) -> None:
    engine = started(log, notes, EngineSettings(gather_seconds=2 * PATIENCE_SECONDS), stopwatch=Years())
    answers(engine.submit_many(many("rush", RUSH)))
    assert wait_until(lambda: engine._waits_for.commands == RUSH, timeout_seconds=PATIENCE_SECONDS)
    alone = engine.submit(asks("alone"))
    engine.stop(PATIENCE_SECONDS)
    assert alone.result(0).accepted
    assert notes.batches == [RUSH, 1]


@pytest.mark.parametrize(("ahead_from", "decided_meanwhile"), [(3, 0), (2, 2)])
def test_only_as_many_as_are_worth_it_are_decided_while_a_batch_is_being_stored(
    engine: Engine, log: Gated, ahead_from: int, decided_meanwhile: int
) -> None:
    decided = Decided(engine)
    engine._settings = EngineSettings(batch_commands_max=2, ahead_from=ahead_from)
    so_far: list[int] = []
    log.before_append = lambda: so_far.append(decided.count)
    answers(engine.submit_many([asks("1"), asks("2"), asks("3"), asks("4", barrel="other")]))
    assert so_far == [2 + decided_meanwhile]


def test_in_a_rush_half_of_the_callers_are_decided_for_while_the_others_are_stored(log: Gated, notes: Notes) -> None:
    engine = started(log, notes, EngineSettings(ahead_from=RUSH // 2))
    engine.execute(asks("first", barrel="other"))
    answers(engine.submit_many(many("rush", 2 * RUSH)))
    assert notes.batches == [1, RUSH, RUSH]
    engine.stop()


def test_commands_of_much_content_are_a_batch_of_their_own_however_few_they_are(
    log: Gated, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "AHEAD_FROM_BYTES", 2 * len(asks("1", barrel="long" * 9).content()))
    engine = started(log, notes)
    engine.execute(asks("first", barrel="other"))
    answers(engine.submit_many([asks(str(number), barrel="long" * 9) for number in range(3)]))
    answers(engine.submit_many([asks(f"x{number}", barrel=f"more{'long' * 8}") for number in range(4)]))
    assert notes.batches == [1, 3, 2, 2]
    engine.stop()


def test_who_watches_and_breaks_does_not_stop_the_engine(log: Gated) -> None:
    class Broken(Notes):
        broken = False

        def batch_committed(self, *args: Any) -> None:
            if self.broken:
                self.broken = False
                raise RuntimeError("no room for metrics")

    notes = Broken()
    engine = started(log, notes)
    engine.execute(asks("1"))
    notes.broken = True
    assert [answer.data for answer in answers(engine.submit_many([asks("2")]))] == [{"glass": 2}]
    assert glasses(log) == [1, 2]
    assert engine.execute(asks("3")).accepted
    engine.stop()


def by_turns(engine: Engine, until: Callable[[], bool]) -> None:
    """Drive an engine that has no thread."""
    for _ in range(TURNS_MAX):
        if until():
            return
        engine.turn()
    raise AssertionError(f"not within {TURNS_MAX} turns")


def test_what_was_sent_is_answered_though_a_stop_took_the_rest_of_the_queue(log: Gated, notes: Notes) -> None:
    engine = Engine(log, HANDLERS, EngineSettings(ahead_from=1), notes)
    first = engine.submit(asks("1"))
    by_turns(engine, until=first.done)  # Under the lock; from here on it goes ahead.
    sent = engine.submit(asks("2"))
    by_turns(engine, until=lambda: engine._sent is not None)
    waiting = engine.submit(asks("3"))

    def somebody_else_is_quicker() -> list[Any]:
        engine._queue.take(commands_max=1, bytes_max=1_000)
        return []

    engine._take = somebody_else_is_quicker  # type: ignore[method-assign]
    by_turns(engine, until=sent.done)
    assert [future.done() for future in (first, sent, waiting)] == [True, True, False]
