"""One kill of each kind of process and a few network faults on the whole stack under load: the short `make chaos`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import FailLink, Fault, Freeze, Kill, KillSession
from tests.chaos.run import Cycle, Run, Summary, running
from tests.chaos.stack import Stack

pytestmark = [pytest.mark.faults, pytest.mark.integration]

CALLERS = 8
AT_ONCE = 2
FROZEN_SECONDS = 1.0
FAILING_SECONDS = 1.0


@pytest.fixture(scope="module")
def chaos() -> Iterator[tuple[Stack, Run]]:
    """The whole stack, with callers who wait to be let in. (Not in pytest's folder: that is closed to other users.)"""
    with (
        tempfile.TemporaryDirectory(prefix="tessera-test-", ignore_cleanup_errors=True) as folder,
        running(Path(folder), 1, forked=True, callers=CALLERS) as (stack, run),
    ):
        Path(folder).chmod(0o755)
        yield stack, run


FAULTS: list[Fault] = [
    Kill("api-1"),
    Kill("sagas-1"),
    Kill("projections-1"),
    Kill("distributions-1"),
    Kill("postgres"),
    KillSession(0),
    Kill("redis"),
    Kill("clickhouse"),
    Freeze("api-2", FROZEN_SECONDS),
    FailLink("api-1→postgres", "reset", FAILING_SECONDS),
    FailLink("callers→api-2", "one_way", FAILING_SECONDS),
    FailLink("sagas-2→postgres", "partition", FAILING_SECONDS),
]


@pytest.mark.parametrize("faults", [FAULTS[:4], FAULTS[4:8], FAULTS[8:]], ids=["our_own", "engines", "network"])
def test_whatever_dies_under_load_comes_back_and_nothing_acknowledged_is_missing_or_done_twice(
    chaos: tuple[Stack, Run], faults: list[Fault]
) -> None:
    stack, run = chaos
    cycles: list[Cycle] = []
    run.open()
    run.faults(faults, AT_ONCE, cycles.append)  # Each until whoever suffered serves again.
    run.check(Summary(1))  # Every acknowledgement once, every invariant, every store; everybody has caught up.
    assert sorted((cycle.kind, cycle.victim) for cycle in cycles) == sorted((each.kind, each.victim) for each in faults)
    assert all(cycle.in_flight > 0 for cycle in cycles), "nobody noticed it"
    assert stack.unasked == []
