"""The engine on a log in memory and a toy domain: what is answered when, whatever goes wrong in between."""

import asyncio
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, replace
from threading import Event as ThreadEvent
from typing import Any, ClassVar

import pytest

from command.engine import Busy, Engine, EngineSettings, EngineStopped, HandlerFailed
from command.handlers.handler import Handler, Handlers
from command.ports import CommandKey, StoreUnavailable, StreamHistory
from command.tickets import NeverFits
from command.unit_of_work import Kind, NotYet, UnitOfWork
from contracts.commands import Command
from contracts.envelope import Answer, CommandEnvelope
from contracts.events import Event, RefusalsCounted
from contracts.identity import Realm, stream_id
from contracts.refusals import TemplateExhausted
from infra.fiber import FiberBell
from infra.processes import wait_until
from tests.fakes import InMemoryEventLog, _View
from tests.loops import engine_for_a_loop, on_a_loop, running_engine

REALM = Realm("acme", "shop")
OTHER = Realm("acme:shop", "1")
LIMIT = 3


class Poured(Event):
    """One glass was poured."""

    type: ClassVar[str] = "test.poured.v1"
    glass: int


class Pour(Command):
    """Pour a glass from a barrel that holds three."""

    type: ClassVar[str] = "pour"
    barrel: str
    breaks: bool = False


@dataclass(frozen=True, slots=True)
class Barrel:
    poured: int = 0


def evolve(barrel: Barrel, event: Event) -> Barrel:
    return replace(barrel, poured=event.glass) if isinstance(event, Poured) else barrel


BARREL = Kind("barrel", Barrel, Barrel(), evolve)


def pour(uow: UnitOfWork, command: Pour) -> dict[str, Any]:
    barrel = uow.load(BARREL, command.barrel)
    uow.record(BARREL, command.barrel, (Poured(glass=barrel.poured + 1),))
    uow.add(f"glasses:{command.barrel}", 1)
    if command.breaks:
        raise ZeroDivisionError
    if barrel.poured == LIMIT:
        raise TemplateExhausted(left=0)
    return {"glass": barrel.poured + 1}


HANDLERS: Handlers = {Pour: Handler(pour, lambda c: [(BARREL, c.barrel)], lambda _uow, c: [f"glasses:{c.barrel}"])}


class Notes:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.outcomes: dict[tuple[str, str], int] = {}
        self.failures: list[Exception] = []
        self.overtaken = 0
        self.misjudged = 0

    def batch_committed(
        self, tickets: int, events: int, outcomes: Mapping[tuple[str, str], int], seconds: float
    ) -> None:
        self.batches.append(tickets)
        for outcome, count in outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count

    def batch_overtaken(self, tickets: int) -> None:
        self.overtaken += 1

    def batch_misjudged(self, tickets: int) -> None:
        self.misjudged += 1

    def batch_failed(self, tickets: int, error: Exception) -> None:
        self.failures.append(error)


@pytest.fixture
def log() -> InMemoryEventLog:
    return InMemoryEventLog()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture(params=["thread", "loop"])
def engine(log: InMemoryEventLog, notes: Notes, request: pytest.FixtureRequest) -> Iterator[Engine]:
    settings, on_loop = EngineSettings(snapshot_every_events=2), request.param == "loop"
    with running_engine(log, HANDLERS, settings, notes, on_loop=on_loop) as engine:
        yield engine


def asks(command_id: str, barrel: str = "b", realm: Realm = REALM, *, breaks: bool = False) -> CommandEnvelope:
    return CommandEnvelope(realm, command_id, Pour(barrel=barrel, breaks=breaks), actor="tester", correlation_id="corr")


def answers(futures: list[Future[Answer]]) -> list[Answer]:
    return [future.result(10) for future in futures]


def glasses(log: InMemoryEventLog, barrel: str = "b", realm: Realm = REALM) -> list[int]:
    with log.reading() as view:
        history = view.histories([stream_id(realm, "barrel", barrel)])
    found = history.get(stream_id(realm, "barrel", barrel))
    return [] if found is None else [event.event.glass for event in found.events if isinstance(event.event, Poured)]


