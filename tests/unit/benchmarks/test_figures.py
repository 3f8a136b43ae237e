"""The arithmetic of the benchmarks: a wrong percentile is worse than none."""

import pytest

from benchmarks.figures import Latencies, percentile, ratio_of_rounds, spread


def test_a_percentile_is_a_figure_that_was_seen() -> None:
    figures = [float(number) for number in range(1, 101)]
    assert percentile(figures, 50) == 50
    assert percentile(figures, 99) == 99
    assert percentile(figures, 99.9) == 100
    assert percentile(figures, 0) == 1
    assert percentile([7.0], 99) == 7


def test_there_is_no_percentile_of_nothing_and_none_beyond_a_hundred() -> None:
    with pytest.raises(ValueError, match="no figures"):
        percentile([], 50)
    with pytest.raises(ValueError, match="percentage"):
        percentile([1.0], 101)


def test_latencies_are_sorted_before_they_are_ranked() -> None:
    told = Latencies.of([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (told.count, told.p50_ms, told.p99_ms, told.max_ms) == (5, 3.0, 5.0, 5.0)


def test_of_no_operation_there_is_no_latency() -> None:
    assert Latencies.of([]) == Latencies(0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """The machine was half as fast in the second round: both sides suffered, and the ratio did not."""
    value, rounds = ratio_of_rounds([200.0, 100.0, 210.0], [100.0, 50.0, 100.0])
    assert rounds == [2.0, 2.0, 2.1]
    assert value == 2.0


def test_a_side_that_did_nothing_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="did something"):
        ratio_of_rounds([1.0], [0.0])
    with pytest.raises(ValueError, match="did something"):
        ratio_of_rounds([], [])
    with pytest.raises(ValueError, match="shorter"):
        ratio_of_rounds([1.0, 2.0], [1.0])


def test_the_spread_is_told_relative_to_the_median() -> None:
    assert spread([90.0, 100.0, 120.0]) == pytest.approx(0.3)
    assert spread([]) == 0
