"""Whatever Kafka drops, repeats, forgets or hands over again: each event of a lane takes effect once, in order."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.envelope import Recorded
from infra.kafka.lanes import AheadOfLog, Filled, Heard, Hole, Lane, Progress, fill_from, sift
from tests.unit.projections.stories import Story, about, claimed

LANES = tuple(Lane("coupon-event-topic", partition) for partition in range(3))
FILL_MAX = 4


def log_of(events: int) -> list[Recorded]:
    """Events of many streams, their offsets with gaps, as a store's are."""
    story = Story()
    for nth in range(1, events + 1):
        story.tell("coupon", f"c{nth}", claimed(f"c{nth}", about(), nth))
    return [Recorded(each.offset * 3, each.stream, each.version, each.event, each.metadata) for each in story.log]


LOG = log_of(40)


class InMemoryLog:
    """A log that remembers how it was asked."""

    def __init__(self, events: Sequence[Recorded]) -> None:
        self.events = events

    def read(self, after: int, limit: int) -> Sequence[Recorded]:
        return [each for each in self.events if each.offset > after][:limit]


class Day(NamedTuple):
    """What the relay published to each lane, and how Kafka handed it over: batches of (lane, index) with faults."""

    placed: dict[int, Lane]  # By offset.
    published: dict[Lane, list[Heard]]
    batches: list[list[tuple[Lane, list[Heard]]]]
    bases: dict[Lane, int]
    crashes: frozenset[int]  # Batches whose effect was stored, and the progress not.


@st.composite
def days(draw: st.DrawFn) -> Day:
    """Random placement, watermarks, losses, repeats, sizes, interleavings and crashes."""
    placed = {each.offset: draw(st.sampled_from(LANES)) for each in LOG}
    published: dict[Lane, list[Heard]] = {lane: [] for lane in LANES}
    last = dict.fromkeys(LANES, 0)
    for recorded in LOG:
        lane = placed[recorded.offset]
        published[lane].append(Heard(recorded.offset, last[lane], recorded))
        last[lane] = recorded.offset
        if draw(st.integers(0, 9)) == 0:
            for each in LANES:
                published[each].append(Heard(recorded.offset, last[each]))
    handed = {lane: draw(faulty(records)) for lane, records in published.items()}
    end = LOG[-1].offset
    for lane in LANES:  # The last word of every lane arrives, sooner or later.
        handed[lane].append(Heard(end, last[lane]))
    bases = {lane: draw(st.integers(0, end)) for lane in LANES}
    batches = draw(interleaved(handed))
    crashes = draw(st.frozensets(st.integers(0, len(batches)), max_size=5))
    return Day(placed, published, batches, bases, crashes)


@st.composite
def faulty(draw: st.DrawFn, records: list[Heard]) -> list[Heard]:
    """Some records lost for good, and slices handed over a second time, from where they first lay."""
    kept = [each for each in records if draw(st.integers(0, 3)) > 0]
    for _ in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, len(kept)))
        upto = draw(st.integers(first, len(kept)))
        kept[upto:upto] = kept[first:upto]
    return kept


@st.composite
def interleaved(draw: st.DrawFn, handed: dict[Lane, list[Heard]]) -> list[list[tuple[Lane, list[Heard]]]]:
    """Lanes advance at their own pace; each keeps its order."""
    left = {lane: list(records) for lane, records in handed.items()}
    batches = []
    while any(left.values()):
        batch = []
        for lane in draw(st.permutations(LANES)):
            size = draw(st.integers(0, 12))
            if left[lane][:size]:
                batch.append((lane, left[lane][:size]))
                del left[lane][:size]
        if batch:
            batches.append(batch)
        elif not any(draw(st.integers(0, 1)) for _ in LANES):
            batches.append([(lane, records) for lane, records in left.items() if records])
            left = {}
    return batches


class Follower:
    """Stores effects by (lane, event) and progress beside them, as real ones do."""

    def __init__(self, day: Day) -> None:
        self.day = day
        self.base = min(day.bases.values())
        self.progress = Progress(LANES, self.base, day.bases)
        self.applied: dict[Lane, list[int]] = {
            lane: [offset for offset, at in day.placed.items() if at == lane and offset <= self.progress.of(lane)]
            for lane in LANES
        }
        self.log = InMemoryLog(LOG)

    def take(self, lane: Lane, records: list[Heard], *, crash: bool) -> None:
        """Until the records are dealt with; a crash loses the progress of the last store, not its effect."""
        for _ in range(len(LOG) + 1):
            sifted = sift(self.progress.of(lane), records, lambda hole: self.fill(lane, hole))
            new = [each.offset for each in sifted.events if each.offset not in self.applied[lane]]
            if not crash:
                assert new == [each.offset for each in sifted.events], "nothing is handed out twice"
            self.applied[lane] += new
            if crash:
                return
            self.progress = self.progress.after({lane: sifted.progress})
            self.check()
            if sifted.whole:
                return
        raise AssertionError("never whole")

    def fill(self, lane: Lane, hole: Hole) -> Filled:
        return fill_from(self.log, hole, lambda each: self.day.placed[each.offset] == lane, FILL_MAX)

    def check(self) -> None:
        """What progress promises has happened, and in order."""
        for lane in LANES:
            due = [offset for offset, at in self.day.placed.items() if at == lane and offset <= self.progress.of(lane)]
            assert self.applied[lane][: len(due)] == due
        assert self.progress.overall() == min(self.progress.of(lane) for lane in LANES)


