"""Facts come over many lanes, each in its own order: however lanes overtake each other, an order ends as it should.

Everything here is real but the store, which is in memory: decider, sagas, outbox and timers.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hypothesis import given, note, settings
from hypothesis import strategies as st

from command.decider import Decider, Verdict
from command.handlers import HANDLERS
from command.tickets import Ticket
from command.unit_of_work import NotYet
from contracts.commands import (
    ActivateTemplate,
    AdvanceClock,
    CancelOrder,
    ClaimCoupon,
    Command,
    CreateBudget,
    CreateTemplate,
    PlaceOrder,
    ReopenOrder,
    ReportPayment,
    ReportRefund,
)
from contracts.envelope import Answer, CommandEnvelope, Recorded
from contracts.identity import Realm
from contracts.orders import OrderLine, RefundLine
from contracts.position import Position
from contracts.terms import AmountOff, Terms, ValidityAfterClaim
from infra.sagas.dispatcher import Dispatcher
from infra.sagas.first_step import first_step
from infra.sagas.hearing import Hearing, fold_saga, streams_of
from infra.sagas.timer_service import TimerService
from tests.fakes import InMemoryEventLog
from tests.saga_fakes import InMemorySagaStore

NOON: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACME: Final = Realm("acme", "shop")
TOTAL_MINOR: Final = 6_000
GBP: Final = "GBP"
ROUNDS_MAX: Final = 200

# Where the promotion side stands, and the steps at which a saga may then rest.
RESTS: Final[dict[str, set[str | None]]] = {
    "none": {None, "awaiting_order"},
    "held": {"held"},
    "refused": {"refused", "cancelled"},
    "released": {"released", "cancelled"},
    "completed": {"completed", "partly_refunded", "refunded"},
    "completed_unredeemed": {"unredeemed", "partly_refunded", "refunded"},
}


@dataclass(frozen=True)
class Story:
    """What the upstream will tell of one order, stream by stream, and what its coupon is worth."""

    order: tuple[str, ...]
    payments: tuple[tuple[str, ...], ...]
    refunds: tuple[str, ...]
    worth_minor: int
    steps_along: bool

    def streams(self) -> dict[str, deque[Command]]:
        told: dict[str, list[Command]] = {"order": [_ORDER[word] for word in self.order]}
        for number, outcomes in enumerate(self.payments):
            told[f"p{number}"] = [self._payment(f"p{number}", outcome) for outcome in outcomes]
        told |= {name: [self._refund(name)] for name in self.refunds}
        return {name: deque(commands) for name, commands in told.items()}

    def _payment(self, name: str, outcome: str) -> Command:
        if outcome == "failed":
            return ReportPayment(payment_id=name, order_id="o", status="failed", currency=GBP)
        paid = TOTAL_MINOR - self.worth_minor
        return ReportPayment(payment_id=name, order_id="o", status="succeeded", amount_minor=paid, currency=GBP)

    def _refund(self, name: str) -> Command:
        lines = {"full": ("kettle", "tea"), "kettle": ("kettle",), "tea": ("tea",)}[name]
        amount = TOTAL_MINOR - self.worth_minor if name == "full" else 500
        named = tuple(RefundLine(line_id=line) for line in lines)
        return ReportRefund(refund_id=name, order_id="o", amount_minor=amount, currency=GBP, lines=named)


_ORDER: Final[dict[str, Command]] = {"cancel": CancelOrder(order_id="o"), "reopen": ReopenOrder(order_id="o")}

ORDERS = st.sampled_from(
    [("place",), ("place", "cancel"), ("cancel", "place"), ("place", "cancel", "reopen"), ("place", "reopen")]
)
PAYMENTS = st.lists(st.sampled_from([("ok",), ("failed",), ("failed", "ok")]), max_size=2).map(tuple)
REFUNDS = st.sampled_from([(), ("full",), ("kettle",), ("kettle", "tea")])
STORIES = st.builds(Story, ORDERS, PAYMENTS, REFUNDS, st.just(1_000), st.booleans()) | st.builds(
    Story, ORDERS, st.just(()), REFUNDS, st.just(TOTAL_MINOR), st.booleans()
)  # Nobody pays for what costs nothing.


class Here:
    """The write side in the caller's thread: what it was told is stored and answered when it returns."""

    def __init__(self, log: InMemoryEventLog) -> None:
        self._log = log
        self._decider = Decider(
            HANDLERS, cached_streams_max=100, snapshot_every_events=100, batch_events_max=1_000, lock_ttl_seconds=900
        )

    def submit_many(self, envelopes: Iterable[CommandEnvelope]) -> list[Future[Answer]]:
        tickets = [Ticket(envelope, lambda _: None) for envelope in envelopes]
        with self._log.appending() as transaction:
            self._decider.forget()  # Sagas append beside it.
            plan = self._decider.decide(transaction, tickets, epoch=self._log.epoch)
            offsets = transaction.append(plan.batch)
        for verdict in plan.verdicts:
            verdict.locate(offsets, transaction.last_offset)
        return [_answered(verdict) for verdict in plan.verdicts]


