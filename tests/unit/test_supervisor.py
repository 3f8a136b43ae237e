"""The supervisor's policy: what ends is started again, with longer pauses each time, and not for ever."""

import os
import signal
from collections.abc import Callable
from itertools import count

import pytest

from infra.processes import Child, ChildSpec, Ending
from infra.supervisor import Ended, RestartPolicy, Started, Supervisor

TURNS_MAX = 20_000  # Of 50 ms each: a quarter of an hour of the world's own time.


class Part(Child):
    """A child process that is none."""

    def __init__(self, name: str, pid: int) -> None:
        self.spec = ChildSpec(name=name, argv=(), log_path=None)
        self._pid = pid
        self._ending: Ending | None = None

    @property
    def pid(self) -> int:
        return self._pid

    def ending(self) -> Ending | None:
        return self._ending

    def end(self, exit_code: int = 1) -> None:
        self._ending = Ending(self.name, exit_code, "last words")


class World:
    """A supervisor with a clock of its own, which moves only while it sleeps; it is asked to stop at the end."""

    def __init__(self, policy: RestartPolicy | None = None) -> None:
        self.now = 0.0
        self.told: list[Ended | Started] = []
        self.running: dict[str, Part] = {}
        self.starts: list[tuple[str, float]] = []  # Name and time.
        self.on_start: Callable[[Part], None] = lambda _part: None
        self._pids = count(1)
        self._turns = 0
        self._at: list[tuple[float, Callable[[], None]]] = []
        self.supervisor = Supervisor(policy or RestartPolicy(), clock=lambda: self.now, sleep=self._sleep)

    def keep(self, *names: str) -> None:
        """Parts that run from the beginning."""
        for name in names:
            self.running[name] = Part(name, next(self._pids))
            self.supervisor.adopt(self.running[name], lambda name=name: self._start(name))  # type: ignore[misc]

    def at(self, seconds: float, happens: Callable[[], None]) -> None:
        """What happens once the clock is there."""
        self._at.append((seconds, happens))

    def end_at(self, seconds: float, name: str, exit_code: int = 1) -> None:
        """A part ends once the clock is there."""
        self.at(seconds, lambda: self.running[name].end(exit_code))

    def end_all(self) -> None:
        """All at the same time."""
        for part in self.running.values():
            part.end()

    def run(self) -> Ended | None:
        """Until it stops."""
        with self.supervisor:
            return self.supervisor.wait(self.told.append)

    def started(self, name: str) -> float:
        """When a part was started again, once."""
        (at,) = [at for each, at in self.starts if each == name]
        return at

    @property
    def pauses(self) -> list[float | None]:
        """After each end."""
        return [each.pause_seconds for each in self.told if isinstance(each, Ended)]

    def _start(self, name: str) -> Part:
        part = Part(name, next(self._pids))
        self.on_start(part)
        self.running[name] = part
        self.starts.append((name, self.now))
        return part

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self._turns += 1
        due = [each for each in self._at if each[0] <= self.now]
        for each in due:
            self._at.remove(each)
            each[1]()
        if self._turns == TURNS_MAX:
            stop()


def stop() -> None:
    """Ask this process to stop: a running supervisor hears it."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_ends_is_started_again_after_a_pause_and_the_others_are_left_alone() -> None:
    world = World()
    world.keep("redis", "sagas")
    world.end_at(10.0, "sagas", -9)
    world.at(20.0, stop)
    assert world.run() is None
    ended = Ended(Ending("sagas", -9, "last words"), ends=1, pause_seconds=0.25)
    assert world.told == [ended, Started("sagas", pid=3)]
    assert world.started("sagas") == pytest.approx(10.25, abs=0.11)
    assert world.supervisor.pids == {"redis": 1, "sagas": 3}
    assert world.supervisor.ending() is None


def test_the_rest_is_looked_after_while_one_pauses() -> None:
    world = World(RestartPolicy(pause_seconds=5.0))
    world.keep("redis", "sagas")
    world.end_at(1.0, "redis")
    world.end_at(3.0, "sagas")
    world.at(20.0, stop)
    world.run()
    assert (world.started("redis"), world.started("sagas")) == pytest.approx((6.0, 8.0), abs=0.11)


def test_what_ends_however_often_it_is_started_is_given_up_with_its_last_words() -> None:
    world = World()
    world.keep("redis", "sagas")
    world.on_start = lambda part: part.end(2)
    world.end_at(1.0, "sagas", 1)
    given_up = world.run()
    assert given_up == Ended(Ending("sagas", 2, "last words"), ends=5, pause_seconds=None)
    assert world.pauses == [0.25, 1.0, 4.0, 16.0, None]
    assert [name for name, _ in world.starts] == ["sagas"] * 4, "and nobody else was touched"


def test_ends_that_are_long_ago_do_not_count() -> None:
    world = World()
    world.keep("sagas")
    for minute in range(1, 13):
        world.end_at(61.0 * minute, "sagas")
    world.at(61.0 * 13, stop)
    assert world.run() is None
    assert world.pauses == [0.25] * 12


def test_parts_do_not_count_for_each_other() -> None:
    world = World()
    names = [f"worker-{number}" for number in range(8)]
    world.keep(*names)
    world.at(1.0, world.end_all)
    world.at(5.0, stop)
    assert world.run() is None
    assert sorted(name for name, _ in world.starts) == names


def test_what_cannot_be_started_again_is_tried_and_then_given_up_with_the_reason() -> None:
    def gone(_part: Part) -> None:
        raise FileNotFoundError("no such program: redis-server")

    world = World()
    world.keep("redis")
    world.on_start = gone
    world.end_at(1.0, "redis")
    given_up = world.run()
    assert given_up is not None
    assert str(given_up.ending) == "redis could not be started: no such program: redis-server"
    assert world.pauses == [0.25, 1.0, 4.0, 16.0, None]


def test_what_started_at_a_later_attempt_runs() -> None:
    attempts = count(1)

    def at_the_third(_part: Part) -> None:
        if next(attempts) < 3:
            raise OSError("try again")

    world = World()
    world.keep("redis")
    world.on_start = at_the_third
    world.end_at(1.0, "redis")
    world.at(30.0, stop)
    assert world.run() is None
    assert isinstance(world.told[-1], Started)
    assert world.pauses == [0.25, 1.0, 4.0]


def test_who_is_asked_to_stop_starts_nothing_any_more() -> None:
    world = World()
    world.keep("redis", "sagas")

    def end_all_and_stop() -> None:
        world.end_all()
        world.at(world.now + 0.1, stop)  # In the middle of their pauses.

    world.at(1.0, end_all_and_stop)
    assert world.run() is None
    assert (len(world.told), world.starts) == (2, [])


def test_a_stop_while_one_is_started_is_heard_before_the_next_one_starts() -> None:
    world = World()
    world.keep("redis", "sagas")
    world.on_start = lambda _part: stop()
    world.at(1.0, world.end_all)
    assert world.run() is None
    assert [name for name, _ in world.starts] == ["redis"]


def test_workers_of_one_port_are_never_given_up() -> None:
    policy = RestartPolicy(ends_max=None, pause_seconds=1.0, pause_factor=1.0)
    world = World(policy)
    world.keep("worker-0")
    world.on_start = lambda part: part.end()
    world.end_at(1.0, "worker-0")
    world.at(600.0, stop)
    assert world.run() is None
    assert len(world.starts) > 500
    assert set(world.pauses) == {1.0}
