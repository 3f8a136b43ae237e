"""P5: claims of one hot template, beside everybody taking one off the same row."""

from benchmarks.bench import Bench, Outcome, Target, in_turn, ratio
from benchmarks.parts import HOT_CLIENTS, engines, hot_row_updates, make_hot_row
from benchmarks.verification import verify


def run(bench: Bench) -> Outcome:
    """64 clients on each side."""
    with bench.postgres.database() as dsn, engines(bench, dsn) as ours:
        ours.prepare("claims_hot", HOT_CLIENTS)
        with bench.postgres.database(store=False) as row_dsn:
            make_hot_row(row_dsn)
            sides = in_turn(
                bench,
                {
                    "claims of one template": lambda: ours.closed("claims_hot", HOT_CLIENTS),
                    "UPDATE … SET stock = stock - 1 (pgbench)": lambda: hot_row_updates(
                        row_dsn, HOT_CLIENTS, bench.effort.seconds
                    ),
                },
            )
        return verify(bench, ratio(sides), dsn)


TARGET = Target(
    key="p5",
    title="claims/s of one hot template ÷ hot-row UPDATE/s",
    how="in process, 64 clients ÷ pgbench, 64 clients, UPDATE stock = stock - 1 of one row",
    run=run,
    target=5.0,
    moonshot=10.0,
    others="UmaDB 69-205/s, emmett 209/s, formance 111-180/s",
)
