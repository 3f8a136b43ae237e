"""What every event log promises, told once: each implementation runs this class against itself."""

import select
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from command.ports import (
    Batch,
    CommandKey,
    EventLog,
    HeadMoved,
    LoggedAnswer,
    NewEvent,
    Seen,
    Snapshot,
    StoreUnavailable,
    StreamConflict,
    Wanted,
)
from contracts.envelope import Metadata, Recorded
from contracts.events import ClockAdvanced
from contracts.identity import Realm, stream_id

ACME = Realm("acme", "shop")
CLOCK = stream_id(ACME, "clock", "main")
OTHER = stream_id(ACME, "clock", "other")
NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def at(
    version: int, *, stream: str = CLOCK, occurred_at: datetime = NOON, recorded_at: datetime = NOON, **more: str
) -> NewEvent:
    """An event whose payload and id tell its place."""
    about = Metadata(f"{stream}@{version}", occurred_at, recorded_at, "key:test", f"cmd-{version}", "corr-1", **more)
    return NewEvent(stream, version, ClockAdvanced(to=NOON + timedelta(minutes=version)), about)


def accepted(command_id: str, realm: Realm = ACME) -> LoggedAnswer:
    """The answer to a command that took effect."""
    data = {"to": ["noon", 1], "deep": {"a": None}}
    return LoggedAnswer(CommandKey(realm, command_id), "clock.advance.v1", "hash-1", "accepted", "ok", "", data)


def refused(command_id: str) -> LoggedAnswer:
    """The answer to a command that did not."""
    key = CommandKey(ACME, command_id)
    return LoggedAnswer(key, "clock.advance.v1", "hash-1", "refused", "not_found", "no such clock", {})


def store(log: EventLog, *events: NewEvent) -> list[int]:
    """Append events in a transaction of their own."""
    with log.appending() as tx:
        return list(tx.append(Batch(events=list(events))))


def everything(log: EventLog) -> list[Recorded]:
    """The whole log."""
    with log.reading() as view:
        return list(view.events_after(0, 1_000))


def recorded(offsets: Sequence[int], *events: NewEvent) -> list[Recorded]:
    """How these events look once they are stored there."""
    return [
        Recorded(offset, new.stream, new.version, new.event, new.metadata)
        for offset, new in zip(offsets, events, strict=True)
    ]


def append_after(log: EventLog, head: int, batch: Batch) -> Sequence[int]:
    """Send a batch and wait until it is stored."""
    append = log.prepared(batch)
    append.send_after(head)
    return append.offsets()


