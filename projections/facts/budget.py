"""The budget ledger: signed changes of limit, reserved, committed and credited; their sums are the budget."""

from contracts.envelope import Recorded
from contracts.events import (
    BudgetCommitted,
    BudgetCreated,
    BudgetCredited,
    BudgetReleased,
    BudgetReserved,
    BudgetThresholdReached,
    BudgetToppedUp,
)
from projections.facts.table import Facts, Row, Table

# limit_delta_minor counts for every period; the others for the period they name ('' when the budget does not recur).
BUDGET = Table(
    "budget_facts",
    {
        "kind": "",
        "budget_id": "",
        "name": "",
        "currency": "",
        "recurs": "",
        "zone": "",
        "period": "",
        "order_id": "",
        "coupon_id": "",
        "refund_id": "",
        "amount_minor": 0,
        "limit_delta_minor": 0,
        "reserved_delta_minor": 0,
        "committed_delta_minor": 0,
        "credited_delta_minor": 0,
        "honoured": 0,
        "threshold_percent": 0,
        "used_minor": 0,
    },
)

_ForOrder = BudgetReserved | BudgetCommitted | BudgetReleased | BudgetCredited


def _created(recorded: Recorded, event: BudgetCreated) -> tuple[Row]:
    row = BUDGET.row(
        recorded,
        kind="created",
        budget_id=event.budget_id,
        name=event.name,
        currency=event.currency,
        recurs=event.recurs or "",
        zone=event.zone,
        amount_minor=event.limit_minor,
        limit_delta_minor=event.limit_minor,
    )
    return (row,)


def _topped_up(recorded: Recorded, event: BudgetToppedUp) -> tuple[Row]:
    row = BUDGET.row(
        recorded,
        kind="topped_up",
        budget_id=event.budget_id,
        amount_minor=event.by_minor,
        limit_delta_minor=event.by_minor,
    )
    return (row,)


def _reserved(recorded: Recorded, event: BudgetReserved) -> tuple[Row]:
    return (_for_order(recorded, event, kind="reserved", reserved=event.amount_minor),)


def _committed(recorded: Recorded, event: BudgetCommitted) -> tuple[Row]:
    reserved = 0 if event.honoured else -event.amount_minor  # Honoured: nothing was reserved.
    row = _for_order(
        recorded, event, kind="committed", reserved=reserved, committed=event.amount_minor, honoured=event.honoured
    )
    return (row,)


def _released(recorded: Recorded, event: BudgetReleased) -> tuple[Row]:
    return (_for_order(recorded, event, kind="released", reserved=-event.amount_minor),)


def _credited(recorded: Recorded, event: BudgetCredited) -> tuple[Row]:
    row = _for_order(recorded, event, kind="credited", credited=event.amount_minor, refund_id=event.refund_id)
    return (row,)


def _threshold(recorded: Recorded, event: BudgetThresholdReached) -> tuple[Row]:
    row = BUDGET.row(
        recorded,
        kind="threshold_reached",
        budget_id=event.budget_id,
        currency=event.currency,
        period=event.period,
        threshold_percent=event.threshold_percent,
        used_minor=event.used_minor,
    )
    return (row,)


def _for_order(
    recorded: Recorded,
    event: _ForOrder,
    *,
    kind: str,
    reserved: int = 0,
    committed: int = 0,
    credited: int = 0,
    refund_id: str = "",
    honoured: bool = False,
) -> Row:
    return BUDGET.row(
        recorded,
        kind=kind,
        budget_id=event.budget_id,
        currency=event.currency,
        period=event.period,
        order_id=event.order_id,
        coupon_id=event.coupon_id,
        refund_id=refund_id,
        amount_minor=event.amount_minor,
        reserved_delta_minor=reserved,
        committed_delta_minor=committed,
        credited_delta_minor=credited,
        honoured=int(honoured),
    )


BUDGET_FACTS = Facts(
    BUDGET,
    {
        BudgetCreated: _created,
        BudgetToppedUp: _topped_up,
        BudgetReserved: _reserved,
        BudgetCommitted: _committed,
        BudgetReleased: _released,
        BudgetCredited: _credited,
        BudgetThresholdReached: _threshold,
    },
)
