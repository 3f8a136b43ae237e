"""An order's document from the streams of its order, payments, refunds, checkout, settlement and saga.

Each stream writes a part of its own, so that the document is the same in whatever order the streams meet
(a parked stream may be replayed long after the others went on).
"""

from collections.abc import Callable
from typing import Any

from contracts.envelope import Recorded
from contracts.events import (
    AdjustmentReported,
    CheckoutCompleted,
    CheckoutCompletedUnredeemed,
    CheckoutReady,
    CheckoutRefunded,
    CheckoutRefused,
    CheckoutReleased,
    Event,
    OrderCancelled,
    OrderNoted,
    OrderPlaced,
    OrderReopened,
    PaymentFailed,
    PaymentNoted,
    PaymentSucceeded,
    RefundSucceeded,
    SagaHeard,
    SagaResolved,
)
from contracts.events.settlement import SettlementRecorded, SettlementReversed
from contracts.read_models import ORDER, SINGLE_FIELD
from projections.model import Document, Place, ReadModel, instant

NOTES_MAX = 50  # Kept of an order's remarks and of its saga's steps: the latest; the log has them all.

SAGA_PROCESS = "checkout"


def route(recorded: Recorded) -> tuple[Place, ...]:
    """The order that an event names; a refund or adjustment that names none belongs to nobody."""
    kind, key = recorded.name.kind, recorded.name.key
    if kind == "saga":
        process, _, saga_key = key.partition(":")
        order_id = saga_key if process == SAGA_PROCESS else None
    else:
        order_id = getattr(recorded.event, "order_id", None)
    return () if order_id is None else (Place(recorded.realm, order_id, SINGLE_FIELD),)


def fold_order(document: Document | None, recorded: Recorded) -> Document:
    """The order after one event: each part (``order``, ``payments`` …) changes by events of its own streams only."""
    before = _nothing(recorded) if document is None else document
    rule = _PARTS.get(type(recorded.event))
    if rule is None:
        return before
    part, change = rule
    return {**before, part: change(before[part], recorded.event, instant(recorded.metadata.occurred_at))}


def _nothing(recorded: Recorded) -> Document:
    return {
        "order_id": route(recorded)[0].key,
        "order": None,
        "checkout": None,
        "settlement": {"recorded_minor": 0, "reversed_minor": 0},
        "payments": {},
        "refunds": {},
        "adjustments": {},
        "saga": None,
    }


def _placed(part: Document | None, event: OrderPlaced, at: str) -> Document:
    lines = [line.model_dump(mode="json", exclude_none=True) for line in event.lines]
    return {
        "status": "placed",
        "user_id": event.user_id,
        "currency": event.currency,
        "coupon_ids": list(event.coupon_ids),
        "lines": lines,
        "shipping_minor": event.shipping_minor,
        "total_minor": sum(line.amount_minor for line in event.lines) + event.shipping_minor,
        "attempt": 1,
        "notes": (part or {}).get("notes", []),
        "placed_at": at,
        "updated_at": at,
    }


def _order_cancelled(part: Document | None, event: OrderCancelled, at: str) -> Document:
    return {**(part or {}), "status": event.cause, "reason": event.reason or None, "updated_at": at}


def _order_reopened(part: Document | None, event: OrderReopened, at: str) -> Document:
    return {**(part or {}), "status": "placed", "attempt": event.attempt, "reason": None, "updated_at": at}


def _order_noted(part: Document | None, event: OrderNoted, at: str) -> Document:
    notes = [*(part or {}).get("notes", []), {"status": event.status, "at": at}]
    return {**(part or {}), "notes": notes[-NOTES_MAX:], "updated_at": at}


def _paid(part: Document, event: PaymentSucceeded, at: str) -> Document:
    paid = {"status": "succeeded", "amount_minor": event.amount_minor, "currency": event.currency, "at": at}
    return {**part, event.payment_id: paid}


def _payment_failed(part: Document, event: PaymentFailed, at: str) -> Document:
    return {**part, event.payment_id: {"status": "failed", "reason": event.reason or None, "at": at}}


def _payment_noted(part: Document, event: PaymentNoted, at: str) -> Document:
    return {**part, event.payment_id: {"status": event.status, "at": at}}


def _refund(part: Document, event: RefundSucceeded, at: str) -> Document:
    lines = [line.model_dump(mode="json", exclude_none=True) for line in event.lines]
    refund = {"amount_minor": event.amount_minor, "currency": event.currency, "lines": lines, "at": at}
    return {**part, event.refund_id: refund}


def _adjustment(part: Document, event: AdjustmentReported, at: str) -> Document:
    adjustment = {
        "amount_minor": event.amount_minor,
        "currency": event.currency,
        "reason": event.reason or None,
        "at": at,
    }
    return {**part, event.adjustment_id: adjustment}


