"""The simulated store keeps the promises of every event log, and its faults do what they say."""

import pytest

from command.ports import Batch, CommandKey, EventLog, StoreUnavailable, StreamConflict
from tests.contract.event_log import ACME, EventLogContract, accepted, append_after, at, everything, store
from tests.simulation.store import CommitFate, NoFaults, SimulatedLog, Store, real_clock


class TestSimulatedLog(EventLogContract):
    """All of the contract."""

    @pytest.fixture
    def log(self) -> EventLog:
        """A log whose lock nobody waits for long."""
        return SimulatedLog(Store(real_clock), lock_timeout_seconds=1.0)


class OneFate(NoFaults):
    """Decides what becomes of every commit."""

    def __init__(self, fate: CommitFate) -> None:
        self.fate = fate

    def commit(self) -> CommitFate:
        return self.fate


BATCH = Batch(events=[at(1)], answers=[accepted("c1")], answer_events=[0], counts={"k": 1})


def append_under_the_lock(log: SimulatedLog) -> None:
    with log.appending() as transaction:
        transaction.append(BATCH)


@pytest.mark.parametrize(("fate", "stored"), [("answer_lost", True), ("refused", False)])
@pytest.mark.parametrize("ahead", [True, False])
def test_of_a_commit_whose_answer_is_lost_the_log_knows_everything_or_nothing(
    fate: CommitFate, stored: bool, ahead: bool
) -> None:
    disk = Store(real_clock)
    log = SimulatedLog(disk, OneFate(fate))
    with pytest.raises(StoreUnavailable):
        append_after(log, 0, BATCH) if ahead else append_under_the_lock(log)
    sound, key = SimulatedLog(disk), CommandKey(ACME, "c1")
    with sound.reading() as view:
        assert (key in view.answers([key])) is stored
        assert view.counts(["k"]) == ({"k": 1} if stored else {})
    assert len(everything(sound)) == int(stored)


def test_a_holder_whom_the_server_expelled_stores_nothing_and_stands_in_nobody_s_way() -> None:
    disk = Store(real_clock)
    other = SimulatedLog(disk)

    def stays_silent() -> None:
        with SimulatedLog(disk).appending() as transaction:
            transaction.append(Batch(events=[at(1)]))
            disk.expel()
            assert store(other, at(1))

    with pytest.raises(StoreUnavailable):
        stays_silent()
    assert [event.version for event in everything(other)] == [1]
    assert len(store(other, at(2))) == 1


def test_what_was_rolled_back_leaves_a_gap_in_the_offsets_and_nothing_else() -> None:
    log = SimulatedLog(Store(real_clock))
    (first,) = store(log, at(1))
    with pytest.raises(StreamConflict):
        store(log, at(2), at(2))
    (second,) = store(log, at(2))
    assert second > first + 1
    assert [event.offset for event in everything(log)] == [first, second]
