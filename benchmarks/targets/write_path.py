"""Claims a second and their latency by clients and processes: what the write path's design is judged by."""

from typing import Any, Final

from benchmarks.bench import Bench, Outcome, Side, Target
from benchmarks.parts import engines
from benchmarks.verification import verify

CLIENTS: Final = (1, 16, 64, 256, 1_024)
PROCESSES: Final = (1, 2)


def run(bench: Bench) -> Outcome:
    """One hot template; one process, then two on the same store (the clients are shared among them)."""
    sides: list[Side] = []
    rows: list[dict[str, Any]] = []
    outcome = Outcome(0.0, [], sides, {"rows": rows})
    for processes in PROCESSES:
        with bench.postgres.database() as dsn:
            with engines(bench, *[dsn] * processes) as ours:
                ours.prepare("claims_hot", max(CLIENTS))
                for clients in CLIENTS:
                    side = Side(f"{processes} process(es), {clients} clients", "/s")
                    bench.postgres.checkpoint()
                    for number in range(bench.effort.rounds):
                        bench.say(f"{side.name}, round {number + 1} of {bench.effort.rounds}")
                        side.rounds.append(ours.closed("claims_hot", clients))
                    sides.append(side)
                    rows.append(_row(processes, clients, side))
            held = outcome.held
            verify(bench, outcome, dsn)
            outcome.held = outcome.held and held
    outcome.value = max(row["claims_per_second"] for row in rows)
    return outcome


def _row(processes: int, clients: int, side: Side) -> dict[str, Any]:
    figure = side.middle
    latencies, batches = figure.details["latencies"], figure.details["batches"]
    return {
        "processes": processes,
        "clients": max(processes, clients),
        "claims_per_second": round(figure.value),
        "p50_ms": round(latencies["p50_ms"], 2),
        "p99_ms": round(latencies["p99_ms"], 2),
        "commands_per_batch": [round(each["commands_mean"], 1) for each in batches],
        "micros_each": {name: round(value, 1) for name, value in figure.details["micros_each"].items()},
    }


TARGET = Target(
    key="write-path",
    title="claims/s by clients and processes (best)",
    how="one hot template, closed loop, 1-1,024 clients; one process, and two on one store",
    run=run,
    unit="",
    by_default=False,
)
