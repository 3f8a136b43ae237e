"""Commands reach the engine in order and are sent again, under the same ids, until each has its final answer."""

from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime

import pytest

from command.engine import Busy, EngineStopped, HandlerFailed
from command.ports import StoreUnavailable
from contracts.commands import AdvanceClock
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.position import Position
from infra.imports import sender as module
from infra.imports.errors import EngineUnreachable, HandlerBroke
from infra.imports.sender import Sender

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


class ScriptedEngine:
    """Answers each submission by the next entry of a script: an exception to raise, or what each future holds."""

    def __init__(self, *script: Exception | list[Exception | None]) -> None:
        self._script = list(script)
        self.submissions: list[list[str]] = []

    def submit_many(self, envelopes: Sequence[CommandEnvelope]) -> list[Future[Answer]]:
        self.submissions.append([envelope.command_id for envelope in envelopes])
        entry = self._script.pop(0)
        if isinstance(entry, Exception):
            raise entry
        futures: list[Future[Answer]] = []
        for outcome in entry:
            future: Future[Answer] = Future()
            if outcome is None:
                future.set_result(Answer("accepted", "ok", "", {}, Position(0, "e", 1)))
            else:
                future.set_exception(outcome)
            futures.append(future)
        return futures


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sleep", lambda _seconds: None)


def send(engine: ScriptedEngine, count: int = 2) -> list[Answer]:
    sender = Sender(engine, Realm("t", "a"), "march")
    envelopes = [sender.envelope(f"orders:o{n}", AdvanceClock(to=NOON)) for n in range(1, count + 1)]
    return sender.answers(sender.submit(envelopes))


IDS = ["import:march:orders:o1", "import:march:orders:o2"]


def test_every_id_is_derived_from_import_statement_and_row() -> None:
    engine = ScriptedEngine([None, None])
    assert [answer.code for answer in send(engine)] == ["ok", "ok"]
    assert engine.submissions == [IDS]


def test_a_busy_engine_is_asked_again() -> None:
    engine = ScriptedEngine(Busy("full"), Busy("full"), [None, None])
    assert len(send(engine)) == 2
    assert engine.submissions == [IDS] * 3


def test_an_engine_that_stays_busy_stops_the_import_after_bounded_attempts() -> None:
    engine = ScriptedEngine(*[Busy("full")] * 50)
    with pytest.raises(EngineUnreachable, match="stayed busy"):
        send(engine)
    assert len(engine.submissions) == module.ATTEMPTS_MAX


def test_when_the_store_was_lost_all_are_sent_again_under_the_same_ids() -> None:
    engine = ScriptedEngine([None, StoreUnavailable("gone")], [None, None])
    assert len(send(engine)) == 2
    assert engine.submissions == [IDS] * 2


def test_a_store_that_stays_away_stops_the_import_after_bounded_attempts() -> None:
    lost: list[Exception | None] = [StoreUnavailable("gone"), None]
    engine = ScriptedEngine(*[lost] * 50)
    with pytest.raises(EngineUnreachable, match="gone"):
        send(engine)
    assert len(engine.submissions) == module.ATTEMPTS_MAX + 1


def test_a_stopped_engine_stops_the_import_at_once() -> None:
    engine = ScriptedEngine(EngineStopped("bye"))
    with pytest.raises(EngineUnreachable, match="bye"):
        send(engine)
    assert len(engine.submissions) == 1


def test_a_broken_handler_is_named_with_its_command_and_not_retried() -> None:
    engine = ScriptedEngine([None, HandlerFailed("place_order failed: KeyError")])
    with pytest.raises(HandlerBroke, match="import:march:orders:o2: place_order failed"):
        send(engine)
    assert len(engine.submissions) == 1


def test_nothing_to_send_is_not_sent() -> None:
    engine = ScriptedEngine()
    assert send(engine, count=0) == []
    assert engine.submissions == []
