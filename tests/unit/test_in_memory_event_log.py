"""The event log in memory keeps the promises of every event log."""

import pytest

from command.ports import Batch, CommandKey, EventLog, StoreUnavailable
from tests.contract.event_log import ACME, EventLogContract, accepted, at, everything
from tests.fakes import InMemoryEventLog


class TestInMemoryEventLog(EventLogContract):
    """All of the contract, and how it plays a lost connection."""

    @pytest.fixture
    def log(self) -> EventLog:
        """A log whose lock nobody waits for long."""
        return InMemoryEventLog(lock_timeout_seconds=1.0)


@pytest.mark.parametrize("landed", [True, False])
def test_after_a_lost_commit_the_command_log_tells_what_happened(landed: bool) -> None:
    log = InMemoryEventLog()
    log.lose_next_commit(landed=landed)
    with pytest.raises(StoreUnavailable), log.appending() as tx:
        tx.append(Batch(events=[at(1)], answers=[accepted("c1")], answer_events=[0]))
    key = CommandKey(ACME, "c1")
    with log.reading() as view:
        assert (key in view.answers([key])) is landed
    assert len(everything(log)) == int(landed)
