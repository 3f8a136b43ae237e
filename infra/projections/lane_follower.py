"""The follower over Kafka: several processes share the lanes of a log, and fill from the store what Kafka withholds."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Event as Signal
from typing import Final, Protocol

import structlog

from contracts.envelope import Recorded
from contracts.identity import parse_stream
from infra.kafka.lanes import (
    Filled,
    Heard,
    Hole,
    Lane,
    RecentLog,
    Sifted,
    Stranger,
    fill_from,
    ignore_strangers,
    lane_of,
    read_lane,
    sift,
)
from infra.kafka.messages import Record
from infra.projections.ports import Busy, Coordination, EventsSkipped, Feed, StoreNeeded, Target, Witness
from infra.projections.runner import DAMAGED, Follower, FollowerLimits
from infra.redis.models import CheckpointLost

_log = structlog.get_logger(__name__)

FILL_EVENTS_MAX: Final = 5_000  # Read from the log at once.
ROUNDS_MAX: Final = 10  # Stretches of holes in a row, before others (a rebuild) get a chance at the lock.
CATCH_UP_BATCHES_MAX: Final = 100_000
POLL_SECONDS_MIN: Final = 0.1  # Kafka answers as soon as there is something.


class LaneSource(Protocol):
    """One member of a consumer group, see :class:`infra.kafka.consumer.LaneConsumer`. Raises KafkaUnavailable."""

    @property
    def partitions(self) -> int:
        """How many there are of each topic."""
        ...

    def poll(self, limit: int, timeout_seconds: float) -> Mapping[Lane, Sequence[Record]]:
        """What came since; waits when there is nothing."""
        ...

    def assigned(self) -> Collection[Lane]:
        """The lanes that are this member's now."""
        ...

    def done(self) -> None:
        """What was polled has taken effect."""
        ...


