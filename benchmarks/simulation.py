"""Shards under load, simulated: where queues grow, and what the slowest hundredth then waits.

A shard is two batch servers in a row: the engine takes whatever waits (bounded) as one batch, and its followers take
whatever was committed. A batch takes a fixed time and a time for each command; both are fitted to measured rates.
Arrivals are a Poisson process. Discrete events, one random generator, no clock: the same seed gives the same figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from benchmarks.figures import percentile

# Batches of one size do not take the same time: uniformly within these shares of the fitted one.
JITTER: Final = (0.7, 1.3)
# Whoever answers a smaller share of what came, by the time the load ends, falls behind.
KEEPS_UP: Final = 0.97


@dataclass(frozen=True, slots=True)
class BatchServer:
    """Serves up to ``batch_max`` at once in ``fixed_ms + each_ms * size``; those beyond ``queue_max`` are refused."""

    name: str
    fixed_ms: float
    each_ms: float
    batch_max: int
    queue_max: int | None = None

    @property
    def most_per_second(self) -> float:
        """With full batches."""
        return 1_000 * self.batch_max / (self.fixed_ms + self.each_ms * self.batch_max)


@dataclass(frozen=True, slots=True)
class Passage:
    """What became of arrivals at a server: when each accepted one came and left (ms), in how many batches."""

    came: Sequence[float]
    left: Sequence[float]
    refused: int
    batches: int


def serve(server: BatchServer, arrivals: Sequence[float], chance: Random) -> Passage:
    """Pass ascending arrivals (ms) through one server."""
    came: list[float] = []
    left: list[float] = []
    waiting: list[float] = []
    refused, index, free_at, batches = 0, 0, 0.0, 0
    while waiting or index < len(arrivals):
        start = max(free_at, waiting[0] if waiting else arrivals[index])
        while index < len(arrivals) and arrivals[index] <= start:
            if server.queue_max is not None and len(waiting) >= server.queue_max:
                refused += 1
            else:
                waiting.append(arrivals[index])
            index += 1
        batch, waiting = waiting[: server.batch_max], waiting[server.batch_max :]
        took = (server.fixed_ms + server.each_ms * len(batch)) * chance.uniform(*JITTER)
        free_at, batches = start + took, batches + 1
        came += batch
        left += [free_at] * len(batch)
    return Passage(came, left, refused, batches)


@dataclass(frozen=True, slots=True)
class Seen:
    """One simulated load. Latencies are of commands; the lag is how long followers are behind at the end."""

    offered_per_second: float
    answered_per_second: float
    refused_share: float
    p50_ms: float
    p99_ms: float
    batch_mean: float  # On the shard with the largest batches: how they grow is how load is borne.
    follower_lag_seconds: float
    saturated: str  # The part that could not keep up; empty when all could.


@dataclass(frozen=True, slots=True)
class Cluster:
    """So many equal shards. ``hot_share``: what part of all commands one template gets, which lies on one shard."""

    engine: BatchServer
    followers: BatchServer
    events_per_command: int
    shards: int
    hot_share: float = 0.0

    def shares(self) -> list[float]:
        """Of all commands, by shard; the hot template is on the first."""
        cold = (1.0 - self.hot_share) / self.shards
        return [cold + (self.hot_share if shard == 0 else 0.0) for shard in range(self.shards)]


def simulate(cluster: Cluster, per_second: float, *, seconds: float, seed: int = 1) -> Seen:
    """Let commands arrive for so long, and serve all of them."""
    chance = Random(seed)
    end = seconds * 1_000
    milliseconds: list[float] = []
    refused, in_time, batch_mean, lag = 0, 0, 0.0, 0.0
    for share in cluster.shares():
        arrivals = poisson(per_second * share, end, chance)
        passed = serve(cluster.engine, arrivals, chance)
        milliseconds += [left - came for came, left in zip(passed.came, passed.left, strict=True)]
        refused += passed.refused
        in_time += sum(left <= end for left in passed.left)
        batch_mean = max(batch_mean, len(passed.left) / max(1, passed.batches))
        events = [left for left in passed.left for _ in range(cluster.events_per_command)]
        followed = serve(cluster.followers, events, chance)
        if followed.left:
            lag = max(lag, (followed.left[-1] - passed.left[-1]) / 1_000)
    ordered = sorted(milliseconds) or [0.0]
    answered = in_time / seconds
    p99 = percentile(ordered, 99)
    offered = len(milliseconds) + refused
    return Seen(
        offered / seconds,
        answered,
        refused / offered if offered else 0.0,
        percentile(ordered, 50),
        p99,
        batch_mean,
        lag,
        _saturated(cluster, in_time / max(1, offered), lag, seconds),
    )


def poisson(per_second: float, end_ms: float, chance: Random) -> list[float]:
    """Random instants before ``end_ms``, ascending."""
    instants: list[float] = []
    at = chance.expovariate(per_second / 1_000) if per_second > 0 else end_ms
    while at < end_ms:
        instants.append(at)
        at += chance.expovariate(per_second / 1_000)
    return instants


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A line through (batch size, milliseconds): what is fixed, and what each adds; neither is negative.

    Least squares of the relative error, as small batches matter as much as large ones. Raises ValueError for fewer
    than two sizes.
    """
    if len({size for size, _ in points}) < 2:
        raise ValueError("a line needs two sizes of batches")
    weights = [1.0 / took**2 for _, took in points]
    total = sum(weights)
    mean_size = sum(w * size for w, (size, _) in zip(weights, points, strict=True)) / total
    mean_took = sum(w * took for w, (_, took) in zip(weights, points, strict=True)) / total
    covariance = sum(
        w * (size - mean_size) * (took - mean_took) for w, (size, took) in zip(weights, points, strict=True)
    )
    variance = sum(w * (size - mean_size) ** 2 for w, (size, _) in zip(weights, points, strict=True))
    each = max(0.0, covariance / variance)
    return max(0.0, mean_took - each * mean_size), each


def _saturated(cluster: Cluster, answered_share: float, lag: float, seconds: float) -> str:
    if answered_share < KEEPS_UP:
        return cluster.engine.name
    # Followers that keep up are behind by a batch or two, however long it goes on.
    return cluster.followers.name if lag > max(0.1 * seconds, 0.5) else ""
