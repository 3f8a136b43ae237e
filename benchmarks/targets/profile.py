"""Where the microseconds of a claim go inside our process, by part of the code."""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.bench import Bench, Figure, Outcome, Side, Target
from benchmarks.parts import engines
from benchmarks.workloads import HOT

WORKLOADS: Final = (("claims_hot", 64), ("claims_hot", 1_024), ("locks", 256))
BULK: Final = "bulk issue, per coupon"
BULK_USERS_PER_SECOND: Final = 10_000
FUNCTIONS_SHOWN: Final = 15


def run(bench: Bench) -> Outcome:
    """A plain round for the cost, and one under the sampler for the shares."""
    rows: list[dict[str, Any]] = []
    functions: dict[str, Any] = {}
    sides: list[Side] = []
    with bench.postgres.database() as dsn:

        def note(name: str, figure: Figure, told: dict[str, Any]) -> None:
            sides.append(Side(name, "/s", [figure]))
            micros = figure.details["micros_each"]
            rows.extend(part_rows(name, told["parts"], micros["engine 1"]))
            rows.append({"of": name, "part": "PostgreSQL", "micros": round(micros["PostgreSQL"], 1)})
            functions[name] = told["functions"]

        with engines(bench, dsn) as ours:
            for workload, clients in WORKLOADS:
                name = f"{workload}, {clients} clients"
                bench.say(name)
                ours.prepare(workload, clients)
                note(name, ours.closed(workload, clients), ours.profile(workload, clients))
        bench.say(BULK)
        users = round(BULK_USERS_PER_SECOND * bench.effort.seconds)
        with engines(bench, dsn, runs_on="thread") as ours:
            note(BULK, ours.distribute("plain", HOT, users), ours.profile_bulk("sampled", HOT, users))
    outcome = Outcome(sides[0].values[0], [], sides, {"rows": rows, "functions": functions})
    outcome.notes += [top(name, told) for name, told in functions.items()]
    return outcome


def part_rows(name: str, parts: Mapping[str, float], micros: float) -> list[dict[str, Any]]:
    """A line for each part: its microseconds of those that the process used per command."""
    return [{"of": name, "part": part, "micros": round(share * micros, 1)} for part, share in parts.items()]


def top(name: str, functions: list[Mapping[str, Any]]) -> str:
    """The functions in which most time was seen."""
    told = ", ".join(f"{each['function']} {each['share']:.1%}" for each in functions[:FUNCTIONS_SHOWN])
    return f"{name}, by function: {told}"


TARGET = Target(
    key="profile",
    title="claims/s, and where each microsecond goes",
    how="in process: processor time per command of a plain round, shared out by a sampler in another round",
    run=run,
    unit="",
    by_default=False,
)
