"""P4: claims of one hot template, beside the same claims over a thousand templates."""

from benchmarks.bench import Bench, Outcome, Target, in_turn, ratio
from benchmarks.parts import HOT_CLIENTS, engines
from benchmarks.verification import verify


def run(bench: Bench) -> Outcome:
    """Both on one store, with the same engine."""
    with bench.postgres.database() as dsn, engines(bench, dsn) as ours:
        for workload in ("claims_hot", "claims_spread"):
            bench.say(f"preparing {workload}")
            ours.prepare(workload, HOT_CLIENTS)
        sides = in_turn(
            bench,
            {
                "claims of one template": lambda: ours.closed("claims_hot", HOT_CLIENTS),
                "claims over 1,000 templates": lambda: ours.closed("claims_spread", HOT_CLIENTS),
            },
        )
        return verify(bench, ratio(sides), dsn)


TARGET = Target(
    key="p4",
    title="claims/s of one hot template ÷ over 1,000 templates",
    how="in process, 64 clients, a new user for every claim, one claim per user as the limit",
    run=run,
    target=0.8,
    moonshot=0.95,
)
