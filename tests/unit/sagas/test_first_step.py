"""The step that is sent along with a command is the one that the order's saga sends on hearing the command's fact."""

from collections.abc import Iterator

import pytest

from command.engine import Engine
from command.handlers import HANDLERS
from command.unit_of_work import NotYet
from contracts.commands import CancelOrder, Command, PlaceOrder, ReopenOrder, ReportPayment
from contracts.envelope import CommandEnvelope, Recorded
from contracts.identity import Realm
from contracts.placement import COUPON_PREFIX, Placement, slot_letters
from infra.postgres.outbox import PendingCommand
from infra.sagas.first_step import first_step, first_step_at
from infra.sagas.hearing import Hearing, Saga, streams_of
from tests.fakes import InMemoryEventLog

REALM = Realm("acme", "a/b")
GBP = "GBP"
PLACE = PlaceOrder(order_id="o/1", user_id="ann", currency=GBP, total_minor=6_000)
PAY = ReportPayment(payment_id="p1", order_id="o/1", status="succeeded", amount_minor=6_000, currency=GBP)
FAIL = ReportPayment(payment_id="p1", order_id="o/1", status="failed", currency=GBP)
CANCEL = CancelOrder(order_id="o/1")


def envelope(command: Command, command_id: str = "key 1") -> CommandEnvelope:
    """A command as it comes from outside."""
    return CommandEnvelope(REALM, command_id, command, "key:web", "request-7", traceparent="00-aa-bb-01")


class Promotion:
    """A promotion side in memory, and a saga that heard everything up to the latest look."""

    def __init__(self) -> None:
        self.log = InMemoryEventLog()
        self.engine = Engine(self.log, HANDLERS)
        self.sagas: dict[str, Saga] = {}
        self._heard = 0

    def tell(self, *commands: CommandEnvelope) -> None:
        for answer in self.engine.submit_many(commands):
            assert answer.result(30).accepted

    def facts(self) -> list[Recorded]:
        """What was recorded since the latest look."""
        with self.log.reading() as view:
            facts = list(view.events_after(self._heard, 1_000))
        self._heard = facts[-1].offset if facts else self._heard
        return facts

    def hear(self, *batches: list[Recorded]) -> list[PendingCommand]:
        """What the sagas want to be sent after hearing these, batch by batch."""
        owed: list[PendingCommand] = []
        for facts in batches or (self.facts(),):
            known = {stream: Saga() for stream in streams_of(facts)} | self.sagas
            hearing = Hearing(known, parked=())
            for fact in facts:
                hearing.take(fact)
            assert not hearing.failures
            self.sagas |= hearing.sagas
            owed += hearing.commands()
        return owed


@pytest.fixture
def promotion() -> Iterator[Promotion]:
    promotion = Promotion()
    promotion.engine.start()
    try:
        yield promotion
    finally:
        promotion.engine.stop()


def as_sent(command: PendingCommand) -> tuple[object, ...]:
    """All that the dispatcher puts into an envelope."""
    about = (command.actor, command.correlation_id, command.causation_id, command.traceparent)
    return (command.realm, command.command_id, command.command_type, command.payload, *about)


def as_told(step: CommandEnvelope | None) -> tuple[object, ...]:
    """The same of an envelope."""
    assert step is not None
    about = (step.actor, step.correlation_id, step.causation_id, step.traceparent)
    return (step.realm, step.command_id, step.command.type, step.command.model_dump(mode="json"), *about)


@pytest.mark.parametrize("before", [(), (CANCEL,), (PAY,), (FAIL,), (CANCEL, PAY)], ids=str)
def test_what_goes_along_with_an_order_is_what_its_saga_sends_first(
    promotion: Promotion, before: tuple[Command, ...]
) -> None:
    promotion.tell(*(envelope(command, f"before {number}") for number, command in enumerate(before)))
    promotion.hear()
    promotion.tell(envelope(PLACE))
    first, *_ = promotion.hear()
    assert as_told(first_step(envelope(PLACE))) == as_sent(first)


@pytest.mark.parametrize("before", [(), (FAIL,), (CANCEL,)], ids=str)
def test_what_goes_along_with_a_payment_is_what_its_saga_sends_first(
    promotion: Promotion, before: tuple[Command, ...]
) -> None:
    promotion.tell(envelope(PLACE, "order"))
    promotion.hear()
    promotion.tell(*(envelope(command, f"before {number}") for number, command in enumerate(before)))
    promotion.hear()
    promotion.tell(envelope(PAY))
    first, *_ = promotion.hear()
    assert as_told(first_step(envelope(PAY))) == as_sent(first)