def test_an_answer_tells_what_happened_and_where(engine: Engine, log: InMemoryEventLog) -> None:
    answer = engine.execute(asks("1"))
    assert (answer.status, answer.code, answer.data) == ("accepted", "ok", {"glass": 1})
    assert answer.position.offset == 1
    assert glasses(log) == [1]


def test_commands_of_one_batch_see_each_other_and_exactly_the_limit_is_accepted(
    engine: Engine, log: InMemoryEventLog
) -> None:
    all_answers = answers(engine.submit_many([asks(str(n)) for n in range(10)]))
    assert [a.status for a in all_answers] == ["accepted"] * 3 + ["refused"] * 7
    assert {a.code for a in all_answers[3:]} == {"template_exhausted"}
    assert all_answers[3].data == {"left": 0}
    assert glasses(log) == [1, 2, 3]


def test_a_refused_command_leaves_no_event_and_no_count_but_its_answer(engine: Engine, log: InMemoryEventLog) -> None:
    answers(engine.submit_many([asks(str(n)) for n in range(4)]))
    with log.reading() as view:
        assert view.counts(["acme/shop/glasses:b"]) == {"acme/shop/glasses:b": 3}
        assert view.answers([CommandKey(REALM, "3")])[CommandKey(REALM, "3")].code == "template_exhausted"


def test_refusals_of_a_batch_are_counted_in_one_event(engine: Engine, log: InMemoryEventLog) -> None:
    answers(engine.submit_many([asks(str(n)) for n in range(10)]))
    with log.reading() as view:
        counted = [r.event for r in view.events_after(0, 100) if isinstance(r.event, RefusalsCounted)]
    assert [(c.command, c.code) for event in counted for c in event.counts] == [("pour", "template_exhausted")] * len(
        counted
    )
    assert sum(c.count for event in counted for c in event.counts) == 7


def test_the_same_id_with_the_same_content_gets_the_first_answer_and_does_nothing(
    engine: Engine, log: InMemoryEventLog
) -> None:
    first, again_in_batch = answers(engine.submit_many([asks("1"), asks("1")]))
    later = engine.execute(asks("1"))
    assert (first.replayed, again_in_batch.replayed, later.replayed) == (False, True, True)
    assert first.data == again_in_batch.data == later.data
    assert first.position == again_in_batch.position == later.position
    assert glasses(log) == [1]


def test_what_was_asked_in_another_history_is_not_decided_and_no_answer_stays(
    engine: Engine, log: InMemoryEventLog
) -> None:
    lost = asks("1")._replace(asked_in="lost")
    before = engine.submit_many([lost, asks("2")])
    ahead = engine.submit_many([lost, asks("3")])  # The engine knows the log's end by now, and decides ahead.
    assert [answers([futures[1]])[0].code for futures in (before, ahead)] == ["ok", "ok"]
    for futures in (before, ahead):
        with pytest.raises(NotYet, match="asked in epoch lost"):
            futures[0].result(10)
    assert engine.execute(asks("1")._replace(asked_in=log.epoch)).data == {"glass": 3}
    assert engine.execute(lost).replayed, "what this history decided is its answer, whoever asks"


def test_a_final_refusal_is_replayed_too(engine: Engine) -> None:
    answers(engine.submit_many([asks(str(n)) for n in range(4)]))
    again = engine.execute(asks("3"))
    assert (again.code, again.replayed) == ("template_exhausted", True)


def test_the_same_id_with_other_content_is_refused_and_the_first_answer_stays(engine: Engine) -> None:
    first, other_in_batch = answers(engine.submit_many([asks("1"), asks("1", barrel="other")]))
    later = engine.execute(asks("1", barrel="other"))
    assert (first.code, other_in_batch.code, later.code) == ("ok", "command_id_reused", "command_id_reused")
    assert engine.execute(asks("1")).code == "ok"