def _answered(verdict: Verdict) -> Future[Answer]:
    logged, future = verdict.logged, Future[Answer]()
    if logged is None:
        assert isinstance(verdict.error, NotYet)
        future.set_exception(verdict.error)
    else:
        position = Position(0, "e1", verdict.offset)
        future.set_result(Answer(logged.status, logged.code, logged.detail, logged.data, position))
    return future


class Day:
    """One order's day, step by step."""

    def __init__(self, story: Story) -> None:
        self.log = InMemoryEventLog(clock=lambda: NOON)
        self.engine = engine = Here(self.log)
        self.story = story
        self.store = InMemorySagaStore(self.log)
        self.voice = Dispatcher(self.store, engine)
        self.alarm = TimerService(self.store, engine)
        self.untold = story.streams()
        self.lanes: dict[str, deque[Recorded]] = {}
        self.heard: list[Recorded] = []
        self._published = 0
        self._told = 0
        self._open()

    def _open(self) -> None:
        terms = Terms(
            name="off",
            campaign_id="spring",
            currency=GBP,
            discount=AmountOff(amount_minor=self.story.worth_minor),
            claim_from=NOON - timedelta(days=1),
            claim_until=NOON + timedelta(days=30),
            validity=ValidityAfterClaim(duration_seconds=7 * 86_400),
            budget_ids=("pot",),
        )
        self.do(AdvanceClock(to=NOON))
        self.do(CreateBudget(budget_id="pot", currency=GBP, limit_minor=TOTAL_MINOR))
        self.do(CreateTemplate(template_id="t", terms=terms))
        self.do(ActivateTemplate(template_id="t"))
        self.coupon: str = self.do(ClaimCoupon(template_id="t", user_id="ann")).data["coupon_id"]

    def do(self, command: Command) -> Answer:
        self._told += 1
        name = f"told-{self._told}"
        envelope = CommandEnvelope(ACME, name, command, "upstream", name)
        step = first_step(envelope) if self.story.steps_along else None
        answer, *_ = self.engine.submit_many((envelope,) if step is None else (envelope, step))
        return answer.result(0)

    # What can happen next.

    def choices(self) -> list[str]:
        self._publish()
        told = [f"tell {name}" for name, commands in self.untold.items() if commands]
        return [*told, *self.hearable(), "work"]

    def hearable(self) -> list[str]:
        self._publish()
        return [f"hear {stream}" for stream, facts in self.lanes.items() if facts]

    def happen(self, choice: str) -> None:
        match choice.split(" ", 1):
            case ["tell", name]:
                self._tell(self.untold[name].popleft())
            case ["hear", stream]:
                self.hear(self.lanes[stream].popleft())
            case _:
                self.work()

    def tell_all(self, choose: Callable[[Sequence[str]], str]) -> None:
        while names := [name for name, commands in self.untold.items() if commands]:
            self._tell(self.untold[choose(names)].popleft())

    def _tell(self, command: Command) -> None:
        if command is _PLACE:
            lines = (
                OrderLine(line_id="kettle", sku="kettle", unit_price_minor=5_000),
                OrderLine(line_id="tea", sku="tea", unit_price_minor=1_000),
            )
            command = PlaceOrder(order_id="o", user_id="ann", currency=GBP, coupon_ids=(self.coupon,), lines=lines)
        self.do(command)

    def _publish(self) -> None:
        with self.log.reading() as view:
            for fact in view.events_after(self._published, 10_000):
                self._published = fact.offset
                if fact.name.kind != "saga":
                    self.lanes.setdefault(fact.stream, deque()).append(fact)

    def hear(self, fact: Recorded) -> Hearing:
        histories = self.store.histories(streams_of([fact]))
        known = {
            stream: fold_saga(stream, histories[stream].events if stream in histories else ())
            for stream in streams_of([fact])
        }
        hearing = Hearing(known, parked=())
        hearing.take(fact)
        assert not hearing.failures
        self.store.keep(hearing, [])
        self.heard.append(fact)
        return hearing

    def hear_again(self, stream: str) -> None:
        """A lane goes back to its beginning: all that was heard of it comes once more."""
        for fact in [fact for fact in self.heard if fact.stream == stream]:
            assert self.hear(fact).heard == []
            self.heard.pop()

    def work(self) -> None:
        """Send what is owed and fire what is due."""
        self.voice.run_once()
        self.alarm.run_once()

    def settle(self, choose: Callable[[Sequence[str]], str]) -> None:
        """Until nothing is left to hear or to do."""
        for _ in range(ROUNDS_MAX):
            while hearable := self.hearable():
                self.happen(choose(hearable))
            if self.voice.run_once() + self.alarm.run_once() == 0 and not self.hearable():
                return
        raise AssertionError(f"not quiet after {ROUNDS_MAX} rounds")

    # Where it ends.

    def types(self, kind: str, key: str) -> list[str]:
        with self.log.reading() as view:
            events = view.events_after(0, 10_000)
        return [event.event.type.split(".")[1] for event in events if (event.name.kind, event.name.key) == (kind, key)]

    def payloads(self, kind: str) -> list[Any]:
        with self.log.reading() as view:
            return [event.event for event in view.events_after(0, 10_000) if event.name.kind == kind]

    @property
    def step(self) -> str | None:
        standing = self.store.tables.standings.get((ACME, "checkout", "o"))
        return standing.step if standing is not None else None

    @property
    def status(self) -> str:
        """What the promotion side decided last, refunds aside."""
        decided = [name for name in self.types("checkout", "o") if name != "refunded"]
        return {"ready": "held"}.get(decided[-1], decided[-1]) if decided else "none"

    def settled_minor(self) -> int:
        signs = {"settlement.recorded.v1": 1, "settlement.reversed.v1": -1}
        return sum(signs[event.type] * event.discount_minor for event in self.payloads("settlement"))

    def ends(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "status": self.status,
            "coupon": self.types("coupon", self.coupon)[-1],
            "settled": self.settled_minor(),
            "refunded": self.types("checkout", "o").count("refunded"),
        }

    def assert_it_ended_well(self) -> None:
        assert self.step in RESTS[self.status], self.ends()
        assert self.types("checkout", "o").count("completed") <= 1
        assert [debt for debt in self.store.tables.outbox.values() if debt.refused is None] == []
        assert not [key for key in self.store.tables.timers if key[1] == "order_lock_end" and self.status != "held"]
        if self.step in {"completed", "unredeemed", "partly_refunded", "refunded"} or self.status == "none":
            open_refunds = 0 if self.status != "none" else len(self.story.refunds)
            assert self.types("checkout", "o").count("refunded") == len(self.story.refunds) - open_refunds