@pytest.mark.parametrize("command", [FAIL, CANCEL, ReopenOrder(order_id="o/1")], ids=lambda command: command.type)
def test_all_other_steps_are_left_to_the_saga(command: Command) -> None:
    assert first_step(envelope(command)) is None


def test_a_step_whose_effect_is_heard_with_its_cause_is_not_sent_again(promotion: Promotion) -> None:
    told = envelope(PLACE)
    step = first_step(told)
    assert step is not None
    promotion.tell(told, step)
    assert promotion.hear() == []
    assert [saga.memory.step for saga in promotion.sagas.values()] == ["held"]


def test_a_step_whose_effect_is_heard_later_is_sent_again(promotion: Promotion) -> None:
    told = envelope(PLACE)
    step = first_step(told)
    assert step is not None
    promotion.tell(told, step)
    placed, *effects = promotion.facts()
    assert [command.command_id for command in promotion.hear([placed], effects)] == [step.command_id]
    assert [saga.memory.step for saga in promotion.sagas.values()] == ["held"]


def test_another_realms_effect_answers_nothing(promotion: Promotion) -> None:
    told = envelope(PLACE)
    step = first_step(told)
    assert step is not None
    promotion.tell(told, step)
    placed, *effects = promotion.facts()
    foreign = [
        Recorded(fact.offset, fact.stream.replace("acme", "evil"), fact.version, fact.event, fact.metadata)
        for fact in effects
    ]
    assert [command.command_id for command in promotion.hear([placed, *foreign])] == [step.command_id]


def test_a_payment_that_overtakes_its_order_is_redeemed_when_the_order_is_known(promotion: Promotion) -> None:
    step = first_step(envelope(PAY, "pay"))
    assert step is not None
    promotion.tell(envelope(PAY, "pay"))
    with pytest.raises(NotYet, match="o/1"):
        promotion.tell(step)
    assert promotion.hear() == []
    promotion.tell(envelope(PLACE))
    assert [command.command_type for command in promotion.hear()] == ["hold_for_order", "redeem_for_order"]


def test_a_step_that_came_too_early_has_no_answer_that_would_be_given_again_when_it_is_time(
    promotion: Promotion,
) -> None:
    # A saga that hears of the payment after the order, though it was recorded before, sends it under the same id.
    step = first_step(envelope(PAY, "pay"))
    assert step is not None
    promotion.tell(envelope(PAY, "pay"))
    with pytest.raises(NotYet):
        promotion.tell(step)
    promotion.tell(envelope(PLACE), step)
    assert promotion.facts()[-1].event.type == "checkout.completed.v1"


SPREAD = Placement.of((0, 1), spread={REALM.tenant_id: {0: "0-511", 1: "512-1023"}})
ON_ONE_SHARD = Placement.of((0, 1), tenants={REALM.tenant_id: 1})


def coupon_on(shard: int) -> str:
    """The id of a coupon whose template lies on a shard."""
    return f"{COUPON_PREFIX}{slot_letters(512 * shard)}{'a' * 24}"


@pytest.mark.parametrize(
    ("placement", "shards", "is_sent"),
    [
        (SPREAD, (), True),
        (SPREAD, (1,), False),
        (SPREAD, (0,), True),
        (SPREAD, (0, 1), False),
        (ON_ONE_SHARD, (1, 0), True),
    ],
)
def test_an_order_that_has_to_ask_another_shard_takes_no_step_with_it(
    placement: Placement, shards: tuple[int, ...], is_sent: bool
) -> None:
    at_home = next(name for name in map(str, range(100)) if SPREAD.shard_of(REALM, name) == 0)
    order = PLACE.model_copy(update={"order_id": at_home, "coupon_ids": tuple(map(coupon_on, shards))})
    step = first_step_at(placement)(envelope(order))
    assert step == (first_step(envelope(order)) if is_sent else None)


def test_a_payments_step_goes_along_wherever_its_orders_coupons_lie() -> None:
    assert first_step_at(SPREAD)(envelope(PAY)) == first_step(envelope(PAY))