def test_realms_share_neither_ids_nor_streams(engine: Engine, log: InMemoryEventLog) -> None:
    mine, theirs = answers(engine.submit_many([asks("1"), asks("1", realm=OTHER)]))
    assert (mine.replayed, theirs.replayed) == (False, False)
    assert glasses(log) == glasses(log, realm=OTHER) == [1]


def test_a_handler_that_breaks_fails_alone_and_is_not_final(engine: Engine, log: InMemoryEventLog) -> None:
    good, broken, also_good = engine.submit_many([asks("1"), asks("2", breaks=True), asks("3")])
    assert good.result(10).accepted
    assert also_good.result(10).data == {"glass": 2}
    with pytest.raises(HandlerFailed):
        broken.result(10)
    assert engine.execute(asks("2")).data == {"glass": 3}
    assert glasses(log) == [1, 2, 3]


def test_a_command_that_cannot_be_decided_yet_stores_nothing_and_may_come_again(log: InMemoryEventLog) -> None:
    ready = ThreadEvent()

    def when_ready(uow: UnitOfWork, command: Pour) -> dict[str, Any]:
        answer = pour(uow, command)
        if not ready.is_set():
            raise NotYet("the barrel is being changed")
        return answer

    engine = Engine(log, {Pour: Handler(when_ready, lambda _: [])})
    engine.start()
    with pytest.raises(NotYet, match="being changed"):
        engine.execute(asks("1"))
    assert glasses(log) == []
    ready.set()
    assert engine.execute(asks("1")).data == {"glass": 1}
    engine.stop()


def test_a_large_state_is_written_down_less_often(log: InMemoryEventLog) -> None:
    large = replace(BARREL, size=lambda barrel: 3)

    def fill(uow: UnitOfWork, command: Pour) -> dict[str, Any]:
        barrel = uow.load(large, command.barrel)
        uow.record(large, command.barrel, (Poured(glass=barrel.poured + 1),))
        return {}

    engine = Engine(log, {Pour: Handler(fill, lambda _: [])}, EngineSettings(snapshot_every_events=2))
    engine.start()
    snapshots = []
    for number in range(6):
        engine.execute(asks(str(number)))
        snapshots.append([snapshot.version for snapshot in log._state.snapshots.values()])
    assert snapshots == [[], [], [3], [3], [3], [6]]
    engine.stop()


@pytest.mark.parametrize("landed", [True, False])
def test_a_commit_of_unknown_fate_is_looked_up_before_it_is_retried(
    engine: Engine, log: InMemoryEventLog, notes: Notes, *, landed: bool
) -> None:
    engine.execute(asks("0"))
    log.lose_next_commit(landed=landed)
    answer = engine.execute(asks("1"))
    assert (answer.code, answer.data, answer.replayed) == ("ok", {"glass": 2}, False)
    assert glasses(log) == [1, 2]
    assert len(notes.failures) == 1


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize("barrel", ["b", "empty"])
def test_an_answer_of_long_ago_is_told_as_such_though_a_commit_fails_beside_it(
    log: InMemoryEventLog, *, landed: bool, barrel: str
) -> None:
    with running_engine(log, HANDLERS, EngineSettings(), Notes(), on_loop=False) as engine:
        for number in range(LIMIT):
            engine.execute(asks(f"filled {number}", barrel="empty"))
        before = [engine.execute(asks("old")), engine.execute(asks("old, refused", barrel="empty"))]
        assert before[1].code == "template_exhausted"
        engine.execute(asks("since then"))
        log.lose_next_commit(landed=landed)
        asked = [asks("old"), asks("old, refused", barrel="empty"), asks("new", barrel=barrel)]
        old, refused, new = answers(engine.submit_many(asked))
    assert [old.data, refused.code] == [before[0].data, before[1].code]
    assert [old.replayed, refused.replayed, new.replayed] == [True, True, False]


