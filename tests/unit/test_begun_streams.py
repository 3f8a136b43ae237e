"""Streams that begin by the hundred: whoever looked for one before it existed finds it afterwards."""

import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from command.domain.ids import coupon_id
from command.engine import Engine
from command.handlers import HANDLERS
from contracts.commands import Command, IssueDistributionChunk, LockCoupon, StartDistribution
from contracts.envelope import CommandEnvelope
from tests.builders import REALM, claim, template
from tests.fakes import InMemoryEventLog

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
USERS: Final = tuple(f"u{number}" for number in range(6))
GIVEN: Final = [
    StartDistribution(distribution_id="d", template_id="t1", users=len(USERS)),
    IssueDistributionChunk(distribution_id="d", first_row=1, user_ids=USERS),
]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(InMemoryEventLog(clock=lambda: NOW), HANDLERS)
    engine.start()
    window: dict[str, Any] = {"claim_from": NOW - timedelta(days=1), "claim_until": NOW + timedelta(days=1)}
    say(engine, *template(**window), command_id="setup")
    yield engine
    engine.stop()


def say(engine: Engine, *commands: Command, command_id: str) -> list[str]:
    """The codes of their answers; they are submitted at once."""
    envelopes = [
        CommandEnvelope(REALM, f"{command_id}-{number}", each, "tester", "corr") for number, each in enumerate(commands)
    ]
    return [future.result(10.0).code for future in engine.submit_many(envelopes)]


def locks(order: str) -> list[Command]:
    return [LockCoupon(coupon_id=coupon_id(REALM, "t1", user, 1), order_id=f"{order}-{user}") for user in USERS]


@pytest.mark.parametrize("made", [GIVEN, [claim(user) for user in USERS]], ids=["by_a_distribution", "by_a_rush"])
def test_a_coupon_that_was_asked_for_too_early_is_found_once_it_was_made(engine: Engine, made: list[Command]) -> None:
    assert set(say(engine, *locks("early"), command_id="early")) == {"unknown_coupon"}
    assert set(say(engine, *made, command_id="made")) == {"ok"}
    assert set(say(engine, *locks("late"), command_id="late")) == {"ok"}


@pytest.mark.parametrize("made", [GIVEN, [claim(user) for user in USERS]], ids=["by_a_distribution", "by_a_rush"])
def test_also_when_all_of_it_is_one_batch(engine: Engine, made: list[Command]) -> None:
    asked = [*locks("early"), *made, *locks("late")]
    codes = say(engine, *asked, command_id="all")
    assert set(codes[-len(USERS) :]) == {"ok"}


def test_a_coupon_is_remembered_but_not_the_command_that_claimed_it(engine: Engine) -> None:
    made = [claim(user) for user in USERS]
    remembered = [weakref.ref(command) for command in made]
    assert set(say(engine, *made, command_id="made")) == {"ok"}
    made.clear()
    say(engine, *template("t2"), command_id="next")  # A plan is let go of when the one after it is decided.
    assert [command() for command in remembered] == [None] * len(USERS)
