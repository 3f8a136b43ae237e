"""An import that is killed outright, again and again, ends as if nobody had touched it."""

import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import psycopg
import pytest

from command.engine import Engine
from infra.imports.job import job_of
from infra.imports.runner import run_import
from tests.unit.imports.samples import Shop

pytestmark = [pytest.mark.integration, pytest.mark.faults]

ORDERS = 12_000
ROOT = Path(__file__).parents[3]


def rows_done(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT rows_done FROM import_progress WHERE statement = '*'").fetchone()
        return row[0] if row else 0


def kill_after_progress(shop: Shop, dsn: str) -> bool:
    """Start an import, wait until it got further than it was, and kill it. Says whether it was still running."""
    before = rows_done(dsn)
    arguments = (dsn, str(shop.data), str(shop.mapping_folder))
    process = subprocess.Popen([sys.executable, "-m", "tests.integration.imports.one_import", *arguments], cwd=ROOT)
    deadline = monotonic() + 120
    while rows_done(dsn) <= before and process.poll() is None and monotonic() < deadline:
        sleep(0.02)
    running = process.poll() is None
    process.kill()
    process.wait(30)
    return running


@pytest.mark.slow
def test_no_row_is_lost_or_counted_twice_however_often_the_process_is_killed(
    shop: Shop, engine: Engine, postgres_dsn: str
) -> None:
    minutes = [f"2024-03-{1 + n // 1440 % 28:02d} {n // 60 % 24:02d}:{n % 60:02d}:00" for n in range(ORDERS)]
    shop.write_rows(*(f"o{n},{at},u{n % 50},{-1 if n % 100 == 0 else 1},1.005" for n, at in enumerate(minutes)))
    kills = [kill_after_progress(shop, postgres_dsn) for _ in range(3)]
    assert any(kills)  # Else the test killed nothing.
    report = run_import(job_of(shop.data, shop.mapping()), engine, postgres_dsn)
    assert report.agrees
    parked = ORDERS // 100
    with psycopg.connect(postgres_dsn) as connection:
        stored = connection.execute(
            "SELECT type, count(*), count(DISTINCT stream) FROM events "
            "WHERE kind IN ('order', 'payment') GROUP BY type ORDER BY type"
        ).fetchall()
        (aside,) = connection.execute(
            "SELECT count(*) FROM events, jsonb_array_elements(data -> 'rows') WHERE kind = 'import'"
        ).fetchone() or (0,)
    assert stored == [
        ("order.placed.v1", ORDERS - parked, ORDERS - parked),
        ("payment.succeeded.v1", ORDERS - parked, ORDERS - parked),
    ]
    assert aside == parked
