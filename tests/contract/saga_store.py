"""What every store of sagas promises, told once: each implementation runs this class against itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from command.ports import EventLog, StreamConflict
from contracts.envelope import Metadata, Recorded
from contracts.events import ClockAdvanced, Event, SagaHeard
from contracts.identity import Realm, stream_id
from infra.postgres.dead_letters import BEHIND
from infra.postgres.positions import PositionMoved
from infra.sagas.hearing import Failure, Hearing, fold_saga, streams_of
from infra.sagas.ports import FOLLOWER, LanePlaces, Move, Place, Retry, SagaStore
from tests.unit.sagas.stories import CANCELLED, NOON, ORDER, PLACED, REALM, Log, paid, ready, released

SAGA = stream_id(REALM, "saga", f"checkout:{ORDER}")
OTHER = Realm("other", "shop")
AT_ONCE, NEVER = Retry(0.0, 0.0), Retry(3_600.0, 3_600.0)
FOR_ALL = 1_000


@dataclass
class Ears:
    """A store, its log, and facts that come one after the other."""

    store: SagaStore
    log: EventLog
    facts: Log
    at: int = 0

    def facts_of(self, *events: Event) -> list[Recorded]:
        return [self.facts.record(event) for event in events]

    def hearing(self, facts: Sequence[Recorded], parked: frozenset[str] = frozenset()) -> Hearing:
        """What these facts lead to, on top of what the store remembers."""
        histories = self.store.histories(streams_of(facts))
        known = {
            stream: fold_saga(stream, histories[stream].events if stream in histories else ())
            for stream in streams_of(facts)
        }
        hearing = Hearing(known, parked)
        for fact in facts:
            hearing.take(fact)
        return hearing

    def hear(self, *events: Event) -> Hearing:
        """Hear these and store it."""
        return self.hear_facts(self.facts_of(*events))

    def hear_facts(self, facts: Sequence[Recorded]) -> Hearing:
        hearing = self.hearing(facts)
        self.store.keep(hearing, [self.move(facts[-1].offset)])
        return hearing

    def move(self, offset: int) -> Move:
        move = Move(FOLLOWER, self.at, offset)
        self.at = offset
        return move

    def clock(self, shows: datetime, realm: Realm = REALM) -> None:
        """A business clock was advanced."""
        self.facts.offset += 1
        about = Metadata(f"clock{self.facts.offset}", NOON, NOON, "operator", "k", "k")
        stream = stream_id(realm, "clock", "main")
        self.hear_facts([Recorded(self.facts.offset, stream, self.facts.offset, ClockAdvanced(to=shows), about)])

    def owed(self) -> list[str]:
        return [owed.command.command_type for owed in self.store.next_commands(FOR_ALL).items]

    def due(self) -> list[tuple[str, str]]:
        return [(timer.kind, timer.key) for timer in self.store.due_timers(FOR_ALL, FOR_ALL).items]


class SagaStoreContract:
    """Subclasses provide the fixture ``ears``: an empty store, beside an empty log."""

    def test_a_new_store_stands_at_the_beginning_and_owes_nothing(self, ears: Ears) -> None:
        assert ears.store.place() == Place(0, frozenset())
        assert ears.store.epoch == ears.log.epoch
        assert ears.store.histories([SAGA]) == {}
        assert (ears.owed(), ears.due()) == ([], [])

    def test_what_was_heard_is_remembered_owed_and_timed_and_the_position_moves(self, ears: Ears) -> None:
        ears.hear(PLACED, ready())
        heard = [event.event for event in ears.store.histories([SAGA])[SAGA].events]
        assert [entry.fact_type for entry in heard if isinstance(entry, SagaHeard)] == [PLACED.type, ready().type]
        (owed,) = ears.store.next_commands(FOR_ALL).items
        assert (owed.attempts, owed.command.command_type, owed.command.realm) == (0, "hold_for_order", REALM)
        assert owed.command.payload == {"order_id": ORDER, "attempt": 1}
        assert owed.command.created_offset == 1
        ears.clock(NOON + timedelta(days=1))
        (timer,) = ears.store.due_timers(FOR_ALL, FOR_ALL).items
        assert (timer.kind, timer.key, timer.set_by) == ("order_lock_end", ORDER, 1)
        assert timer.due_at == NOON + timedelta(minutes=15)
        assert ears.store.place() == Place(ears.at, frozenset())

    def test_nothing_is_stored_when_somebody_else_moved_on(self, ears: Ears) -> None:
        hearing = ears.hearing(ears.facts_of(PLACED, ready()))
        with pytest.raises(PositionMoved, match=FOLLOWER):
            ears.store.keep(hearing, [Move(FOLLOWER, 7, 9)])
        self._is_empty(ears)

    def test_nothing_is_stored_when_one_of_several_positions_was_moved(self, ears: Ears) -> None:
        ears.hear(CANCELLED)
        hearing = ears.hearing(ears.facts_of(PLACED))
        with pytest.raises(PositionMoved, match=FOLLOWER):
            ears.store.keep(hearing, [Move("another", 0, 3), Move(FOLLOWER, 0, 3)])
        ears.store.keep(hearing, [Move("another", 0, 3), Move(FOLLOWER, 1, 3)])
        assert ears.store.place().offset == 3

    def test_lanes_begin_where_the_ear_stands_and_move_by_themselves(self, ears: Ears) -> None:
        ears.hear(PLACED)
        assert ears.store.lanes(["sagas@a/0", "sagas@a/1"]) == LanePlaces({"sagas@a/0": 1, "sagas@a/1": 1}, frozenset())
        ears.store.keep(ears.hearing(ears.facts_of(ready())), [Move("sagas@a/0", 1, 2)])
        assert ears.store.lanes(["sagas@a/0", "sagas@a/1"]).offsets == {"sagas@a/0": 2, "sagas@a/1": 1}
        with pytest.raises(PositionMoved, match="sagas@a/0"):
            ears.store.keep(ears.hearing(ears.facts_of(released())), [Move("sagas@a/0", 1, 3)])
        assert [len(history.events) for history in ears.store.histories([SAGA]).values()] == [2]

    def test_the_ear_stands_where_the_last_of_its_lanes_is_and_never_goes_back(self, ears: Ears) -> None:
        names = ["sagas@a/0", "sagas@a/1"]
        ears.store.lanes(names)
        assert ears.store.raise_to_lanes(names) == 0
        ears.store.keep(ears.hearing(ears.facts_of(PLACED)), [Move("sagas@a/0", 0, 5), Move("sagas@a/1", 0, 3)])
        assert ears.store.raise_to_lanes(names) == 3
        assert ears.store.place().offset == 3
        ears.store.keep(ears.hearing([]), [Move(FOLLOWER, 3, 9)])  # The log was heard instead, for a while.
        assert ears.store.raise_to_lanes(names) == 9
        assert ears.store.lanes(names).offsets == {"sagas@a/0": 9, "sagas@a/1": 9}

    def test_the_log_s_events_are_counted_after_one_offset_up_to_another(self, ears: Ears) -> None:
        for fact in (PLACED, CANCELLED):
            ears.hear(fact)  # Each is remembered by one event.
        counts = {span: ears.store.count(*span) for span in ((0, 2), (0, 1), (1, 2), (2, 9))}
        assert counts == {(0, 2): 2, (0, 1): 1, (1, 2): 1, (2, 9): 0}

    def test_nothing_is_stored_when_somebody_else_wrote_the_memory(self, ears: Ears) -> None:
        rival = ears.hearing(ears.facts_of(CANCELLED))
        ears.hear(PLACED)
        with pytest.raises(StreamConflict):
            ears.store.keep(rival, [Move(FOLLOWER, ears.at, 9)])
        assert ears.store.place().offset == ears.at
        assert len(ears.store.histories([SAGA])[SAGA].events) == 1

    @pytest.mark.parametrize("event", [PLACED, ready(), ClockAdvanced(to=NOON)], ids=lambda event: event.type)
    def test_nothing_is_stored_by_who_dies_before_the_commit(self, ears: Ears, event: Event) -> None:
        class Died(BaseException):
            pass

        def die() -> None:
            raise Died

        hearing = ears.hearing(ears.facts_of(event))
        with pytest.raises(Died):
            ears.store.keep(hearing, [Move(FOLLOWER, 0, 1)], before_commit=die)
        self._is_empty(ears)

    @staticmethod
    def _is_empty(ears: Ears) -> None:
        assert ears.store.place() == Place(0, frozenset())
        assert ears.store.histories([SAGA]) == {}
        assert ears.owed() == []
        ears.clock(NOON + timedelta(days=1))
        assert ears.due() == []

    def test_a_sagas_commands_come_one_after_the_other_and_sagas_side_by_side(self, ears: Ears) -> None:
        ears.hear(paid(), PLACED)
        other = PLACED.model_copy(update={"order_id": "o2"})
        ears.hear(other)
        assert ears.owed() == ["hold_for_order", "hold_for_order"]
        first, second = ears.store.next_commands(FOR_ALL).items
        assert [first.command.saga_key, second.command.saga_key] == [f"checkout:{ORDER}", "checkout:o2"]
        assert ears.store.next_commands(1).items == [first]
        ears.store.settle_commands(ears.log.epoch, accepted=[first.id], refused={}, unanswered={}, retry=AT_ONCE)
        assert ears.owed() == ["redeem_for_order", "hold_for_order"]
        assert ears.store.next_commands(FOR_ALL, letters=True).items == []

    def test_a_refused_command_is_not_sent_again_and_holds_up_nothing(self, ears: Ears) -> None:
        ears.hear(paid(), PLACED)
        (first,) = ears.store.next_commands(FOR_ALL).items
        ears.store.settle_commands(
            ears.log.epoch, accepted=[], refused={first.id: ("no", "")}, unanswered={}, retry=AT_ONCE
        )
        assert ears.owed() == ["redeem_for_order"]

    def test_a_command_without_an_answer_waits_and_those_of_its_saga_behind_it(self, ears: Ears) -> None:
        ears.hear(paid(), PLACED)
        (first,) = ears.store.next_commands(FOR_ALL).items
        ears.store.settle_commands(
            ears.log.epoch, accepted=[], refused={}, unanswered={first.id: "busy"}, retry=AT_ONCE
        )
        (again,) = ears.store.next_commands(FOR_ALL).items
        assert (again.id, again.attempts) == (first.id, 1)
        ears.store.settle_commands(ears.log.epoch, accepted=[], refused={}, unanswered={first.id: "busy"}, retry=NEVER)
        assert ears.owed() == []

    def test_what_another_process_settled_is_settled_once(self, ears: Ears) -> None:
        ears.hear(PLACED)
        (first,) = ears.store.next_commands(FOR_ALL).items
        for _ in range(2):
            ears.store.settle_commands(ears.log.epoch, accepted=[first.id], refused={}, unanswered={}, retry=AT_ONCE)
        ears.store.settle_commands(
            ears.log.epoch, accepted=[], refused={first.id: ("no", "")}, unanswered={first.id: "busy"}, retry=AT_ONCE
        )
        assert ears.owed() == []

    def test_what_became_of_a_command_of_another_history_is_not_noted(self, ears: Ears) -> None:
        ears.hear(paid(), PLACED)
        found = ears.store.next_commands(FOR_ALL)
        (first,) = found.items
        assert found.epoch == ears.log.epoch
        ears.store.settle_commands("another", accepted=[first.id], refused={}, unanswered={}, retry=AT_ONCE)
        ears.store.settle_commands("another", accepted=[], refused={first.id: ("no", "")}, unanswered={}, retry=AT_ONCE)
        ears.store.settle_commands("another", accepted=[], refused={}, unanswered={first.id: "busy"}, retry=NEVER)
        assert ears.store.next_commands(FOR_ALL) == found

    def test_what_became_of_a_timer_of_another_history_is_not_noted(self, ears: Ears) -> None:
        ears.clock(NOON + timedelta(days=1))
        ears.hear(PLACED, ready())
        found = ears.store.due_timers(FOR_ALL, FOR_ALL)
        assert found.epoch == ears.log.epoch
        ears.store.settle_timers("another", fired=found.items, unanswered=[], retry=AT_ONCE)
        ears.store.settle_timers("another", fired=[], unanswered=[(found.items[0], "busy")], retry=NEVER)
        assert ears.store.due_timers(FOR_ALL, FOR_ALL) == found

    def test_a_timer_that_fired_is_gone_unless_it_was_set_anew(self, ears: Ears) -> None:
        ears.clock(NOON + timedelta(days=1))
        ears.hear(PLACED, ready())
        (fired,) = ears.store.due_timers(FOR_ALL, FOR_ALL).items
        ears.hear(released(), ready(attempt=2))
        ears.store.settle_timers(ears.log.epoch, fired=[fired], unanswered=[], retry=AT_ONCE)
        (anew,) = ears.store.due_timers(FOR_ALL, FOR_ALL).items
        assert anew.set_by == 3
        ears.store.settle_timers(ears.log.epoch, fired=[anew, anew], unanswered=[], retry=AT_ONCE)
        assert ears.due() == []

    def test_a_timer_without_an_answer_waits_for_its_retry(self, ears: Ears) -> None:
        ears.clock(NOON + timedelta(days=1))
        ears.hear(PLACED, ready())
        (fired,) = ears.store.due_timers(FOR_ALL, FOR_ALL).items
        ears.store.settle_timers(ears.log.epoch, fired=[], unanswered=[(fired, "busy")], retry=AT_ONCE)
        assert ears.due() == [("order_lock_end", ORDER)]
        ears.store.settle_timers(ears.log.epoch, fired=[], unanswered=[(fired, "busy")], retry=NEVER)
        assert ears.due() == []

    def test_a_timer_that_is_cleared_does_not_fire(self, ears: Ears) -> None:
        ears.clock(NOON + timedelta(days=1))
        ears.hear(PLACED, ready())
        ears.hear(released())
        assert ears.due() == []

    def test_business_clocks_only_run_forward_and_each_for_its_own_realm(self, ears: Ears) -> None:
        ears.hear(PLACED, ready())
        ears.clock(NOON + timedelta(minutes=14))
        ears.clock(NOON + timedelta(days=1), OTHER)
        assert ears.due() == []
        ears.clock(NOON + timedelta(minutes=15))
        ears.clock(NOON)
        assert ears.due() == [("order_lock_end", ORDER)]

    def test_due_timers_are_shared_among_realms_and_come_in_the_order_of_their_time(self, ears: Ears) -> None:
        ears.clock(NOON + timedelta(days=1))
        for number in range(5):
            late = ready().model_copy(
                update={"order_id": f"o{number}", "lock_until": NOON + timedelta(minutes=9 - number)}
            )
            ears.hear(late)
        assert [key for _, key in ears.due()] == ["o4", "o3", "o2", "o1", "o0"]
        assert [timer.key for timer in ears.store.due_timers(2, FOR_ALL).items] == ["o4", "o3"]

    def test_a_fact_that_failed_is_parked_with_those_behind_it_and_comes_back_in_order(self, ears: Ears) -> None:
        bad, behind = ears.facts_of(PLACED, CANCELLED)
        hearing = ears.hearing([])
        hearing.failures.append(Failure(bad, "ZeroDivisionError: 1/0"))
        hearing.behind.append(behind)
        ears.store.keep(hearing, [ears.move(2)])
        assert ears.store.place() == Place(2, frozenset({bad.stream}))
        parked = ears.store.parked(bad.stream, FOR_ALL)
        assert [(event.version, event.offset, event.attempts, event.reason) for event in parked] == [
            (1, 1, 1, "ZeroDivisionError: 1/0"), (2, 2, 0, BEHIND),
        ]  # fmt: skip
        assert ears.store.requeued(FOR_ALL) == []
        ears.store.keep(ears.hearing([bad]), [ears.move(2)], done=parked[:1])
        assert [event.version for event in ears.store.parked(bad.stream, FOR_ALL)] == [2]
        ears.store.keep(ears.hearing([behind]), [ears.move(2)], done=parked[1:])
        assert ears.store.place() == Place(2, frozenset())
        assert len(ears.store.histories([SAGA])[SAGA].events) == 2

    def test_a_fact_that_failed_again_keeps_the_latest_reason(self, ears: Ears) -> None:
        (bad,) = ears.facts_of(PLACED)
        for reason in ("first", "second"):
            hearing = ears.hearing([])
            hearing.failures.append(Failure(bad, reason))
            ears.store.keep(hearing, [ears.move(1)])
        (parked,) = ears.store.parked(bad.stream, FOR_ALL)
        assert (parked.reason, parked.attempts) == ("second", 2)
