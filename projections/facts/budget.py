"""The budget ledger: signed changes of limit, reserved, committed and credited; their sums are the budget."""

from contracts.envelope import Recorded
from contracts.events import (
    BudgetBranched,
    BudgetCommitted,
    BudgetCreated,
    BudgetCredited,
    BudgetLeaseClosed,
    BudgetLeaseGranted,
    BudgetLeaseOpened,
    BudgetLeaseSettled,
    BudgetLeaseWanted,
    BudgetReleased,
    BudgetReserved,
    BudgetShared,
    BudgetThresholdReached,
    BudgetToppedUp,
    BudgetUnshared,
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
    return (_opened(recorded, event, kind="created", limit_minor=event.limit_minor),)


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


# Leases. At home what is lent counts as reserved, and what a holder's books say moves it on. What a branch was lent is
# no limit of the budget, so it has an amount here and changes no sum.


def _shared(recorded: Recorded, event: BudgetShared | BudgetUnshared) -> tuple[Row]:
    kind = "shared" if isinstance(event, BudgetShared) else "unshared"
    return (BUDGET.row(recorded, kind=kind, budget_id=event.budget_id, currency=event.currency),)


def _lease_granted(recorded: Recorded, event: BudgetLeaseGranted) -> tuple[Row]:
    return (_lease(recorded, event, "lease_granted", event.amount_minor, reserved=event.reserved_delta_minor),)


def _lease_settled(recorded: Recorded, event: BudgetLeaseSettled) -> tuple[Row]:
    row = _lease(
        recorded,
        event,
        "lease_settled",
        event.out_minor,
        reserved=event.reserved_delta_minor,
        committed=event.committed_delta_minor,
        credited=event.credited_delta_minor,
        honoured=event.honoured,
    )
    return (row,)


def _branched(recorded: Recorded, event: BudgetBranched) -> tuple[Row]:
    return (_opened(recorded, event, kind="branched"),)


def _lease_opened(recorded: Recorded, event: BudgetLeaseOpened) -> tuple[Row]:
    return (_lease(recorded, event, "lease_opened", event.amount_minor),)


def _lease_closed(recorded: Recorded, event: BudgetLeaseClosed) -> tuple[Row]:
    return (_lease(recorded, event, "lease_closed", event.returned_minor),)


def _lease_wanted(recorded: Recorded, event: BudgetLeaseWanted) -> tuple[Row]:
    return (_lease(recorded, event, "lease_wanted", event.needed_minor),)


def _opened(recorded: Recorded, event: BudgetCreated | BudgetBranched, *, kind: str, limit_minor: int = 0) -> Row:
    return BUDGET.row(
        recorded,
        kind=kind,
        budget_id=event.budget_id,
        name=event.name,
        currency=event.currency,
        recurs=event.recurs or "",
        zone=event.zone,
        amount_minor=limit_minor,
        limit_delta_minor=limit_minor,
    )


def _lease(
    recorded: Recorded,
    event: BudgetLeaseGranted | BudgetLeaseSettled | BudgetLeaseOpened | BudgetLeaseClosed | BudgetLeaseWanted,
    kind: str,
    amount_minor: int,
    *,
    reserved: int = 0,
    committed: int = 0,
    credited: int = 0,
    honoured: bool = False,
) -> Row:
    return BUDGET.row(
        recorded,
        kind=kind,
        budget_id=event.budget_id,
        currency=event.currency,
        period=event.period,
        amount_minor=amount_minor,
        reserved_delta_minor=reserved,
        committed_delta_minor=committed,
        credited_delta_minor=credited,
        honoured=int(honoured),
    )


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
        BudgetShared: _shared,
        BudgetUnshared: _shared,
        BudgetLeaseGranted: _lease_granted,
        BudgetLeaseSettled: _lease_settled,
        BudgetBranched: _branched,
        BudgetLeaseOpened: _lease_opened,
        BudgetLeaseClosed: _lease_closed,
        BudgetLeaseWanted: _lease_wanted,
    },
)
