"""A store with a log in it, and the projections of that store, on real engines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Event as Signal
from threading import Thread

import pytest

from command.ports import Batch, NewEvent
from contracts.envelope import Recorded
from contracts.position import Position
from infra.clickhouse.facts import FactsCheckpoint, FactsStore
from infra.postgres.feed import StoreFeed
from infra.postgres.log import PostgresEventLog
from infra.projections.coordination import PostgresCoordination
from infra.projections.runner import FollowerLimits
from infra.projections.service import ProjectionService
from infra.redis.connection import connect
from infra.redis.models import ModelStore
from projections.catalog import READ_MODELS


@dataclass
class World:
    """Three stores, a log that tests append to, and the projections that follow it."""

    postgres_dsn: str
    redis_url: str
    clickhouse_url: str
    log: PostgresEventLog
    service: ProjectionService
    feed: StoreFeed

    @cached_property
    def facts(self) -> FactsStore:
        """The store of facts, migrated at first use: that takes longer than most tests."""
        self.service.migrate()
        return self.service.facts

    def append(self, events: Sequence[Recorded]) -> int:
        """Store these events; returns the head of the log."""
        batch = Batch(events=[NewEvent(each.stream, each.version, each.event, each.metadata) for each in events])
        with self.log.appending() as appending:
            return appending.append(batch)[-1]

    def catch_up(self) -> None:
        """Both followers, step by step, to the head of the log."""
        with self.coordinated() as coordination:
            followers = [
                self.service.redis_follower(self.feed, coordination),
                self.service.facts_follower(self.feed, coordination, self.facts),
            ]
            for follower in followers:
                while follower.step():
                    pass

    def catch_up_empty(self) -> None:
        """Both followers begin at the start of the log, and take in nothing: lanes bring all of it."""
        start = Position(0, self.feed.epoch(), 0)
        for model in READ_MODELS.values():
            ModelStore(connect(self.redis_url), model).begin(1, start, ready_at=0)
        self.facts.save(FactsCheckpoint(1, start))

    def stored(self) -> Sequence[Recorded]:
        """The whole log, as the store has it."""
        return self.feed.read(0, 1_000_000)

    def fact_rows(self) -> dict[str, int]:
        """How many rows each fact table has, duplicates apart; empty ones are absent."""
        sums = self.facts.checksums(self.feed.head())
        return {table: found.rows for table, found in sums.items() if found.rows}

    def coordinated(self) -> "Coordinated":
        """A coordination of one's own, closed at the end of the block."""
        return Coordinated(self.postgres_dsn)

    def impatient(self) -> "Coordinated":
        """One that does not wait for locks."""
        return Coordinated(self.postgres_dsn, hold_wait_seconds=0.05)


class Coordinated:
    """Closes a coordination."""

    def __init__(self, dsn: str, *, hold_wait_seconds: float | None = None) -> None:
        self._coordination = PostgresCoordination(dsn, hold_wait_seconds=hold_wait_seconds)

    def __enter__(self) -> PostgresCoordination:
        return self._coordination

    def __exit__(self, *_: object) -> None:
        self._coordination.close()


class Running:
    """Followers in threads of their own, as a worker process has them."""

    def __init__(self, service: ProjectionService) -> None:
        self._stop = Signal()
        self._thread = Thread(target=service.run, args=(self._stop,), name="worker")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()


@pytest.fixture
def world(postgres_dsn: str, redis_url: str, clickhouse_url: str) -> Iterator[World]:
    """Empty stores, migrated."""
    log = PostgresEventLog(postgres_dsn)
    assert log.epoch
    limits = FollowerLimits(batch_events_max=50, tend_seconds=0.0)
    service = ProjectionService(
        postgres_dsn=postgres_dsn, redis_url=redis_url, clickhouse_url=clickhouse_url, limits=limits
    )
    feed = StoreFeed(postgres_dsn)
    world = World(postgres_dsn, redis_url, clickhouse_url, log, service, feed)
    yield world
    feed.close()
    if "facts" in vars(world):
        world.facts.drop_shadow()
    service.close()
    log.close()
