"""The figures that ClickHouse shows, by plain SQL over the fact tables."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from clickhouse_connect.driver.client import Client

from query.verify.books import Key
from query.verify.figures import EVENTS, Shown, figure_of

# Each query: realm, key, and the figures that it names.
_QUERIES: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "coupon": (
        ("status", "redeemed"),
        """
        SELECT tenant_id, app_id, coupon_id,
            multiIf(argMax(kind, version) IN ('released', 'returned'), 'claimed', toString(argMax(kind, version))),
            argMaxIf(discount_minor, version, kind = 'redeemed')
        FROM coupon_facts FINAL GROUP BY tenant_id, app_id, coupon_id
        """,
    ),
    "order": (
        ("recorded", "reversed"),
        """
        SELECT tenant_id, app_id, order_id,
            sumIf(discount_minor, kind = 'recorded'), -sumIf(discount_minor, kind = 'reversed')
        FROM settlement_facts FINAL GROUP BY tenant_id, app_id, order_id
        """,
    ),
    "payment": (
        ("amount",),
        """
        SELECT tenant_id, app_id, payment_id, sum(amount_minor)
        FROM payment_facts FINAL WHERE kind = 'succeeded' GROUP BY tenant_id, app_id, payment_id
        """,
    ),
    "refund": (
        ("amount",),
        """
        SELECT tenant_id, app_id, refund_id, -sum(amount_minor)
        FROM refund_facts FINAL WHERE entry = 'refund' GROUP BY tenant_id, app_id, refund_id
        """,
    ),
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


def shown(client: Client) -> Iterator[Shown]:
    """Coupons, settlements, payments, refunds, budgets, and how many events of each type. Raises ClickHouseError."""
    for kind, (names, sql) in _QUERIES.items():
        for tenant, app, key, *values in _rows(client, sql):
            yield Shown(kind, (tenant, app), key, dict(zip(names, values, strict=True)))
    yield from _budgets(client)
    for table in TABLES:
        sql = f"SELECT tenant_id, app_id, type, uniqExact(event_id) FROM {table} FINAL GROUP BY tenant_id, app_id, type"
        for tenant, app, event_type, count in _rows(client, sql):
            yield Shown(EVENTS, (tenant, app), event_type, {"count": count})


def position(client: Client) -> int:
    """The offset that the facts have reached, -1 when there are none."""
    rows = client.query("SELECT offset FROM projection_positions FINAL WHERE name = 'facts'").result_rows
    return int(rows[0][0]) if rows else -1


def _budgets(client: Client) -> Iterator[Shown]:
    budgets: dict[Key, dict[str, int]] = {}
    for tenant, app, budget_id, period, limit, reserved, committed, credited, moves in _rows(client, _BUDGETS):
        figures = budgets.setdefault(((tenant, app), budget_id), {"limit": 0})
        figures["limit"] += limit
        if moves:
            for what, amount in (("reserved", reserved), ("committed", committed), ("credited", credited)):
                figures[figure_of(what, period)] = amount
    for (realm, budget_id), figures in budgets.items():
        yield Shown("budget", realm, budget_id, figures)


def _rows(client: Client, sql: str) -> Iterator[Sequence[Any]]:
    """The rows of an answer as they come: it may have millions."""
    with client.query_row_block_stream(sql) as blocks:
        for block in blocks:
            yield from block
