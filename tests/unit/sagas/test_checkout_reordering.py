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
    """The promotion side in a few lines: what it records for each command, idempotently."""

    holdable: bool
    redeemable_late: bool
    state: str = "none"
    answered: set[str] = field(default_factory=set)
    completions: int = 0

    def answer(self, command: SentCommand) -> list[Event]:
        if command.command_id in self.answered:
            return []
        self.answered.add(command.command_id)
        match command.type, self.state:
            case "hold_for_order", "none" | "released" | "refused":
                self.state = "held" if self.holdable else "refused"
                return [ready()] if self.holdable else [refused()]
            case "release_for_order", "held":
                self.state = "released"
                return [released(cause=command.payload["cause"])]
            case "redeem_for_order", "held" | "released" | "refused" | "none":
                held = self.state == "held" or (self.holdable and self.redeemable_late)
                self.state = "completed"
                self.completions += 1
                return [completed(command.payload["payment_id"]) if held else UNREDEEMED]
            case "refund_for_order", "completed":
                refund_id = command.payload["refund_id"]
                return [refunded(refund_id, full=refund_id == "full")]
        return []


@dataclass(frozen=True)
class Upstream:
    """What the order system will tell, stream by stream, and the steps the order may end in."""

    streams: tuple[tuple[Event, ...], ...]
    ends: frozenset[str]


@st.composite
def upstreams(draw: st.DrawFn, holdable: bool, redeemable_late: bool) -> Upstream:
    cancels = draw(st.booleans())
    payments = draw(st.lists(st.sampled_from([("ok",), ("failed",), ("failed", "ok")]), max_size=3).map(tuple))
    refunds = draw(st.sampled_from([(), ("part",), ("full",), ("part", "full"), ("part", "other")]))
    streams: list[tuple[Event, ...]] = [(PLACED, CANCELLED) if cancels else (PLACED,)]
    for number, outcomes in enumerate(payments):
        name = f"p{number}"
        streams.append(tuple(paid(name) if outcome == "ok" else failed(name) for outcome in outcomes))
    streams += [(refund(name),) for name in refunds]
    succeeds = any("ok" in outcomes for outcomes in payments)
    ends: set[str] = set()
    if succeeds:
        ends |= _settled(refunds, holdable=holdable, redeemable_late=redeemable_late)
    if cancels:
        ends.add(Step.CANCELLED)
    if not succeeds and not cancels:
        ends.add(_unpaid(holdable=holdable, fails=bool(payments)))
    return Upstream(tuple(streams), frozenset(ends))


def _settled(refunds: tuple[str, ...], *, holdable: bool, redeemable_late: bool) -> set[str]:
    if refunds:
        return {Step.REFUNDED if "full" in refunds else Step.PARTLY_REFUNDED}
    if not holdable:
        return {Step.UNREDEEMED}
    return {Step.COMPLETED} if redeemable_late else {Step.COMPLETED, Step.UNREDEEMED}


def _unpaid(*, holdable: bool, fails: bool) -> str:
    if not holdable:
        return Step.REFUSED
    return Step.RELEASED if fails else Step.HELD


@settings(max_examples=5 * settings().max_examples)  # Small and quick, and the interesting orders are rare.
@given(st.data())
def test_any_order_and_any_duplication_of_facts_ends_in_the_same_step(data: st.DataObject) -> None:
    holdable, late = data.draw(st.booleans()), data.draw(st.booleans())
    upstream = data.draw(upstreams(holdable, late))
    story, promotion, log = Story(), Promotion(holdable, late), Log()
    on_the_way: dict[str, deque[Recorded]] = {}
    told: list[Recorded] = []
    to_send: deque[SentCommand] = deque()

    def publish(event: Event) -> None:
        fact = log.record(event)
        on_the_way.setdefault(fact.stream, deque()).append(fact)

    for stream in upstream.streams:
        for event in stream:
            publish(event)
    while True:
        sources = [name for name, queue in sorted(on_the_way.items()) if queue]
        choices = sources + (["command"] if to_send else [])
        if not choices:
            break
        choice = data.draw(st.sampled_from(choices))
        if choice == "command":
            for event in promotion.answer(to_send.popleft()):
                publish(event)
        else:
            fact = on_the_way[choice].popleft()
            told.append(fact)
            heard = story.hear(fact)
            assert heard is not None, "a fact that was never told is news"
            to_send.extend(heard.sends)
        if data.draw(st.booleans(), label="again"):
            assert story.hear(data.draw(st.sampled_from(told))) is None if told else True

    note(f"told {[fact.event.type for fact in told]}")
    assert story.memory.step in upstream.ends
    assert promotion.completions <= 1
    _replays_the_same(story)


def _replays_the_same(story: Story) -> None:
    rebuilt = CURRENT.initial
    for heard in story.remembered:
        rebuilt = CURRENT.evolve(rebuilt, heard)
    assert rebuilt == story.memory
