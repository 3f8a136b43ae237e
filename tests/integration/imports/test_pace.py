"""The business clock of an import keeps in step with the sagas and timers that live by it."""

from collections.abc import Iterator
from dataclasses import replace
from threading import Thread
from time import monotonic
from typing import Any

import psycopg
import pytest

from command.engine import Engine
from command.handlers import HANDLERS
from contracts.identity import Realm
from infra.imports import pace
from infra.imports.job import job_of
from infra.imports.pace import Pace
from infra.imports.runner import run_import
from infra.postgres.log import PostgresEventLog
from infra.sagas.worker import SagaWorker
from tests.unit.imports.samples import Shop

pytestmark = pytest.mark.integration

REALM = Realm("corner", "shop")


@pytest.fixture
def connection(postgres_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_dsn, autocommit=True) as found:
        found.execute("INSERT INTO stored_events VALUES ('corner/shop/order/o1', 1, 'order.cancelled.v1', '{}')")
        yield found


def hear(connection: psycopg.Connection[Any], offset: int) -> None:
    connection.execute(
        "INSERT INTO follower_positions (follower, epoch, log_offset) VALUES ('sagas', 'e', %s) "
        "ON CONFLICT (follower) DO UPDATE SET log_offset = excluded.log_offset",
        (offset,),
    )


def owe(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        "INSERT INTO saga_outbox (saga_key, tenant_id, app_id, command_id, command_type, payload, actor, "
        "correlation_id, created_offset) "
        "VALUES ('checkout:o1', 'corner', 'shop', 'c', 'hold_for_order', '{}', 'saga', 'c', 1)"
    )


def set_timer(connection: psycopg.Connection[Any], due: str) -> None:
    connection.execute("INSERT INTO realm_clocks VALUES ('corner', 'shop', '2024-03-01 12:00+00')")
    connection.execute(
        "INSERT INTO timers (tenant_id, app_id, kind, key, due_at, set_by) VALUES ('corner', 'shop', 'k', 'o1', %s, 1)",
        (due,),
    )


def is_waiting(connection: psycopg.Connection[Any]) -> bool:
    """Whether an import would not go on now."""
    waiting = Pace(connection, REALM)
    waiting.wait()
    return waiting._stood_still_at is not None


def test_it_goes_on_when_everything_was_heard_and_nothing_is_owed_or_due(
    connection: psycopg.Connection[Any],
) -> None:
    hear(connection, 1)
    set_timer(connection, "2024-03-01 12:00:01+00")
    assert not is_waiting(connection)


def test_it_does_not_wait_until_sagas_heard_what_they_noted_themselves(connection: psycopg.Connection[Any]) -> None:
    hear(connection, 1)
    connection.execute("INSERT INTO stored_events VALUES ('corner/shop/saga/checkout:o1', 1, 'saga.heard.v1', '{}')")
    assert not is_waiting(connection)


@pytest.mark.parametrize("what", ["unheard", "owed", "due"])
def test_it_waits_for_facts_unheard_commands_owed_and_timers_due(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(pace, "STANDSTILL_SECONDS", 0.1)
    hear(connection, 0 if what == "unheard" else 1)
    if what == "owed":
        owe(connection)
    if what == "due":
        set_timer(connection, "2024-03-01 12:00:00+00")
    assert is_waiting(connection)


def test_it_goes_on_as_soon_as_the_worker_is_done(
    connection: psycopg.Connection[Any], postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "STANDSTILL_SECONDS", 60.0)
    hear(connection, 0)
    waiting = Pace(connection, REALM)
    thread = Thread(target=waiting.wait)
    thread.start()
    with psycopg.connect(postgres_dsn, autocommit=True) as worker:
        assert thread.is_alive()
        hear(worker, 1)
    thread.join(30)
    assert not thread.is_alive()
    assert waiting._stood_still_at is None


def test_it_stops_waiting_where_no_worker_runs_until_one_does(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "STANDSTILL_SECONDS", 0.1)
    waiting = Pace(connection, REALM)
    waiting.wait()
    monkeypatch.setattr(pace, "STANDSTILL_SECONDS", 60.0)
    started = monotonic()
    waiting.wait()
    assert monotonic() - started < 30  # Had it waited again, then for a minute.
    hear(connection, 0)
    monkeypatch.setattr(pace, "STANDSTILL_SECONDS", 0.1)
    waiting.wait()
    assert waiting._stood_still_at == 0


def test_checkouts_are_completed_on_the_day_of_their_order(
    shop: Shop, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "STANDSTILL_SECONDS", 60.0)
    days = range(1, 29)
    shop.write_rows(*(f"o{day},2024-02-{day:02d} 09:00:00,anna,1,1.000" for day in days))
    log = PostgresEventLog(postgres_dsn)
    engine = Engine(log, HANDLERS)
    engine.start()
    worker = SagaWorker(postgres_dsn, log, engine)
    worker.start()
    try:
        job = replace(job_of(shop.data, shop.mapping()), settle_seconds=0.0)
        assert run_import(job, engine, postgres_dsn).agrees
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            Pace(connection, job.realm).wait()
            rows = connection.execute(
                "SELECT key, (occurred_at AT TIME ZONE 'UTC')::date::text FROM events "
                "WHERE type = 'checkout.completed.v1'"
            ).fetchall()
    finally:
        worker.stop()
        engine.stop()
    assert dict(rows) == {f"o{day}": f"2024-02-{day:02d}" for day in days}
