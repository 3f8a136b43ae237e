"""The plan of an import: every statement's rows in business-time order, each a valid command or set aside by rule."""

from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.domain.ids import coupon_id
from contracts.commands import PlaceOrder
from contracts.identity import Realm
from infra.imports.errors import BadMapping, BadRow
from infra.imports.job import job_of
from infra.imports.plan import Plan, PlannedRow, planned
from infra.imports.runner import dry_run
from tests.unit.imports.samples import ROWS, Shop


def plan_of(shop: Shop) -> list[PlannedRow]:
    mapping = shop.mapping()
    with planned(shop.data, mapping, mapping.realm) as plan:
        return everything_of(plan, 1_000)


def everything_of(plan: Plan, limit: int) -> list[PlannedRow]:
    """All rows, so many at a time."""
    rows: list[PlannedRow] = []
    while more := list(plan.read(len(rows), limit)):
        rows += more
    return rows


def test_rows_come_in_business_time_order_then_in_the_order_of_the_statements_then_by_key(shop: Shop) -> None:
    rows = plan_of(shop)
    assert [(row.seq, row.statement, row.row_key) for row in rows] == [
        (1, "orders", "o1"),
        (2, "payments", "o1"),
        (3, "orders", "o2"),
        (4, "orders", "o3"),
        (5, "orders", "o4"),
        (6, "payments", "o4"),
    ]
    assert rows[0].at == datetime(2024, 3, 1, 9, 0, tzinfo=UTC)


def test_a_row_is_the_command_that_its_select_names(shop: Shop) -> None:
    order = plan_of(shop)[0].command
    assert isinstance(order, PlaceOrder)
    assert (order.order_id, order.user_id, order.currency) == ("o1", "anna", "GBP")
    assert order.lines[0].amount_minor == 2_001
    assert order.lines[0].exact_amount == "20.010"


def test_a_null_field_was_not_told(shop: Shop) -> None:
    order = plan_of(shop)[2].command
    assert isinstance(order, PlaceOrder)
    assert order.user_id is None


def test_a_row_that_a_rule_sets_aside_needs_no_valid_command(shop: Shop) -> None:
    parked = plan_of(shop)[3]
    assert (parked.command, parked.set_aside, parked.detail) == (None, "negative_quantity", "quantity -1")


def test_a_plan_can_be_read_from_any_place_on(shop: Shop) -> None:
    mapping = shop.mapping()
    with planned(shop.data, mapping, mapping.realm) as plan:
        assert everything_of(plan, 2) == everything_of(plan, 1) == everything_of(plan, 1_000)
        assert [row.seq for row in plan.read(4, 1)] == [5]
        assert list(plan.read(6, 2)) == []


def test_what_is_read_together_is_of_one_day(shop: Shop) -> None:
    mapping = shop.mapping()
    with planned(shop.data, mapping, mapping.realm) as plan:
        assert [[row.seq for row in plan.read(after, 1_000)] for after in (0, 3)] == [[1, 2, 3], [4, 5, 6]]


def test_a_dry_run_counts_rows_and_money_and_sends_nothing(shop: Shop) -> None:
    report = dry_run(job_of(shop.data, shop.mapping()))
    orders = report.as_json()["statements"][0]
    assert report.dry
    assert report.agrees
    assert orders["rows"] == {"applied": {"ok": 3}, "parked": {"negative_quantity": 1}}
    assert orders["exact"] == {"applied": "23.76", "parked": "0"}
    assert orders["booked_minor"] == 2_376
    assert orders["rounding"] == "0.000000"


def test_rounding_is_a_figure_of_its_own(shop: Shop) -> None:
    shop.write_rows(
        "o1,2024-03-01 09:00:00,anna,1,0.005", "o2,2024-03-01 09:00:00,anna,1,0.015", "o3,2024-03-01 09:00:00,,1,0.004"
    )
    orders = dry_run(job_of(shop.data, shop.mapping())).as_json()["statements"][0]
    assert (orders["exact"]["applied"], orders["booked_minor"], orders["rounding"]) == ("0.024", 2, "-0.004000")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "'quantity': quantity,",
            "'quantity': 0,",
            r"row o1: place_order: lines\.0\.quantity: .*greater than 0 \(found 0\)",
        ),
        ("'quantity': quantity,", "'quantity': '2',", r"lines\.0\.quantity: .*valid integer \(found '2'\)"),
        ("'currency': 'GBP',", "'currency': 'gbp',", r"currency: .*not an ISO 4217"),
        ("'currency': 'GBP',", "'money': 'GBP',", r"place_order: currency: Field required"),
        ("'order_id': order_id, ", "'order_id': order_id, 'colour': 'red', ", "colour: Extra inputs are not permitted"),
        ("'place_order'", "'place_odrer'", "unknown command 'place_odrer'"),
        ("order_id AS row_key", "'same' AS row_key", "row same: row_key comes 4 times"),
        ("order_id AS row_key", "NULL AS row_key", "row_key is NULL"),
        (
            "placed_at AT TIME ZONE",
            "(placed_at + INTERVAL 20000 YEAR) AT TIME ZONE",
            "row o.: `occurred_at` is not from 1970 on and before 2149-06-06",
        ),
        (
            "placed_at AT TIME ZONE",
            "nullif(placed_at, '2024-03-01 09:00:00') AT TIME ZONE",
            "row o1: `occurred_at` is NULL",
        ),
    ],
)
def test_a_row_that_is_no_command_is_named_with_statement_key_and_reason(
    shop: Shop, old: str, new: str, reason: str
) -> None:
    shop.edit("orders.sql", old, new)
    with pytest.raises(BadRow, match=reason) as refused:
        plan_of(shop)
    assert refused.value.statement == "orders"