def _ready(part: Document | None, event: CheckoutReady, at: str) -> Document:
    return {
        "status": "ready",
        "attempt": event.attempt,
        "currency": event.currency,
        "total_minor": event.total_minor,
        "shipping_minor": event.shipping_minor,
        "discount_minor": event.discount_minor,
        "payable_minor": event.payable_minor,
        "lines": [line.model_dump(mode="json") for line in event.lines],
        "coupons": [coupon.model_dump(mode="json") for coupon in event.coupons],
        "lock_until": instant(event.lock_until),
        "refusals": [],
        "refunds": (part or {}).get("refunds", {}),
        "updated_at": at,
    }


def _refused(part: Document | None, event: CheckoutRefused, at: str) -> Document:
    refusals = [refusal.model_dump(mode="json") for refusal in event.refusals]
    return {
        **(part or {"refunds": {}}),
        "status": "refused",
        "attempt": event.attempt,
        "currency": event.currency,
        "refusals": refusals,
        "updated_at": at,
    }


def _completed(part: Document | None, event: CheckoutCompleted, at: str) -> Document:
    return {
        **(part or {"refunds": {}}),
        "status": "completed",
        "currency": event.currency,
        "payment_id": event.payment_id,
        "discount_minor": event.discount_minor,
        "payable_minor": event.payable_minor,
        "honoured": event.honoured,
        "updated_at": at,
    }


def _completed_unredeemed(part: Document | None, event: CheckoutCompletedUnredeemed, at: str) -> Document:
    return {
        **(part or {"refunds": {}}),
        "status": "completed_unredeemed",
        "currency": event.currency,
        "payment_id": event.payment_id,
        "discount_minor": event.discount_minor,
        "payable_minor": event.payable_minor,
        "refusals": [refusal.model_dump(mode="json") for refusal in event.refusals],
        "updated_at": at,
    }


def _released(part: Document | None, event: CheckoutReleased, at: str) -> Document:
    return {
        **(part or {"refunds": {}}),
        "status": "released",
        "cause": event.cause,
        "released_at": instant(event.released_at),
        "updated_at": at,
    }


def _refunded(part: Document | None, event: CheckoutRefunded, at: str) -> Document:
    before = part or {"refunds": {}}
    refund = {
        "refunded_minor": event.refunded_minor,
        "credited_minor": event.credited_minor,
        "excess_minor": event.excess_minor,
        "full": event.full,
        "returned_coupon_ids": list(event.returned_coupon_ids),
        "at": at,
    }
    return {
        **before,
        "status": "refunded",
        "refunds": {**before["refunds"], event.refund_id: refund},
        "updated_at": at,
    }


def _settled(part: Document, event: SettlementRecorded, at: str) -> Document:
    return {**part, "recorded_minor": part["recorded_minor"] + event.discount_minor}


def _reversed(part: Document, event: SettlementReversed, at: str) -> Document:
    return {**part, "reversed_minor": part["reversed_minor"] + event.discount_minor}


def _heard(part: Document | None, event: SagaHeard, at: str) -> Document:
    heard = {
        "fact": event.fact_type,
        "event_id": event.fact_event_id,
        "step": event.step,
        "sent": [{"command": sent.type, "command_id": sent.command_id} for sent in event.sends],
        "at": at,
    }
    why = [*(part or {}).get("why", []), heard][-NOTES_MAX:]
    return {
        "process": event.process,
        "process_version": event.process_version,
        "step": event.step,
        "heard_count": (part or {}).get("heard_count", 0) + 1,
        "why": why,
        "updated_at": at,
    }


def _resolved(part: Document, event: SagaResolved, at: str) -> Document:
    ended = {
        "fact": event.type,
        "reason": event.reason,
        "step": event.step,
        "ended": [{"command": each.type, "command_id": each.command_id, "code": each.code} for each in event.ended],
        "at": at,
    }
    return {**part, "step": event.step, "why": [*part["why"], ended][-NOTES_MAX:], "updated_at": at}


_PARTS: dict[type[Event], tuple[str, Callable[[Any, Any, str], Document]]] = {
    OrderPlaced: ("order", _placed),
    OrderCancelled: ("order", _order_cancelled),
    OrderReopened: ("order", _order_reopened),
    OrderNoted: ("order", _order_noted),
    PaymentSucceeded: ("payments", _paid),
    PaymentFailed: ("payments", _payment_failed),
    PaymentNoted: ("payments", _payment_noted),
    RefundSucceeded: ("refunds", _refund),
    AdjustmentReported: ("adjustments", _adjustment),
    CheckoutReady: ("checkout", _ready),
    CheckoutRefused: ("checkout", _refused),
    CheckoutCompleted: ("checkout", _completed),
    CheckoutCompletedUnredeemed: ("checkout", _completed_unredeemed),
    CheckoutReleased: ("checkout", _released),
    CheckoutRefunded: ("checkout", _refunded),
    SettlementRecorded: ("settlement", _settled),
    SettlementReversed: ("settlement", _reversed),
    SagaHeard: ("saga", _heard),
    SagaResolved: ("saga", _resolved),
}

ORDER_MODEL = ReadModel(
    name=ORDER,
    kinds=frozenset({"order", "payment", "refund", "adjustment", "checkout", "settlement", "saga"}),
    route=route,
    fold=fold_order,
    partial=frozenset({"payment", "refund", "adjustment"}),
)
