"""A few seeds of the simulation hold, and a seed is all that is needed to see the same run again."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from command.decider import Decider
from tests.simulation.__main__ import be_silent
from tests.simulation.world import Plan, Result, SimulationFailed, World

ROOT = Path(__file__).parents[2]
COMMANDS = 1_200


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """What is broken on purpose is no news."""
    configured = structlog.get_config()
    be_silent()
    yield
    logging.disable(logging.NOTSET)
    structlog.configure(**configured)


def simulate(seed: int, commands: int = COMMANDS) -> Result:
    return World(Plan(seed, commands=commands)).run()


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_everything_holds_however_processes_die_and_answers_are_lost(seed: int) -> None:
    result = simulate(seed)
    assert result.commands >= COMMANDS
    assert result.sendings > result.commands  # Something was sent more than once.
    assert {"killed", "stopped"} <= result.happened.keys()


def test_the_simulated_days_are_worth_the_name() -> None:
    """All kinds of misfortune happen, and commands come to many different ends."""
    results = [simulate(seed, 1_000) for seed in (11, 12, 13)]
    happened = set().union(*(result.happened for result in results))
    assert {"stopped for long", "expelled", "clock set back", "busy", "killed between two steps"} <= happened
    codes = set().union(*(result.codes for result in results))
    assert {"ok", "template_exhausted", "user_limit_reached", "already_locked", "paused", "not_locked"} <= codes


def test_a_seed_is_the_same_run_in_every_process(tmp_path: Path) -> None:
    def trace(name: str) -> bytes:
        file = tmp_path / name
        # Another hash seed: no order of a set may leak into what is decided.
        environment = os.environ | {"PYTHONHASHSEED": str(len(name)), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.simulation", "--seeds", "5", "--commands", "400", "--trace", str(file)]
        told = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True, timeout=120).stdout
        return told.splitlines()[0] + file.read_bytes()

    assert trace("one") == trace("another")


def test_a_defect_fails_its_seed_again_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decider, "forget", lambda _decider: None)
    monkeypatch.setattr(Decider, "unlearn", lambda _decider, _plan: None)

    def failure(seed: int) -> str:
        with pytest.raises(SimulationFailed) as failed:
            simulate(seed)
        return str(failed.value)

    first = failure(2)
    assert first.startswith("seed 2 ")
    assert failure(2) == first
