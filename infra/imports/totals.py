"""Reads an import's totals back from the stores by SQL and compares them with what the source itself says."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from heapq import nsmallest
from time import monotonic, sleep
from typing import Any, Final

import psycopg

from infra.imports.errors import BadMapping
from infra.imports.job import ImportJob
from infra.imports.mapping import Total
from infra.imports.plan import Plan
from infra.imports.report import CheckedTotal, Watcher
from infra.postgres.connections import Timeouts, connect, translated

POLL_SECONDS: Final = 0.5
DIFFERENCES_SHOWN_MAX: Final = 5
# Counting a grown log takes its time.
_TIMEOUTS: Final = Timeouts(statement_seconds=600.0, answer_seconds=620.0)

EVERY_ROW: Final = "every row has exactly one place"

Rows = Sequence[Sequence[Any]]
Counted = Counter[tuple[str, ...]]
FactsReader = Callable[[str, Mapping[str, str]], Rows]  # ClickHouse's SQL and its parameters -> rows.

# Order-independent and the same in both databases: how many keys, and the sum of the first 32 bits of their digests.
_PLACED_IN_PLAN: Final = """
SELECT statement_no, count(*), sum(CAST('0x' || substr(md5(row_key), 1, 8) AS BIGINT)) FROM _plan GROUP BY statement_no
"""
_PLACED_IN_STORE: Final = """
WITH answered AS (
    SELECT substr(command_id, %(skip)s) AS name FROM command_log
    WHERE tenant_id = %(tenant_id)s AND app_id = %(app_id)s AND status = 'accepted'
      AND starts_with(command_id, %(prefix)s) AND NOT starts_with(command_id, %(prefix)s || '@')
), placed AS (
    SELECT split_part(name, ':', 1) AS statement, substr(name, strpos(name, ':') + 1) AS row_key FROM answered
    UNION ALL
    SELECT data ->> 'statement', line ->> 'row' FROM events, jsonb_array_elements(data -> 'rows') AS line
    WHERE type = 'import.rows_set_aside.v1'
      AND tenant_id = %(tenant_id)s AND app_id = %(app_id)s AND key = %(import_id)s
)
SELECT statement, count(*), sum(('x' || substr(md5(row_key), 1, 8))::bit(32)::bigint) FROM placed GROUP BY statement
"""


def check_totals(
    job: ImportJob, plan: Plan, dsn: str, facts: FactsReader | None, watcher: Watcher
) -> list[CheckedTotal]:
    """Compare every total of the mapping, and first of all that each planned row has exactly one place in the store.

    Totals that need sagas, timers or projections are asked again until they agree or ``settle_seconds`` have passed.
    Raises BadMapping for SQL that does not run, and StoreUnavailable.
    """
    with translated(), connect(dsn, _TIMEOUTS, name="import totals", autocommit=True) as connection:
        checker = _Checker(job, plan, connection, facts)
        return list(checker.check_all(watcher))


class _Checker:
    """Asks the source once and the stores as often as needed."""

    def __init__(
        self, job: ImportJob, plan: Plan, connection: psycopg.Connection[Any], facts: FactsReader | None
    ) -> None:
        self._job = job
        self._plan = plan
        self._connection = connection
        self._facts = facts
        self._parameters = {
            "tenant_id": job.realm.tenant_id,
            "app_id": job.realm.app_id,
            "import_id": job.import_id,
        }
        self._deadline = monotonic() + job.settle_seconds

    def check_all(self, watcher: Watcher) -> Iterator[CheckedTotal]:
        watcher.checking(EVERY_ROW)
        yield self._check_rows()
        for total in self._job.mapping.totals:
            watcher.checking(total.name)
            expected = _counted(self._plan.query(total.source))
            if total.events is not None:
                yield self._check(total, "PostgreSQL", expected, partial(self._ask_events, total.events), total.settled)
            if total.facts is not None and self._facts is not None:
                ask = partial(self._ask_facts, self._facts, total.facts)
                yield self._check(total, "ClickHouse", expected, ask, True)

    def _check_rows(self) -> CheckedTotal:
        names = [statement.name for statement in self._job.mapping.statements]
        planned = _counted((names[number], *rest) for number, *rest in self._plan.query(_PLACED_IN_PLAN))
        prefix = f"import:{self._job.import_id}:"
        parameters = {**self._parameters, "prefix": prefix, "skip": len(prefix) + 1}
        placed = _counted(self._connection.execute(_PLACED_IN_STORE, parameters).fetchall())
        return _compare(EVERY_ROW, "PostgreSQL", planned, placed)

    def _check(
        self, total: Total, store: str, expected: Counted, ask: Callable[[], Rows], may_lag: bool
    ) -> CheckedTotal:
        while True:
            compared = _compare(total.name, store, expected, _counted(ask()))
            if compared.agrees or not may_lag or monotonic() >= self._deadline:
                return compared
            sleep(POLL_SECONDS)

    def _ask_events(self, sql: str) -> Rows:
        try:
            return self._connection.execute(sql.encode(), self._parameters).fetchall()
        except psycopg.ProgrammingError as error:
            raise BadMapping(self._job.mapping.folder, f"totals: {error}\n{sql}") from error

    def _ask_facts(self, facts: FactsReader, sql: str) -> Rows:
        return facts(sql, self._parameters)


def _compare(name: str, store: str, expected: Counted, found: Counted) -> CheckedTotal:
    missing, extra = expected - found, found - expected
    return CheckedTotal(
        name=name,
        store=store,
        rows=expected.total(),
        agrees=not missing and not extra,
        missing=nsmallest(DIFFERENCES_SHOWN_MAX, missing.elements()),
        extra=nsmallest(DIFFERENCES_SHOWN_MAX, extra.elements()),
    )


def _counted(rows: Iterable[Sequence[Any]]) -> Counted:
    """The rows as a bag of texts: order does not matter, and 10.50 is 10.5 in every database."""
    return Counter(tuple(_text(value) for value in row) for row in rows)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | Decimal):
        return format(Decimal(value).normalize() + 0, "f")
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    return str(value)
