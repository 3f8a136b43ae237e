"""Batches that are decided without a look: what was guessed is right, or is looked for after all."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.decider import GUESSED_COUNTS_MAX, LOOKS_AFTER_A_WRONG_GUESS
from command.engine import Engine, EngineSettings, Outcome
from command.handlers import HANDLERS
from command.handlers.handler import Handler, Handlers
from command.ports import StoreUnavailable, Wanted
from command.unit_of_work import UnitOfWork
from contracts.commands import AssignCodes, Command, GenerateCodes, LockCoupon, ReserveTemplateStock, UseCode
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import stream_id
from contracts.refusals import TemplateExhausted
from tests.builders import REALM, claim, coupon_of, template
from tests.fakes import InMemoryEventLog
from tests.loops import running_engine
from tests.unit.test_engine import BARREL, Notes, Pour, Poured, glasses
from tests.unit.test_engine_steps import APPEND, LOOK, ByHand

LOOK_EVERY_SECONDS: Final = 1.0


def taste(uow: UnitOfWork, command: Pour) -> dict[str, Any]:
    """Whoever pours here does so once per barrel, by a counter; there is no limit to the barrel."""
    barrel = uow.load(BARREL, command.barrel)
    if command.breaks:
        raise ZeroDivisionError
    if uow.count(f"tasted:{uow.command_id[0]}") > 0:
        raise TemplateExhausted(left=0)
    uow.add(f"tasted:{uow.command_id[0]}", 1)
    uow.record(BARREL, command.barrel, (Poured(glass=barrel.poured + 1),))
    return {"glass": barrel.poured + 1}


def tasting(uow: UnitOfWork, _: Pour) -> list[str]:
    return [f"tasted:{uow.command_id[0]}"]


def touches(command: Pour) -> list[Any]:
    return [(BARREL, command.barrel)]


TASTING: Final[Handlers] = {Pour: Handler(taste, touches, tasting)}


@pytest.fixture
def hand() -> ByHand:
    """An engine that knows the barrel and the time: two glasses were poured."""
    hand = ByHand(TASTING, look_every_seconds=LOOK_EVERY_SECONDS)
    assert hand.served("a").accepted
    hand.log.happened.clear()
    return hand


def test_where_all_is_remembered_a_batch_is_stored_without_a_look(hand: ByHand) -> None:
    hand.ask("1")
    hand.go_on(APPEND)
    assert hand.log.happened == ["append", "answer 1"]
    assert glasses(hand.log) == [1, 2, 3]


def test_once_the_time_is_too_old_there_is_a_look_again(hand: ByHand) -> None:
    hand.seconds += LOOK_EVERY_SECONDS
    hand.served("1")
    hand.served("2")
    assert hand.log.happened == ["look", "append", "answer 1", "append", "answer 2"]


def test_a_stream_that_nobody_remembers_is_looked_for(hand: ByHand) -> None:
    hand.served("1", barrel="other")
    hand.served("2", barrel="other")
    assert hand.log.happened == ["look", "look", "append", "answer 1", "append", "answer 2"]


def test_an_id_that_was_answered_before_gets_its_answer_and_nothing_is_done_twice(hand: ByHand) -> None:
    again = hand.served("first")
    assert (again.accepted, again.data, again.replayed) == (True, {"glass": 1}, True)
    assert glasses(hand.log) == [1, 2]
    assert (hand.notes.misjudged, hand.notes.overtaken, hand.notes.failures) == (1, 0, [])


def test_an_answer_of_long_ago_is_told_as_such_though_nobody_heard_that_it_was_guessed_to_be_new(hand: ByHand) -> None:
    assert not hand.served("1").replayed
    hand.log.cut = True
    hand.ask("1")  # The latest of all that is stored.
    hand.go_on(APPEND)
    again = hand.answers[-1]
    assert hand.answered[-2:] == ["1", "1"]
    assert (again.data, again.replayed) == ({"glass": 3}, True)
    assert [type(failure) for failure in hand.notes.failures] == [StoreUnavailable]


def test_after_a_wrong_guess_there_are_looks_for_a_while(hand: ByHand) -> None:
    hand.served("first")
    hand.log.happened.clear()
    names = (chr(number) for number in count(0x4E00))
    for _ in range(LOOKS_AFTER_A_WRONG_GUESS + 1):
        assert hand.served(next(names)).accepted
    assert hand.log.happened.count("look") == LOOKS_AFTER_A_WRONG_GUESS - 1
    assert hand.log.happened[-2] == "append"


def test_a_counter_that_is_there_keeps_its_limit(hand: ByHand) -> None:
    assert hand.served("a second time").code == "template_exhausted"
    assert glasses(hand.log) == [1, 2]


def test_a_counter_that_goes_on_is_looked_for_and_never_guessed(hand: ByHand) -> None:
    def counting(uow: UnitOfWork, command: Pour) -> dict[str, Any]:
        uow.add("all", 1)
        uow.record(BARREL, command.barrel, (Poured(glass=uow.load(BARREL, command.barrel).poured + 1),))
        return {"all": uow.count("all")}

    hand.engine._decider._handlers = {Pour: Handler(counting, touches, lambda _uow, _: ["all"], counts_anew=False)}
    assert [hand.served(command_id).data["all"] for command_id in "123"] == [1, 2, 3]
    assert hand.log.happened == [each for number in "123" for each in ("look", "append", f"answer {number}")]
    assert hand.notes.misjudged == 0


def test_codes_of_one_batch_are_used_one_after_the_other_without_a_wrong_guess() -> None:
    log, notes = InMemoryEventLog(), Notes()
    generated = GenerateCodes(template_id="t1", count=9, key_id="k1")
    with running_engine(log, HANDLERS, EngineSettings(look_every_seconds=1e9), notes, on_loop=False) as engine:

        def answer(command: Command, command_id: str) -> Answer:
            return engine.execute(CommandEnvelope(REALM, command_id, command, "tester", "corr"))

        for number, command in enumerate(template(claim_until=datetime(2100, 1, 1, tzinfo=UTC))):
            assert answer(command, f"setup-{number}").accepted
        batch_id = answer(generated, "generate").data["batch_id"]
        assert answer(AssignCodes(batch_id=batch_id, user_ids=("u0", "u1", "u2", "u3")), "assign").accepted
        for number in range(4):  # Their streams are remembered from here on.
            assert answer(UseCode(batch_id=batch_id, index=number, user_id=f"u{number}"), f"use-{number}").accepted
    assert (notes.misjudged, notes.failures) == (0, [])


def test_a_quote_reads_a_hot_template_in_no_more_than_a_hundred_events() -> None:
    log = InMemoryEventLog()
    with running_engine(log, HANDLERS, on_loop=False) as engine:
        commands = [*template(claim_until=datetime(2100, 1, 1, tzinfo=UTC)), *(claim(f"u{n}") for n in range(250))]
        for number, command in enumerate(commands):
            assert engine.execute(CommandEnvelope(REALM, f"c{number}", command, "tester", "corr")).accepted
    name = stream_id(REALM, "template", "t1")
    assert len(log._state.streams[name]) - log._state.snapshots[name].version <= 100


def test_what_was_decided_on_top_of_a_wrong_guess_is_decided_again_behind_it(hand: ByHand) -> None:
    for command_id in ("a second time", "1", "2"):
        hand.ask(command_id)
    for _ in range(3):
        hand.go_on(LOOK, APPEND)
    assert hand.answered[-3:] == ["a second time", "1", "2"]
    assert [answer.data for answer in hand.answers[-2:]] == [{"glass": 3}, {"glass": 4}]
    assert glasses(hand.log) == [1, 2, 3, 4]


def test_a_counter_that_is_only_read_is_looked_for() -> None:
    def reads(uow: UnitOfWork, command: Pour) -> dict[str, Any]:
        barrel = uow.load(BARREL, command.barrel)
        uow.record(BARREL, command.barrel, (Poured(glass=barrel.poured + 1),))
        return {"tasted": uow.count("tasted:f")}

    hand = ByHand(TASTING, look_every_seconds=LOOK_EVERY_SECONDS)
    assert hand.served("a").accepted
    hand.engine._decider._handlers = {Pour: Handler(reads, touches, lambda _uow, _: ["tasted:f"])}
    assert hand.served("1").data == {"tasted": 1}


def test_a_defect_does_not_hide_the_answer_that_an_id_was_given_before(hand: ByHand) -> None:
    def breaks(uow: UnitOfWork, command: Pour) -> dict[str, Any]:
        if uow.command_id == "first":
            raise ZeroDivisionError
        uow.record(BARREL, command.barrel, (Poured(glass=uow.load(BARREL, command.barrel).poured + 1),))
        return {}

    hand.engine._decider._handlers = {Pour: Handler(breaks, touches)}
    hand.engine._settings = EngineSettings(batch_commands_max=2)
    hand.ask("first")
    hand.served("1")  # In one batch with it: something is stored.
    assert hand.answers[-2].data == {"glass": 1}


def test_a_batch_without_a_look_happens_at_the_stores_time(hand: ByHand) -> None:
    hand.seconds += 0.5
    hand.served("1")
    with hand.log.reading() as view:
        before, event = view.events_after(1, 2)
    assert event.metadata.recorded_at - before.metadata.recorded_at == timedelta(seconds=0.5)


def test_while_the_stores_time_stands_still_it_is_asked_for_each_batch() -> None:
    hand = ByHand(TASTING, look_every_seconds=LOOK_EVERY_SECONDS)
    with hand.log.reading() as view:
        last = view.store_now
    hand.log._clock = lambda: last - timedelta(hours=1)
    hand.seconds += LOOK_EVERY_SECONDS
    for command_id in "123":
        assert hand.served(command_id).accepted
    assert hand.log.happened.count("look") == 3
    with hand.log.reading() as view:
        assert len({event.metadata.recorded_at for event in view.events_after(0, 10)}) == 1


def test_what_took_long_to_be_heard_is_not_carried_forward(hand: ByHand) -> None:
    hand.seconds += LOOK_EVERY_SECONDS
    hand.ask("1")
    hand.go_on()
    hand.seconds += 0.5  # The loop was busy, or the machine asleep.
    hand.go_on(LOOK, APPEND)
    hand.served("2")
    assert hand.log.happened.count("look") == 2


def test_a_large_batch_is_looked_for() -> None:
    handlers: Handlers = {
        Pour: Handler(taste, touches, lambda uow, _: [f"n{n}" for n in range(GUESSED_COUNTS_MAX)] + tasting(uow, _))
    }
    hand = ByHand(handlers, look_every_seconds=LOOK_EVERY_SECONDS)
    hand.served("a")
    hand.log.happened.clear()
    hand.served("1")
    assert hand.log.happened == ["look", "append", "answer 1"]


# Any history, with looks and without ----------------------------------------------------------------------------------


def reserve(user_id: str) -> Command:
    return ReserveTemplateStock(template_id="t1", user_id=user_id, reservation_id="r1", quantity=1)


ids = st.integers(0, 12).map(lambda number: f"id-{number}")
commands = st.one_of(
    st.integers(0, 4).map(lambda user: claim(f"u{user}")),
    st.integers(0, 3).map(
        lambda user: ReserveTemplateStock(template_id="t1", user_id=f"u{user}", reservation_id="r1", quantity=1)
    ),
    st.integers(0, 3).map(lambda user: LockCoupon(coupon_id=coupon_of(f"u{user}"), order_id="o1", discount_minor=1)),
)
batches = st.lists(st.lists(st.tuples(ids, commands), min_size=1, max_size=4), max_size=12)


def told(batches: Sequence[Sequence[tuple[str, Command]]], look_every_seconds: float) -> tuple[Any, ...]:
    """Every answer, and what is stored, without times."""
    start, ticks = datetime(2026, 3, 1, 12, tzinfo=UTC), count()
    log = InMemoryEventLog(clock=lambda: start + timedelta(microseconds=next(ticks)))
    engine = Engine(log, HANDLERS, EngineSettings(look_every_seconds=look_every_seconds), stopwatch=lambda: 0.0)
    heard: list[Outcome] = []
    window: dict[str, Any] = {"claim_from": start - timedelta(days=1), "claim_until": start + timedelta(days=1)}
    opening = [(f"open-{n}", each) for n, each in enumerate(template(stock=9, claims_per_user_max=2, **window))]
    for batch in [opening, *batches]:
        asked = [CommandEnvelope(REALM, name, command, "tester", "corr") for name, command in batch]
        engine.submit_to([(each, heard.append) for each in asked])
        while engine.turn() is None or engine.queue_length:
            pass
    with log.reading() as view:
        stored = [(each.stream, each.version, each.event.type) for each in view.events_after(0, 1_000)]
        counts = view.look(Wanted(counts=[f"{REALM.key}/claims:t1:u{user}" for user in range(5)])).counts
    answers = [(each.status, each.code, each.data.get("user_id"), each.replayed) for each in map(answered, heard)]
    return answers, stored, counts


def answered(outcome: Outcome) -> Answer:
    assert isinstance(outcome, Answer), outcome
    return outcome


@given(batches=batches)
def test_what_is_answered_and_stored_does_not_depend_on_looks(
    batches: list[list[tuple[str, Command]]],
) -> None:
    assert told(batches, look_every_seconds=1_000.0) == told(batches, look_every_seconds=0.0)
