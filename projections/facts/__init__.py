"""Facts for ClickHouse: every event becomes rows of at most one table; redelivered rows replace themselves."""

from collections.abc import Sequence
from typing import Final

from contracts.envelope import Recorded
from contracts.events import Event
from projections.facts.budget import BUDGET_FACTS
from projections.facts.checkout import CHECKOUT_FACTS
from projections.facts.coupon import COUPON_FACTS
from projections.facts.operations import BREAK_FACTS, IMPORT_FACTS, REFUSAL_FACTS
from projections.facts.settlement import SETTLEMENT_FACTS
from projections.facts.table import Facts, Processor, Row, Table
from projections.facts.template import TEMPLATE_FACTS
from projections.facts.upstream import ORDER_FACTS, PAYMENT_FACTS, REFUND_FACTS

ALL_FACTS: Final[tuple[Facts, ...]] = (
    COUPON_FACTS,
    SETTLEMENT_FACTS,
    ORDER_FACTS,
    CHECKOUT_FACTS,
    PAYMENT_FACTS,
    REFUND_FACTS,
    BUDGET_FACTS,
    TEMPLATE_FACTS,
    REFUSAL_FACTS,
    BREAK_FACTS,
    IMPORT_FACTS,
)

TABLES: Final[dict[str, Table]] = {facts.table.name: facts.table for facts in ALL_FACTS}

_WRITERS: Final[dict[type[Event], tuple[Table, Processor]]] = {
    event: (facts.table, processor) for facts in ALL_FACTS for event, processor in facts.processors.items()
}


def rows_of(recorded: Recorded) -> tuple[Table, Sequence[Row]] | None:
    """The table that an event belongs to and its rows there, or None when it is no fact (saga memory, clocks)."""
    if (writer := _WRITERS.get(type(recorded.event))) is None:
        return None
    table, processor = writer
    return table, tuple(processor(recorded, recorded.event))


__all__ = ["ALL_FACTS", "TABLES", "Facts", "Row", "Table", "rows_of"]
