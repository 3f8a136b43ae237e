"""The ear on Kafka: several processes share the lanes of a log, and hear from the store what Kafka withholds.

A lane's position moves by compare-and-set in the transaction that stores what was heard. So a process that lost a lane
while it was stopped, or does not know it yet, changes nothing: it reads again where the lane is, and goes on there.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from command.ports import StreamConflict
from contracts.envelope import Recorded
from contracts.identity import parse_stream
from contracts.topics import CHECKOUT_EVENTS, COUPON_EVENTS, RECORDED_EVENTS, TEMPLATE_EVENTS
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
    lanes_of,
    read_lane,
    sift,
)
from infra.kafka.messages import Record
from infra.postgres.positions import LANE_MARK
from infra.sagas.checkpoints import At
from infra.sagas.ear import Ear
from infra.sagas.hearing import streams_of
from infra.sagas.ports import FOLLOWER, FactFeed, LaneSource, Move, SagaStore

logger = logging.getLogger(__name__)

# Whatever a saga, a timer or a clock depends on is published to one of these.
TOPICS: Final = (COUPON_EVENTS, TEMPLATE_EVENTS, CHECKOUT_EVENTS, RECORDED_EVENTS)
FILL_EVENTS_MAX: Final = 5_000  # Read from the log at once.
TRIES_MAX: Final = 5  # In a row, when another process wrote to the same sagas: each time one of both got on.
POLL_SECONDS_MIN: Final = 0.1  # Kafka answers as soon as there is something.


class FactsSkipped(Exception):
    """The log holds more (or fewer) events than were read to fill a hole: an ear that went on would miss some."""

    def __init__(self, after: int, upto: int, read: int, counted: int) -> None:
        super().__init__(
            f"the sagas read {read} events after offset {after} up to {upto}, but the log has {counted} there: nothing "
            f"of it was heard. Run `tessera verify`; a worker that is started again reads anew"
        )


class LaneRunner(Ear):
    """Hears the lanes that are this process's; others hear the rest."""

    def __init__(
        self, source: LaneSource, shard: int, *ear: Any, on_stranger: Stranger = ignore_strangers, **more: Any
    ) -> None:
        """``ear`` and ``more``: as every ear is made. The source is closed with it."""
        super().__init__(*ear, **more)
        self._on_stranger = on_stranger
        self._source = source
        self._shard = shard
        self._lanes = lanes_of(TOPICS, source.partitions)
        self._log = RecentLog(_CountedLog(self._feed, self._store))
        self._held: Mapping[Lane, Sequence[Record]] = {}  # Polled, and not yet in effect.
        self._mine: frozenset[Lane] = frozenset()
        self._at: dict[Lane, int] = {}  # Empty: to be read; so are the parked streams.
        self._heard = 0

    @property
    def offset(self) -> int:
        """Up to where all lanes were heard, by whomever; 0 before the first look."""
        return self._heard

    def close(self) -> None:
        """Leave the group, and give the store's connection back."""
        self._source.close()
        super().close()

    def _run_once(self) -> int:
        """What raises is tried again with the same records: Kafka hears that they are done only when they are."""
        if not self._held:
            self._held = self._source.poll(self._settings.facts_max, max(self._settings.poll_seconds, POLL_SECONDS_MIN))
        self._start()
        heard = self._retry_requeued()
        if not self._held:
            return heard
        self._checkpoint(At.FACTS_READ)
        whole = self._tell()
        records = sum(map(len, self._held.values()))
        if whole:
            # First, for it raises after a restore: what is held may be of the new epoch, and was taken for another's.
            self._heard = self._store.raise_to_lanes([name_of(lane) for lane in self._lanes])
            self._held = {}
            self._log.forget()
            self._source.done()
        return heard + records

    def _start(self) -> None:
        """Look where the lanes are: at first, after a failure, and whenever lanes went from process to process."""
        mine = frozenset(self._source.assigned())
        if self._at and mine == self._mine:
            return
        places = self._store.lanes([name_of(lane) for lane in self._lanes])
        self._mine, self._parked = mine, places.parked
        self._at = {lane: places.offsets[name_of(lane)] for lane in self._lanes}

    def _forget(self) -> None:
        super()._forget()
        self._at = {}
        self._log.forget()

    def _here(self, stream: str) -> Move | None:
        lane = self._lane_of(stream)
        if lane not in self._mine:
            return None  # Whoever has the stream's lane does it.
        return Move(name_of(lane), self._at[lane], self._at[lane])

    def _tell(self) -> bool:
        """Hear what is new of what is held; says whether all of it was dealt with."""
        told = {
            lane: read_lane(records, shard=self._shard, epoch=self._store.epoch, on_stranger=self._on_stranger)
            for lane, records in self._held.items()
            if lane in self._mine
        }
        sifted = {lane: self._sift(lane, records) for lane, records in told.items()}
        moves = [
            Move(name_of(lane), self._at[lane], each.progress)
            for lane, each in sorted(sifted.items(), key=lambda item: name_of(item[0]))
            if each.progress > self._at[lane]
        ]
        if moves:
            events = [event for each in sifted.values() for event in each.events]
            self._hear_and_keep(sorted(events, key=lambda event: event.offset), moves)
            self._at |= {lane: each.progress for lane, each in sifted.items()}
            self._checkpoint(At.MEMORY_COMMITTED)
        trouble = next((each.trouble for each in sifted.values() if each.trouble is not None), None)
        if trouble is not None:
            raise trouble
        return all(each.whole for each in sifted.values())

    def _hear_and_keep(self, facts: Sequence[Recorded], moves: Sequence[Move]) -> None:
        """Facts of one saga come over several lanes: when two processes hear some at once, the later reads again."""
        for tries_left in reversed(range(TRIES_MAX)):
            hearing = self._hear(facts, self._parked)
            self._checkpoint(At.FACTS_DECIDED)
            try:
                return self._keep(hearing, moves)
            except StreamConflict:
                if not tries_left:
                    raise
                for stream in streams_of(facts):
                    self._memories.pop(stream, None)
        return None

    def _sift(self, lane: Lane, records: Collection[Heard]) -> Sifted:
        def fill(hole: Hole) -> Filled:
            logger.info("missed_over_kafka_read_from_the_log", extra={"lane": lane.key, **hole._asdict()})
            return fill_from(self._log, hole, lambda event: self._lane_of(event.stream) == lane, FILL_EVENTS_MAX)

        return sift(self._at[lane], records, fill)

    def _lane_of(self, stream: str) -> Lane:
        return lane_of(parse_stream(stream).kind, stream, self._source.partitions)


class _CountedLog:
    """The log, what is read of it counted against what the store itself says that it has."""

    def __init__(self, feed: FactFeed, store: SagaStore) -> None:
        self._feed = feed
        self._store = store

    def read(self, after: int, limit: int) -> Sequence[Recorded]:
        events = self._feed.read(after, limit)
        if events and (counted := self._store.count(after, events[-1].offset)) != len(events):
            raise FactsSkipped(after, events[-1].offset, len(events), counted)
        return events


def name_of(lane: Lane) -> str:
    """Under what the ear's position in a lane is stored: ``sagas@coupon-event-topic/3``."""
    return f"{FOLLOWER}{LANE_MARK}{lane.key}"
