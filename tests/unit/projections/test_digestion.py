"""An event that fails is tried again: at once when waiting cannot help, with growing pauses when it might."""

from collections.abc import Callable
from typing import Any

import pytest

from contracts.envelope import Recorded
from contracts.position import Position
from infra.projections.digestion import ATTEMPTS_MAX, PAUSE_SECONDS_MAX, Digestion
from infra.projections.ports import ParkedEvent
from infra.projections.redis_target import RedisTarget
from infra.redis.connection import RedisUnavailable
from infra.redis.models import Control, Seen
from projections.catalog import READ_MODELS
from projections.model import GapInStream
from tests.unit.projections.stories import Story, about, claimed, locked


class Coordination:
    """Remembers what is parked."""

    def __init__(self) -> None:
        self.parked_events: list[tuple[Recorded, str, int, str]] = []
        self.behind: list[Recorded] = []

    def parked_streams(self, follower: str) -> frozenset[str]:
        return frozenset(recorded.stream for recorded, *_ in self.parked_events)

    def dropped_versions(self, follower: str) -> dict[str, frozenset[int]]:
        return {}

    def requeued_streams(self, follower: str, limit: int) -> list[str]:
        return sorted(self.parked_streams(follower))[:limit]

    def parked(self, follower: str, stream: str, limit: int) -> list[ParkedEvent]:
        found = [one for one, *_ in self.parked_events if one.stream == stream]
        return [ParkedEvent(one.stream, one.version, one.offset) for one in found[:limit]]

    def park(self, follower: str, recorded: Recorded, *, reason: str, attempts: int, detail: str) -> None:
        self.parked_events.append((recorded, reason, attempts, detail))

    def park_behind(self, follower: str, events: list[Recorded]) -> None:
        self.behind += events


class Log:
    """A feed of what was told."""

    def __init__(self, events: list[Recorded]) -> None:
        self._events = events

    def read(self, after: int, limit: int) -> list[Recorded]:
        return [event for event in self._events if event.offset > after][:limit]


def failing(error: Exception, times: int) -> Callable[[Recorded], None]:
    """Fails so often for each stream, then takes events in."""
    failures: dict[str, int] = {}

    def attempt(recorded: Recorded) -> None:
        if failures.setdefault(recorded.stream, 0) < times:
            failures[recorded.stream] += 1
            raise error

    return attempt


def told(coupons: int = 1) -> list[Recorded]:
    story = Story()
    for nth in range(coupons):
        story.tell("coupon", f"c{nth}", claimed(f"c{nth}", about()))
        story.tell("coupon", f"c{nth}", locked(f"c{nth}", about(), "o1"))
    return story.log


def digestion(coordination: Any, pauses: list[float]) -> Digestion:
    return Digestion(coordination, "wallet:v1", pause=pauses.append)


def test_what_passes_by_itself_is_waited_for_with_growing_pauses() -> None:
    coordination, pauses = Coordination(), list[float]()
    digestion(coordination, pauses).digest(told(), failing(OSError("away"), ATTEMPTS_MAX - 1))
    assert coordination.parked_events == []
    assert pauses == sorted(pauses)
    assert len(set(pauses)) == ATTEMPTS_MAX - 1


def test_what_fails_the_same_way_each_time_is_parked_without_waiting_and_says_where() -> None:
    coordination, pauses = Coordination(), list[float]()
    events = told()
    digestion(coordination, pauses).digest(events, failing(KeyError("nothing"), ATTEMPTS_MAX))
    assert pauses == []
    ((parked, reason, attempts, detail),) = coordination.parked_events
    assert (parked, reason, attempts) == (events[0], "KeyError: 'nothing'", ATTEMPTS_MAX)
    assert "in attempt" in detail
    assert coordination.behind == events[1:]


def test_a_batch_full_of_failures_waits_no_longer_than_a_few() -> None:
    coordination, pauses = Coordination(), list[float]()
    digestion(coordination, pauses).digest(told(100), failing(OSError("away"), ATTEMPTS_MAX))
    assert len(coordination.parked_events) == 100
    assert sum(pauses) == pytest.approx(PAUSE_SECONDS_MAX)


def test_what_was_parked_by_a_batch_that_was_never_written_waits_for_that_batch_and_no_other_stream_does() -> None:
    coordination, events = Coordination(), told(coupons=2)
    for event in (events[1], events[2]):  # Of the first coupon's stream only what is not its first event.
        coordination.park("wallet:v1", event, reason="", attempts=1, detail="")

    def attempt(recorded: Recorded) -> None:
        if recorded.version > 1:
            raise GapInStream("wallet", recorded, 1)

    replayed = digestion(coordination, []).replay(Log(events), attempt)  # type: ignore[arg-type]
    assert [parked.stream for parked in replayed] == [events[2].stream]
    assert len(coordination.parked_events) == 2


class Moving:
    """A read model in Redis that others move, too."""

    model = READ_MODELS["coupon"]
    position = Position(0, "e1", 0)

    def control(self) -> Control:
        return Control(1, 0, {1: self.position})

    def load(self, *_: Any) -> Seen:
        return Seen()

    def write(self, *_: Any) -> bool:
        return True

    def advance(self, *_: Any) -> None:
        """Moved."""


def test_what_another_process_parked_meanwhile_is_not_overtaken() -> None:
    coordination, store, (first, second) = Coordination(), Moving(), told()
    target = RedisTarget(store, coordination, shard=0)  # type: ignore[arg-type]
    target.load("e1", first.offset)
    coordination.park("coupon:v1", first, reason="", attempts=1, detail="")
    store.position = Position(0, "e1", first.offset)
    target.load("e1", second.offset)
    target.apply([second])
    assert coordination.behind == [second]


def test_a_store_that_is_away_is_no_events_fault() -> None:
    coordination, pauses = Coordination(), list[float]()
    events: Any = told()
    mine = digestion(coordination, pauses)
    with pytest.raises(RedisUnavailable):
        mine.digest(events, failing(RedisUnavailable("gone"), 1))
    assert coordination.parked_events == []
    coordination.park("wallet:v1", events[0], reason="poison", attempts=3, detail="")
    feed: Any = Log(events)
    with pytest.raises(RedisUnavailable):
        mine.replay(feed, failing(RedisUnavailable("gone"), 1))
    assert len(coordination.parked_events) == 1