def test_a_store_that_stays_away_is_reported_and_nothing_is_known_stored(notes: Notes) -> None:
    class Gone(InMemoryEventLog):
        def appending(self) -> Any:
            raise StoreUnavailable("connection refused")

    engine = Engine(Gone(), HANDLERS, observer=notes)
    engine.start()
    with pytest.raises(StoreUnavailable, match="connection refused"):
        engine.execute(asks("1"))
    engine.stop()


def test_what_another_process_appends_is_seen_before_the_next_decision(
    engine: Engine, log: InMemoryEventLog, notes: Notes
) -> None:
    other = Engine(log, HANDLERS, observer=notes)
    other.start()
    got = [engine.execute(asks("1")), other.execute(asks("2")), engine.execute(asks("3")), other.execute(asks("4"))]
    assert [a.data.get("glass") for a in got] == [1, 2, 3, None]
    assert notes.failures == []  # Seen, not found out by a conflict.
    other.stop()


def test_a_state_rebuilt_from_a_snapshot_equals_the_live_one(log: InMemoryEventLog, engine: Engine) -> None:
    answers(engine.submit_many([asks(str(n)) for n in range(3)]))
    with log.reading() as view:
        stream = stream_id(REALM, "barrel", "b")
        assert view.histories([stream])[stream].snapshot is None  # No hash given: none used.
    fresh = Engine(log, HANDLERS)
    fresh.start()
    assert fresh.execute(asks("late")).code == "template_exhausted"
    fresh.stop()


def test_a_full_queue_is_busy_and_queues_nothing(log: InMemoryEventLog) -> None:
    engine = Engine(log, HANDLERS, EngineSettings(queue_commands_max=2))
    engine.submit(asks("waits"))
    with pytest.raises(Busy) as told:
        engine.submit_many([asks(str(n)) for n in range(2)])
    assert not isinstance(told.value, NeverFits)  # There will be room for these.
    with pytest.raises(NeverFits):
        engine.submit_many([asks(str(n)) for n in range(3)])
    assert engine.queue_length == 1


def test_stopping_finishes_what_is_queued_and_refuses_what_comes_later(log: InMemoryEventLog) -> None:
    engine = Engine(log, HANDLERS)
    futures = engine.submit_many([asks(str(n)) for n in range(3)])
    engine.start()
    engine.stop()
    assert all(a.accepted for a in answers(futures))
    with pytest.raises(EngineStopped):
        engine.submit(asks("later"))


def test_an_engine_that_a_loop_runs_finishes_what_is_queued_before_it_ends(log: InMemoryEventLog) -> None:
    engine = engine_for_a_loop(log, HANDLERS)
    futures = engine.submit_many([asks(str(n)) for n in range(3)])
    assert not engine.is_running
    with on_a_loop(engine):
        assert engine.is_running
    assert not engine.is_running
    assert all(a.accepted for a in answers(futures))
    with pytest.raises(EngineStopped):
        engine.submit(asks("later"))


def test_whoever_asks_on_the_loop_of_the_engine_hears_there(log: InMemoryEventLog) -> None:
    engine = engine_for_a_loop(log, HANDLERS)
    heard: Future[tuple[Answer, int]] = Future()

    async def ask() -> None:
        answer = await asyncio.wrap_future(engine.submit(asks("1")))
        heard.set_result((answer, threading.get_ident()))

    where: list[int] = []
    with on_a_loop(engine) as loop:
        loop.call_soon_threadsafe(lambda: where.append(threading.get_ident()))
        asyncio.run_coroutine_threadsafe(ask(), loop)
        answer, thread = heard.result(10)
    assert answer.accepted
    assert where == [thread]


