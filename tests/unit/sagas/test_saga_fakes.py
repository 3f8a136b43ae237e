"""The sagas' store in memory keeps what every such store promises, also when a commit is lost."""

from datetime import datetime, timedelta

import pytest

from command.ports import StoreUnavailable
from infra.sagas.ports import FOLLOWER, Move
from tests.contract.saga_store import SAGA, Ears, SagaStoreContract
from tests.fakes import InMemoryEventLog
from tests.saga_fakes import InMemorySagaStore
from tests.unit.sagas.stories import NOON, PLACED, Log, ready


@pytest.fixture
def ears() -> Ears:
    """A store in memory, beside a log in memory."""
    log = InMemoryEventLog()
    return Ears(InMemorySagaStore(log), log, Log())


class TestInMemorySagaStore(SagaStoreContract):
    """What the real one promises."""


@pytest.mark.parametrize("landed", [True, False])
def test_a_step_whose_commit_is_lost_happened_as_a_whole_or_not_at_all(landed: bool) -> None:
    log = InMemoryEventLog()
    ears = Ears(InMemorySagaStore(log), log, Log())
    hearing = ears.hearing(ears.facts_of(PLACED, ready()))
    log.lose_next_commit(landed=landed)
    with pytest.raises(StoreUnavailable):
        ears.store.keep(hearing, [Move(FOLLOWER, 0, 2)])
    assert ears.store.place().offset == (2 if landed else 0)
    assert ears.owed() == (["hold_for_order"] if landed else [])
    assert (SAGA in ears.store.histories([SAGA])) == landed


def test_the_store_of_a_realm_without_a_business_clock_lives_by_the_logs() -> None:
    now: list[datetime] = [NOON]
    log = InMemoryEventLog(clock=lambda: now[0])
    ears = Ears(InMemorySagaStore(log), log, Log())
    ears.hear(PLACED, ready())
    assert ears.due() == []
    now[0] += timedelta(minutes=15)
    assert len(ears.due()) == 1
