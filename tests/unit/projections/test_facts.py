"""Facts are rows: the same event makes the same rows, named for ever, and every amount adds up."""

from collections.abc import Sequence
from decimal import Decimal

import pytest

from contracts.envelope import Recorded
from contracts.events import ALL_EVENTS
from projections.facts import ALL_FACTS, TABLES, Row, rows_of
from projections.facts.table import ORIGIN
from tests.unit.projections.stories import Story, everything, placed

NO_FACTS = {"saga.heard.v1", "saga.resolved.v1", "clock.advanced.v1"} | {
    f"distribution.{name}.v1" for name in ("started", "advanced", "paused", "resumed", "cancelled", "completed")
}
NO_FACTS |= {f"borrowing.{name}.v1" for name in ("began", "asked", "answered", "postponed", "told")}
NO_FACTS |= {"loan.answered.v1", "loan.changed.v1"}
NO_FACTS |= {f"code_batch.{name}.v1" for name in ("generated", "assigned", "voided")}
NO_FACTS |= {f"code.{name}.v1" for name in ("assigned", "used", "voided")}


def stored(events: Sequence[Recorded]) -> dict[tuple[str, str, int], Row]:
    """What a table that replaces by (event, row) holds after these deliveries."""
    rows: dict[tuple[str, str, int], Row] = {}
    for recorded in events:
        if (found := rows_of(recorded)) is not None:
            table, news = found
            rows |= {(table.name, row[2], row[3]): row for row in news}
    return rows


def column(table: str, name: str, events: Sequence[Recorded], **where: object) -> list[object]:
    columns = TABLES[table].columns
    told = [dict(zip(columns, row, strict=True)) for (of, _, _), row in stored(events).items() if of == table]
    return [row[name] for row in told if all(row[key] == value for key, value in where.items())]


def test_every_event_is_a_fact_or_knowingly_none() -> None:
    written = [event.type for facts in ALL_FACTS for event in facts.processors]
    assert len(written) == len(set(written)), "two tables write the same event"
    assert set(written) == {event.type for event in ALL_EVENTS} - NO_FACTS


@pytest.mark.parametrize("size", [1, 3, 7, 1_000])
def test_overlapping_and_repeated_batches_store_the_same_rows(size: int) -> None:
    log = everything()
    delivered: list[Recorded] = []
    for start in range(0, len(log), size):
        delivered += log[max(0, start - 5) : start + size]
        delivered += log[start : start + size]
    assert stored(delivered) == stored(log)


def test_rows_of_one_event_are_numbered_and_none_replaces_another() -> None:
    for recorded in everything():
        if (found := rows_of(recorded)) is not None:
            _, rows = found
            assert [row[3] for row in rows] == list(range(len(rows)))
            assert rows


def test_every_row_says_where_it_comes_from() -> None:
    for recorded in everything():
        for row in (rows_of(recorded) or (None, ()))[1]:
            origin = dict(zip(ORIGIN, row, strict=False))
            assert (origin["tenant_id"], origin["app_id"]) == recorded.realm
            assert (origin["stream"], origin["version"], origin["offset"]) == (
                recorded.stream,
                recorded.version,
                recorded.offset,
            )
            assert origin["occurred_at"] == recorded.metadata.occurred_at


def test_what_was_settled_and_reversed_is_nothing_in_the_end() -> None:
    log = everything()
    assert column("settlement_facts", "discount_minor", log) == [833, 167, -833, -167]
    assert column("settlement_facts", "event_discount_minor", log) == [1_000, 0, -833, -167]


def test_an_order_of_two_lines_counts_once() -> None:
    log = everything()
    assert column("order_facts", "orders", log, order_id="o1", kind="placed") == [1, 0]
    assert column("order_facts", "total_minor", log, order_id="o1", kind="placed") == [6_250, 0]
    assert column("order_facts", "amount_minor", log, order_id="o1", kind="placed") == [5_000, 1_000]


def test_exact_amounts_keep_every_digit_and_rounding_can_be_shown() -> None:
    log = everything()
    assert column("order_facts", "exact_amount", log, order_id="o1", kind="placed") == [
        Decimal("50.00"),
        Decimal("10.004"),
    ]
    assert column("refund_facts", "exact_amount", log, refund_id="f3") == [Decimal("-10.485")]
    assert column("refund_facts", "amount_minor", log, refund_id="f3") == [-1_048]
    assert column("payment_facts", "exact_amount", log, kind="adjusted") == [Decimal("-11062.06"), Decimal("0.05")]


def test_a_currency_without_minor_units_is_its_own_major_unit() -> None:
    story = Story()
    story.tell("order", "o1", placed("o1", None).model_copy(update={"currency": "JPY"}))
    assert column("order_facts", "exact_amount", story.log)[0] == Decimal(5_000)


def test_the_sums_of_the_budget_ledger_are_the_budget() -> None:
    log = everything()
    deltas = ("limit_delta_minor", "reserved_delta_minor", "committed_delta_minor", "credited_delta_minor")
    sums = {name: sum(column("budget_facts", name, log, budget_id="b1")) for name in deltas}  # type: ignore[arg-type]
    assert sums == dict(zip(deltas, (15_000, 0, 1_000, 833), strict=True))
    assert sum(column("budget_facts", "reserved_delta_minor", log, budget_id="b2")) == 0  # type: ignore[arg-type]


def test_redeemed_and_returned_cancel_out_in_the_coupon_ledger() -> None:
    assert sum(column("coupon_facts", "redeemed_minor", everything(), coupon_id="c1")) == 0  # type: ignore[arg-type]


def test_totals_of_a_checkout_are_on_its_decision_only() -> None:
    log = everything()
    assert column("checkout_facts", "discount_minor", log, kind="ready") == [1_000, 0, 0, 0]
    assert column("checkout_facts", "entry", log, kind="ready") == ["decision", "line", "line", "coupon"]
    assert sum(column("checkout_facts", "line_discount_minor", log, kind="ready")) == 1_000  # type: ignore[arg-type]


def test_a_value_without_a_column_is_an_error() -> None:
    with pytest.raises(ValueError, match="no column"):
        TABLES["coupon_facts"].row(everything()[0], colour="red")
