"""A rush of claims that is decided in one go leaves what deciding them one after the other would have left."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from command.decider import Decider, Plan
from command.engine import Engine
from command.handlers import HANDLERS
from command.handlers.handler import Handlers
from command.tickets import Ticket
from contracts.commands import (
    ClaimCoupon,
    Command,
    LockCoupon,
    PauseTemplate,
    ReserveTemplateStock,
    ResumeTemplate,
)
from contracts.envelope import CommandEnvelope
from infra.postgres.batch_rows import BatchRows
from infra.postgres.mapper import EventMapper
from tests.builders import REALM, claim, template
from tests.fakes import InMemoryEventLog

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
USERS: Final = [f"u{number}" for number in range(12)]
ONE_BY_ONE: Final[Handlers] = {kind: replace(handler, rush=None) for kind, handler in HANDLERS.items()}
Terms = dict[str, Any]


def asks(command: Command, number: int) -> CommandEnvelope:
    """As different as envelopes of one rush may be: a few have the same id, and some ids tell a time, others none."""
    cause = f"cause {number}" if number % 3 == 0 else None
    number %= 40
    command_id = f"c-{number}" if number % 4 == 0 else f"{(number * 5_000) << 80:032x}"
    return CommandEnvelope(REALM, command_id, command, f'key "{number % 2}"', f"corr%{number}", cause, None)


def decided(handlers: Handlers, commands: Sequence[Command], terms: Terms) -> tuple[Plan, Decider, InMemoryEventLog]:
    """One batch on top of a template, not stored yet."""
    log = InMemoryEventLog(clock=lambda: NOW)
    engine = Engine(log, HANDLERS, stopwatch=lambda: 0.0)
    engine.start()
    window: Terms = {"claim_from": NOW - timedelta(days=1), "claim_until": NOW + timedelta(days=1)}
    for number, command in enumerate(template(**{**window, **terms})):
        assert engine.execute(CommandEnvelope(REALM, f"setup-{number}", command, "tester", "corr")).accepted
    engine.stop()
    decider = Decider(
        handlers, cached_streams_max=100, snapshot_every_events=3, batch_events_max=60, lock_ttl_seconds=900
    )
    with log.appending() as transaction:
        plan = decider.decide(
            transaction, [Ticket(asks(each, nth), print) for nth, each in enumerate(commands)], epoch=log.epoch
        )
    return plan, decider, log


def told(handlers: Handlers, commands: Sequence[Command], terms: Terms) -> tuple[Any, ...]:
    """All that a batch stores, as bytes; what it answers; and what it leaves for the next one."""
    plan, decider, log = decided(handlers, commands, terms)
    with log.appending() as transaction:
        offsets = transaction.append(plan.batch)
        for verdict in plan.verdicts:
            verdict.locate(offsets, transaction.last_offset)
        answers = [(verdict.logged, verdict.offset, verdict.error) for verdict in plan.verdicts]
        coupons = [each.stream for each in plan.batch.events]
        locks: list[Command] = [LockCoupon(coupon_id=each.split("/")[3], order_id="o") for each in coupons]
        later = decider.decide(
            transaction, [Ticket(asks(each, 100 + nth), print) for nth, each in enumerate(locks)], epoch=log.epoch
        )
    batch = replace(plan.batch, counts=dict(sorted(plan.batch.counts.items())))
    return BatchRows.of(batch, EventMapper()), answers, len(plan.undecided), list(later.batch.events)


def claims(users: Sequence[str]) -> list[Command]:
    return [claim(user) for user in users]


commands = st.lists(
    st.one_of(
        st.lists(st.sampled_from(USERS), min_size=3, max_size=6).map(claims),
        st.lists(st.sampled_from(USERS), min_size=3, max_size=12, unique=True).map(claims),
        st.just([PauseTemplate(template_id="t1", reason="r")]),
        st.just([ResumeTemplate(template_id="t1")]),
        st.just([ReserveTemplateStock(template_id="t1", user_id="u1", reservation_id="r1", quantity=1)]),
        st.just([ClaimCoupon(template_id="t1", user_id=user, channel="queue", reference="q%s") for user in USERS]),
        st.just([ClaimCoupon(template_id="nowhere", user_id=user) for user in USERS[:5]]),
    ),
    max_size=4,
).map(lambda parts: [command for part in parts for command in part])
terms = st.fixed_dictionaries(
    {"stock": st.sampled_from([None, 5, 20]), "claims_per_user_max": st.sampled_from([None, 1, 2])},
    optional={"claims_per_period": st.just({"period": "day", "claims_max": 1})},
)


LIMITED: Final[Terms] = {"stock": 100, "claims_per_user_max": 1}
OTHER: Final = PauseTemplate(template_id="t2", reason="r")
RESERVED: Final[list[Command]] = [
    ReserveTemplateStock(template_id="t1", user_id="u1", reservation_id="r1", quantity=1),
    *claims(USERS),
]


@given(commands, terms)
@example(claims(USERS), LIMITED)
@example([claim(USERS[0]), *claims(USERS[1:])], {"stock": None, "claims_per_user_max": None})
@example([*claims(USERS), PauseTemplate(template_id="t1", reason="r"), *claims(USERS)], LIMITED)
@example(claims([f"v{number}" for number in range(45)]), LIMITED)  # Some have the same id: every fortieth.
@example([*claims([f"v{number}" for number in range(25)]), OTHER, *claims([f"w{number}" for number in range(25)])], {})
@example(claims([f"v{number}" for number in range(70)]), LIMITED)  # More than a batch has room for.
@example(claims([f"v{number}" for number in range(25)] * 2), {"stock": None, "claims_per_user_max": 3})
@example(RESERVED, LIMITED)
@example(claims(USERS), {"stock": len(USERS) - 1, "claims_per_user_max": 1})
@example(claims(USERS), {**LIMITED, "claims_per_period": {"period": "day", "claims_max": 1}})
def test_a_rush_leaves_what_its_claims_one_by_one_would_leave(asked: list[Command], terms: Terms) -> None:
    assert told(HANDLERS, asked, terms) == told(ONE_BY_ONE, asked, terms)


def test_claims_of_different_users_make_no_object_of_their_own_before_somebody_asks() -> None:
    plan, _, _ = decided(HANDLERS, claims(USERS), LIMITED)
    assert len(plan.view.begun_by_each) == len(USERS)
    assert [len(plan.batch.events), len(plan.view.entries.keys() & plan.view.begun_by_each.keys())] == [13, 0]


@pytest.mark.parametrize("spoil", [lambda *_: None, lambda *_: 1 / 0], ids=["declined", "broken"])
def test_a_rush_that_cannot_be_decided_in_one_go_leaves_no_trace(spoil: Callable[..., Any]) -> None:
    usual = HANDLERS[ClaimCoupon].rush
    assert usual is not None

    def spoilt(uow: Any, commands: Sequence[ClaimCoupon]) -> Any:
        usual.handle(uow, commands)
        return spoil()

    broken = replace(HANDLERS[ClaimCoupon], rush=replace(usual, handle=spoilt))
    handlers: Handlers = {**HANDLERS, ClaimCoupon: broken}
    assert told(handlers, claims(USERS), LIMITED) == told(ONE_BY_ONE, claims(USERS), LIMITED)


def test_a_rush_is_remembered_until_it_turns_out_that_it_was_not_stored() -> None:
    plan, decider, log = decided(HANDLERS, claims(USERS), LIMITED)
    last = list(plan.batch.events)[-1].stream.split("/")[3]

    def lock() -> Plan:
        with log.appending() as transaction:
            return decider.decide(
                transaction, [Ticket(asks(LockCoupon(coupon_id=last, order_id="o"), 99), print)], epoch=log.epoch
            )

    on_top = lock()
    decider.unlearn(on_top)
    decider.unlearn(plan)
    codes = [verdict.logged and verdict.logged.code for each in (on_top, lock()) for verdict in each.verdicts]
    assert codes == ["ok", "unknown_coupon"]


def test_a_coupon_that_was_looked_at_too_early_is_found_by_the_batch_that_makes_it() -> None:
    surprising: Handlers = {**HANDLERS, LockCoupon: replace(HANDLERS[LockCoupon], touches=lambda _: [])}
    last = list(decided(surprising, claims(USERS), LIMITED)[0].batch.events)[-1].stream.split("/")[3]
    lock = LockCoupon(coupon_id=last, order_id="o")
    early, decider, log = decided(surprising, [lock], LIMITED)
    with log.appending() as transaction:
        tickets = [Ticket(asks(each, nth), print) for nth, each in enumerate([*claims(USERS), lock])]
        plan = decider.decide(transaction, tickets, epoch=log.epoch)
    assert [each.verdicts[-1].logged.code for each in (early, plan) if each.verdicts[-1].logged] == [
        "unknown_coupon",
        "ok",
    ]


def test_what_a_batch_looks_at_of_its_own_rush_is_not_remembered_as_there_before_it() -> None:
    usual = HANDLERS[LockCoupon]
    surprising: Handlers = {**HANDLERS, LockCoupon: replace(usual, touches=lambda _: [])}
    last = list(decided(surprising, claims(USERS), LIMITED)[0].batch.events)[-1].stream.split("/")[3]
    lock = LockCoupon(coupon_id=last, order_id="o")
    plan, decider, log = decided(surprising, [*claims(USERS), lock], LIMITED)
    assert plan.verdicts[-1].logged
    assert plan.verdicts[-1].logged.code == "ok"
    decider.unlearn(plan)
    with log.appending() as transaction:
        again = decider.decide(transaction, [Ticket(asks(lock, 99), print)], epoch=log.epoch)
    assert again.verdicts[0].logged
    assert again.verdicts[0].logged.code == "unknown_coupon"