_PLACE: Final = PlaceOrder(order_id="o", currency=GBP, total_minor=TOTAL_MINOR)
_ORDER["place"] = _PLACE


@dataclass
class Choices:
    """The same choices, played again."""

    data: st.DataObject
    made: list[str] = field(default_factory=list)

    def __call__(self, names: Sequence[str]) -> str:
        chosen = self.data.draw(st.sampled_from(names))
        note(chosen)
        self.made.append(chosen)
        return chosen


@settings(max_examples=2 * settings().max_examples)
@given(STORIES, st.data())
def test_lanes_that_overtake_each_other_lead_to_what_the_log_order_leads_to(story: Story, data: st.DataObject) -> None:
    telling = Choices(data)
    shuffled, in_order = Day(story), Day(story)
    shuffled.tell_all(telling)
    shuffled.settle(Choices(data))
    shuffled.assert_it_ended_well()
    again = iter(telling.made)
    in_order.tell_all(lambda _: next(again))
    in_order.settle(lambda hearable: min(hearable, key=lambda choice: in_order.lanes[choice[5:]][0].offset))
    assert shuffled.ends() == in_order.ends()


@settings(max_examples=2 * settings().max_examples)
@given(STORIES, st.data())
def test_an_order_ends_well_while_lanes_lag_and_facts_come_twice(story: Story, data: st.DataObject) -> None:
    choose, played = Choices(data), Day(story)
    while any(played.untold.values()):
        played.happen(choose(played.choices()))
        again = data.draw(st.booleans(), label="again")
        if again and played.heard:
            played.hear_again(choose([fact.stream for fact in played.heard]))
    played.settle(choose)
    played.assert_it_ended_well()
    played.do(AdvanceClock(to=NOON + timedelta(days=30)))
    played.settle(choose)
    assert played.status != "held"
    played.assert_it_ended_well()
