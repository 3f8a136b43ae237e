"""What a target is, what it has to work with, and how two sides are measured in turn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean
from typing import Any, Final, Literal, Self

from benchmarks.figures import ratio_of_rounds
from benchmarks.postgres import Instance

PGBENCH_CLIENTS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
ENGINE_CLIENTS: Final = (16, 64, 256, 512, 1_024)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long everything is measured. ``events``: how large the large store of P13 is."""

    rounds: int = 5
    seconds: float = 4.0
    warm_seconds: float = 1.0
    sweep_seconds: float = 2.0
    events: int = 10_000_000
    users: int = 1_000_000  # In one list.
    codes: int = 10_000_000  # In one batch.

    @classmethod
    def quick(cls) -> Self:
        """To see that everything runs; its figures say little."""
        return cls(
            rounds=2, seconds=1.0, warm_seconds=0.3, sweep_seconds=1.0, events=20_000, users=20_000, codes=50_000
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """What one side did in one round: a rate, a time or a cost, and whatever else was seen on the way."""

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Side:
    """One side of a ratio over all rounds."""

    name: str
    unit: str
    rounds: list[Figure] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        """One for each round."""
        return [figure.value for figure in self.rounds]

    @property
    def middle(self) -> Figure:
        """The round in the middle, by its value: what explains the median."""
        return sorted(self.rounds, key=lambda figure: figure.value)[len(self.rounds) // 2]


@dataclass(slots=True)
class Outcome:
    """What a target came to: the ratio (or cost), both sides, and what explains them."""

    value: float
    rounds: list[float]
    sides: list[Side]
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    verified: str | None = None  # What the verification of the store said after the load.
    held: bool = True


@dataclass(slots=True)
class Bench:
    """One run: the server, how long to measure, and whom to tell how far it is."""

    postgres: Instance
    effort: Effort
    say: Say
    shared: dict[str, Any] = field(default_factory=dict)  # What several targets measure together.


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table."""

    key: str
    title: str
    how: str  # What each side does, for ``--list``.
    run: Callable[[Bench], Outcome]
    target: float | None = None
    moonshot: float | None = None
    unit: Literal["×", "µs", ""] = "×"
    better: Literal["higher", "lower"] = "higher"
    others: str = ""
    by_default: bool = True

    def met(self, value: float) -> str:
        """``moonshot``, ``target``, ``missed``, or nothing when there is no target."""
        for name, bound in (("moonshot", self.moonshot), ("target", self.target)):
            if bound is not None and (value >= bound if self.better == "higher" else value <= bound):
                return name
        return "missed" if self.target is not None else ""


def in_turn(
    bench: Bench, sides: Mapping[str, Callable[[], Figure]], *, unit: str = "/s", alternate: bool = True
) -> list[Side]:
    """Measure every side once per round; the order alternates, so that nobody always comes after the other."""
    measured = {name: Side(name, unit) for name in sides}
    for number in range(bench.effort.rounds):
        bench.postgres.checkpoint()
        order = list(sides)[:: -1 if alternate and number % 2 else 1]
        for name in order:
            bench.say(f"round {number + 1} of {bench.effort.rounds}: {name}")
            measured[name].rounds.append(sides[name]())
    return list(measured.values())


def ratio(sides: list[Side], **details: Any) -> Outcome:
    """The first side over the second one."""
    ours, theirs = islice(sides, 2)
    value, rounds = ratio_of_rounds(ours.values, theirs.values)
    return Outcome(value, rounds, sides, dict(details))


def best_of(bench: Bench, what: str, measure: Callable[[int], Figure], clients: tuple[int, ...]) -> "Sweep":
    """Measure each number of clients shortly, to learn which serves best: there and back, by the mean.

    Where neighbours differ by less than the machine's moods, one look picks whichever was lucky.
    """
    seen: dict[int, list[float]] = {number: [] for number in clients}
    for there in (clients, clients[::-1]):
        for number in there:
            bench.say(f"{what}: {number} clients")
            seen[number].append(measure(number).value)
    means = {number: fmean(values) for number, values in seen.items()}
    return Sweep(max(means, key=lambda number: means[number]), means)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The number of clients that served best, and what each gave."""

    best: int
    values: dict[int, float]
