"""An import on a real event store: every row finds one place, whatever is interrupted, dirty or in the way."""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from threading import Timer
from typing import Any

import psycopg
import pytest

from command.engine import Engine
from contracts.commands import AdvanceClock
from contracts.envelope import Answer, CommandEnvelope
from infra.imports import runner
from infra.imports.errors import AlreadyRunning, BadMapping, BadRow, BadSource, ClockElsewhere, SourceChanged
from infra.imports.job import ImportJob, job_of
from infra.imports.progress import ProgressStore, progress_store
from infra.imports.report import ImportReport, NobodyWatches
from infra.imports.runner import run_import
from tests.unit.imports.samples import ROWS, Shop

pytestmark = pytest.mark.integration


def ask(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(sql.encode()).fetchall()


def stored(dsn: str) -> list[tuple[Any, ...]]:
    """The whole log, in order."""
    return ask(dsn, 'SELECT stream, version, type, command_id FROM events ORDER BY "offset"')


def job(shop: Shop, **changes: Any) -> ImportJob:
    return replace(job_of(shop.data, shop.mapping()), settle_seconds=0.0, **changes)


def outcomes(report: ImportReport) -> dict[str, dict[str, dict[str, int]]]:
    return {part["name"]: part["rows"] for part in report.as_json()["statements"]}


WHOLE = {
    "orders": {"applied": {"ok": 3}, "parked": {"negative_quantity": 1}},
    "payments": {"applied": {"ok": 2}},
}


def test_every_row_finds_its_place_and_the_totals_are_read_back(shop: Shop, engine: Engine, postgres_dsn: str) -> None:
    report = run_import(job(shop), engine, postgres_dsn)
    assert report.agrees
    assert outcomes(report) == WHOLE
    assert [(total.name, total.rows) for total in report.totals] == [
        ("every row has exactly one place", 2),
        ("orders, one by one", 3),
    ]
    aside = ask(postgres_dsn, "SELECT key, data -> 'rows' FROM events WHERE type = 'import.rows_set_aside.v1'")
    assert aside == [
        (
            "corner_shop",
            [
                {
                    "row": "o3",
                    "outcome": "parked",
                    "code": "negative_quantity",
                    "detail": "quantity -1",
                    "amount": "0",
                }
            ],
        )
    ]


def test_facts_happen_at_their_business_time_and_the_clock_moves_only_when_time_does(
    shop: Shop, engine: Engine, postgres_dsn: str
) -> None:
    run_import(job(shop), engine, postgres_dsn)
    times = ask(
        postgres_dsn, "SELECT key, occurred_at FROM events WHERE kind IN ('order', 'clock') ORDER BY \"offset\""
    )
    first, second, third = (
        datetime(2024, 3, 1, 9, 0, tzinfo=UTC),
        datetime(2024, 3, 1, 10, 30, tzinfo=UTC),
        datetime(2024, 3, 2, 8, 15, tzinfo=UTC),
    )
    assert [key for key, _ in times] == ["main", "o1", "main", "o2", "main", "o4"]
    assert [at for key, at in times if key != "main"] == [first, second, third]


def test_a_finished_import_that_is_run_again_stores_nothing_and_says_the_same(
    shop: Shop, engine: Engine, postgres_dsn: str
) -> None:
    first = run_import(job(shop), engine, postgres_dsn)
    log = stored(postgres_dsn)
    again = run_import(job(shop), engine, postgres_dsn)
    assert stored(postgres_dsn) == log
    assert outcomes(again) == outcomes(first)
    assert again.agrees


def test_what_the_engine_refuses_is_recorded_with_its_code(shop: Shop, engine: Engine, postgres_dsn: str) -> None:
    shop.edit("orders.sql", "'order_id': order_id,", "'order_id': replace(order_id, 'o4', 'o1'),")
    shop.edit("mapping.toml", 'WHERE quantity > 0"', "WHERE order_id IN ('o1', 'o2')\"")
    report = run_import(job(shop), engine, postgres_dsn)
    assert outcomes(report)["orders"] == {
        "applied": {"ok": 2},
        "refused": {"order_is_different": 1},
        "parked": {"negative_quantity": 1},
    }
    assert report.agrees
    rows = ask(
        postgres_dsn,
        "SELECT line ->> 'row', line ->> 'outcome', line ->> 'code', line ->> 'amount' "
        "FROM events, jsonb_array_elements(data -> 'rows') AS line WHERE type = 'import.rows_set_aside.v1' ORDER BY 1",
    )
    assert rows == [("o3", "parked", "negative_quantity", "0"), ("o4", "refused", "order_is_different", "3.75")]


def test_a_total_that_the_store_does_not_confirm_is_shown_with_its_rows(
    shop: Shop, engine: Engine, postgres_dsn: str
) -> None:
    shop.edit("mapping.toml", 'WHERE quantity > 0"', 'WHERE quantity > 1"')
    report = run_import(job(shop), engine, postgres_dsn)
    (total,) = [total for total in report.totals if not total.agrees]
    assert not report.agrees
    assert (list(total.missing), list(total.extra)) == ([], [("o2", "0")])


def test_a_lost_event_is_noticed(shop: Shop, engine: Engine, postgres_dsn: str) -> None:
    run_import(job(shop), engine, postgres_dsn)
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("DELETE FROM command_log WHERE command_id = 'import:corner_shop:payments:o4'")
    report = run_import(job(shop), engine, postgres_dsn)
    assert [total.name for total in report.totals if not total.agrees] == ["every row has exactly one place"]


def test_sql_of_a_total_that_does_not_run_is_named(shop: Shop, engine: Engine, postgres_dsn: str) -> None:
    shop.edit("mapping.toml", "FROM events", "FROM evnts")
    with pytest.raises(BadMapping, match="evnts"):
        run_import(job(shop), engine, postgres_dsn)


# Interrupted


class Died(BaseException):
    """The process is gone: nobody catches this."""


class DyingSink:
    """Hands so many submissions to the engine, waits until they are stored, and dies before anybody hears of it."""

    def __init__(self, engine: Engine, lives: int) -> None:
        self._engine = engine
        self._lives = lives

    def submit_many(self, envelopes: Sequence[CommandEnvelope]) -> list[Future[Answer]]:
        if self._lives == 0:
            raise Died
        self._lives -= 1
        futures = self._engine.submit_many(envelopes)
        if self._lives == 0:
            for future in futures:
                future.result(30)
            raise Died
        return futures


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks of few rows, so that there are many places to die at."""
    monkeypatch.setattr(runner, "CHUNK_ROWS", 2)
    monkeypatch.setattr(runner, "ASIDE_ROWS_MAX", 1)


def undisturbed(shop: Shop, engine: Engine, dsn: str) -> list[tuple[Any, ...]]:
    run_import(job(shop), engine, dsn)
    return stored(dsn)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("lives", range(1, 5))
def test_dying_after_any_submission_and_going_on_stores_exactly_what_an_undisturbed_run_stores(
    shop: Shop, engine: Engine, postgres_dsn: str, corners: Any, lives: int
) -> None:
    with pytest.raises(Died):
        run_import(job(shop), DyingSink(engine, lives), postgres_dsn)
    report = run_import(job(shop), engine, postgres_dsn)
    assert report.agrees
    assert outcomes(report) == WHOLE
    assert stored(postgres_dsn) == elsewhere(shop, corners)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("saves", range(4))
def test_dying_before_any_cursor_is_stored_counts_no_row_twice(
    shop: Shop, engine: Engine, postgres_dsn: str, corners: Any, saves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [saves]
    save = ProgressStore.save

    def dying_save(self: ProgressStore, *args: Any) -> None:
        if left[0] == 0:
            raise Died
        left[0] -= 1
        save(self, *args)

    monkeypatch.setattr(ProgressStore, "save", dying_save)
    with pytest.raises(Died):
        run_import(job(shop), engine, postgres_dsn)
    monkeypatch.setattr(ProgressStore, "save", save)
    report = run_import(job(shop), engine, postgres_dsn)
    assert report.agrees
    assert outcomes(report) == WHOLE
    assert stored(postgres_dsn) == elsewhere(shop, corners)


def test_rows_set_aside_are_recorded_once_also_when_the_plan_is_cut_differently_after_a_death(
    shop: Shop, engine: Engine, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write_rows(*(row.replace(",2,", ",-2,").replace(",3,", ",-3,") for row in ROWS))
    shop.edit("mapping.toml", 'WHERE quantity > 0"', "WHERE order_id = 'o2'\"")
    with pytest.raises(Died):
        run_import(job(shop), DyingSink(engine, 3), postgres_dsn)  # Clock, commands, rows set aside.
    monkeypatch.setattr(runner, "CHUNK_ROWS", 2)
    assert run_import(job(shop), engine, postgres_dsn).agrees
    rows = ask(
        postgres_dsn,
        "SELECT line ->> 'row' FROM events, jsonb_array_elements(data -> 'rows') AS line "
        "WHERE kind = 'import' ORDER BY 1",
    )
    assert rows == [("o1",), ("o3",), ("o4",)]


def elsewhere(shop: Shop, corners: Any) -> list[tuple[Any, ...]]:
    """The log of the same import, undisturbed, in another database."""
    from command.handlers import HANDLERS
    from infra.postgres.log import PostgresEventLog

    with corners.postgres() as dsn:
        engine = Engine(PostgresEventLog(dsn), HANDLERS)
        engine.start()
        try:
            return undisturbed(shop, engine, dsn)
        finally:
            engine.stop()


def test_a_resumed_import_watches_from_where_it_stopped(
    shop: Shop, engine: Engine, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "CHUNK_ROWS", 2)
    with pytest.raises(Died):
        run_import(job(shop), DyingSink(engine, 3), postgres_dsn)
    began: list[tuple[int, int]] = []

    class Notes(NobodyWatches):
        def began(self, rows_total: int, rows_done: int) -> None:
            began.append((rows_total, rows_done))

    run_import(job(shop), engine, postgres_dsn, watcher=Notes())
    assert began == [(6, 2)]


def test_two_processes_do_not_work_on_one_import(shop: Shop, engine: Engine, postgres_dsn: str) -> None:
    it = job(shop)
    with (
        progress_store(postgres_dsn, it.realm, it.import_id),
        pytest.raises(AlreadyRunning, match="another process"),
    ):
        run_import(it, engine, postgres_dsn)
    assert run_import(it, engine, postgres_dsn).agrees


def test_who_goes_on_after_a_death_waits_until_the_server_has_noticed_it(
    shop: Shop, engine: Engine, postgres_dsn: str
) -> None:
    it = job(shop)
    with ExitStack() as held:
        held.enter_context(progress_store(postgres_dsn, it.realm, it.import_id))
        end = Timer(0.5, held.close)
        end.start()
        assert run_import(it, engine, postgres_dsn).agrees
        end.join()


# Dirty


def test_a_dirty_file_stops_before_anything_is_sent_and_a_mended_one_is_imported(
    shop: Shop, engine: Engine, postgres_dsn: str
) -> None:
    shop.write_rows(*ROWS[:3], "o4,2024-03-02 08:15:00,dora,three,1.250")
    with pytest.raises(BadSource, match=r"sales\.csv, row 4: column quantity: 'three' is no INTEGER"):
        run_import(job(shop), engine, postgres_dsn)
    assert stored(postgres_dsn) == []
    shop.write_rows(*ROWS)
    assert run_import(job(shop), engine, postgres_dsn).agrees


def test_a_row_that_is_no_command_stops_there_what_was_applied_stays_and_the_mended_import_goes_on(
    shop: Shop, engine: Engine, postgres_dsn: str, corners: Any
) -> None:
    shop.write_rows(*ROWS[:3], "o4,2024-03-02 08:15:00,dora,0,1.250")
    with pytest.raises(BadRow, match=r"statement orders, row o4: place_order: lines\.0\.quantity"):
        run_import(job(shop), engine, postgres_dsn)
    assert ask(postgres_dsn, "SELECT key FROM events WHERE type = 'order.placed.v1' ORDER BY 1") == [("o1",), ("o2",)]
    shop.write_rows(*ROWS)
    with pytest.raises(SourceChanged, match=r"file sales \(\d+ bytes -> \d+ bytes\)"):
        run_import(job(shop), engine, postgres_dsn)
    report = run_import(job(shop, accept_changed=True), engine, postgres_dsn)
    assert report.agrees
    assert outcomes(report) == WHOLE
    # The parked row was recorded earlier than it would have been; but nothing is missing, and nothing is there twice.
    assert sorted(stored(postgres_dsn)) == sorted(elsewhere(shop, corners))


def test_other_statements_are_another_import_until_the_caller_accepts_them(
    shop: Shop, engine: Engine, postgres_dsn: str
) -> None:
    run_import(job(shop), engine, postgres_dsn)
    log = stored(postgres_dsn)
    shop.edit("payments.sql", "'p-'", "'q-'")
    with pytest.raises(SourceChanged, match="the mapping's statements"):
        run_import(job(shop), engine, postgres_dsn)
    assert stored(postgres_dsn) == log


def test_an_answered_row_whose_content_changed_keeps_its_first_effect(
    shop: Shop, engine: Engine, postgres_dsn: str
) -> None:
    run_import(job(shop), engine, postgres_dsn)
    shop.write_rows(ROWS[0].replace("anna", "annie"), *ROWS[1:])
    report = run_import(job(shop, accept_changed=True), engine, postgres_dsn)
    assert outcomes(report)["orders"]["refused"] == {"command_id_reused": 1}
    assert ask(postgres_dsn, "SELECT data ->> 'user_id' FROM events WHERE stream = 'corner/shop/order/o1'") == [
        ("anna",)
    ]


def test_a_row_that_a_mended_file_adds_in_the_past_is_applied_at_the_time_the_clock_has_reached(
    shop: Shop, engine: Engine, postgres_dsn: str
) -> None:
    run_import(job(shop), engine, postgres_dsn)
    shop.write_rows(*ROWS, "o5,2024-03-01 09:30:00,eve,1,1.000")
    assert run_import(job(shop, accept_changed=True), engine, postgres_dsn).agrees
    (late,) = ask(postgres_dsn, "SELECT occurred_at FROM events WHERE stream = 'corner/shop/order/o5'")
    assert late == (datetime(2024, 3, 2, 8, 15, tzinfo=UTC),)


# In the way


def test_a_realm_whose_clock_is_past_the_rows_is_left_alone(shop: Shop, engine: Engine, postgres_dsn: str) -> None:
    it = job(shop)
    later = AdvanceClock(to=datetime(2025, 1, 1, tzinfo=UTC))
    engine.execute(CommandEnvelope(it.realm, "somebody-elses", later, "operator", "c"))
    log = stored(postgres_dsn)
    with pytest.raises(ClockElsewhere, match="Import into a realm of its own"):
        run_import(it, engine, postgres_dsn)
    assert [row for row in stored(postgres_dsn) if row not in log and row[2] != "refusals.counted.v1"] == []


def test_two_imports_into_one_realm_follow_each_other_in_time(shop: Shop, engine: Engine, postgres_dsn: str) -> None:
    assert run_import(job(shop, import_id="march"), engine, postgres_dsn).agrees
    shop.write_rows("o9,2024-04-01 09:00:00,anna,1,1.000")
    report = run_import(job(shop, import_id="april"), engine, postgres_dsn)
    assert outcomes(report) == {"orders": {"applied": {"ok": 1}}, "payments": {"applied": {"ok": 1}}}
