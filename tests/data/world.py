"""A data set imported once into real engines, with sagas, timers and projections running beside it as in production."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

import duckdb
import psycopg
import pytest
from clickhouse_connect.driver.client import Client

from infra import operations
from infra.bootstrap import stores
from infra.imports.job import job_of
from infra.imports.mapping import find_mapping
from infra.imports.report import ImportReport
from infra.imports.runner import run_import
from infra.settings import Settings
from tests.engines import Corners, clickhouse

ROOT: Final = Path(__file__).parents[2]
DATA: Final = Path(os.environ.get("TESSERA_DATA", ROOT.parent / "shared" / "data"))
MISSING: Final = pytest.StashKey[set[str]]()
SETTLE_SECONDS: Final = 420.0

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Imported:
    """A data set after its import: the files, the oracle's totals, and both stores to ask."""

    folder: Path
    settings: Settings
    report: ImportReport
    facts: Client

    @property
    def oracle(self) -> dict[str, Any]:
        """Totals that others computed, with other tools."""
        found: dict[str, Any] = json.loads((self.folder / "oracle.json").read_text(encoding="utf-8"))
        return found

    def source(self, sql: str) -> Rows:
        """DuckDB over the files themselves; ``{folder}`` is where they are."""
        with duckdb.connect() as connection:
            return connection.execute(sql.format(folder=self.folder)).fetchall()

    def log(self, sql: str) -> Rows:
        """PostgreSQL: the event store."""
        with psycopg.connect(self.settings.postgres_dsn) as connection:
            return connection.execute(sql.encode()).fetchall()

    def facts_say(self, sql: str) -> Rows:
        """ClickHouse: the facts."""
        return [tuple(row) for row in self.facts.query(sql).result_rows]


@contextmanager
def imported(request: pytest.FixtureRequest, name: str, tmp: Path) -> Iterator[Imported]:
    """Import a data set into fresh stores and wait until nothing is left to do. Skips, loudly, without the data."""
    folder = DATA / name
    if not folder.is_dir():
        request.config.stash.setdefault(MISSING, set()).add(str(folder))
        pytest.skip(f"{folder} does not exist: {name} was NOT tested")
    corners: Corners = request.getfixturevalue("corners")  # Only now: engines are not started for nothing.
    with ExitStack() as stack:
        settings = Settings.load(
            data_dir=tmp,
            postgres_dsn=stack.enter_context(corners.postgres()),
            redis_url=stack.enter_context(corners.redis()),
            clickhouse_url=stack.enter_context(corners.clickhouse()),
            log_level="warning",
        )
        stores.migrate(settings)
        for worker in ("sagas", "projections"):
            stack.enter_context(_worker(settings, worker))
        report = _import(settings, folder, name)
        yield Imported(folder, settings, report, stack.enter_context(clickhouse(settings.clickhouse_url)))


def _import(settings: Settings, folder: Path, name: str) -> ImportReport:
    job = replace(job_of(folder, find_mapping(name)), settle_seconds=SETTLE_SECONDS)
    started = monotonic()
    with stores.running_engine(settings) as engine, operations.facts(settings) as facts:
        report = run_import(job, engine, settings.postgres_dsn, facts=facts.rows)
    quiet = operations.Quiet(settings)
    try:
        events = quiet.wait(SETTLE_SECONDS)
    finally:
        quiet.close()
    rows = sum(part.size.rows for part in report.statements)
    print(
        f"{name}: {rows:,} rows imported in {report.seconds:.0f} s; after {monotonic() - started:.0f} s "
        f"sagas, timers and projections had digested all of the log's {events:,} events"
    )
    return report


@contextmanager
def _worker(settings: Settings, name: str) -> Iterator[None]:
    command = [sys.executable, "-m", "infra.cli", "worker", name]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings.to_env()})
    try:
        yield
        assert process.poll() is None, f"the {name} worker did not survive the import"
    finally:
        process.send_signal(signal.SIGTERM)
        _reap(process)


def _reap(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
