"""How targets are judged, sides are measured in turn, and other programs' words are read."""

from typing import Any, cast

import pytest

from benchmarks.bench import Bench, Effort, Figure, Outcome, Side, Target, best_of, in_turn, ratio
from benchmarks.engine_process import ChildFailed
from benchmarks.http_client import UnexpectedAnswer, is_whole, post
from benchmarks.postgres import Instance, NotDurable, PgbenchFailed, parse_pgbench, require_durable
from benchmarks.targets import TARGETS, p11_latency


class NoServer:
    """Writes nothing out."""

    def checkpoint(self) -> None:
        """Nothing to write."""


def bench(rounds: int) -> Bench:
    return Bench(cast(Instance, NoServer()), Effort(rounds=rounds), lambda text: None)


def target(better: Any) -> Target:
    def never(_bench: Bench) -> Outcome:
        raise AssertionError

    return Target("x", "", "", never, target=1.0, moonshot=2.0 if better == "higher" else 0.5, better=better)


def test_the_order_of_the_sides_alternates_from_round_to_round() -> None:
    seen: list[str] = []

    def side(name: str) -> Any:
        def measure() -> Figure:
            seen.append(name)
            return Figure(float(len(seen)))

        return measure

    sides = in_turn(bench(3), {"ours": side("ours"), "theirs": side("theirs")})
    assert seen == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert [each.values for each in sides] == [[1, 4, 5], [2, 3, 6]]
    assert ratio(sides).value == pytest.approx(5 / 6)


def test_the_best_number_of_clients_is_that_of_the_best_mean_over_passes_there_and_back() -> None:
    asked: list[int] = []
    lucky = iter([5.0, 7.0, 4.0, 6.0, 2.0, 5.5])

    def measure(clients: int) -> Figure:
        asked.append(clients)
        return Figure(next(lucky), {})

    swept = best_of(bench(1), "it", measure, (1, 2, 4))
    assert asked == [1, 2, 4, 4, 2, 1]
    assert (swept.best, swept.values) == (1, {1: 5.25, 2: 4.5, 4: 5.0})


@pytest.mark.parametrize("beyond", [0.85, p11_latency.SHARE])
def test_a_load_that_was_too_much_leaves_the_others_unless_it_is_the_one_compared(
    monkeypatch: pytest.MonkeyPatch, beyond: float
) -> None:
    def at_share(_bench: Bench, share: float, _clients: int, _theirs: int) -> Outcome:
        if share == beyond:
            raise ChildFailed("the queue is full")
        latencies = {"latencies": {"p50_ms": share, "p99_ms": share}, "per_second": 1.0}
        one, claims, commits = (
            Side(name.format(share), "ms", [Figure(value, latencies)])
            for name, value in ((p11_latency._ALONE, 1.0), (p11_latency._CLAIMS, 6.0), (p11_latency._COMMITS, 3.0))
        )
        return Outcome(0.0, [], [one, claims, commits], verified="holds")

    monkeypatch.setattr(p11_latency, "_best", lambda _bench: (1, 1))
    monkeypatch.setattr(p11_latency, "_at_share", at_share)
    if beyond == p11_latency.SHARE:
        with pytest.raises(ChildFailed):
            p11_latency.by_load(bench(1))
        return
    told = p11_latency.by_load(bench(1))
    assert (told.value, [row["load"] for row in told.details["rows"]]) == (2.0, ["10%", "30%", "50%", "70%"])
    assert any("85% of the peak could not be measured: the queue is full" in note for note in told.notes)


def test_a_target_is_met_from_its_bound_on_whichever_way_is_better() -> None:
    assert [target("higher").met(value) for value in (0.99, 1.0, 2.0)] == ["missed", "target", "moonshot"]
    assert [target("lower").met(value) for value in (1.01, 1.0, 0.5)] == ["missed", "target", "moonshot"]


def test_every_target_has_a_name_of_its_own() -> None:
    keys = [each.key for each in TARGETS]
    assert len(set(keys)) == len(keys)


def test_a_server_that_could_lose_commits_is_not_measured() -> None:
    on = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
    require_durable(on)
    with pytest.raises(NotDurable, match="synchronous_commit is off"):
        require_durable({**on, "synchronous_commit": "off"})
    with pytest.raises(NotDurable, match="fsync is None"):
        require_durable({})


def test_pgbench_is_read_by_its_summary() -> None:
    text = "number of transactions actually processed: 44321\nlatency average = 2.9 ms\ntps = 22156.123 (without …)\n"
    assert parse_pgbench(text) == (44_321, 22_156.123)
    assert parse_pgbench("number of transactions actually processed: 0\n") == (0, 0.0)
    with pytest.raises(PgbenchFailed, match="understand"):
        parse_pgbench("pgbench: error: …")


def test_an_answer_is_whole_once_its_body_is_there() -> None:
    head = b"HTTP/1.1 201 Created\r\ncontent-length: 4\r\nx: y\r\n\r\n"
    assert not is_whole(head[:30])
    assert not is_whole(head + b"abc")
    assert is_whole(head + b"abcd")
    with pytest.raises(UnexpectedAnswer, match="length"):
        is_whole(b"HTTP/1.1 200 OK\r\n\r\n")


def test_a_request_tells_the_length_of_its_body() -> None:
    assert b"content-length: 2\r\n\r\n{}" in post("/v1/orders", b"{}", "tsk_a_b")
