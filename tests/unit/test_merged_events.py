"""Claims of one template that are decided in one batch take their coupons out of the stock in one event."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.decider import Decider, Plan
from command.domain.template import TEMPLATE, Template
from command.engine import Engine
from command.handlers import HANDLERS
from command.tickets import Ticket
from contracts.commands import AdvanceClock, Command, PauseTemplate, ReserveTemplateStock, ResumeTemplate
from contracts.envelope import CommandEnvelope, Recorded
from contracts.events import CouponClaimed, Event, TemplateCouponIssued, TemplateCouponsIssued, TemplatePaused
from contracts.identity import stream_id
from query.verify.books import Books
from query.verify.raw import RawEvent
from tests.builders import REALM, claim, template
from tests.fakes import InMemoryEventLog

YEAR = timedelta(days=365)


def asks(command: Command, number: object) -> CommandEnvelope:
    return CommandEnvelope(REALM, f"c-{number}", command, "tester", "corr")


def with_a_template() -> InMemoryEventLog:
    """A log with one active template of six coupons, two for each user."""
    log = InMemoryEventLog()
    engine = Engine(log, HANDLERS)
    engine.start()
    window: dict[str, Any] = {"claim_from": datetime.now(UTC) - YEAR, "claim_until": datetime.now(UTC) + YEAR}
    for number, command in enumerate(template(stock=6, claims_per_user_max=2, **window)):
        assert engine.execute(asks(command, f"setup-{number}")).accepted
    engine.stop()
    return log


@pytest.fixture
def log() -> InMemoryEventLog:
    return with_a_template()


def decide(log: InMemoryEventLog, commands: Sequence[Command]) -> Plan:
    """Decide them in one batch and store it."""
    decider = Decider(
        HANDLERS, cached_streams_max=100, snapshot_every_events=100, batch_events_max=1_000, lock_ttl_seconds=900
    )
    with log.appending() as transaction:
        tickets = [Ticket(asks(command, number), lambda _: None) for number, command in enumerate(commands)]
        plan = decider.decide(transaction, tickets, epoch=log.epoch)
        offsets = transaction.append(plan.batch)
        for verdict in plan.verdicts:
            verdict.locate(offsets, transaction.last_offset)
    return plan


def of_the_template(log: InMemoryEventLog) -> list[Event]:
    with log.reading() as view:
        stream = stream_id(REALM, "template", "t1")
        return [recorded.event for recorded in view.histories([stream])[stream].events[2:]]


def remembered(plan: Plan) -> Template:
    state = plan.view.entries[stream_id(REALM, "template", "t1")].state
    assert isinstance(state, Template)
    return state


def test_the_claims_of_a_batch_are_one_event_of_their_template_and_one_of_each_coupon(log: InMemoryEventLog) -> None:
    decide(log, [claim("alice"), claim("bob"), claim("alice")])
    assert of_the_template(log) == [
        TemplateCouponsIssued(template_id="t1", terms_version=1, quantity=3, claimed=3),
    ]
    with log.reading() as view:
        claimed = [each.event for each in view.events_after(0, 100) if isinstance(each.event, CouponClaimed)]
    assert [(event.about.user_id, event.nth) for event in claimed] == [("alice", 1), ("bob", 1), ("alice", 2)]


def test_a_claim_that_is_alone_in_its_batch_names_its_coupon(log: InMemoryEventLog) -> None:
    decide(log, [claim("alice")])
    (issued,) = of_the_template(log)
    assert isinstance(issued, TemplateCouponIssued)


def test_each_claim_is_answered_with_the_place_of_its_own_coupon(log: InMemoryEventLog) -> None:
    plan = decide(log, [claim("alice"), claim("bob"), claim("carol")])
    with log.reading() as view:
        places = {e.event.coupon_id: e.offset for e in view.events_after(0, 100) if isinstance(e.event, CouponClaimed)}
    answered = {v.logged.data["coupon_id"]: v.offset for v in plan.verdicts if v.logged is not None}
    assert answered == places
    assert len(places) == 3


def test_whatever_else_happens_to_the_template_keeps_its_place_between_claims(log: InMemoryEventLog) -> None:
    pause, resume = PauseTemplate(template_id="t1", reason="r"), ResumeTemplate(template_id="t1")
    plan = decide(log, [claim("a"), claim("b"), pause, claim("late"), resume, claim("c"), claim("d")])
    told = of_the_template(log)
    assert [type(event).__name__ for event in told] == [
        "TemplateCouponsIssued", "TemplatePaused", "TemplateResumed", "TemplateCouponsIssued",
    ]  # fmt: skip
    assert isinstance(told[1], TemplatePaused)
    assert (remembered(plan).claimed, plan.verdicts[3].logged and plan.verdicts[3].logged.code) == (4, "paused")


def test_claims_of_two_business_times_are_not_one_event(log: InMemoryEventLog) -> None:
    # The realm has a history, so its own clock may only begin at its present.
    later = AdvanceClock(to=datetime.now(UTC) + timedelta(minutes=1))
    decide(log, [claim("a"), claim("b"), later, claim("c"), claim("d")])
    assert [event.quantity for event in of_the_template(log) if isinstance(event, TemplateCouponsIssued)] == [2, 2]


actions = st.lists(
    st.one_of(
        st.builds(claim, st.sampled_from(["a", "b", "c", "d"])),
        st.just(PauseTemplate(template_id="t1", reason="r")),
        st.just(ResumeTemplate(template_id="t1")),
        st.builds(
            ReserveTemplateStock,
            template_id=st.just("t1"),
            user_id=st.sampled_from(["a", "b"]),
            reservation_id=st.sampled_from(["r1", "r2"]),
            quantity=st.just(1),
        ),
    ),
    max_size=12,
)


@given(actions)
def test_what_is_remembered_equals_what_is_folded_from_the_store_and_the_books_balance(commands: list[Command]) -> None:
    log = with_a_template()
    plan = decide(log, commands)
    stream = stream_id(REALM, "template", "t1")
    with log.reading() as view:
        events = view.histories([stream])[stream].events
        told = view.events_after(0, 1_000)
    assert [recorded.version for recorded in events] == list(range(1, len(events) + 1))
    if stream in plan.view.entries:
        assert plan.view.entries[stream].version == len(events)
        assert remembered(plan) == reduce(TEMPLATE.evolve, [recorded.event for recorded in events], TEMPLATE.initial)
    books = Books()
    books.fold(raw(recorded) for recorded in told)
    assert books.finish() == []


def raw(recorded: Recorded) -> RawEvent:
    """As verification reads it."""
    about, event = recorded.metadata, recorded.event
    return RawEvent(
        recorded.offset, recorded.stream, recorded.version, event.type, about.event_id, *recorded.realm,
        about.occurred_at, about.recorded_at, about.command_id, event.model_dump(mode="json"),
    )  # fmt: skip
