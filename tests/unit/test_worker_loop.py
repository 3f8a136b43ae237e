"""The loop of a worker: when it rests, when it waits longer, and what ends it."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from command.engine import Busy, EngineStopped
from infra.worker_loop import Pace, WorkerLoop

SECONDS_MAX = 30.0


class Turns:
    """A worker whose turns do as they are told, one after the other; the last one says that it has come."""

    def __init__(self, *script: int | Exception, last: Callable[[], int] = lambda: 0) -> None:
        self.script = list(script)
        self.last = last
        self.ended = threading.Event()
        self.let_go = 0

    def turn(self) -> int:
        if not self.script:
            self.ended.set()
            return self.last()
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.let_go += 1


class Waits(threading.Event):
    """Notes for how long the loop would wait, and how many turns are left then; and does not wait."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self.noted: list[tuple[float, int]] = []
        self._turns = turns

    @property
    def seconds(self) -> list[float]:
        return [seconds for seconds, _ in self.noted]

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.noted.append((timeout, len(self._turns.script)))
        return self.is_set()


def run(turns: Turns) -> tuple[WorkerLoop, Waits]:
    """Run a script to its end and stop."""
    loop, waits = WorkerLoop("tests", turns.turn, turns.close, Pace(7.0, 1.0, 4.0)), Waits(turns)
    loop._stopping = waits
    loop.start()
    assert turns.ended.wait(SECONDS_MAX)
    loop.stop(SECONDS_MAX)
    assert not loop._thread.is_alive()
    return loop, waits


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any, bool]]:
    """Level, reason and whether there is a traceback, of each interruption."""
    return [
        (record.levelname, record.__dict__["reason"], bool(record.exc_info))
        for record in caplog.records
        if record.message == "worker_interrupted"
    ]


def test_a_loop_rests_only_after_a_turn_that_found_nothing() -> None:
    turns = Turns(3, 1, 0, 2)
    _, waits = run(turns)
    assert waits.noted[0] == (7.0, 1)
    assert turns.script == []
    assert turns.let_go == 1


def test_each_failure_in_a_row_waits_twice_as_long_up_to_a_bound_and_a_success_starts_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    _, waits = run(Turns(*(Busy("full") for _ in range(4)), 1, Busy("full")))
    assert waits.seconds[:5] == [1.0, 2.0, 4.0, 4.0, 1.0]
    assert told(caplog) == [("WARNING", "Busy: full", False)] * 5


def test_every_failure_gives_the_connections_back_and_an_unknown_one_is_told_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    turns = Turns(KeyError("gone"))
    run(turns)
    assert turns.let_go == 2  # After the failure, and at the stop.
    assert told(caplog) == [("ERROR", "KeyError: 'gone'", True)]


def test_an_engine_that_stops_by_itself_is_waited_for_like_anything_else_that_is_away() -> None:
    turns = Turns(EngineStopped("restarting"), 1)
    run(turns)
    assert turns.script == []


def test_an_engine_that_stops_because_everything_stops_is_no_interruption(caplog: pytest.LogCaptureFixture) -> None:
    stopping = threading.Event()

    def last() -> int:
        assert stopping.wait(SECONDS_MAX)
        raise EngineStopped("over")

    turns = Turns(last=last)
    loop = WorkerLoop("tests", turns.turn, turns.close, Pace(0.0, 0.0, 0.0))
    loop.start()
    assert turns.ended.wait(SECONDS_MAX)
    loop._stopping.set()
    stopping.set()
    loop.stop(SECONDS_MAX)
    assert told(caplog) == []


def test_a_loop_that_never_started_can_be_stopped() -> None:
    turns = Turns()
    WorkerLoop("tests", turns.turn, turns.close, Pace(0.0, 0.0, 0.0)).stop()
    assert turns.let_go == 1