def test_an_engine_that_breaks_on_a_loop_says_why_and_that_it_does_not_run(
    log: InMemoryEventLog, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(_seconds: float) -> None:
        raise SystemError("there is no time left")

    engine = engine_for_a_loop(log, HANDLERS, pause=breaks)
    log.lose_next_commit(landed=False)
    with on_a_loop(engine):
        engine.submit(asks("1"))
        assert wait_until(lambda: not engine.is_running, timeout_seconds=10)
    assert "engine_ended" in caplog.text
    assert "there is no time left" in caplog.text


@pytest.mark.parametrize("kind", ["thread", "loop"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whoever_is_on_the_way_when_an_engine_breaks_hears_that_nobody_knows(log: InMemoryEventLog, kind: str) -> None:
    def breaks(_seconds: float) -> None:
        raise SystemError("there is no time left")

    settings = EngineSettings(batch_commands_max=3)
    engine = Engine(log, HANDLERS, settings, pause=breaks, bell=FiberBell() if kind == "loop" else None)
    heard: list[object] = []
    engine.submit_to([(asks(str(n)), heard.append) for n in range(5)])
    log.lose_next_commit(landed=False)
    with on_a_loop(engine) if kind == "loop" else nullcontext():
        if kind == "thread":
            engine.start()
        assert wait_until(lambda: not engine.is_running and len(heard) == 5, timeout_seconds=10)
        with pytest.raises(EngineStopped):  # Whoever comes now waits for nobody either.
            engine.submit(asks("later"))
        engine.stop()
    assert [type(each) for each in heard] == [StoreUnavailable] * 3 + [EngineStopped] * 2


def test_a_defect_of_an_observer_is_not_the_engine_s(log: InMemoryEventLog, caplog: pytest.LogCaptureFixture) -> None:
    class Breaks(Notes):
        def batch_committed(self, *about: Any) -> None:
            raise SystemError("the observer broke")

        def batch_failed(self, tickets: int, error: Exception) -> None:
            raise SystemError("the observer broke")

    engine = Engine(log, HANDLERS, None, Breaks())
    engine.start()
    log.lose_next_commit(landed=False)
    assert engine.execute(asks("1")).accepted
    assert not engine.execute(asks("1")).position.offset > 1  # It was stored once.
    engine.stop()
    assert "observer_failed" in caplog.text


def test_a_dry_run_answers_like_the_real_thing_and_stores_nothing(engine: Engine, log: InMemoryEventLog) -> None:
    engine.execute(asks("1"))
    assert engine.dry_run(asks("2")).data == {"glass": 2}
    assert engine.dry_run(asks("2")).data == {"glass": 2}
    assert glasses(log) == [1]


def test_a_stream_is_read_once_however_many_commands_of_however_many_batches_touch_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[str] = Counter()
    histories = _View.histories

    def counted(view: _View, streams: Collection[str], **how: Any) -> Mapping[str, StreamHistory]:
        read.update(streams)
        return histories(view, streams, **how)

    monkeypatch.setattr(_View, "histories", counted)
    for batch in range(3):
        answers(engine.submit_many([asks(f"{batch}-{n}", barrel="ab"[n % 2]) for n in range(20)]))
    assert {stream: times for stream, times in read.items() if "/barrel/" in stream} == {
        stream_id(REALM, "barrel", barrel): 1 for barrel in "ab"
    }


def test_no_more_streams_are_remembered_than_there_is_room_for(log: InMemoryEventLog) -> None:
    with running_engine(log, HANDLERS, EngineSettings(cached_streams_max=5), on_loop=False) as engine:
        for _ in range(2):  # Those that had to go are read again.
            answers(engine.submit_many([asks(f"{n}", barrel=f"b{n}") for n in range(50)]))
            assert len(engine._decider._cache) == 5
        assert engine.execute(asks("again", barrel="b0")).data == {"glass": 2}


def test_commands_that_arrive_during_a_commit_form_the_next_batch(log: InMemoryEventLog, notes: Notes) -> None:
    began, may_go_on = ThreadEvent(), ThreadEvent()

    def slow(uow: UnitOfWork, command: Pour) -> dict[str, Any]:
        began.set()
        assert may_go_on.wait(10)
        return pour(uow, command)

    engine = Engine(log, {Pour: Handler(slow, lambda _: [])}, observer=notes)
    engine.start()
    first = engine.submit(asks("1"))
    assert began.wait(10)
    others = engine.submit_many([asks("2"), asks("3")])
    may_go_on.set()
    answers([first, *others])
    engine.stop()
    assert notes.batches == [1, 2]
