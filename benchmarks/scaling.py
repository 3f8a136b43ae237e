"""``python -m benchmarks.scaling``: feed the capacity model and the simulation with what was measured.

Rewrites the marked sections of ``docs/scaling.md``, and ``docs/scaling.svg``, from ``docs/measured.json``.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from benchmarks.capacity import (
    HEADROOM,
    Load,
    NotMeasured,
    Part,
    Shape,
    first_to_saturate,
    most_on_one_shard,
    need,
    parts_of,
    plan,
    shape_of,
    shards,
)
from benchmarks.chart import Line, svg
from benchmarks.processor import EDGE
from benchmarks.publish import MEASURED, ROOT, fill_sections, markdown
from benchmarks.report import number
from benchmarks.simulation import BatchServer, Cluster, Saturation, Seen, fit, saturation, simulate

DOCUMENT: Final = ROOT / "docs" / "scaling.md"
CHART: Final = ROOT / "docs" / "scaling.svg"

LOADS: Final = (
    Load("one laptop", 200, 20),
    Load("a shop's sale", 5_000, 500, 0.5),
    Load("a country", 50_000, 5_000, 0.1),
    Load("the internet", 1_000_000, 100_000, 0.02),
)
SHARDS: Final = (1, 2, 4, 8)
FRACTIONS: Final = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2)
HOT_SHARE: Final = 0.5
TOLD: Final = (0.3, 0.7, 0.9, 1.2)  # In the table; the chart shows all.
SIMULATED_SECONDS: Final = 5.0
FOLLOWERS: Final = ("projections", "relay to Kafka")
WORKERS: Final = (*FOLLOWERS, "saga worker")
FOLLOWER_BATCH: Final = 2_000
FOLLOWER_MS: Final = 5.0  # What a batch costs a worker, whatever is in it: assumed.
MIX: Final = Load("one command", 10 / 11, 1 / 11)  # As in the loads below.
BATCH_COMMANDS: Final = 500
QUEUE_COMMANDS: Final = 20_000


@dataclass
class Scaling:
    """Everything that the sections tell, from one result."""

    result: Mapping[str, Any]

    @cached_property
    def parts(self) -> list[Part]:
        """The parts with their costs."""
        return parts_of(self.result)

    @cached_property
    def shape(self) -> Shape:
        """Events and bytes of operations."""
        return shape_of(self.result)

    @cached_property
    def engine(self) -> BatchServer:
        """An API process: the batches as measured in process, and its event loop's time for each claim."""
        rows = self.result["targets"].get("write-path", {}).get("details", {}).get("rows", [])
        points = [
            (row["commands_per_batch"][0], 1_000 * row["commands_per_batch"][0] / row["claims_per_second"])
            for row in rows
            if row["processes"] == 1
        ]
        if len(points) < 2:
            raise NotMeasured("run `python -m benchmarks --only write-path` and publish it: it is not measured yet")
        fixed, each = fit(points)
        edge = self.result["targets"]["p15"]["sides"][0]["rounds"][0]["micros_each"][EDGE] / 1_000
        return BatchServer("API and engine", fixed, each + edge, BATCH_COMMANDS, QUEUE_COMMANDS)

    @cached_property
    def followers(self) -> list[BatchServer]:
        """Who follows one shard's log of claims: one process of each."""
        costs = {part.name: part.costs["event"] for part in self.parts if part.name in FOLLOWERS}
        return [BatchServer(name, FOLLOWER_MS, micros / 1_000, FOLLOWER_BATCH) for name, micros in costs.items()]

    def cluster(self, count: int, hot_share: float = 0.0) -> Cluster:
        """So many shards."""
        return Cluster(self.engine, self.followers, round(self.shape.events_per_claim), count, hot_share)

    @cached_property
    def saturations(self) -> list[tuple[Saturation, float]]:
        """One unit of each part under the mix of a sale, by itself, and what the arithmetic says.

        The first to give in comes first. Edge and engine share a process.
        """
        rates = self.shape.rates(MIX)
        micros = {part.name: 1e6 * need(part, rates).cores_busy / part.cores for part in self.parts}
        together = micros.pop("API: edge") + micros.pop("API: engine")
        # Measured with a share of what a batch costs in each command.
        batch = self.result["targets"]["p15"]["sides"][0]["rounds"][0]["batches"][0]["commands_mean"]
        share = 1_000 * self.engine.fixed_ms / batch
        api = BatchServer(self.engine.name, self.engine.fixed_ms, (together - share) / 1_000, BATCH_COMMANDS)
        others = [
            BatchServer(name, FOLLOWER_MS if name in WORKERS else 0.0, each / 1_000, FOLLOWER_BATCH)
            for name, each in micros.items()
        ]
        found = [(saturation(server), 1_000 / server.each_ms) for server in (api, *others)]
        return sorted(found, key=lambda each: each[0].most_per_second)

    @cached_property
    def simulated(self) -> dict[tuple[int, float], list[Seen]]:
        """By shards and hot share: loads as fractions of what that many shards could do, evenly loaded."""
        asked = [(count, 0.0) for count in SHARDS] + [(max(SHARDS), HOT_SHARE)]
        return {(count, hot): self._sweep(count, hot) for count, hot in asked}

    def _sweep(self, count: int, hot_share: float) -> list[Seen]:
        most = self.engine.most_per_second * count
        cluster = self.cluster(count, hot_share)
        return [simulate(cluster, most * share, seconds=SIMULATED_SECONDS) for share in FRACTIONS]


