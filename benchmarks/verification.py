"""`tessera verify` over the benchmark's own store: figures of books that do not balance are worth nothing."""

from benchmarks.bench import Bench, Outcome
from command.handlers import KINDS
from infra.postgres.connections import Timeouts, connect
from infra.postgres.log import PostgresEventLog
from infra.verify import Verifier

_LONG = Timeouts(statement_seconds=600.0, answer_seconds=620.0)
VIOLATIONS_SHOWN_MAX = 5


def verify(bench: Bench, dsn: str, outcome: Outcome) -> Outcome:
    """Fold the whole log and hold it against command log, counters and snapshots; the outcome carries what was said."""
    bench.say("verifying the store")
    log = PostgresEventLog(dsn)
    try:
        with connect(dsn, _LONG, name="verify", autocommit=True) as connection:
            report = Verifier(connection, log, KINDS, None, None).run()
    finally:
        log.close()
    outcome.held = not report.violations
    outcome.verified = f"{report.commands:,} commands and {report.events:,} events: " + (
        "every invariant holds"
        if outcome.held
        else f"{len(report.violations)} VIOLATIONS: "
        + "; ".join(str(violation) for violation in report.violations[:VIOLATIONS_SHOWN_MAX])
    )
    return outcome
