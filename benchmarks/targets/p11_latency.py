"""P11: how long a claim takes at 70 % of the peak, beside one commit of PostgreSQL by itself."""

from typing import Final

from benchmarks.bench import ENGINE_CLIENTS, Bench, Figure, Outcome, Target, in_turn, ratio
from benchmarks.parts import SINGLE_ROWS, Engines, engines, execute, single_row_commits, typical_event
from benchmarks.verification import verify

WORKLOAD: Final = "claims_hot"
SHARE: Final = 0.7


def run(bench: Bench) -> Outcome:
    """Find how many clients give most, then let claims arrive at random instants at 70 % of that."""
    effort = bench.effort
    with bench.postgres.database() as dsn, engines(bench, dsn) as ours:
        ours.prepare(WORKLOAD, max(ENGINE_CLIENTS))
        sweep = ours.best_of(WORKLOAD)
        _, payload = typical_event(dsn)
        with bench.postgres.database(store=False) as rows_dsn:
            execute(rows_dsn, SINGLE_ROWS)
            sides = in_turn(
                bench,
                {
                    "p99 of a claim": lambda: _claims(bench, ours, sweep.best),
                    "p99 of a commit (pgbench, 1 client)": lambda: _p99(
                        single_row_commits(rows_dsn, payload, 1, effort.seconds, latencies=True)
                    ),
                },
                unit="ms",
            )
        outcome = ratio(sides, our_sweep=sweep.values)
        rates = sorted(figure.details["arrivals_per_second"] for figure in sides[0].rounds)
        outcome.notes.append(
            f"claims arrive in a Poisson process at {rates[0]:,.0f}-{rates[-1]:,.0f}/s, 70 % of the peak ({sweep.best} "
            "clients) measured just before; each is timed from the instant at which it should have been sent"
        )
        return verify(bench, outcome, dsn)


def _claims(bench: Bench, ours: Engines, clients: int) -> Figure:
    """The peak of this moment, then 70 % of it: a machine that got busier has another peak."""
    rate = SHARE * ours.closed(WORKLOAD, clients, bench.effort.sweep_seconds).value
    figure = _p99(ours.open(WORKLOAD, rate))
    return Figure(figure.value, {**figure.details, "arrivals_per_second": rate})


def _p99(figure: Figure) -> Figure:
    """The same measurement, told by its latency."""
    return Figure(figure.details["latencies"]["p99_ms"], {**figure.details, "per_second": figure.value})


TARGET = Target(
    key="p11",
    title="p99 of a claim at 70 % load ÷ p99 of one commit",
    how="in process, open loop at 70 % of the best of 16-1,024 clients ÷ pgbench, 1 client, single-row commits",
    run=run,
    target=10.0,
    moonshot=5.0,
    better="lower",
    others="Voucherify p95 350-500 ms over HTTP",
)