def costs_section(scaling: Scaling) -> Iterable[str]:
    """What each part spends on each operation."""
    rows = [
        [
            part.name,
            part.unit,
            *(number(part.costs[kind]) if kind in part.costs else "" for kind in ("claim", "order", "event")),
            "shard" if part.by_shard else "all",
        ]
        for part in scaling.parts
    ]
    yield from markdown(("part", "unit", "µs per claim", "per order", "per event", "a unit serves"), rows)
    shape = scaling.shape
    yield ""
    yield (
        f"A claim is {shape.events_per_claim:.1f} events and {shape.log_bytes_per_claim / 1_000:.1f} kB of write-ahead "
        f"log; an order {shape.events_per_order:.1f} events and {shape.log_bytes_per_order / 1_000:.1f} kB. An event "
        f"takes {shape.stored_bytes_per_event:,.0f} bytes in the store, with all indexes, counters and answers."
    )


def one_shard_section(scaling: Scaling) -> Iterable[str]:
    """What one shard can take."""
    for operation in ("claim", "order"):
        most, part = most_on_one_shard(scaling.parts, scaling.shape, operation)
        yield f"- {number(most)} {operation}s/s at {HEADROOM:.0%} utilisation; {part.name} is what limits it."


def plan_section(scaling: Scaling) -> Iterable[str]:
    """Units of each part for each load."""
    plans = {load.name: plan(scaling.parts, scaling.shape, load) for load in LOADS}
    names = (
        "part",
        "unit",
        *(f"{load.name}: {load.claims:,.0f} claims/s, {load.orders:,.0f} orders/s" for load in LOADS),
    )
    rows = [
        [
            part.name,
            part.unit,
            *(_told(plans[load.name][place].units, plans[load.name][place].utilisation) for load in LOADS),
        ]
        for place, part in enumerate(scaling.parts)
    ]
    rows.append(["**shards**", "", *(f"**{shards(plans[load.name]):,}**" for load in LOADS)])
    rows.append(["first to saturate", "", *(first_to_saturate(plans[load.name]).part.name for load in LOADS)])
    rows.append(["write-ahead log, MB/s", "", *(number(_log_bytes(scaling.shape, load) / 1e6) for load in LOADS)])
    rows.append(
        ["stored, TB a day at this rate", "", *(number(_stored_a_day(scaling.shape, load) / 1e12) for load in LOADS)]
    )
    rows.append(["hottest template, claims/s", "", *(_hottest(scaling, load) for load in LOADS)])
    return markdown(names, rows)


