"""The steps of an engine between its waits: what it waits for, and what it does with whichever news comes first."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest

from command import engine as engine_module
from command.engine import NOBODY, Engine, EngineSettings, Pause
from command.handlers.handler import Handlers
from command.ports import Batch, HeadMoved, Look, Seen, StoreUnavailable, Wanted
from contracts.envelope import Answer
from tests.fakes import InMemoryEventLog
from tests.unit.test_engine import HANDLERS, Notes, asks, glasses

LOOK, APPEND = 1_001, 1_002  # Files that nobody opens: whoever drives an engine by hand says when there is news.
TURNS_MAX: Final = 20


class Sent:
    """Something on its way to a store far away."""

    def __init__(self, file: int, outcome: Callable[[], Any]) -> None:
        self._file = file
        self.seen = self.offsets = outcome

    def fileno(self) -> int:
        return self._file


class FarAway(InMemoryEventLog):
    """A log that takes a while: there is no news of a look or an append before somebody says so."""

    def __init__(self) -> None:
        super().__init__()
        self.happened: list[str] = []
        self.overtaken = False
        self.cut = False
        self.somebody_appends = False  # In this process.

    def glancing(self) -> Any:
        glance, log = super().glancing(), self

        class Glance:
            def __getattr__(self, name: str) -> Any:
                return getattr(glance, name)

            def send(self, wanted: Wanted) -> Look:
                log.happened.append("look")
                look = glance.send(wanted)
                return Sent(LOOK, look.seen)

        return Glance()

    def prepared(self, batch: Batch) -> Any:
        log = self

        class Prepared(Sent):
            def send_after(self, head: int, *, epoch: str | None = None, patient: bool = True) -> bool:
                if log.somebody_appends and not patient:
                    return False
                log.happened.append("append")
                self.offsets = lambda: log.append_after(head, batch, epoch=epoch)
                return True

        return Prepared(APPEND, lambda: ())

    def append_after(self, head: int, batch: Batch, *, epoch: str | None = None) -> Sequence[int]:
        if self.overtaken:
            self.overtaken = False
            raise HeadMoved("somebody was quicker")
        if self.cut:
            self.cut = False
            raise StoreUnavailable("the line was cut before anything was heard")
        return super().append_after(head, batch, epoch=epoch)


class ByHand:
    """An engine without a thread, whose batches are of one command each."""

    def __init__(self, handlers: Handlers = HANDLERS, *, look_every_seconds: float = 0.0) -> None:
        self.log, self.notes, self.seconds = FarAway(), Notes(), 0.0
        settings = EngineSettings(ahead_from=1, batch_commands_max=1, look_every_seconds=look_every_seconds)
        self.engine = Engine(self.log, handlers, settings, self.notes, stopwatch=lambda: self.seconds)
        self.answered: list[str] = []
        self.answers: list[Answer] = []
        self.ask("first")
        self.go_on()  # Under the lock; from here on it goes ahead.
        assert self.answered == ["first"]

    def ask(self, command_id: str, **about: Any) -> None:
        def hear(outcome: object) -> None:
            assert isinstance(outcome, Answer), outcome
            self.answers.append(outcome)
            self.answered.append(command_id)
            self.log.happened.append(f"answer {command_id}")

        self.engine.submit_to([(asks(command_id, **about), hear)])

    def served(self, command_id: str, **about: Any) -> Answer:
        """Its answer, whatever news it takes."""
        self.ask(command_id, **about)
        for _ in range(TURNS_MAX):
            if self.answered[-1] == command_id:
                return self.answers[-1]
            self.go_on(LOOK, APPEND)
        raise AssertionError(f"no answer: {self.log.happened}")

    def go_on(self, *news: int) -> Pause:
        """Until it waits for something."""
        for _ in range(TURNS_MAX):
            if (pause := self.engine.turn(news)) is not None:
                return pause
            news = ()
        raise AssertionError(f"it never waits: {self.log.happened}")

    def begin_two(self) -> Pause:
        """One command is sent to be stored, and what the next one depends on is being looked for."""
        self.ask("1")
        self.go_on()
        self.go_on(LOOK)
        self.ask("2")
        return self.go_on()


@pytest.fixture
def hand() -> ByHand:
    return ByHand()


def test_who_has_nothing_to_do_waits_for_one_command_and_for_as_long_as_it_takes(hand: ByHand) -> None:
    assert hand.go_on() == Pause(1)


def test_while_a_look_is_under_way_nobody_else_is_waited_for(hand: ByHand) -> None:
    hand.ask("1")
    assert hand.go_on() == Pause(NOBODY, engine_module.STORE_SECONDS, [LOOK])
    assert hand.go_on(LOOK) == Pause(1, engine_module.STORE_SECONDS, [APPEND], engine_module.AHEAD_FROM_BYTES)
    assert hand.answered == ["first"]
    assert hand.go_on(APPEND) == Pause(1)
    assert hand.answered == ["first", "1"]


def test_a_batch_is_answered_once_it_is_stored_though_the_next_one_is_still_being_looked_for(hand: ByHand) -> None:
    assert hand.begin_two().files == [LOOK, APPEND]
    hand.go_on(APPEND)
    assert hand.answered == ["first", "1"]
    hand.go_on(LOOK)
    hand.go_on(APPEND)
    assert hand.answered == ["first", "1", "2"]
    assert glasses(hand.log) == [1, 2, 3]


def test_what_was_decided_is_sent_before_those_below_it_are_answered(hand: ByHand) -> None:
    hand.begin_two()
    assert hand.go_on(LOOK).files == [APPEND]
    hand.log.happened.clear()
    hand.go_on(APPEND)
    assert hand.log.happened == ["append", "answer 1"]


def test_nobody_is_kept_waiting_for_another_thread_that_appends(hand: ByHand) -> None:
    hand.begin_two()
    hand.go_on(LOOK)
    hand.log.happened.clear()
    hand.log.somebody_appends = True
    hand.go_on(APPEND)
    assert hand.log.happened == ["answer 1", "append"]
    hand.go_on(APPEND)
    assert glasses(hand.log) == [1, 2, 3]


def test_news_is_heard_before_anything_late_is_waited_for(hand: ByHand, monkeypatch: pytest.MonkeyPatch) -> None:
    hand.begin_two()
    assert hand.engine._deciding is not None
    look = hand.engine._deciding.look
    seen = look.seen

    def silent() -> Seen:
        assert hand.answered == ["first", "1"]
        return seen()

    monkeypatch.setattr(look, "seen", silent)
    monkeypatch.setattr(engine_module, "STORE_SECONDS", -1.0)
    hand.go_on(APPEND)
    assert hand.answered == ["first", "1", "2"]


def test_of_two_that_are_late_the_one_below_is_waited_for_first(hand: ByHand, monkeypatch: pytest.MonkeyPatch) -> None:
    hand.begin_two()
    hand.log.happened.clear()
    monkeypatch.setattr(engine_module, "STORE_SECONDS", -1.0)
    hand.go_on()
    assert hand.log.happened == ["answer 1", "append", "answer 2"]


def test_an_engine_that_decides_whatever_there_is_ahead_waits_for_something_to_be_there(hand: ByHand) -> None:
    hand.engine._settings = EngineSettings(ahead_from=0)
    hand.ask("1")
    hand.go_on()
    assert hand.go_on(LOOK).commands == 1


def test_an_answer_from_the_log_is_not_told_under_an_epoch_that_ended(hand: ByHand) -> None:
    hand.ask("first")
    hand.go_on()
    hand.log._epoch = "another"
    hand.go_on(LOOK)
    assert hand.answers[-1].position.epoch == "another"


@pytest.mark.parametrize("decided", [True, False])
def test_a_batch_that_was_overtaken_and_what_rests_on_it_are_decided_again_in_their_order(
    hand: ByHand, *, decided: bool
) -> None:
    hand.begin_two()
    if decided:
        hand.go_on(LOOK)
    hand.ask("3")
    hand.log.overtaken = True
    hand.go_on(APPEND)
    assert hand.answered[:3] == ["first", "1", "2"]
    hand.go_on(LOOK)
    hand.go_on(APPEND)
    assert hand.answered == ["first", "1", "2", "3"]
    assert glasses(hand.log) == [1, 2, 3]  # The barrel holds no more.
    assert hand.notes.overtaken == 1


def test_what_cannot_be_decided_ahead_waits_for_the_batch_below_it(
    hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand.begin_two()

    def lost() -> Seen:
        raise StoreUnavailable("the line was cut")

    assert hand.engine._deciding is not None
    monkeypatch.setattr(hand.engine._deciding.look, "seen", lost)
    assert hand.go_on(LOOK) == Pause(NOBODY, engine_module.STORE_SECONDS, [APPEND])
    hand.log.overtaken = True
    hand.go_on(APPEND)
    assert hand.answered == ["first", "1", "2"]
    assert glasses(hand.log) == [1, 2, 3]


def test_a_store_that_is_silent_for_long_is_waited_for_alone(hand: ByHand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "STORE_SECONDS", -1.0)
    hand.ask("1")
    hand.go_on()
    assert hand.answered == ["first", "1"]


RUSH: Final = engine_module.GATHERED_COMMANDS_MIN


def in_a_rush(hand: ByHand, *, meanwhile: int, took: float) -> Pause:
    """A rush was stored in ``took`` seconds, and so many asked meanwhile: what is waited for then."""
    hand.engine._settings = EngineSettings(gather_seconds=0.5)
    for number in range(RUSH):
        hand.ask(f"rush-{number}")
    hand.go_on()
    hand.go_on(LOOK)
    for number in range(meanwhile):
        hand.ask(f"meanwhile-{number}")
    hand.seconds += took
    return hand.go_on(APPEND)


@pytest.mark.parametrize(("took", "seconds"), [(0.25, 0.25), (4.0, 0.5)])
def test_in_a_rush_it_waits_once_for_as_many_as_the_last_time_and_no_longer_than_that_took(
    hand: ByHand, took: float, seconds: float
) -> None:
    gathering = Pause(RUSH, seconds, content_bytes=engine_module.AHEAD_FROM_BYTES)
    assert in_a_rush(hand, meanwhile=0, took=took) == gathering
    hand.ask("alone")
    assert hand.go_on().files == [LOOK]


def test_nobody_is_waited_for_where_a_third_as_many_came_before_the_last_ones_were_answered(hand: ByHand) -> None:
    pause = in_a_rush(hand, meanwhile=RUSH // 3 + 1, took=0.25)
    assert pause.files == [LOOK]
    assert not hand.engine.queue_length


def test_a_little_fewer_are_waited_for(hand: ByHand) -> None:
    pause = in_a_rush(hand, meanwhile=RUSH // 3, took=0.25)
    assert (pause.commands, pause.seconds) == (RUSH, 0.25)


@pytest.mark.parametrize("per_millisecond", [1.0, 2.7, 5.0])
def test_callers_who_come_whether_anybody_is_answered_or_not_are_soon_waited_for_no_more(
    hand: ByHand, per_millisecond: float
) -> None:
    pause, gathering, asked = in_a_rush(hand, meanwhile=0, took=0.010), [], 0
    begun_at = hand.seconds
    for _ in range(200):
        gathering.append(not pause.files and pause.seconds is not None)
        exchange_ends = hand.seconds + (0.002 if pause.files else pause.seconds or 1.0)
        while hand.seconds < exchange_ends and (pause.files or not pause.is_over(hand.engine._queue)):
            hand.seconds += 0.0001
            while asked < (hand.seconds - begun_at) * 1_000 * per_millisecond:
                hand.ask(f"random-{asked}")
                asked += 1
        pause = hand.go_on(*pause.files)
    assert gathering[0]
    assert not any(gathering[-100:])
