"""Online Retail: a wholesaler's year, reconciled with its oracle row by row and to the tenth of a penny."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.data.world import Imported, imported

pytestmark = [pytest.mark.data, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

REALM = "tenant_id = 'online-retail' AND app_id = 'shop'"
SALES, WRITE_OFFS, CREDIT_NOTES, GUESTS, FREE = 20_725, 1_336, 3_836, 2_189, 766


ORDER_LINES = f"""
FROM events, jsonb_array_elements(data -> 'lines') AS line WHERE {REALM} AND type = 'order.placed.v1'
"""
REFUND_LINES = f"""
FROM events, jsonb_array_elements(data -> 'lines') AS line WHERE {REALM} AND type = 'refund.succeeded.v1'
"""
SET_ASIDE = f"""
FROM events, jsonb_array_elements(data -> 'rows') AS line WHERE {REALM} AND type = 'import.rows_set_aside.v1'
"""


@pytest.fixture(scope="module")
def retail(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imported]:
    """Everything imported and digested."""
    tmp: Path = tmp_path_factory.mktemp("online_retail")
    with imported(request, "online_retail", tmp) as found:
        yield found


def test_every_total_of_the_mapping_is_read_back_from_both_stores(retail: Imported) -> None:
    assert [(total.name, total.store) for total in retail.report.totals if not total.agrees] == []
    assert {total.store for total in retail.report.totals} == {"PostgreSQL", "ClickHouse"}
    assert retail.report.agrees


def test_applied_refused_and_parked_rows_are_all_rows(retail: Imported) -> None:
    placed = {part.name: (part.tally.as_json()["rows"], part.size.rows) for part in retail.report.statements}
    assert placed == {
        "orders": ({"applied": {"ok": SALES}, "parked": {"negative_quantity": WRITE_OFFS}}, SALES + WRITE_OFFS),
        "payments": ({"applied": {"ok": SALES - FREE}}, SALES - FREE),
        "refunds": ({"applied": {"ok": CREDIT_NOTES}}, CREDIT_NOTES),
        "adjustments": ({"applied": {"ok": 3}}, 3),
    }


# By kind: lines, invoices, pieces, exact amount. Sales are orders plus what was parked.

LOG_BY_KIND = f"""
SELECT kind, sum(lines), count(*), sum(pieces), sum(exact) FROM (
    SELECT 'sale' AS kind, count(*) AS lines, sum((line ->> 'quantity')::bigint) AS pieces,
           sum((line ->> 'exact_amount')::numeric) AS exact
    {ORDER_LINES} GROUP BY stream
    UNION ALL
    SELECT 'sale', 1, split_part(line ->> 'detail', 'quantity ', 2)::bigint, (line ->> 'amount')::numeric
    {SET_ASIDE}
    UNION ALL
    SELECT 'credit', count(*), -sum((line ->> 'quantity')::bigint), -max((data ->> 'exact_amount')::numeric)
    {REFUND_LINES} GROUP BY stream
    UNION ALL
    SELECT 'adjustment', 1, 1, (data ->> 'exact_amount')::numeric FROM events
    WHERE {REALM} AND type = 'payment.adjusted.v1'
) AS invoices GROUP BY kind ORDER BY kind
"""
FACTS_BY_KIND = f"""
SELECT invoices, sum(lines), count(), sum(pieces), sum(exact) FROM (
    SELECT 'sale' AS invoices, count() AS lines, sum(quantity) AS pieces, sum(exact_amount) AS exact
    FROM order_facts FINAL WHERE {REALM} AND kind = 'placed' GROUP BY order_id
    UNION ALL
    SELECT 'sale', 1, toInt64(splitByString('quantity ', detail)[2]), assumeNotNull(amount)
    FROM import_facts FINAL WHERE {REALM}
    UNION ALL
    SELECT 'credit', countIf(entry = 'line'), -sumIf(assumeNotNull(quantity), entry = 'line'), sum(exact_amount)
    FROM refund_facts FINAL WHERE {REALM} GROUP BY refund_id
    UNION ALL
    SELECT 'adjustment', 1, 1, exact_amount FROM payment_facts FINAL WHERE {REALM} AND kind = 'adjusted'
) GROUP BY invoices ORDER BY invoices
"""


def test_both_stores_say_of_each_kind_of_invoice_what_the_oracle_says(retail: Imported) -> None:
    expected = [
        (it["kind"], it["lines"], it["invoices"], it["quantity"], Decimal(it["amount"]))
        for it in sorted(retail.oracle["by_kind"], key=lambda it: it["kind"])
    ]
    assert retail.log(LOG_BY_KIND) == expected
    assert retail.facts_say(FACTS_BY_KIND) == expected


def test_the_whole_is_the_oracles_total_and_the_rounding_is_a_figure_of_its_own(retail: Imported) -> None:
    exact = {part.name: sum(part.tally.exact.values()) for part in retail.report.statements}
    booked = sum(part.tally.booked_minor or 0 for part in retail.report.statements)
    roundings = {part.name: part.tally.rounding("GBP") for part in retail.report.statements}
    assert sum(exact.values()) == Decimal(retail.oracle["total_gbp"]) == Decimal("9747747.934")
    assert roundings == {"orders": Decimal("-0.004"), "payments": None, "refunds": 0, "adjustments": 0}
    assert Decimal(booked).scaleb(-2) - sum(exact.values()) == Decimal("-0.004")


def test_each_line_of_each_sale_is_in_both_stores_to_the_tenth_of_a_penny(retail: Imported) -> None:
    """Every line: invoice, line, article, kind, pieces, exact amount, and what was booked, rounded half-even."""
    expected = retail.source(
        "SELECT invoice_no, line_id, stock_code, line_kind, quantity, quantity * unit_price, "
        "round_even((quantity * unit_price)::DECIMAL(18,3) * 100, 0)::BIGINT "
        "FROM '{folder}/lines.parquet' WHERE kind = 'sale' AND quantity > 0 ORDER BY line_id"
    )
    assert len(expected) == 532_618 - WRITE_OFFS
    in_log = retail.log(
        "SELECT key, (line ->> 'line_id')::int, line ->> 'sku', line ->> 'category', (line ->> 'quantity')::int, "
        f"(line ->> 'exact_amount')::numeric, (line ->> 'amount_minor')::bigint {ORDER_LINES} ORDER BY 2"
    )
    assert first_difference(in_log, expected) is None
    in_facts = retail.facts_say(
        "SELECT order_id, toInt32(line_id) AS id, sku, category, quantity, exact_amount, amount_minor "
        f"FROM order_facts FINAL WHERE {REALM} AND kind = 'placed' ORDER BY id"
    )
    assert first_difference(in_facts, expected) is None


def test_each_line_of_each_credit_note_is_in_both_stores(retail: Imported) -> None:
    expected = retail.source(
        "SELECT invoice_no, line_id, quantity, round_even((quantity * unit_price)::DECIMAL(18,3) * 100, 0)::BIGINT "
        "FROM '{folder}/lines.parquet' WHERE kind = 'credit' ORDER BY line_id"
    )
    assert len(expected) == 9_288
    in_log = retail.log(
        "SELECT key, (line ->> 'line_id')::int, -(line ->> 'quantity')::int, -(line ->> 'amount_minor')::bigint "
        f"{REFUND_LINES} ORDER BY 2"
    )
    assert first_difference(in_log, expected) is None
    in_facts = retail.facts_say(
        "SELECT refund_id, toInt32(line_id) AS id, -assumeNotNull(quantity), assumeNotNull(line_amount_minor) "
        f"FROM refund_facts FINAL WHERE {REALM} AND entry = 'line' ORDER BY id"
    )
    assert first_difference(in_facts, expected) is None


def test_sales_without_a_customer_and_sales_that_cost_nothing_are_applied(retail: Imported) -> None:
    in_facts = retail.facts_say(
        "SELECT count(), countIf(user_id = ''), countIf(exact = 0) FROM (SELECT any(user_id) AS user_id, "
        f"sum(exact_amount) AS exact FROM order_facts FINAL WHERE {REALM} AND kind = 'placed' GROUP BY order_id)"
    )
    assert in_facts == [(SALES, GUESTS, FREE)]
    in_log = retail.log(
        "SELECT count(*), count(*) FILTER (WHERE data ->> 'user_id' IS NULL) FROM events "
        f"WHERE {REALM} AND type = 'order.placed.v1'"
    )
    assert in_log == [(SALES, GUESTS)]


def test_exactly_the_sales_with_a_negative_quantity_are_parked_with_their_reason(retail: Imported) -> None:
    expected = retail.source(
        "SELECT DISTINCT invoice_no, 'parked', 'negative_quantity' FROM '{folder}/lines.parquet' "
        "WHERE kind = 'sale' AND quantity < 0 ORDER BY 1"
    )
    assert len(expected) == WRITE_OFFS
    assert expected == retail.log(f"SELECT line ->> 'row', line ->> 'outcome', line ->> 'code' {SET_ASIDE} ORDER BY 1")
    assert expected == retail.facts_say(
        f"SELECT source_row, outcome, code FROM import_facts FINAL WHERE {REALM} ORDER BY source_row"
    )


def test_every_applied_sale_was_checked_out_by_its_saga(retail: Imported) -> None:
    completed = retail.log(
        f"SELECT count(*), count(DISTINCT stream) FROM events WHERE {REALM} AND type = 'checkout.completed.v1'"
    )
    assert completed == [(SALES, SALES)]
    steps = retail.log(f"SELECT step, count(*) FROM sagas WHERE {REALM} AND process = 'checkout' GROUP BY step")
    assert sum(count for _, count in steps) >= SALES
    owed = retail.log(f"SELECT count(*) FROM saga_outbox WHERE {REALM}")
    assert owed == [(0,)]
    (late,) = retail.log(f"""
        SELECT count(*) FROM (
            SELECT max(occurred_at) FILTER (WHERE type = 'checkout.completed.v1')
                   - min(occurred_at) FILTER (WHERE type = 'order.placed.v1') AS took
            FROM events WHERE {REALM} AND type IN ('order.placed.v1', 'checkout.completed.v1') GROUP BY key
        ) AS checkouts WHERE took > interval '1 day'
    """)
    print(f"checkouts that were completed more than a day after their order was placed: {late[0]:,} of {SALES:,}")


def first_difference(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> tuple[Any, Any] | None:
    """The first pair of rows that differ: half a million rows make no readable assertion."""
    if len(found) != len(expected):
        return len(found), len(expected)
    return next(((ours, theirs) for ours, theirs in zip(found, expected, strict=True) if ours != theirs), None)
