"""The figures that ClickHouse shows, by plain SQL over the fact tables."""

from typing import Any, Final

from clickhouse_connect.driver.client import Client

from query.verify.figures import EVENTS, Figure, Figures

# Each query: realm, key, what, value.
_QUERIES: Final[dict[str, str]] = {
    "coupon": """
        SELECT tenant_id, app_id, coupon_id, 'status', multiIf(
            argMax(kind, version) IN ('released', 'returned'), 'claimed', toString(argMax(kind, version)))
        FROM coupon_facts FINAL GROUP BY tenant_id, app_id, coupon_id
        UNION ALL
        SELECT tenant_id, app_id, coupon_id, 'redeemed',
            toString(argMaxIf(discount_minor, version, kind = 'redeemed'))
        FROM coupon_facts FINAL GROUP BY tenant_id, app_id, coupon_id
    """,
    "order": """
        SELECT tenant_id, app_id, order_id, 'recorded', toString(sumIf(discount_minor, kind = 'recorded'))
        FROM settlement_facts FINAL GROUP BY tenant_id, app_id, order_id
        UNION ALL
        SELECT tenant_id, app_id, order_id, 'reversed', toString(-sumIf(discount_minor, kind = 'reversed'))
        FROM settlement_facts FINAL GROUP BY tenant_id, app_id, order_id
    """,
    "payment": """
        SELECT tenant_id, app_id, payment_id, 'amount', toString(sum(amount_minor))
        FROM payment_facts FINAL WHERE kind = 'succeeded' GROUP BY tenant_id, app_id, payment_id
    """,
    "refund": """
        SELECT tenant_id, app_id, refund_id, 'amount', toString(-sum(amount_minor))
        FROM refund_facts FINAL WHERE entry = 'refund' GROUP BY tenant_id, app_id, refund_id
    """,
}

_BUDGETS: Final = """
    SELECT tenant_id, app_id, budget_id, period, sum(limit_delta_minor), sum(reserved_delta_minor),
        sum(committed_delta_minor), sum(credited_delta_minor), countIf(order_id != '' OR kind LIKE 'lease%')
    FROM budget_facts FINAL GROUP BY tenant_id, app_id, budget_id, period
"""

TABLES: Final = (
    "coupon_facts",
    "settlement_facts",
    "order_facts",
    "checkout_facts",
    "payment_facts",
    "refund_facts",
    "budget_facts",
    "template_facts",
    "refusal_facts",
    "break_facts",
    "import_facts",
)


def read_figures(client: Client) -> Figures:
    """Coupons, settlements, payments, refunds, budgets, and how many events of each type. Raises ClickHouseError."""
    figures: Figures = {}
    for kind, sql in _QUERIES.items():
        for tenant, app, key, what, value in client.query(sql).result_rows:
            figures[Figure((tenant, app), kind, key, what)] = value if what == "status" else int(value)
    figures.update(_budgets(client))
    for table in TABLES:
        sql = f"SELECT tenant_id, app_id, type, uniqExact(event_id) FROM {table} FINAL GROUP BY tenant_id, app_id, type"
        for tenant, app, event_type, count in client.query(sql).result_rows:
            figures[Figure((tenant, app), EVENTS, event_type, "count")] = count
    return figures


def position(client: Client) -> int:
    """The offset that the facts have reached, -1 when there are none."""
    rows = client.query("SELECT offset FROM projection_positions FINAL WHERE name = 'facts'").result_rows
    return int(rows[0][0]) if rows else -1


def _budgets(client: Client) -> Figures:
    figures: dict[Figure, Any] = {}
    for tenant, app, budget_id, period, limit, reserved, committed, credited, moves in client.query(
        _BUDGETS
    ).result_rows:
        limit_figure = Figure((tenant, app), "budget", budget_id, "limit")
        figures[limit_figure] = figures.get(limit_figure, 0) + limit
        if moves:
            for what, amount in (("reserved", reserved), ("committed", committed), ("credited", credited)):
                figures[Figure((tenant, app), "budget", budget_id, f"{what} {period!r}")] = amount
    return figures
