"""P1: durable single-event commands a second, beside what PostgreSQL can commit row by row."""

from contextlib import ExitStack

from benchmarks.bench import ENGINE_CLIENTS, Bench, Outcome, Target, in_turn, ratio
from benchmarks.parts import engines, single_row_commits, single_rows, typical_event
from benchmarks.verification import verify

WORKLOAD = "locks"


def run(bench: Bench) -> Outcome:
    """One engine on one store."""
    return _beside_commits(bench, shards=1)


def run_over_shards(bench: Bench) -> Outcome:
    """Two engines, each a process on a shard of its own: a database of the same server, on the same two cores."""
    return _beside_commits(bench, shards=2)


def _beside_commits(bench: Bench, shards: int) -> Outcome:
    """Sweep both sides for their best number of clients, then measure both at it, in turn."""
    effort = bench.effort
    with ExitStack() as stack:
        dsns = [stack.enter_context(bench.postgres.database()) for _ in range(shards)]
        ours = stack.enter_context(engines(bench, *dsns))
        ours.prepare(WORKLOAD, max(ENGINE_CLIENTS))
        our_sweep = ours.best_of(WORKLOAD)
        event_bytes, payload = typical_event(dsns[0])
        with bench.postgres.database(store=False) as rows_dsn:
            their_sweep = single_rows(bench, rows_dsn, payload)
            sides = in_turn(
                bench,
                {
                    "single-event commands": lambda: ours.closed(WORKLOAD, our_sweep.best),
                    "single-row commits (pgbench)": lambda: single_row_commits(
                        rows_dsn, payload, their_sweep.best, effort.seconds
                    ),
                },
            )
        outcome = ratio(sides, our_sweep=our_sweep.values, their_sweep=their_sweep.values, event_bytes=event_bytes)
        outcome.notes.append(
            "a lock or release of an external coupon: one event, one command-log row; pgbench inserts rows of the "
            f"same {event_bytes} bytes at {their_sweep.best} clients, we answer {our_sweep.best}"
        )
        return verify(bench, outcome, *dsns)


TARGET = Target(
    key="p1",
    title="single-event commands/s ÷ pgbench single-row commits/s",
    how="in process, production handlers, envelope and command log: an upstream locks and releases coupons, at "
    "the best of 16-1,024 clients ÷ INSERT of one row of the same bytes, at the best of 1-128 clients",
    run=run,
    target=1.0,
    moonshot=2.0,
    others="0.07 libraries; UmaDB 0.94",
)

OVER_SHARDS = Target(
    key="p1-shards",
    title="as P1, over two shards ÷ pgbench single-row commits/s",
    how="as P1 with two engines, each a process on a database of its own: as many cores as pgbench and PostgreSQL use",
    run=run_over_shards,
    target=1.0,
    moonshot=2.0,
)
