"""A budget's document from its own stream; amounts are minor units of its currency."""

from typing import Any

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
    BudgetReleased,
    BudgetReserved,
    BudgetThresholdReached,
    BudgetToppedUp,
)
from contracts.read_models import BUDGET, SINGLE_FIELD
from projections.model import Document, Place, ReadModel, changed, instant, require

Period = dict[str, Any]

_MOVES = (
    BudgetReserved
    | BudgetCommitted
    | BudgetReleased
    | BudgetCredited
    | BudgetThresholdReached
    | BudgetLeaseGranted
    | BudgetLeaseSettled
    | BudgetLeaseOpened
    | BudgetLeaseClosed
)

WHOLE = ""  # The period of a budget that does not recur.
_NOTHING: Period = {"reserved_minor": 0, "committed_minor": 0, "credited_minor": 0, "thresholds_percent": []}


def route(recorded: Recorded) -> tuple[Place, ...]:
    """A budget's stream is its document."""
    return (Place(recorded.realm, recorded.name.key, SINGLE_FIELD),)


def fold_budget(document: Document | None, recorded: Recorded) -> Document:
    """The budget after one event. ``periods`` maps a calendar period (``""``: the whole) to its amounts."""
    event = recorded.event
    if isinstance(event, BudgetCreated):
        return _created(event, recorded, event.limit_minor, event.thresholds_percent)
    if isinstance(event, BudgetBranched):  # No money of its own: each period has what it was lent.
        return _created(event, recorded, 0, ())
    before = require(document, recorded)
    after = changed(before, recorded, {"version": recorded.version})
    if isinstance(event, BudgetToppedUp):
        limit = event.limit_minor
        periods = {name: _with_available(period, limit) for name, period in before["periods"].items()}
        return {**after, "limit_minor": limit, "periods": periods}
    if isinstance(event, _MOVES):
        period = _move(before["periods"].get(event.period, _NOTHING), event)
        return {
            **after,
            "periods": {**before["periods"], event.period: _with_available(period, before["limit_minor"])},
        }
    return after


def _created(
    event: BudgetCreated | BudgetBranched, recorded: Recorded, limit_minor: int, thresholds: tuple[int, ...]
) -> Document:
    created_at = instant(recorded.metadata.occurred_at)
    return {
        "budget_id": event.budget_id,
        "stream": recorded.stream,
        "version": recorded.version,
        "name": event.name,
        "currency": event.currency,
        "limit_minor": limit_minor,
        "recurs": event.recurs,
        "zone": event.zone,
        "when_short": event.when_short,
        "thresholds_percent": list(thresholds),
        "periods": {} if event.recurs else {WHOLE: _with_available(_NOTHING, limit_minor)},
        "created_at": created_at,
        "updated_at": created_at,
    }


def _move(period: Period, event: _MOVES) -> Period:  # noqa: PLR0911 - one case per event
    match event:
        case BudgetReserved():
            return _plus(period, reserved=event.amount_minor)
        case BudgetCommitted():  # Honoured: nothing was reserved.
            return _plus(period, reserved=0 if event.honoured else -event.amount_minor, committed=event.amount_minor)
        case BudgetReleased():
            return _plus(period, reserved=-event.amount_minor)
        case BudgetCredited():
            return _plus(period, credited=event.amount_minor)
        case BudgetThresholdReached():
            return {**period, "thresholds_percent": [*period["thresholds_percent"], event.threshold_percent]}
        case BudgetLeaseGranted():
            return _plus(period, reserved=event.reserved_delta_minor)
        case BudgetLeaseSettled():
            return _plus(
                period,
                reserved=event.reserved_delta_minor,
                committed=event.committed_delta_minor,
                credited=event.credited_delta_minor,
            )
        case BudgetLeaseOpened():
            return _lent(period, event.amount_minor)
        case BudgetLeaseClosed():
            return _lent(period, -event.returned_minor)


def _lent(period: Period, amount_minor: int) -> Period:
    """Only periods of a branch say what they were lent."""
    return {**period, "lent_minor": period.get("lent_minor", 0) + amount_minor}


def _plus(period: Period, *, reserved: int = 0, committed: int = 0, credited: int = 0) -> Period:
    return {
        **period,
        "reserved_minor": period["reserved_minor"] + reserved,
        "committed_minor": period["committed_minor"] + committed,
        "credited_minor": period["credited_minor"] + credited,
    }


def _with_available(period: Period, limit_minor: int) -> Period:
    limit_minor += period.get("lent_minor", 0)
    available = limit_minor - period["reserved_minor"] - period["committed_minor"] + period["credited_minor"]
    return {**period, "limit_minor": limit_minor, "available_minor": available}


BUDGET_MODEL = ReadModel(name=BUDGET, kinds=frozenset({"budget"}), route=route, fold=fold_budget)