class EventLogContract:
    """Subclasses provide the fixture ``log``: an empty log of shard 0 with a lock time-out of about a second."""

    def test_an_empty_log_stands_at_offset_zero_and_knows_nothing(self, log: EventLog) -> None:
        with log.reading() as view:
            assert view.last_offset == 0
            assert list(view.events_after(0, 10)) == []
            assert view.histories([CLOCK]) == {}
            assert view.answers([CommandKey(ACME, "c1")]) == {}
            assert view.counts(["k"]) == {}

    def test_asking_for_nothing_finds_nothing(self, log: EventLog) -> None:
        store(log, at(1))
        with log.reading() as view:
            assert (view.histories([]), view.answers([]), view.counts([])) == ({}, {}, {})

    def test_what_was_appended_comes_back_as_it_was(self, log: EventLog) -> None:
        plain, traced = at(1), at(2, causation_id="fact-9", traceparent="00-4bf92f3577b34da6-00f067aa0ba902b7-01")
        offsets = store(log, plain, traced)
        assert everything(log) == recorded(offsets, plain, traced)

    def test_offsets_rise_in_the_order_of_the_batch_and_from_batch_to_batch(self, log: EventLog) -> None:
        first = store(log, at(1), at(1, stream=OTHER), at(2))
        second = store(log, at(2, stream=OTHER))
        assert first + second == sorted(set(first + second))
        assert [(event.stream, event.version) for event in everything(log)] == [
            (CLOCK, 1), (OTHER, 1), (CLOCK, 2), (OTHER, 2),
        ]  # fmt: skip

    def test_the_log_after_an_offset_comes_in_order_and_no_more_than_asked_for(self, log: EventLog) -> None:
        offsets = store(log, *(at(version) for version in range(1, 6)))
        with log.reading() as view:
            assert [event.offset for event in view.events_after(offsets[1], 2)] == offsets[2:4]
            assert list(view.events_after(offsets[-1], 10)) == []
            assert view.last_offset == offsets[-1]

    def test_the_log_of_some_streams_leaves_out_the_others(self, log: EventLog) -> None:
        offsets = store(log, at(1), at(1, stream=OTHER), at(2), at(3))
        with log.reading() as view:
            found = view.events_after(offsets[0], 2, lambda stream: stream == CLOCK)
        assert [(event.stream, event.version) for event in found] == [(CLOCK, 2)]

    def test_names_that_need_escaping_come_back_and_do_not_meet(self, log: EventLog) -> None:
        one, two = (
            stream_id(Realm(*realm), "clock", "a/b%2F{c}") for realm in [("acme", "shop:1"), ("acme:shop", "1")]
        )
        store(log, at(1, stream=one), at(1, stream=two))
        assert [event.name.key for event in everything(log)] == ["a/b%2F{c}", "a/b%2F{c}"]
        assert [event.realm for event in everything(log)] == [Realm("acme", "shop:1"), Realm("acme:shop", "1")]

    def test_a_version_that_is_taken_is_refused_and_nothing_of_its_batch_is_stored(self, log: EventLog) -> None:
        store(log, at(1))
        batch = Batch(
            events=[at(1, stream=OTHER), at(1)],
            answers=[accepted("c1")],
            answer_events=[1],
            counts={"k": 7},
            snapshots=[Snapshot(OTHER, 1, "h1", b"{}")],
        )
        with pytest.raises(StreamConflict), log.appending() as tx:
            tx.append(batch)
        with log.reading() as view:
            assert set(view.histories([CLOCK, OTHER], schema_hashes={"clock": "h1"})) == {CLOCK}
            assert view.answers([CommandKey(ACME, "c1")]) == {}
            assert view.counts(["k"]) == {}

    @pytest.mark.parametrize("versions", [(3,), (2, 4), (2, 2), (3, 2)])
    def test_a_stream_gets_no_gap_and_no_version_out_of_turn(self, log: EventLog, versions: tuple[int, ...]) -> None:
        store(log, at(1))
        with pytest.raises(StreamConflict), log.appending() as tx:
            tx.append(Batch(events=[at(version) for version in versions]))
        assert [event.version for event in everything(log)] == [1]

    def test_a_new_stream_begins_with_version_one(self, log: EventLog) -> None:
        with pytest.raises(StreamConflict), log.appending() as tx:
            tx.append(Batch(events=[at(2)]))
        assert everything(log) == []

    def test_the_log_goes_on_after_a_conflict(self, log: EventLog) -> None:
        store(log, at(1))
        with pytest.raises(StreamConflict):
            store(log, at(1))
        store(log, at(2))
        assert [event.version for event in everything(log)] == [1, 2]

    def test_a_block_that_raises_stores_nothing_and_its_error_comes_through(self, log: EventLog) -> None:
        def append_and_fail() -> None:
            with log.appending() as tx:
                tx.append(Batch(events=[at(1)], counts={"k": 1}))
                raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            append_and_fail()
        assert everything(log) == []
        store(log, at(1))

    def test_what_is_not_committed_is_seen_by_its_own_transaction_only(self, log: EventLog) -> None:
        with log.appending() as tx:
            (offset,) = tx.append(Batch(events=[at(1)], answers=[accepted("c1")], answer_events=[0], counts={"k": 1}))
            assert everything(log) == []
            assert tx.last_offset == offset
            assert list(tx.events_after(0, 10)) == recorded([offset], at(1))
            assert CLOCK in tx.histories([CLOCK])
            assert tx.counts(["k"]) == {"k": 1}
            assert tx.answers([CommandKey(ACME, "c1")])[CommandKey(ACME, "c1")].offset == offset
        assert everything(log) == recorded([offset], at(1))

    def test_one_transaction_may_append_twice(self, log: EventLog) -> None:
        with log.appending() as tx:
            (first,) = tx.append(Batch(events=[at(1)]))
            (second,) = tx.append(Batch(events=[at(2)]))
        assert everything(log) == recorded([first, second], at(1), at(2))

    def test_a_reader_keeps_the_instant_it_began_with(self, log: EventLog) -> None:
        (first,) = store(log, at(1))
        with log.reading() as view:
            store(log, at(2))
            assert view.last_offset == first
            assert [event.version for event in view.events_after(0, 10)] == [1]
            assert len(view.histories([CLOCK])[CLOCK].events) == 1

    def test_an_answer_is_found_under_its_key_with_the_offset_of_its_effect(self, log: EventLog) -> None:
        keys = [CommandKey(ACME, command_id) for command_id in ("c1", "c2", "never")]
        batch = Batch(events=[at(1), at(2), at(3)], answers=[accepted("c1"), accepted("c2")], answer_events=[0, 2])
        with log.appending() as tx:
            offsets = tx.append(batch)
        with log.reading() as view:
            found = view.answers(keys)
        assert set(found) == set(keys[:2])
        assert (found[keys[0]].offset, found[keys[1]].offset) == (offsets[0], offsets[2])
        assert found[keys[0]].data == {"to": ["noon", 1], "deep": {"a": None}}
        assert (found[keys[0]].command_type, found[keys[0]].content_hash) == ("clock.advance.v1", "hash-1")

    def test_a_refusal_is_logged_with_the_offset_where_the_log_then_stands(self, log: EventLog) -> None:
        key, late = CommandKey(ACME, "c2"), CommandKey(ACME, "c3")
        with log.appending() as tx:
            offsets = tx.append(
                Batch(events=[at(1), at(2)], answers=[accepted("c1"), refused("c2")], answer_events=[0, -1])
            )
        with log.appending() as tx:
            tx.append(Batch(answers=[refused("c3")], answer_events=[-1]))
        with log.reading() as view:
            found = view.answers([key, late])
        assert (found[key].status, found[key].code, found[key].detail) == ("refused", "not_found", "no such clock")
        assert (found[key].offset, found[late].offset) == (offsets[-1], offsets[-1])

    def test_a_command_id_belongs_to_its_realm(self, log: EventLog) -> None:
        realms = [Realm("acme", "shop:1"), Realm("acme:shop", "1")]
        with log.appending() as tx:
            tx.append(Batch(answers=[accepted("same", realm) for realm in realms], answer_events=[-1, -1]))
        with log.reading() as view:
            assert set(view.answers([CommandKey(realm, "same") for realm in [*realms, ACME]])) == {
                CommandKey(realm, "same") for realm in realms
            }

    def test_a_command_is_answered_once(self, log: EventLog) -> None:
        with log.appending() as tx:
            tx.append(Batch(answers=[accepted("c1")], answer_events=[-1]))
        with pytest.raises(StreamConflict), log.appending() as tx:
            tx.append(Batch(events=[at(1)], answers=[refused("c1")], answer_events=[0]))
        assert everything(log) == []

    def test_guard_counters_hold_the_last_value_given(self, log: EventLog) -> None:
        for value in (1, 5, 3):
            with log.appending() as tx:
                tx.append(Batch(counts={"claims:t1:u/1": value, f"only:{value}": value}, new_counts={f"only:{value}"}))
        with log.reading() as view:
            assert view.counts(["claims:t1:u/1", "only:1", "only:2"]) == {"claims:t1:u/1": 3, "only:1": 1}

    def test_a_counter_that_was_taken_for_new_and_is_not_refuses_its_batch(self, log: EventLog) -> None:
        with log.appending() as tx:
            tx.append(Batch(counts={"k": 1}, new_counts={"k"}))
        with pytest.raises(StreamConflict), log.appending() as tx:
            tx.append(Batch(events=[at(1)], counts={"k": 1, "l": 1}, new_counts={"k", "l"}))
        with log.reading() as view:
            assert view.counts(["k", "l"]) == {"k": 1}
        assert everything(log) == []

    def test_a_history_begins_at_its_snapshot_when_the_schema_is_todays(self, log: EventLog) -> None:
        store(log, at(1), at(2), at(1, stream=OTHER))
        snapshot = Snapshot(CLOCK, 2, "h1", b'{"to": "noon"}')
        with log.appending() as tx:
            tx.append(Batch(events=[at(3)], snapshots=[snapshot]))
        with log.reading() as view:
            today = view.histories([CLOCK, OTHER], schema_hashes={"clock": "h1"})
            other_schema = view.histories([CLOCK], schema_hashes={"clock": "h2"})
            other_kind = view.histories([CLOCK], schema_hashes={"coupon": "h1"})
            not_wanted = view.histories([CLOCK])
        assert (today[CLOCK].snapshot, [event.version for event in today[CLOCK].events]) == (snapshot, [3])
        assert (today[OTHER].snapshot, [event.version for event in today[OTHER].events]) == (None, [1])
        for histories in (other_schema, other_kind, not_wanted):
            history = histories[CLOCK]
            assert (history.snapshot, [event.version for event in history.events]) == (None, [1, 2, 3])

    def test_a_snapshot_of_the_last_version_is_all_of_its_history(self, log: EventLog) -> None:
        with log.appending() as tx:
            tx.append(Batch(events=[at(1)], snapshots=[Snapshot(CLOCK, 1, "h1", b"\x00\xff")]))
        with log.reading() as view:
            history = view.histories([CLOCK], schema_hashes={"clock": "h1"})[CLOCK]
        assert (history.snapshot, list(history.events)) == (Snapshot(CLOCK, 1, "h1", b"\x00\xff"), [])

    def test_a_newer_snapshot_takes_the_place_of_the_older(self, log: EventLog) -> None:
        newest = Snapshot(CLOCK, 2, "h2", b"2")
        with log.appending() as tx:
            tx.append(Batch(events=[at(1)], snapshots=[Snapshot(CLOCK, 1, "h1", b"1")]))
        for snapshot in (Snapshot(CLOCK, 2, "h1", b"1"), newest):  # The same version, read by a newer binary.
            with log.appending() as tx:
                tx.append(Batch(events=[] if snapshot is newest else [at(2)], snapshots=[snapshot]))
        with log.reading() as view:
            assert view.histories([CLOCK], schema_hashes={"clock": "h2"})[CLOCK].snapshot == newest
            assert view.histories([CLOCK], schema_hashes={"clock": "h1"})[CLOCK].snapshot is None

    def test_a_history_until_an_instant_has_what_had_occurred_by_then_and_no_snapshot(self, log: EventLog) -> None:
        hour = timedelta(hours=1)
        events = [at(1, occurred_at=NOON), at(2, occurred_at=NOON + hour), at(1, stream=OTHER, occurred_at=NOON + hour)]
        with log.appending() as tx:
            tx.append(Batch(events=events, snapshots=[Snapshot(CLOCK, 2, "h1", b"{}")]))
        with log.reading() as view:
            then = view.histories([CLOCK, OTHER], schema_hashes={"clock": "h1"}, until=NOON)
        assert set(then) == {CLOCK}
        assert (then[CLOCK].snapshot, [event.version for event in then[CLOCK].events]) == (None, [1])

    def test_several_looks_share_one_round_trip_and_bring_what_each_would_have(self, log: EventLog) -> None:
        with log.appending() as tx:
            tx.append(
                Batch(
                    events=[at(1), at(2)],
                    answers=[accepted("c1")],
                    answer_events=[1],
                    counts={"k": 3, "none left": 0},
                    snapshots=[Snapshot(CLOCK, 1, "h1", b"{}")],
                )
            )
        keys = [CommandKey(ACME, "c1"), CommandKey(ACME, "never")]
        wanted = Wanted([CLOCK, OTHER], {"clock": "h1"}, keys, ["other", "none left", "k"])
        with log.reading() as view:
            seen = view.look(wanted)
            assert seen.histories == view.histories([CLOCK, OTHER], schema_hashes={"clock": "h1"})
            assert (seen.answers, seen.counts) == (view.answers(keys), {"k": 3, "none left": 0})
        assert log.glancing().look(wanted) == seen
        assert log.glancing().look(wanted._replace(streams=())) == seen._replace(histories={})
        assert log.glancing().look(wanted._replace(streams=(), answers=keys[1:])).answers == {}
        assert log.glancing().look(Wanted()) == Seen({}, {}, {})

    def test_of_a_stream_that_is_known_a_look_brings_what_came_after(self, log: EventLog) -> None:
        store(log, at(1), at(2), at(3), at(1, stream=OTHER))
        with log.appending() as tx:
            tx.append(Batch(events=[at(4)], snapshots=[Snapshot(CLOCK, 3, "h1", b"{}")]))

        def brought(known: dict[str, int], hashes: dict[str, str]) -> dict[str, tuple[int | None, list[int]]]:
            histories = log.glancing().look(Wanted([CLOCK, OTHER], hashes, known=known)).histories
            return {
                stream: (each.snapshot.version if each.snapshot else None, [event.version for event in each.events])
                for stream, each in histories.items()
            }

        other = {OTHER: (None, [1])}
        assert brought({}, {}) == {CLOCK: (None, [1, 2, 3, 4])} | other
        assert brought({CLOCK: 1}, {}) == {CLOCK: (None, [2, 3, 4])} | other
        assert brought({CLOCK: 1, OTHER: 0}, {"clock": "h1"}) == {CLOCK: (3, [4])} | other  # The shorter way.
        assert brought({CLOCK: 3}, {"clock": "h1"}) == {CLOCK: (None, [4])} | other
        assert brought({CLOCK: 4, OTHER: 1}, {"clock": "h1"}) == {}

    def test_a_look_that_nobody_waited_for_does_not_answer_the_next_one(self, log: EventLog) -> None:
        with log.appending() as tx:
            tx.append(Batch(counts={"k": 3, "other": 4}))
        left = log.glancing().send(Wanted(counts=["k"]))
        look = log.glancing().send(Wanted(counts=["other", "k"]))
        assert left is not look
        assert look.seen().counts == {"k": 3, "other": 4}
        assert log.glancing().look(Wanted(counts=["other"])).counts == {"other": 4}

    @pytest.mark.parametrize("wanted", [Wanted(counts=["k"]), Wanted([CLOCK], counts=["k"])])
    def test_there_is_news_of_a_look_once_its_file_can_be_read_from(self, log: EventLog, wanted: Wanted) -> None:
        look = log.glancing().send(wanted)
        if (file := look.fileno()) is not None:
            assert select.select([file], [], [], 10)[0] == [file]
        assert look.seen() == Seen({}, {}, {})

    def test_a_glance_sees_what_is_stored_at_each_look(self, log: EventLog) -> None:
        glance = log.glancing()
        assert glance.look(Wanted([CLOCK])).histories == {}
        (offset,) = store(log, at(1))
        assert CLOCK in glance.look(Wanted([CLOCK])).histories
        assert glance.last_offset == offset

    def test_a_glance_knows_the_time_and_the_end_of_the_log_without_being_asked_for_more(self, log: EventLog) -> None:
        (offset,) = store(log, at(1, recorded_at=NOON + timedelta(days=100_000)))
        assert log.glancing().last_offset == offset
        assert log.glancing().store_now == NOON + timedelta(days=100_000)

    def test_a_batch_is_stored_after_the_offset_that_it_was_decided_on(self, log: EventLog) -> None:
        batch = Batch(events=[at(1), at(2)], answers=[accepted("c1")], answer_events=[0], counts={"k": 1})
        first, second = append_after(log, 0, batch)
        (third,) = append_after(log, second, Batch(events=[at(3)]))
        assert everything(log) == recorded([first, second, third], at(1), at(2), at(3))
        with log.reading() as view:
            assert view.answers([CommandKey(ACME, "c1")])[CommandKey(ACME, "c1")].offset == first
            assert view.counts(["k"]) == {"k": 1}

    def test_a_batch_without_events_is_stored_after_its_offset_too(self, log: EventLog) -> None:
        (offset,) = store(log, at(1))
        assert list(append_after(log, offset, Batch(answers=[refused("c2")], answer_events=[-1]))) == []
        with log.reading() as view:
            assert view.answers([CommandKey(ACME, "c2")])[CommandKey(ACME, "c2")].offset == offset

    def test_nothing_is_stored_after_an_offset_that_somebody_else_has_passed(self, log: EventLog) -> None:
        (offset,) = store(log, at(1))
        store(log, at(1, stream=OTHER))
        with pytest.raises(HeadMoved):
            append_after(
                log, offset, Batch(events=[at(2)], answers=[accepted("c1")], answer_events=[0], counts={"k": 1})
            )
        with log.reading() as view:
            assert [event.version for event in view.events_after(0, 10)] == [1, 1]
            assert (view.answers([CommandKey(ACME, "c1")]), view.counts(["k"])) == ({}, {})

    @pytest.mark.parametrize("events", [[at(1)], [at(3)], [at(2), at(2)]])
    def test_a_version_taken_or_out_of_turn_is_a_conflict_also_after_an_offset(
        self, log: EventLog, events: list[NewEvent]
    ) -> None:
        (offset,) = store(log, at(1))
        with pytest.raises(StreamConflict):
            append_after(log, offset, Batch(events=events, answers=[accepted("c1")], answer_events=[0]))
        with log.reading() as view:
            assert (view.last_offset, view.answers([CommandKey(ACME, "c1")])) == (offset, {})
        append_after(log, offset, Batch(events=[at(2)]))

    def test_a_command_is_answered_once_also_after_an_offset(self, log: EventLog) -> None:
        append_after(log, 0, Batch(answers=[accepted("c1")], answer_events=[-1]))
        with pytest.raises(StreamConflict):
            append_after(log, 0, Batch(events=[at(1)], answers=[refused("c1")], answer_events=[0]))
        assert everything(log) == []

    def test_whoever_appends_after_an_offset_waits_for_the_lock_but_not_for_ever(self, log: EventLog) -> None:
        outcome: list[BaseException] = []

        def append_too() -> None:
            try:
                append_after(log, 0, Batch(events=[at(1, stream=OTHER)]))
            except (StoreUnavailable, HeadMoved) as error:
                outcome.append(error)

        with log.appending() as tx:
            rival = threading.Thread(target=append_too)
            rival.start()
            rival.join()
            tx.append(Batch(events=[at(1)]))
        assert [type(error) for error in outcome] == [StoreUnavailable]
        append_too()
        assert [type(error) for error in outcome] == [StoreUnavailable, HeadMoved]
        assert [event.stream for event in everything(log)] == [CLOCK]

    def test_the_stores_now_is_never_before_the_last_recorded_event(self, log: EventLog) -> None:
        with log.reading() as view:
            clock = view.store_now
        later = clock + timedelta(days=400)  # The machine's clock was set back since.
        store(log, at(1, recorded_at=later))
        with log.appending() as tx:
            assert tx.store_now == later
        with log.reading() as view:
            assert view.store_now == later
        assert later.tzinfo is not None

    def test_the_stores_time_stands_still_while_its_clock_is_behind_what_is_stored(self, log: EventLog) -> None:
        glance = log.glancing()
        glance.look(Wanted())
        assert glance.time_runs
        store(log, at(1))
        glance.look(Wanted([CLOCK]))
        assert glance.time_runs
        store(log, at(2, recorded_at=glance.store_now + timedelta(hours=1)))
        for wanted in (Wanted(), Wanted([CLOCK])):
            glance.look(wanted)
            assert not glance.time_runs
        with log.appending() as transaction:
            assert not transaction.time_runs

    def test_the_stores_now_is_the_clock_when_the_last_event_is_older(self, log: EventLog) -> None:
        store(log, at(1, recorded_at=NOON - timedelta(days=10_000)))
        with log.appending() as tx:
            first = tx.store_now
        with log.appending() as tx:
            assert NOON - timedelta(days=10_000) < first <= tx.store_now

    def test_nobody_else_appends_while_somebody_does_and_waiting_has_an_end(self, log: EventLog) -> None:
        outcome: list[BaseException | None] = []

        def append_too() -> None:
            try:
                store(log, at(1, stream=OTHER))
                outcome.append(None)
            except StoreUnavailable as error:
                outcome.append(error)

        with log.appending() as tx:
            rival = threading.Thread(target=append_too)
            rival.start()
            rival.join()
            tx.append(Batch(events=[at(1)]))
        assert [type(error) for error in outcome] == [StoreUnavailable]
        assert [event.stream for event in everything(log)] == [CLOCK]
        append_too()
        assert outcome[-1] is None

    def test_many_threads_append_one_after_the_other(self, log: EventLog) -> None:
        def append_some() -> None:
            for _ in range(20):
                with log.appending() as tx:
                    known = tx.histories([CLOCK])
                    tx.append(Batch(events=[at(len(known[CLOCK].events) + 1 if known else 1)]))

        threads = [threading.Thread(target=append_some) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [event.version for event in everything(log)] == list(range(1, 81))

    def test_a_log_names_its_shard_and_its_epoch(self, log: EventLog) -> None:
        assert log.shard == 0
        assert log.epoch
        assert "." not in log.epoch  # Positions join their parts with dots.
