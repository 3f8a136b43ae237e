"""The settlement ledger: one row per coupon and order line, recorded positive, reversed negative."""

from collections.abc import Iterator

from contracts.envelope import Recorded
from contracts.events.settlement import SettlementRecorded, SettlementReversed
from projections.facts.table import ABOUT, Facts, Row, Table, about_columns

# discount_minor adds up over lines; event_discount_minor is the event's own total, on row 0 only: it adds up too.
SETTLEMENT = Table(
    "settlement_facts",
    {
        "kind": "",
        "order_id": "",
        "refund_id": "",
        "coupon_id": "",
        **ABOUT,
        "line_id": "",
        "discount_minor": 0,
        "event_discount_minor": 0,
    },
)


def _recorded(recorded: Recorded, event: SettlementRecorded) -> Iterator[Row]:
    return _lines(recorded, event, kind="recorded", refund_id="", sign=1)


def _reversed(recorded: Recorded, event: SettlementReversed) -> Iterator[Row]:
    return _lines(recorded, event, kind="reversed", refund_id=event.refund_id, sign=-1)


def _lines(
    recorded: Recorded, event: SettlementRecorded | SettlementReversed, *, kind: str, refund_id: str, sign: int
) -> Iterator[Row]:
    about = about_columns(event.about)
    lines = [(line.line_id, line.discount_minor) for line in event.lines] or [("", 0)]  # Its total is kept in any case.
    for row_no, (line_id, discount_minor) in enumerate(lines):
        yield SETTLEMENT.row(
            recorded,
            row_no,
            kind=kind,
            order_id=event.order_id,
            refund_id=refund_id,
            coupon_id=event.coupon_id,
            **about,
            line_id=line_id,
            discount_minor=sign * discount_minor,
            event_discount_minor=sign * event.discount_minor if row_no == 0 else 0,
        )


SETTLEMENT_FACTS = Facts(SETTLEMENT, {SettlementRecorded: _recorded, SettlementReversed: _reversed})
