"""The simulation: it keeps up below the capacity that the arithmetic gives, and not above; and it is repeatable."""

import json
from random import Random
from xml.etree import ElementTree as Xml

import pytest

from benchmarks.chart import Line, svg
from benchmarks.publish import MEASURED
from benchmarks.scaling import DOCUMENT, SECTIONS, Scaling, rewritten
from benchmarks.simulation import BatchServer, Cluster, fit, poisson, saturation, serve, simulate

ENGINE = BatchServer("engine", fixed_ms=1.0, each_ms=0.1, batch_max=100, queue_max=1_000)  # 9,091/s at most.
FOLLOWERS = BatchServer("followers", fixed_ms=1.0, each_ms=0.01, batch_max=1_000)


def cluster(shards: int = 1, hot_share: float = 0.0, *followers: BatchServer) -> Cluster:
    return Cluster(ENGINE, followers or [FOLLOWERS], 2, shards, hot_share)


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    once, again, other = (simulate(cluster(), 5_000, seconds=1, seed=seed) for seed in (1, 1, 2))
    assert once == again
    assert once != other


def test_below_its_capacity_everybody_is_answered_and_above_it_the_capacity_is_what_comes_out() -> None:
    below = simulate(cluster(), 0.8 * ENGINE.most_per_second, seconds=4)
    assert below.answered_per_second == pytest.approx(below.offered_per_second, rel=0.01)
    assert (below.refused_share, below.saturated) == (0.0, "")
    above = simulate(cluster(), 2.0 * ENGINE.most_per_second, seconds=4)
    assert above.answered_per_second == pytest.approx(ENGINE.most_per_second, rel=0.05)
    assert above.saturated == "engine"
    assert above.refused_share == pytest.approx(0.5, abs=0.05)
    assert above.p99_ms > 10 * below.p99_ms


def test_nobody_waits_longer_than_a_full_queue_takes() -> None:
    seen = simulate(cluster(), 5.0 * ENGINE.most_per_second, seconds=2)
    assert ENGINE.queue_max is not None
    batches = ENGINE.queue_max / ENGINE.batch_max + 2
    assert seen.p99_ms <= batches * 1.3 * (ENGINE.fixed_ms + ENGINE.each_ms * ENGINE.batch_max)


def test_when_idle_a_command_is_a_batch_of_its_own() -> None:
    passed = serve(ENGINE, [0.0, 100.0, 200.0], Random(1))
    waits = [left - came for came, left in zip(passed.came, passed.left, strict=True)]
    assert all(0.7 * 1.1 <= wait <= 1.3 * 1.1 for wait in waits)


def test_twice_the_shards_take_twice_the_load_unless_one_template_gets_it() -> None:
    load = 1.6 * ENGINE.most_per_second
    assert simulate(cluster(1), load, seconds=2).saturated == "engine"
    assert simulate(cluster(2), load, seconds=2).saturated == ""
    assert simulate(cluster(2, hot_share=0.7), load, seconds=2).saturated == "engine"


def test_followers_that_are_slower_than_the_engine_are_named() -> None:
    slow = BatchServer("followers", fixed_ms=1.0, each_ms=0.2, batch_max=1_000)
    slower = BatchServer("others", fixed_ms=1.0, each_ms=0.3, batch_max=1_000)
    fast = BatchServer("fast", fixed_ms=1.0, each_ms=0.01, batch_max=1_000)
    seen = simulate(cluster(1, 0.0, slow, fast, slower), 5_000, seconds=2)
    assert seen.saturated == "followers, others"
    assert seen.follower_lag_seconds > 1


@pytest.mark.parametrize("server", [ENGINE, BatchServer("slow", fixed_ms=5.0, each_ms=1.0, batch_max=2_000)])
def test_a_part_by_itself_gives_in_where_its_batches_are_full(server: BatchServer) -> None:
    found = saturation(server)
    assert found.most_per_second == pytest.approx(server.most_per_second, rel=0.05)
    assert found.p99_ms_below < 2 * (server.fixed_ms + server.each_ms * server.batch_max)
    assert found.behind_seconds_above == pytest.approx(0.2, abs=0.1)


def test_arrivals_are_as_many_as_their_rate_says() -> None:
    instants = poisson(1_000, 10_000, Random(3))
    assert instants == sorted(instants)
    assert len(instants) == pytest.approx(10_000, rel=0.05)
    assert poisson(0.0, 10_000, Random(3)) == []


def test_a_line_through_measured_batches_gives_back_what_they_took() -> None:
    fixed, each = fit([(size, 2.0 + 0.1 * size) for size in (1, 16, 64, 256, 500)])
    assert [fixed, each] == pytest.approx([2.0, 0.1])
    with pytest.raises(ValueError, match="two sizes"):
        fit([(64, 8.0), (64, 9.0)])


def test_the_documentation_says_what_the_model_makes_of_what_was_measured() -> None:
    """But for the simulations, which take their time; they are seeded, and rewritten by the same command."""
    scaling = Scaling(json.loads(MEASURED.read_text()))
    names = [name for name in SECTIONS if name not in {"simulation", "saturation"}]
    assert rewritten(DOCUMENT.read_text(), scaling, names) == DOCUMENT.read_text()


def test_a_chart_is_well_formed_and_keeps_its_lines_inside() -> None:
    root = Xml.fromstring(svg("t", "x", "y", [Line("a", [(10, 1), (900, 40)]), Line("b", [(10, 5)], dashed=True)]))
    assert root.tag.endswith("svg")
    for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
        for place in line.attrib["points"].split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= 820
            assert 0 <= y <= 420
    with pytest.raises(ValueError, match="points"):
        svg("t", "x", "y", [])
