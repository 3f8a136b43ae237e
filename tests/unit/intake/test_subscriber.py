"""Offsets are committed when a batch is finished and not before; what is not finished is fetched again."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from infra.intake.broker import IntakeBroker
from infra.intake.intake import MustWait, Way
from infra.intake.subscriber import TopicSubscriber
from infra.kafka.client import Membership
from infra.kafka.messages import Record
from tests.unit.intake.world import COMMANDS, FakeRecord

FIRST, SECOND = TopicPartition("t", 0), TopicPartition("t", 1)
BATCH = (
    FakeRecord(b"{}", (), 7, "t", 0),
    FakeRecord(b"{}", (), 8, "t", 0),
    FakeRecord(b"{}", (), 3, "t", 1),
)


class FakeConsumer:
    """Owns some partitions, and writes down what it is asked to do."""

    def __init__(self, done: list[Any], owns: set[TopicPartition]) -> None:
        self._done = done
        self.owns = owns
        self.fails = False

    def assignment(self) -> set[TopicPartition]:
        return self.owns

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self.owns:
            raise IllegalStateError(f"No current assignment for partition {partition}")
        self._done.append(("seek", partition, offset))

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        if self.fails:
            raise CommitFailedError("rebalanced")
        self._done.append(("commit", dict(offsets)))

    def highwater(self, partition: TopicPartition) -> int:
        assert partition in self.owns, "Partition is not assigned"
        return 10


class FakeIntake:
    """Takes batches, or fails to."""

    def __init__(self, done: list[Any], failure: BaseException | None) -> None:
        self._done = done
        self._failure = failure

    async def take(self, records: Sequence[Record], way: Way) -> None:
        self._done.append("taken")
        if self._failure is not None:
            raise self._failure


MEMBERSHIP: Membership = {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 1_000, "rebalance_timeout_ms": 15_000}


class World:
    """A subscriber over an intake that answers, or fails as told."""

    def __init__(self, failure: BaseException | None = None, owns: set[TopicPartition] | None = None) -> None:
        self.done: list[Any] = []
        broker = IntakeBroker({"bootstrap_servers": "127.0.0.1:1"}, graceful_seconds=1.0)
        intake: Any = FakeIntake(self.done, failure)
        self.subscriber = TopicSubscriber(broker, intake, COMMANDS, ["t"], "g", MEMBERSHIP)
        self.consumer: Any = FakeConsumer(self.done, owns if owns is not None else {FIRST, SECOND})
        self.subscriber._subscriber.consumer = self.consumer
        self.broker = broker

    def take(self) -> None:
        """One batch."""
        batch: Any = BATCH
        asyncio.run(self.subscriber._take(batch))


def test_offsets_are_committed_once_the_batch_is_finished() -> None:
    world = World()
    world.take()
    assert world.done == ["taken", ("commit", {FIRST: 9, SECOND: 4})]


@pytest.mark.parametrize("failure", [MustWait("store_unavailable"), ZeroDivisionError("a defect of ours")])
def test_a_batch_that_is_not_finished_is_fetched_again(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.intake.subscriber.DEFECT_PAUSE_SECONDS", 0.0)
    world = World(failure)
    world.take()
    assert world.done == ["taken", ("seek", FIRST, 7), ("seek", SECOND, 3)]


def test_a_partition_that_went_to_somebody_else_does_not_keep_the_others_from_being_fetched_again() -> None:
    world = World(MustWait("busy"), owns={SECOND})
    world.take()
    assert world.done == ["taken", ("seek", SECOND, 3)]


def test_nothing_is_committed_of_a_partition_that_went_to_somebody_else() -> None:
    world = World(owns={SECOND})
    world.take()
    assert world.done == ["taken", ("commit", {SECOND: 4})]


def test_a_commit_that_fails_stops_nothing() -> None:
    world = World()
    world.consumer.fails = True
    world.take()
    world.consumer.fails = False
    world.take()
    assert world.done[-1] == ("commit", {FIRST: 9, SECOND: 4})


def test_a_batch_that_is_cancelled_is_fetched_again() -> None:
    world = World(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        world.take()
    assert ("seek", FIRST, 7) in world.done


def test_the_lag_counts_what_is_not_finished_of_partitions_that_are_ours() -> None:
    world = World(MustWait("busy"))
    world.take()
    assert world.subscriber.lag() == {FIRST: 3, SECOND: 7}
    world.consumer.owns = {SECOND}
    assert world.subscriber.lag() == {SECOND: 7}


async def test_a_hand_over_waits_for_the_batch_under_way() -> None:
    hand_over = World().subscriber._hand_over
    with hand_over.under_way():
        revoked = asyncio.create_task(hand_over.on_partitions_revoked({FIRST}))
        await asyncio.sleep(0)
        assert not revoked.done()
    await asyncio.wait_for(revoked, 5)
