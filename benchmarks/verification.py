"""`tessera verify` over the benchmark's own store: figures of books that do not balance are worth nothing."""

from benchmarks.bench import Bench, Outcome
from command.handlers import KINDS
from infra.postgres.connections import Timeouts, connect
from infra.postgres.log import PostgresEventLog
from infra.verify import Verifier

_LONG = Timeouts(statement_seconds=600.0, answer_seconds=620.0)
VIOLATIONS_SHOWN_MAX = 5


def verify(bench: Bench, outcome: Outcome, *dsns: str) -> Outcome:
    """Fold whole logs and hold them against command logs, counters and snapshots; the outcome carries what was said."""
    bench.say("verifying the store")
    told = [_told(dsn) for dsn in dsns]
    outcome.held = all(held for held, _ in told)
    outcome.verified = "; ".join(text for _, text in told)
    return outcome


def _told(dsn: str) -> tuple[bool, str]:
    log = PostgresEventLog(dsn)
    try:
        with connect(dsn, _LONG, name="verify", autocommit=True) as connection:
            report = Verifier(connection, log, KINDS, None, None).run()
    finally:
        log.close()
    held = not report.violations
    told = (
        "every invariant holds"
        if held
        else f"{len(report.violations)} VIOLATIONS: "
        + "; ".join(str(violation) for violation in report.violations[:VIOLATIONS_SHOWN_MAX])
    )
    return held, f"{report.commands:,} commands and {report.events:,} events: {told}"