class LaneFollower(Follower):
    """Keeps some targets up with the lanes that are this process's; others keep up the rest.

    Who follows over Kafka shares the projection's lock with the others who do; a rebuild, and a target that is not
    whole, has it alone, reads the store, and lets the lanes go on from where it came to.
    """

    def __init__(  # noqa: PLR0913 - all that a follower is told, and all whom it tells
        self,
        name: str,
        source: LaneSource,
        feed: Feed,
        targets: Sequence[Target],
        coordination: Coordination,
        limits: FollowerLimits | None = None,
        *,
        on_batch: Callable[[int, float], None] = lambda _events, _seconds: None,
        witness: Witness | None = None,
        on_stranger: Stranger = ignore_strangers,
    ) -> None:
        super().__init__(name, feed, targets, coordination, limits, on_batch, witness=witness)
        self._source = source
        self._on_stranger = on_stranger
        self._held: Mapping[Lane, Sequence[Record]] = {}  # Polled, and not yet in effect.
        self._log = RecentLog(_CountedLog(name, feed, coordination))
        self._catching_up = False

    def step(self) -> int:
        """What came, if something did; returns how many records were dealt with. Raises as :meth:`run` does, at once.

        What raises is tried again with the same records: Kafka hears that they are done only when they are.
        """
        if not self._held:
            self._held = self._source.poll(
                self._limits.batch_events_max, max(self._limits.poll_seconds, POLL_SECONDS_MIN)
            )
        due = self._is_due()
        if not self._held and not due:
            return 0
        began = time.monotonic()
        try:
            with self._coordination.share(self.name):
                self._load()
                if due:
                    self._replay_parked()
                whole = self._hear()
        except StoreNeeded as error:
            return self._catch_up(error)
        records = sum(map(len, self._held.values()))
        if whole:
            self._held = {}
            self._log.forget()
            self._source.done()
        self._went_well(records, began, tended=due)
        return records

    def _look(self, target: Target) -> None:
        if self._catching_up:
            super()._look(target)
            return
        try:
            target.load_lanes(self._epoch, self._source.assigned())
        except CheckpointLost as error:
            raise Busy(str(error)) from error  # Somebody began or moved it just now.

    def _catch_up(self, reason: StoreNeeded) -> int:
        """From the store, alone, up to where the log ends now; several processes may take turns at it."""
        _log.info("catching_up_from_the_store", follower=self.name, reason=str(reason))
        head, events = self._feed.head(), 0
        self._catching_up = True
        try:
            for _ in range(CATCH_UP_BATCHES_MAX):
                self._tended_at = float("-inf")  # So that it looks, even where there is nothing to read.
                events += super().step()
                if self._offset >= head:
                    break
        finally:
            self._catching_up = False
        return events

    def _hear(self) -> bool:
        """Tell every target what is new to it; returns whether all that is held was dealt with."""
        mine = set(self._source.assigned())
        shard = self._targets[0].position.shard
        heard = {
            lane: read_lane(records, shard=shard, epoch=self._epoch, on_stranger=self._on_stranger)
            for lane, records in self._held.items()
            if lane in mine
        }
        self._note_last(heard, shard)
        whole, moved, trouble = True, None, None
        for target in self._running:
            try:
                left = self._tell(target, heard)
            except CheckpointLost as error:
                moved = error
            except DAMAGED as error:
                self._halt(target, error)
            else:
                whole = whole and all(each.whole for each in left)
                trouble = trouble or next((each.trouble for each in left if each.trouble is not None), None)
        self._require_running()
        if trouble is not None:
            raise trouble
        if moved is not None:
            raise Busy(str(moved)) from moved
        self._handled += sum(map(len, heard.values()))
        return whole

    def _tell(self, target: Target, heard: Mapping[Lane, Sequence[Heard]]) -> Collection[Sifted]:
        """Returns what remains of each lane that is not whole."""
        lanes = [lane for lane in target.progress.lanes if lane in heard]
        left: list[Sifted] = []
        for _ in range(ROUNDS_MAX):
            sifted = {lane: sift(target.progress.of(lane), heard[lane], self._filling(lane)) for lane in lanes}
            moves = {lane: each.progress for lane, each in sifted.items() if each.progress > target.progress.of(lane)}
            if moves:
                events = [event for each in sifted.values() for event in each.events]
                target.apply_lanes(sorted(events, key=lambda event: event.offset), moves)
            left = [each for each in sifted.values() if not each.whole]
            if not left or not moves:
                break
        return left

    def _filling(self, lane: Lane) -> Callable[[Hole], Filled]:
        def fill(hole: Hole) -> Filled:
            return fill_from(self._log, hole, lambda event: self._lane_of(event.stream) == lane, FILL_EVENTS_MAX)

        return fill

    def _lane_of(self, stream: str) -> Lane:
        return lane_of(parse_stream(stream).kind, stream, self._source.partitions)

    def _note_last(self, heard: Mapping[Lane, Sequence[Heard]], shard: int) -> None:
        events = [each.event for records in heard.values() for each in records if each.event is not None]
        if events:
            self._note(shard, max(events, key=lambda event: event.offset))

    def _replay_parked(self) -> None:
        if self._catching_up:
            return  # Whoever has the stream's lane does it.
        mine = set(self._source.assigned())
        for target in self._running:
            target.replay_parked(self._feed, lambda stream: self._lane_of(stream) in mine)

    def _rest(self, events: int, stop: Signal) -> None:
        if 0 < events < self._limits.batch_events_max and self._limits.linger_seconds and not self._held:
            stop.wait(self._limits.linger_seconds)


class _CountedLog:
    """The store's log, its batches counted against what the store itself says that it has."""

    def __init__(self, name: str, feed: Feed, coordination: Coordination) -> None:
        self._name = name
        self._feed = feed
        self._coordination = coordination

    def read(self, after: int, limit: int) -> Sequence[Recorded]:
        events = self._feed.read(after, limit)
        if events and (counted := self._coordination.count(after, events[-1].offset)) != len(events):
            raise EventsSkipped(self._name, after, events[-1].offset, len(events), counted)
        upto = events[-1].offset if events else after
        _log.info("missed_over_kafka_read_from_the_log", follower=self._name, after=after, upto=upto)
        return events
