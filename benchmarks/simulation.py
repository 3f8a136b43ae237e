"""Shards under load, simulated: where queues grow, what the slowest hundredth waits, and where each part saturates.

A shard is batch servers: the engine takes whatever waits (bounded) as one batch, and each of its followers whatever was
committed. A batch takes a fixed time and a time for each command; both are fitted to measured rates or costs.
Arrivals are a Poisson process. Discrete events, one random generator, no clock: the same seed gives the same figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from benchmarks.figures import percentile

# Batches of one size do not take the same time: uniformly within these shares of the fitted one.
JITTER: Final = (0.7, 1.3)
# Whoever answers a smaller share of what came, by the time the load ends, falls behind.
KEEPS_UP: Final = 0.97
# One who keeps up is behind by a batch or two, however long it goes on; this share of the time is more.
BEHIND: Final = 0.1
# By itself a part is given so many commands at each load, and keeps up when it is no longer behind in the end.
COMMANDS_ALONE: Final = 50_000
BEHIND_ALONE: Final = 0.02
HALVINGS: Final = 10


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
    saturated: str  # The parts that could not keep up; empty when all could.


@dataclass(frozen=True, slots=True)
class Cluster:
    """So many equal shards. ``hot_share``: what part of all commands one template gets, which lies on one shard."""

    engine: BatchServer
    followers: Sequence[BatchServer]  # Each of them follows the engine by itself.
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
    refused, in_time, batch_mean = 0, 0, 0.0
    lags = dict.fromkeys((each.name for each in cluster.followers), 0.0)
    for share in cluster.shares():
        arrivals = poisson(per_second * share, end, chance)
        passed = serve(cluster.engine, arrivals, chance)
        milliseconds += [left - came for came, left in zip(passed.came, passed.left, strict=True)]
        refused += passed.refused
        in_time += sum(left <= end for left in passed.left)
        batch_mean = max(batch_mean, len(passed.left) / max(1, passed.batches))
        events = [left for left in passed.left for _ in range(cluster.events_per_command)]
        for follower in cluster.followers:
            followed = serve(follower, events, chance)
            if followed.left:
                lags[follower.name] = max(lags[follower.name], (followed.left[-1] - passed.left[-1]) / 1_000)
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
        max(lags.values(), default=0.0),
        ", ".join(_saturated(cluster, in_time / max(1, offered), lags, seconds)),
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


def _saturated(cluster: Cluster, answered_share: float, lags: Mapping[str, float], seconds: float) -> list[str]:
    names = [cluster.engine.name] if answered_share < KEEPS_UP else []
    return names + [name for name, lag in lags.items() if _is_behind(lag, seconds)]


def _is_behind(lag_seconds: float, seconds: float) -> bool:
    return lag_seconds > max(BEHIND * seconds, 0.5)


# One part by itself.


@dataclass(frozen=True, slots=True)
class Saturation:
    """One unit of a part under rising load: what it bears, and how it is below and above that."""

    name: str
    most_per_second: float  # The largest load with which it keeps up.
    p99_ms_below: float  # What the slowest hundredth waits at seven tenths of that.
    behind_seconds_above: float  # How far behind it is, for each second that the load is a fifth larger.


def saturation(server: BatchServer, *, seed: int = 1) -> Saturation:
    """Halve the way between a load that it bears and one that it does not. Nobody is refused: that would hide it."""
    server = replace(server, queue_max=None)
    low, high = 0.1 * server.most_per_second, 2.0 * server.most_per_second
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        _, lag, seconds = _alone(server, middle, seed)
        low, high = (low, middle) if lag > BEHIND_ALONE * seconds else (middle, high)
    waits, _, _ = _alone(server, 0.7 * low, seed)
    _, lag, seconds = _alone(server, 1.2 * low, seed)
    return Saturation(server.name, low, percentile(sorted(waits) or [0.0], 99), lag / seconds)


def _alone(server: BatchServer, per_second: float, seed: int) -> tuple[list[float], float, float]:
    """What each waits (ms), how far behind it is in the end, and after how long (both in seconds)."""
    chance, seconds = Random(seed), COMMANDS_ALONE / per_second
    passed = serve(server, poisson(per_second, 1_000 * seconds, chance), chance)
    waits = [left - came for came, left in zip(passed.came, passed.left, strict=True)]
    return waits, max(0.0, passed.left[-1] / 1_000 - seconds) if passed.left else 0.0, seconds