def test_the_good_rows_before_a_bad_one_are_still_handed_out(shop: Shop) -> None:
    shop.edit("orders.sql", "'quantity': quantity,", "'quantity': CASE order_id WHEN 'o4' THEN 0 ELSE quantity END,")
    mapping = shop.mapping()
    with planned(shop.data, mapping, mapping.realm) as plan:
        rows = plan.read(3, 1_000)
        assert next(rows).seq == 4
        with pytest.raises(BadRow, match="row o4"):
            next(rows)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("AS occurred_at", "AS at_time", "the SELECT lacks the column occurred_at"),
        (" AT TIME ZONE 'Europe/London'", "", r"`occurred_at` is a TIMESTAMP without zone; write … AT TIME ZONE"),
        ("AS detail", "AS remark", "unknown column remark"),
        ("AS DECIMAL(12, 3)) AS amount", "AS DOUBLE) AS amount", "money is exact"),
        ("FROM sales", "FROM sails", "sails"),
        ("FROM sales", "FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("SELECT order_id", "SELEKT order_id", "syntax error"),
        ("FROM sales", "FROM sales; DROP TABLE sales", "syntax error"),
    ],
)
def test_sql_that_does_not_do_is_named_with_its_file(shop: Shop, old: str, new: str, reason: str) -> None:
    shop.edit("orders.sql", old, new)
    with pytest.raises(BadMapping, match=reason) as refused:
        plan_of(shop)
    assert "orders.sql" in str(refused.value)


def test_times_of_another_zone_are_the_instants_that_they_mean(shop: Shop) -> None:
    shop.write_rows(ROWS[0].replace("2024-03-01", "2024-07-01"))
    assert plan_of(shop)[0].at == datetime(2024, 7, 1, 8, 0, tzinfo=UTC)  # British summer time.


# What the SQL of a mapping may use.


SOMEBODY = Realm("t", "a")


def macro(shop: Shop, expression: str, realm: Realm = SOMEBODY) -> object:
    with planned(shop.data, shop.mapping(), realm) as plan:
        return plan.query(f"SELECT {expression}")[0][0]


@given(thousandths=st.integers(min_value=-(10**9), max_value=10**9))
def test_half_even_is_exact(thousandths: int) -> None:
    from infra.imports.plan import _MACROS

    amount = Decimal(thousandths).scaleb(-1)
    with duckdb.connect() as connection:
        connection.execute(_MACROS)
        found = connection.execute(f"SELECT half_even({amount:f}::DECIMAL(20,1))").fetchall()
    assert found == [(int(amount.quantize(Decimal(1), ROUND_HALF_EVEN)),)]


@pytest.mark.parametrize(
    ("realm", "template_id", "user_id", "nth"),
    [
        (Realm("t", "a"), "summer", "anna", 1),
        (Realm("t/1", "{a}%"), "sum/mer", "an%2Fna", 7),
        (Realm("completejourney", "grocery"), "t13-10000085425", "2489", 1),
        (Realm("o'hara", "a"), "{x}", "é", 12),
        (Realm("t", "a"), "ten-{spring}-off{b}", "anna", 1),
        (Realm("t", "a"), "{}{a}", "anna", 1),
        (Realm("t", "a"), "half{open", "anna", 1),
    ],
)
def test_a_mapping_knows_the_id_of_the_coupon_that_an_earlier_row_claims(
    shop: Shop, realm: Realm, template_id: str, user_id: str, nth: int
) -> None:
    assert macro(shop, f"coupon_id('{template_id}', '{user_id}', {nth})", realm) == coupon_id(
        realm, template_id, user_id, nth
    )


def test_an_instant_is_written_as_commands_read_it(shop: Shop) -> None:
    written = macro(shop, "instant(TIMESTAMP '2017-03-26 00:00:00' AT TIME ZONE 'America/New_York')")
    assert isinstance(written, str)
    assert datetime.fromisoformat(written) == datetime(2017, 3, 26, 4, 0, tzinfo=UTC)


def test_the_clock_may_be_told_where_to_end(shop: Shop) -> None:
    shop.edit(
        "mapping.toml",
        'currency = "GBP"',
        'currency = "GBP"\nclock_until = "SELECT TIMESTAMPTZ \'2024-04-01 00:00:00+00\'"',
    )
    mapping = shop.mapping()
    with planned(shop.data, mapping, mapping.realm) as plan:
        assert plan.clock_until == datetime(2024, 4, 1, tzinfo=UTC)
