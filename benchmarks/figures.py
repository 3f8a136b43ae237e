"""The arithmetic of the benchmarks: medians, percentiles and ratios of rounds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Final

# What a list of latencies is shortened to.
PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of an ascending sequence, ``share`` in percent. Raises ValueError when empty."""
    if not ordered:
        raise ValueError("no figures, no percentile")
    if not 0 <= share <= 100:
        raise ValueError(f"{share} is not a percentage")
    return ordered[max(0, ceil(len(ordered) * share / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long operations took, in milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float

    @classmethod
    def of(cls, milliseconds: Iterable[float]) -> "Latencies":
        """From single figures; of none, everything is zero."""
        ordered = sorted(milliseconds)
        if not ordered:
            return cls(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        p50, p95, p99, p999 = (percentile(ordered, share) for share in PERCENTILES)
        return cls(len(ordered), p50, p95, p99, p999, ordered[-1])


def ratio_of_rounds(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, list[float]]:
    """The median of the rounds' own ratios, and those ratios: what slowed one round slowed both of its sides.

    Raises ValueError when the sides differ in length, are empty, or the other side measured nothing.
    """
    ratios = [mine / other if other else 0.0 for mine, other in zip(ours, theirs, strict=True)]
    if not ratios or not all(theirs):
        raise ValueError("a ratio needs rounds in which the other side did something")
    return median(ratios), ratios


def spread(figures: Sequence[float]) -> float:
    """How far rounds lie apart: (largest - smallest) / median; 0 for none."""
    middle = median(figures) if figures else 0.0
    return (max(figures) - min(figures)) / middle if middle else 0.0
