"""A process that imports, for tests that kill it: ``python -m tests.integration.imports.one_import DSN DATA MAP``."""

import sys
from dataclasses import replace
from pathlib import Path

from command.engine import Engine
from command.handlers import HANDLERS
from infra.imports import pace
from infra.imports.job import job_of
from infra.imports.mapping import find_mapping
from infra.imports.runner import run_import
from infra.postgres.log import PostgresEventLog


def main(dsn: str, data: str, mapping: str) -> None:
    """Import and end."""
    pace.STANDSTILL_SECONDS = 0.0  # type: ignore[misc]  # No saga worker runs beside it.
    engine = Engine(PostgresEventLog(dsn), HANDLERS)
    engine.start()
    run_import(replace(job_of(Path(data), find_mapping(mapping)), settle_seconds=0.0), engine, dsn)
    engine.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