@given(days())
def test_each_event_takes_effect_once_in_order_whatever_is_lost_or_repeated(day: Day) -> None:
    follower = Follower(day)
    for nth, batch in enumerate(day.batches):
        for lane, records in batch:
            crash = nth in day.crashes
            if crash:
                stored = follower.progress
                follower.take(lane, records, crash=True)
                follower.progress = stored
                _forget_what_was_told_twice(follower, lane)
            follower.take(lane, records, crash=False)
    assert follower.progress.overall() == LOG[-1].offset
    for lane in LANES:
        assert follower.applied[lane] == [offset for offset, at in day.placed.items() if at == lane]


def _forget_what_was_told_twice(follower: Follower, lane: Lane) -> None:
    """The effect of a crashed batch is found by the event's own version; here it is taken back, which is the same."""
    progress = follower.progress.of(lane)
    follower.applied[lane] = [offset for offset in follower.applied[lane] if offset <= progress]


def no_hole(hole: Hole) -> Filled:
    raise AssertionError(f"nothing was missed, {hole} was asked for")


def test_what_was_heard_is_skipped_what_is_next_is_taken_and_a_hole_is_read_from_the_log() -> None:
    first, second, third, fourth = LOG[:4]
    records = [
        Heard(first.offset, 0, first),
        Heard(second.offset, first.offset, second),
        Heard(fourth.offset, third.offset, fourth),
    ]
    asked: list[Hole] = []

    def fill(hole: Hole) -> Filled:
        asked.append(hole)
        return Filled([third], hole.upto)

    sifted = sift(first.offset, records, fill)
    assert sifted.events == [second, third, fourth]
    assert (sifted.progress, sifted.whole) == (fourth.offset, True)
    assert asked == [Hole(second.offset, third.offset)]


def test_a_watermark_moves_on_and_shows_what_is_missing_before_it() -> None:
    sifted = sift(0, [Heard(50, 0)], no_hole)
    assert (sifted.events, sifted.progress) == ([], 50)
    sifted = sift(0, [Heard(50, LOG[0].offset)], lambda hole: Filled([LOG[0]], hole.upto))
    assert (sifted.events, sifted.progress) == ([LOG[0]], 50)


def test_a_record_that_cannot_be_read_stops_its_lane_right_before_it_unless_it_was_heard_before() -> None:
    trouble = ValueError("unknown")
    records = [
        Heard(LOG[0].offset, 0, LOG[0]),
        Heard(LOG[1].offset, LOG[0].offset, trouble=trouble),
        Heard(LOG[2].offset, LOG[1].offset, LOG[2]),
    ]
    sifted = sift(0, records, no_hole)
    assert (sifted.events, sifted.progress, sifted.whole) == ([LOG[0]], LOG[0].offset, False)
    assert sifted.trouble is trouble
    assert sift(LOG[1].offset, records, no_hole).events == [LOG[2]]


def test_a_hole_is_read_in_bounded_steps_that_each_end_where_the_next_begins() -> None:
    log = InMemoryLog(LOG)
    found: list[Recorded] = []
    after, steps = 0, 0
    while after < LOG[9].offset:
        filled = fill_from(log, Hole(after, LOG[9].offset), lambda each: each.offset % 2 == 1, 4)
        found += filled.events
        after, steps = filled.upto, steps + 1
    assert steps == 3
    assert found == [each for each in LOG[:10] if each.offset % 2 == 1]


def test_kafka_that_knows_more_than_the_log_is_named() -> None:
    with pytest.raises(AheadOfLog, match=r"events up to offset 999, but the log has none after 120: .*restored"):
        fill_from(InMemoryLog(LOG), Hole(120, 999), lambda _: True, 10)


def test_a_lane_without_progress_of_its_own_begins_at_the_base_and_none_goes_back() -> None:
    first, second, third = LANES
    progress = Progress(LANES, 10, {first: 30, second: 5})
    assert [progress.of(lane) for lane in LANES] == [30, 10, 10]
    moved = progress.after({second: 20, third: 40})
    assert moved.overall() == 20
    assert progress.overall() == 10
    with pytest.raises(ValueError, match="forwards"):
        moved.after({second: 19})
    with pytest.raises(ValueError, match="not one of"):
        moved.after({Lane("budget-event-topic", 0): 50})
