"""P11: how long a claim takes at 70 % of the peak, beside one commit of PostgreSQL by itself."""

from functools import partial
from statistics import median
from typing import Any, Final

from benchmarks.bench import ENGINE_CLIENTS, Bench, Figure, Outcome, Side, Target, in_turn, ratio
from benchmarks.engine_process import ChildFailed
from benchmarks.parts import (
    SINGLE_ROWS,
    Engines,
    engines,
    execute,
    single_row_commits,
    single_rows,
    typical_event,
)
from benchmarks.verification import verify

WORKLOAD: Final = "claims_hot"
SHARE: Final = 0.7
SHARES: Final = (0.1, 0.3, 0.5, 0.7, 0.85)
_ALONE: Final = "one commit (pgbench, 1 client), beside {:.0%}"
_CLAIMS: Final = "claims at {:.0%}"
_COMMITS: Final = "commits at {:.0%}"


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
                    "p99 of a claim": lambda: _claims(bench, ours, sweep.best, SHARE),
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


def by_load(bench: Bench) -> Outcome:
    """Claims beside PostgreSQL's own commits of single rows, each at the same shares of its own peak.

    A store for each share: what is verified is held in memory. A share that was more than the machine had, since it got
    busier after its peak was measured, is told; the others stay. Raises ChildFailed when that is the share compared.
    """
    clients, theirs = _best(bench)
    named, verified, held, beyond = dict[str, Side](), list[str](), True, list[str]()
    for share in SHARES:
        try:
            checked = _at_share(bench, share, clients, theirs)
        except ChildFailed as failure:
            if share == SHARE:
                raise
            beyond.append(f"{share:.0%} of the peak could not be measured: {failure}")
            continue
        named |= {side.name: side for side in checked.sides}
        verified.append(str(checked.verified))
        held = held and checked.held
    outcome = ratio([named[_CLAIMS.format(SHARE)], named[_COMMITS.format(SHARE)]], rows=_rows(named))
    outcome.sides += [side for side in named.values() if side not in outcome.sides]
    outcome.notes += beyond
    outcome.notes.append(
        f"claims: {clients} clients give most; PostgreSQL's single-row commits (pgbench --rate): {theirs} clients; "
        "both at random instants, each timed from when it was due"
    )
    outcome.verified, outcome.held = "; ".join(verified), held
    return outcome


def _best(bench: Bench) -> tuple[int, int]:
    """The numbers of clients that engine and PostgreSQL serve best."""
    with bench.postgres.database() as dsn, bench.postgres.database(store=False) as rows_dsn:
        with engines(bench, dsn) as ours:
            ours.prepare(WORKLOAD, max(ENGINE_CLIENTS))
            clients = ours.best_of(WORKLOAD).best
        return clients, single_rows(bench, rows_dsn, typical_event(dsn)[1]).best


def _at_share(bench: Bench, share: float, clients: int, theirs: int) -> Outcome:
    seconds = bench.effort.seconds
    with bench.postgres.database() as dsn, engines(bench, dsn) as ours:
        ours.prepare(WORKLOAD, max(ENGINE_CLIENTS))
        _, payload = typical_event(dsn)
        with bench.postgres.database(store=False) as rows_dsn:
            execute(rows_dsn, SINGLE_ROWS)
            one = partial(single_row_commits, rows_dsn, payload, 1, seconds, latencies=True)
            sides = in_turn(
                bench,
                {
                    _ALONE.format(share): lambda: _p99(one()),
                    _CLAIMS.format(share): partial(_claims, bench, ours, clients, share),
                    _COMMITS.format(share): partial(_commits, bench, rows_dsn, payload, theirs, share),
                },
                unit="ms",
            )
        return verify(bench, Outcome(0.0, [], sides), dsn)


def _rows(named: dict[str, Side]) -> list[dict[str, Any]]:
    alone = {share: median(named[name].values) for share in SHARES if (name := _ALONE.format(share)) in named}
    return [
        {
            "load": f"{share:.0%}",
            **_told("claims", named[_CLAIMS.format(share)], one),
            **_told("commits", named[_COMMITS.format(share)], one),
        }
        for share, one in alone.items()
    ]


def _told(name: str, side: Side, one: float) -> dict[str, Any]:
    return {
        f"{name}_per_second": round(median(figure.details["per_second"] for figure in side.rounds)),
        f"{name}_p50_ms": round(median(figure.details["latencies"]["p50_ms"] for figure in side.rounds), 2),
        f"{name}_p99_ms": round(median(side.values), 2),
        f"{name}_p99_x": round(median(side.values) / one, 1),
    }


def _commits(bench: Bench, dsn: str, payload: str, clients: int, share: float) -> Figure:
    """A share of the peak of this moment, as for the claims."""
    peak = single_row_commits(dsn, payload, clients, bench.effort.sweep_seconds).value
    return _p99(single_row_commits(dsn, payload, clients, bench.effort.seconds, latencies=True, rate=share * peak))


def _claims(bench: Bench, ours: Engines, clients: int, share: float) -> Figure:
    """The peak of this moment, then its share: a machine that got busier has another peak."""
    rate = share * ours.closed(WORKLOAD, clients, bench.effort.sweep_seconds).value
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

BY_LOAD = Target(
    key="p11-load",
    title="p99 of a claim at 70 % load ÷ p99 of PostgreSQL's commits at 70 % of theirs",
    how="claims, and pgbench's single-row commits at random instants, each at 10-85 % of its own peak",
    run=by_load,
    better="lower",
    by_default=False,
)
