"""Load on an engine: what counts, from when latencies run, and that a refusal is no figure."""

from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Any, cast

import pytest

from benchmarks.loops import BatchSizes, LoadFailed, closed_loop, open_loop
from benchmarks.workloads import ClaimsSpread, IdsOfTheApi
from command.engine import Engine, Listener
from contracts.commands import ClaimCoupon, Command
from contracts.envelope import Answer, CommandEnvelope
from contracts.position import Position


def answer(status: Any = "accepted", code: str = "ok") -> Answer:
    return Answer(status, code, "", {}, Position(0, "e", 1))


class AtOnce:
    """An engine that answers in the same breath, and remembers who asked."""

    def __init__(self, outcome: Answer | Exception) -> None:
        self.outcome = outcome
        self.seen: list[CommandEnvelope] = []

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        for envelope, listener in envelopes:
            self.seen.append(envelope)
            listener(self.outcome)


class Numbers(IdsOfTheApi):
    """Each client's claims are numbered."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()

    def prepare(self, engine: Engine, clients: int) -> None:
        """Nothing."""

    def next(self, client: int) -> Command:
        self.asked[client] += 1
        return ClaimCoupon(template_id="t", user_id=f"u{client}-{self.asked[client]}")


async def test_clients_of_a_closed_loop_take_turns_and_every_command_has_an_id_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = count()
    monkeypatch.setattr("benchmarks.loops.perf_counter", lambda: next(ticks) / 1_000)  # A busy machine is no slower.
    engine, workload = AtOnce(answer()), Numbers()
    told = await closed_loop(cast(Engine, engine), workload, 3, seconds=0.5, warm_seconds=0.25)
    assert max(workload.asked.values()) - min(workload.asked.values()) <= 1
    assert len({envelope.command_id for envelope in engine.seen}) == len(engine.seen)
    assert 0 < told.latencies.count < len(engine.seen)  # What was answered during the warm-up does not count.
    assert told.per_second == pytest.approx(told.latencies.count / 0.5)


async def test_arrivals_come_at_their_rate_whoever_is_still_waiting() -> None:
    engine = AtOnce(answer())
    told = await open_loop(cast(Engine, engine), Numbers(), 2_000.0, seconds=0.2, warm_seconds=0.0)
    assert told.latencies.count == len(engine.seen)  # Every arrival within the window, and nobody else.
    assert 250 < len(engine.seen) < 550  # 400 on average, by the seed.


@pytest.mark.parametrize("outcome", [answer("refused", "sold_out"), RuntimeError("broken")])
async def test_figures_of_refused_or_failed_commands_are_no_figures(outcome: Answer | Exception) -> None:
    with pytest.raises(LoadFailed, match=r"sold_out|broken"):
        await closed_loop(cast(Engine, AtOnce(outcome)), Numbers(), 1, seconds=0.01, warm_seconds=0.0)


def test_batches_are_told_by_their_size() -> None:
    sizes = BatchSizes()
    for tickets in (1, 1, 10):
        sizes.batch_committed(tickets, 2 * tickets, {}, 0.0)
    told = sizes.summary()
    assert (told["batches"], told["commands_mean"], told["commands_max"]) == (3, 4.0, 10)
    assert told["events_per_command"] == 2.0
    sizes.reset()
    assert sizes.summary()["batches"] == 0


def test_spread_claims_go_round_a_thousand_templates() -> None:
    workload = ClaimsSpread("a")
    asked = [cast(ClaimCoupon, workload.next(0)) for _ in range(1_001)]
    assert len({command.template_id for command in asked}) == 1_000
    assert len({command.user_id for command in asked}) == 1_001
