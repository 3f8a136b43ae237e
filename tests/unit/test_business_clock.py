"""A realm's own clock: it starts anywhere in a new realm, and never behind what a realm has recorded."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from command.engine import Engine
from command.handlers import HANDLERS
from contracts.commands import AdvanceClock, Command, CreateBudget
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from tests.fakes import InMemoryEventLog

WALL = datetime(2026, 5, 1, 12, tzinfo=UTC)
LONG_AGO = datetime(2012, 1, 1, tzinfo=UTC)
OLD, NEW = Realm("old", "shop"), Realm("new", "shop")


@pytest.fixture
def log() -> InMemoryEventLog:
    return InMemoryEventLog(clock=lambda: WALL)


@pytest.fixture
def engine(log: InMemoryEventLog) -> Iterator[Engine]:
    engine = Engine(log, HANDLERS, stopwatch=lambda: 0.0)
    engine.start()
    yield engine
    engine.stop()


def send(engine: Engine, realm: Realm, command_id: str, command: Command) -> Answer:
    return engine.execute(CommandEnvelope(realm, command_id, command, "tester", "corr"))


def budget(name: str) -> CreateBudget:
    return CreateBudget(budget_id=name, currency="EUR", limit_minor=1)


def test_a_new_realm_starts_its_clock_anywhere_and_lives_by_it(engine: Engine, log: InMemoryEventLog) -> None:
    assert send(engine, NEW, "1", AdvanceClock(to=LONG_AGO)).accepted
    assert send(engine, NEW, "2", budget("b")).accepted
    with log.reading() as view:
        assert {recorded.metadata.occurred_at for recorded in view.events_after(1, 9)} == {LONG_AGO}


def test_a_realm_with_a_history_cannot_be_sent_back_before_it(engine: Engine, log: InMemoryEventLog) -> None:
    assert send(engine, OLD, "1", budget("b")).accepted
    refused = send(engine, OLD, "2", AdvanceClock(to=LONG_AGO))
    assert (refused.code, refused.data) == ("clock_behind_history", {"now": WALL.isoformat()})
    other = Engine(log, HANDLERS)
    other.start()
    assert send(other, OLD, "3", AdvanceClock(to=LONG_AGO)).code == "clock_behind_history"
    other.stop()
    assert send(engine, OLD, "4", AdvanceClock(to=WALL + timedelta(days=1))).accepted


def test_the_history_of_one_realm_is_not_another_s(engine: Engine) -> None:
    assert send(engine, OLD, "1", budget("b")).accepted
    assert send(engine, NEW, "1", AdvanceClock(to=LONG_AGO)).accepted
