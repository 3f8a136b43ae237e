"""Golden: known events in, exact rows out of every view, however often and in whatever parts they were delivered."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest

from contracts.envelope import Recorded
from contracts.events import AdjustmentReported, OrderNoted
from contracts.identity import Realm
from contracts.values import AMOUNT_MINOR_MAX
from infra.clickhouse.facts import FactsStore
from projections.facts import rows_of
from tests.engines import clickhouse
from tests.unit.projections.stories import Story, everything

MARCH, APRIL = date(2026, 3, 31), date(2026, 4, 3)


@pytest.fixture
def facts(clickhouse_url: str) -> FactsStore:
    store = FactsStore(clickhouse_url)
    store.migrate()
    return store


def deliver(store: FactsStore, events: Sequence[Recorded]) -> None:
    rows: dict[str, list[Any]] = {}
    for recorded in events:
        if (found := rows_of(recorded)) is not None:
            rows.setdefault(found[0].name, []).extend(found[1])
    for table, group in rows.items():
        store.insert(table, group)


def select(url: str, query: str) -> list[dict[str, Any]]:
    with clickhouse(url) as client:
        result = client.query(query)
        return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]


def of_realm(rows: list[dict[str, Any]], realm: str = "shop") -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in {"tenant_id", "app_id"}}
        for row in rows
        if row["app_id"] == realm
    ]


@pytest.fixture
def delivered(facts: FactsStore, clickhouse_url: str) -> str:
    """The story twice, in overlapping parts and late, and the same story of another realm."""
    log = everything()
    deliver(facts, log)
    deliver(facts, log[20:60])
    deliver(facts, log[-9:])
    deliver(facts, everything(Realm("acme", "other"), first_offset=1_000))
    return clickhouse_url


def test_the_coupon_funnel(delivered: str) -> None:
    assert of_realm(select(delivered, "SELECT * FROM coupon_funnel ORDER BY template_id")) == [
        {
            "template_id": "t1",
            "name": "Two",
            "campaign_id": "spring",
            "shop_id": "",
            "currency": "GBP",
            "stock": 1_500,
            "claimed": 7,
            "refused": 9,
            "refused_by_code": {"paused": 2, "user_limit_reached": 7},
            "locked": 3,
            "redeemed": 2,
            "released": 1,
            "returned": 1,
            "expired": 1,
            "revoked": 1,
            "redeemed_minor": 1_350,
            "returned_minor": 1_000,
        },
        {
            "template_id": "t2",
            "name": "Endless",
            "campaign_id": "spring",
            "shop_id": "s1",
            "currency": "GBP",
            "stock": None,
            "claimed": 0,
            "refused": 0,
            "refused_by_code": {},
            "locked": 0,
            "redeemed": 0,
            "released": 0,
            "returned": 0,
            "expired": 0,
            "revoked": 0,
            "redeemed_minor": 0,
            "returned_minor": 0,
        },
    ]


def test_spend_by_day(delivered: str) -> None:
    of_spring = {
        "campaign_id": "spring",
        "template_id": "t1",
        "shop_id": "",
        "source": "platform",
        "currency": "GBP",
    }
    assert of_realm(select(delivered, "SELECT * FROM spend ORDER BY day")) == [
        {
            **of_spring,
            "day": MARCH,
            "redeemed_minor": 1_000,
            "reversed_minor": 833,
            "net_minor": 167,
            "external_minor": 350,
        },
        {
            **of_spring,
            "day": APRIL,
            "redeemed_minor": 0,
            "reversed_minor": 167,
            "net_minor": -167,
            "external_minor": 0,
        },
    ]


def test_coupons_by_day(delivered: str) -> None:
    of_t1 = {"template_id": "t1", "campaign_id": "spring", "shop_id": "", "source": "platform", "currency": "GBP"}
    none = dict.fromkeys(("claimed", "locked", "redeemed", "released", "returned", "expired", "revoked"), 0)
    assert of_realm(select(delivered, "SELECT * FROM coupon_daily ORDER BY day")) == [
        {
            "day": MARCH,
            **of_t1,
            **none,
            "claimed": 7,
            "locked": 3,
            "redeemed": 2,
            "released": 1,
            "expired": 1,
            "revoked": 1,
            "redeemed_minor": 1_350,
            "returned_minor": 0,
        },
        {"day": APRIL, **of_t1, **none, "returned": 1, "redeemed_minor": 0, "returned_minor": 1_000},
    ]


def test_the_order_funnel(delivered: str) -> None:
    assert of_realm(select(delivered, "SELECT * FROM order_funnel ORDER BY day")) == [
        {
            "day": MARCH,
            "currency": "GBP",
            "placed": 2,
            "cancelled": 1,
            "ready": 1,
            "refused": 1,
            "completed": 1,
            "completed_unredeemed": 1,
            "released": 1,
            "refunded": 1,
            "total_minor": 12_500,
            "discount_minor": 1_000,
            "paid_minor": 5_250,
            "refunded_minor": 4_167 + 1_048,
        },
        {
            "day": APRIL,
            "currency": "GBP",
            **dict.fromkeys(("placed", "cancelled", "ready", "refused", "completed", "completed_unredeemed"), 0),
            "released": 0,
            "refunded": 1,
            "total_minor": 0,
            "discount_minor": 0,
            "paid_minor": 0,
            "refunded_minor": 833,
        },
    ]


def test_breaks(delivered: str) -> None:
    opened, closed = of_realm(select(delivered, "SELECT * FROM breaks ORDER BY break_id"))
    assert opened == {
        "break_id": "k1",
        "status": "open",
        "kind": "orphan_refund",
        "severity": "warning",
        "subject": "f3",
        "currency": "GBP",
        "amount_minor": 1_048,
        "detail": "names no order",
        "event_ids": ["e1", "e2"],
        "since": datetime(2026, 3, 31, 12, tzinfo=UTC).replace(tzinfo=None),
        "opened_at": opened["opened_at"],
        "closed_at": None,
        "reason": "",
    }
    assert (closed["status"], closed["kind"], closed["reason"]) == ("closed", "lock_leaked", "it was released")
    assert closed["closed_at"] > closed["opened_at"]


def test_exact_amounts_survive_to_the_last_digit_and_show_their_rounding(delivered: str) -> None:
    (row,) = select(
        delivered,
        "SELECT toString(sum(exact_amount)) AS exact, sum(amount_minor) AS minor,"
        " toString(sum(rounding_amount)) AS rounding"
        " FROM refund_facts FINAL WHERE app_id = 'shop' AND refund_id = 'f3'",
    )
    assert (row["exact"], row["minor"], row["rounding"]) == ("-10.485", -1_048, "-0.005")


def test_the_largest_amount_that_a_command_may_name_fits(facts: FactsStore, clickhouse_url: str) -> None:
    story = Story()
    huge = AdjustmentReported(
        adjustment_id="a1",
        order_id=None,
        amount_minor=-AMOUNT_MINOR_MAX,
        currency="JPY",
        reason="",
        exact_amount="-999999999999999.123456789",
    )
    story.tell("adjustment", "a1", huge)
    deliver(facts, story.log)
    (row,) = select(clickhouse_url, "SELECT toString(exact_amount) AS exact, amount_minor FROM payment_facts")
    assert row == {"exact": "-999999999999999.123456789", "amount_minor": -AMOUNT_MINOR_MAX}


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("coupon_facts", "discount_minor = discount_minor + 1 WHERE kind = 'redeemed'"),
        ("coupon_facts", "valid_until = NULL WHERE kind = 'claimed'"),
        ("template_facts", "stock = NULL WHERE kind = 'created'"),
        ("order_facts", "coupon_ids = [] WHERE row_no = 0"),
        ("refund_facts", "exact_amount = exact_amount + 0.000000001 WHERE refund_id = 'f3'"),
    ],
)
def test_a_falsified_value_changes_the_checksum_of_its_table_only(
    facts: FactsStore, clickhouse_url: str, table: str, change: str
) -> None:
    deliver(facts, everything())
    before = facts.checksums(1_000)
    with clickhouse(clickhouse_url) as client:
        client.command(f"ALTER TABLE {table} UPDATE {change} SETTINGS mutations_sync = 1")
    after = facts.checksums(1_000)
    assert {name for name in before if before[name] != after[name]} == {table}
    assert before[table].rows == after[table].rows


def test_redelivery_and_later_events_do_not_change_a_checksum(facts: FactsStore) -> None:
    log = everything()
    deliver(facts, log[:40])
    before = facts.checksums(log[39].offset)
    deliver(facts, log)
    assert facts.checksums(log[39].offset) == before
    assert facts.checksums(log[-1].offset) != before


def test_a_batch_that_spans_many_months_is_one_insert(facts: FactsStore, clickhouse_url: str) -> None:
    story = Story()
    for nth in range(150):
        moment = datetime(1990 + nth // 12, nth % 12 + 1, 1, tzinfo=UTC)
        story.tell("order", "o1", OrderNoted(order_id="o1", status="shipped"), at=moment)
    deliver(facts, story.log)
    assert select(clickhouse_url, "SELECT count() AS n FROM order_facts FINAL") == [{"n": 150}]