def simulation_section(scaling: Scaling) -> Iterable[str]:
    """What was simulated."""
    engine = scaling.engine
    followers = ", ".join(f"{each.name} {each.each_ms * 1_000:.0f} µs per event" for each in scaling.followers)
    yield (
        f"Engine: {engine.fixed_ms:.2f} ms per batch and {engine.each_ms * 1_000:.0f} µs per claim, at most "
        f"{BATCH_COMMANDS} in a batch and {QUEUE_COMMANDS:,} waiting: {engine.most_per_second:,.0f} claims/s at most. "
        f"Followers: {followers}. {SIMULATED_SECONDS:.0f} simulated seconds each."
    )
    yield ""
    names = (
        "shards",
        "hot share",
        "offered/s",
        "answered/s",
        "refused",
        "p50 ms",
        "p99 ms",
        "batch",
        "lag, s",
        "saturated",
    )
    rows = [
        [str(count), f"{hot:.0%}", *_seen_cells(seen)]
        for (count, hot), sweep in scaling.simulated.items()
        for share, seen in zip(FRACTIONS, sweep, strict=True)
        if share in TOLD
    ]
    yield from markdown(names, rows)


def saturation_section(scaling: Scaling) -> Iterable[str]:
    """Where each part gives in."""
    names = (
        "one unit of",
        "keeps up to, commands/s",
        "by arithmetic",
        "p99 at 70 % of that, ms",
        "at 120 % behind after a minute, s",
    )
    rows = [
        [
            told.name,
            f"{told.most_per_second:,.0f}",
            f"{arithmetic:,.0f}",
            f"{told.p99_ms_below:,.1f}",
            f"{60 * told.behind_seconds_above:.0f}",
        ]
        for told, arithmetic in scaling.saturations
    ]
    return markdown(names, rows)


SECTIONS: Final[dict[str, Callable[[Scaling], Iterable[str]]]] = {
    "costs": costs_section,
    "one-shard": one_shard_section,
    "plan": plan_section,
    "simulation": simulation_section,
    "saturation": saturation_section,
}


def chart(scaling: Scaling) -> str:
    """The slowest hundredth by load."""
    lines = [
        Line(
            f"{count} shard{'s' if count > 1 else ''}" + (f", {hot:.0%} on one template" if hot else ""),
            [(seen.offered_per_second, max(seen.p99_ms, 0.1)) for seen in sweep],
            dashed=hot > 0,
        )
        for (count, hot), sweep in scaling.simulated.items()
    ]
    return svg("p99 of a claim by load, simulated", "claims offered per second", "p99, ms", lines)


def rewritten(document: str, scaling: Scaling, names: Sequence[str] = tuple(SECTIONS)) -> str:
    """The document with these sections made anew."""
    return fill_sections(document, {name: SECTIONS[name](scaling) for name in names})


def _told(units: int, utilisation: float) -> str:
    return f"{units:,} ({utilisation:.0%} busy)"


def _log_bytes(shape: Shape, load: Load) -> float:
    return load.claims * shape.log_bytes_per_claim + load.orders * shape.log_bytes_per_order


def _stored_a_day(shape: Shape, load: Load) -> float:
    return shape.rates(load)["event"] * shape.stored_bytes_per_event * 86_400


def _hottest(scaling: Scaling, load: Load) -> str:
    wanted = load.claims * load.hot_share
    if not wanted:
        return "–"
    most, _ = most_on_one_shard(scaling.parts, scaling.shape)
    return f"{number(wanted)}" + ("" if wanted <= most else f": {wanted / most:.1f} times what its shard takes")


def _seen_cells(seen: Seen) -> list[str]:
    return [
        f"{seen.offered_per_second:,.0f}",
        f"{seen.answered_per_second:,.0f}",
        f"{seen.refused_share:.1%}",
        f"{seen.p50_ms:,.1f}",
        f"{seen.p99_ms:,.1f}",
        f"{seen.batch_mean:,.0f}",
        f"{seen.follower_lag_seconds:.1f}",
        seen.saturated or "–",
    ]


def main() -> None:
    """Rewrite document and chart."""
    scaling = Scaling(json.loads(MEASURED.read_text()))
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text(), scaling))
    CHART.write_text(chart(scaling))


if __name__ == "__main__":
    main()
