"""Whatever the order of facts of different streams, and however often each comes, an order ends in the same step."""

from collections import deque
from dataclasses import dataclass, field

from hypothesis import given, note, settings
from hypothesis import strategies as st

from contracts.envelope import Recorded
from contracts.events import Event, SentCommand
from sagas.checkout import CURRENT, Step
from tests.unit.sagas.stories import (
    CANCELLED,
    PLACED,
    UNREDEEMED,
    Log,
    Story,
    completed,
    failed,
    paid,
    ready,
    refund,
    refunded,
    refused,
    released,
)


@dataclass
class Promotion:
    """The promotion side in a few lines: what it records for each command, idempotently and only when it is so."""

    holdable: bool
    redeemable_late: bool
    payable_minor: int
    cancelled: bool = False
    state: str = "none"
    answered: set[str] = field(default_factory=set)
    completions: int = 0

    def answer(self, command: SentCommand) -> list[Event]:
        if command.command_id in self.answered:
            return []
        self.answered.add(command.command_id)
        match command.type, self.state:
            case "hold_for_order", "none":
                held = self.holdable and not self.cancelled
                self.state = "held" if held else "refused"
                return [ready(payable_minor=self.payable_minor)] if held else [refused()]
            case "release_for_order", "held":
                self.state = "released"
                return [released(cause=command.payload["cause"])]
            case "redeem_for_order", "held" | "released" | "refused":
                return self.redeem(command.payload["payment_id"])
            case "refund_for_order", _:
                refund_id = command.payload["refund_id"]
                return [refunded(refund_id, full=refund_id == "full")]
        return []

    def redeem(self, payment_id: str | None) -> list[Event]:
        possible = not self.cancelled and (self.state in {"held", "refused"} or self.redeemable_late)
        let_go = [released(cause="order_cancelled")] if self.cancelled and self.state == "held" else []
        if not possible and payment_id is None:
            self.state = "released" if let_go else self.state
            return [*let_go]
        self.state = "completed"
        self.completions += 1
        return [*let_go, completed(payment_id) if possible else UNREDEEMED]

    def end_lock(self) -> list[Event]:
        assert self.state == "held"
        self.state = "released"
        return [released(cause="lock_ended")]


@dataclass(frozen=True)
class Upstream:
    """What the order system will tell, stream by stream."""

    cancels: bool
    payments: tuple[tuple[str, ...], ...]
    refunds: tuple[str, ...]

    def streams(self) -> dict[str, deque[Event]]:
        told: dict[str, tuple[Event, ...]] = {"order": (PLACED, CANCELLED) if self.cancels else (PLACED,)}
        for number, outcomes in enumerate(self.payments):
            name = f"p{number}"
            told[name] = tuple(paid(name) if outcome == "ok" else failed(name) for outcome in outcomes)
        told |= {name: (refund(name),) for name in self.refunds}
        return {name: deque(events) for name, events in told.items()}

    @property
    def pays(self) -> bool:
        return any("ok" in outcomes for outcomes in self.payments)

    @property
    def fails(self) -> bool:
        return any("failed" in outcomes for outcomes in self.payments)


UPSTREAMS = st.builds(
    Upstream,
    st.booleans(),
    st.lists(st.sampled_from([("ok",), ("failed",), ("failed", "ok")]), max_size=2).map(tuple),
    st.sampled_from([(), ("part",), ("full",), ("part", "full"), ("part", "other")]),
)


def ends(upstream: Upstream, promotion: Promotion, *, lock_ends: bool) -> set[str]:
    """The steps that an order may end in, races permitting; one step when there is no race."""
    free = promotion.payable_minor == 0 and promotion.holdable
    steps: set[str] = set()
    if upstream.pays or free:
        steps |= _settled(upstream, promotion, lock_ends=lock_ends)
    if upstream.cancels and not upstream.pays:
        steps.add(Step.CANCELLED)
    lets_go = upstream.fails or lock_ends
    if not upstream.pays and not (free and not lets_go) and not upstream.cancels:
        steps.add(_unpaid(holdable=promotion.holdable, lets_go=lets_go))
    return steps


def _settled(upstream: Upstream, promotion: Promotion, *, lock_ends: bool) -> set[str]:
    if upstream.refunds:
        return {Step.REFUNDED if "full" in upstream.refunds else Step.PARTLY_REFUNDED}
    late = promotion.holdable and not promotion.redeemable_late and (lock_ends or upstream.fails)
    late |= upstream.cancels
    return {Step.COMPLETED, Step.UNREDEEMED} if late else {Step.COMPLETED}


def _unpaid(*, holdable: bool, lets_go: bool) -> str:
    if not holdable:
        return Step.REFUSED
    return Step.RELEASED if lets_go else Step.HELD


@dataclass
class Race:
    """Everything that can happen next, until nothing can any more."""

    upstream: Upstream
    promotion: Promotion
    lock_ends: bool
    story: Story = field(default_factory=Story)
    told: list[Recorded] = field(default_factory=list)
    log: Log = field(default_factory=Log)
    on_the_way: dict[str, deque[Recorded]] = field(default_factory=dict)
    to_send: deque[SentCommand] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.untold = self.upstream.streams()

    def choices(self) -> list[str]:
        choices = [f"tell {name}" for name, events in sorted(self.untold.items()) if events]
        choices += [f"hear {name}" for name, facts in sorted(self.on_the_way.items()) if facts]
        if self.to_send:
            choices.append("send")
        if self.lock_ends and self.promotion.state == "held":
            choices.append("lock ends")
        return choices

    def happen(self, choice: str) -> None:
        match choice.split(" ", 1):
            case ["tell", name]:
                self._publish(self.untold[name].popleft())
            case ["hear", name]:
                self._hear(self.on_the_way[name].popleft())
            case ["send"]:
                self._publish(*self.promotion.answer(self.to_send.popleft()))
            case _:
                self._publish(*self.promotion.end_lock())

    def _publish(self, *events: Event) -> None:
        for event in events:
            self.promotion.cancelled |= event == CANCELLED
            fact = self.log.record(event)
            self.on_the_way.setdefault(fact.stream, deque()).append(fact)

    def _hear(self, fact: Recorded) -> None:
        self.told.append(fact)
        heard = self.story.hear(fact)
        assert heard is not None, "a fact that was never heard is news"
        self.to_send.extend(heard.sends)


@settings(max_examples=10 * settings().max_examples)  # Small and quick, and the interesting orders are rare.
@given(st.data())
def test_any_order_and_any_duplication_of_facts_ends_in_the_same_step(data: st.DataObject) -> None:
    promotion = Promotion(data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.sampled_from([0, 5_000])))
    race = Race(data.draw(UPSTREAMS), promotion, lock_ends=data.draw(st.booleans()))
    while choices := race.choices():
        choice = data.draw(st.sampled_from(choices))
        note(choice)
        race.happen(choice)
        again = data.draw(st.booleans(), label="again")
        if race.told and again:
            assert race.story.hear(data.draw(st.sampled_from(race.told))) is None
    assert race.story.memory.step in ends(race.upstream, promotion, lock_ends=race.lock_ends)
    assert promotion.state != "held" or race.story.memory.step == Step.HELD
    assert promotion.completions <= 1
    _replays_the_same(race.story)


def _replays_the_same(story: Story) -> None:
    rebuilt = CURRENT.initial
    for heard in story.remembered:
        rebuilt = CURRENT.evolve(rebuilt, heard)
    assert rebuilt == story.memory
