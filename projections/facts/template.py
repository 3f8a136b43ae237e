"""What happened to templates: life cycle, terms, stock, and every coupon that left it."""

from typing import Any

from contracts.envelope import Recorded
from contracts.events import (
    TemplateActivated,
    TemplateCouponIssued,
    TemplateCouponsIssued,
    TemplateCreated,
    TemplateEnded,
    TemplateOpened,
    TemplatePaused,
    TemplateReservationCancelled,
    TemplateReservationConfirmed,
    TemplateResumed,
    TemplateRevised,
    TemplateShortened,
    TemplateStockIncreased,
    TemplateStockReserved,
)
from contracts.terms import Terms
from projections.facts.table import Facts, Row, Table

FIRST_TERMS_VERSION = 1

# tells_terms, tells_stock: this row states them (stock is None when it is unlimited); the latest version holds.
TEMPLATE = Table(
    "template_facts",
    {
        "kind": "",
        "template_id": "",
        "terms_version": 0,
        "tells_terms": 0,
        "name": "",
        "campaign_id": "",
        "shop_id": "",
        "source": "",
        "category": "",
        "currency": "",
        "terms": "",
        "tells_stock": 0,
        "stock": None,
        "coupon_id": "",
        "user_id": "",
        "reservation_id": "",
        "quantity": 0,
        "claimed": None,
        "reserved": None,
        "cause": "",
        "reason": "",
        "claim_from": None,
        "claim_until": None,
        "effective_at": None,
    },
)

_Reservation = TemplateStockReserved | TemplateReservationConfirmed | TemplateReservationCancelled


def _created(recorded: Recorded, event: TemplateCreated) -> tuple[Row]:
    row = _with_terms(
        recorded,
        event.terms,
        kind="created",
        template_id=event.template_id,
        terms_version=FIRST_TERMS_VERSION,
        tells_stock=1,
        stock=event.terms.stock,
    )
    return (row,)


def _revised(recorded: Recorded, event: TemplateRevised) -> tuple[Row]:
    # The stock is the template's, not a version's: it changes by increase only.
    row = _with_terms(
        recorded, event.terms, kind="revised", template_id=event.template_id, terms_version=event.terms_version
    )
    return (row,)


def _with_terms(recorded: Recorded, terms: Terms, **values: Any) -> Row:
    return TEMPLATE.row(
        recorded,
        **values,
        tells_terms=1,
        name=terms.name,
        campaign_id=terms.campaign_id,
        shop_id=terms.shop_id or "",
        source=terms.source,
        category=terms.category or "",
        currency=terms.currency,
        terms=terms.model_dump_json(),
        claim_from=terms.claim_from,
        claim_until=terms.claim_until,
        effective_at=recorded.metadata.occurred_at,
    )


def _activated(recorded: Recorded, event: TemplateActivated) -> tuple[Row]:
    return (TEMPLATE.row(recorded, kind="activated", template_id=event.template_id, effective_at=_at(recorded)),)


def _opened(recorded: Recorded, event: TemplateOpened) -> tuple[Row]:
    return (TEMPLATE.row(recorded, kind="opened", template_id=event.template_id, effective_at=event.opened_at),)


def _paused(recorded: Recorded, event: TemplatePaused) -> tuple[Row]:
    row = TEMPLATE.row(
        recorded, kind="paused", template_id=event.template_id, reason=event.reason, effective_at=_at(recorded)
    )
    return (row,)


def _resumed(recorded: Recorded, event: TemplateResumed) -> tuple[Row]:
    return (TEMPLATE.row(recorded, kind="resumed", template_id=event.template_id, effective_at=_at(recorded)),)


def _ended(recorded: Recorded, event: TemplateEnded) -> tuple[Row]:
    row = TEMPLATE.row(
        recorded,
        kind="ended",
        template_id=event.template_id,
        cause=event.cause,
        reason=event.reason,
        effective_at=event.ended_at,
    )
    return (row,)


def _stock_increased(recorded: Recorded, event: TemplateStockIncreased) -> tuple[Row]:
    row = TEMPLATE.row(
        recorded,
        kind="stock_increased",
        template_id=event.template_id,
        quantity=event.by,
        tells_stock=1,
        stock=event.stock,
        effective_at=_at(recorded),
    )
    return (row,)


def _shortened(recorded: Recorded, event: TemplateShortened) -> tuple[Row]:
    row = TEMPLATE.row(
        recorded,
        kind="shortened",
        template_id=event.template_id,
        claim_until=event.claim_until,
        effective_at=_at(recorded),
    )
    return (row,)


def _coupon_issued(recorded: Recorded, event: TemplateCouponIssued) -> tuple[Row]:
    row = TEMPLATE.row(
        recorded,
        kind="coupon_issued",
        template_id=event.template_id,
        terms_version=event.terms_version,
        coupon_id=event.coupon_id,
        user_id=event.user_id,
        reservation_id=event.reservation_id or "",
        quantity=1,
        claimed=event.claimed,
        effective_at=_at(recorded),
    )
    return (row,)


def _coupons_issued(recorded: Recorded, event: TemplateCouponsIssued) -> tuple[Row]:
    row = TEMPLATE.row(
        recorded,
        kind="coupons_issued",
        template_id=event.template_id,
        terms_version=event.terms_version,
        quantity=event.quantity,
        claimed=event.claimed,
        effective_at=_at(recorded),
    )
    return (row,)


def _stock_reserved(recorded: Recorded, event: TemplateStockReserved) -> tuple[Row]:
    return (_reservation(recorded, event, "stock_reserved"),)


def _reservation_confirmed(recorded: Recorded, event: TemplateReservationConfirmed) -> tuple[Row]:
    return (_reservation(recorded, event, "reservation_confirmed"),)


def _reservation_cancelled(recorded: Recorded, event: TemplateReservationCancelled) -> tuple[Row]:
    return (_reservation(recorded, event, "reservation_cancelled", event.reason),)


def _reservation(recorded: Recorded, event: _Reservation, kind: str, reason: str = "") -> Row:
    return TEMPLATE.row(
        recorded,
        kind=kind,
        template_id=event.template_id,
        user_id=event.user_id,
        reservation_id=event.reservation_id,
        quantity=event.quantity,
        reserved=event.reserved,
        reason=reason,
        effective_at=_at(recorded),
    )


def _at(recorded: Recorded) -> object:
    return recorded.metadata.occurred_at


TEMPLATE_FACTS = Facts(
    TEMPLATE,
    {
        TemplateCreated: _created,
        TemplateRevised: _revised,
        TemplateActivated: _activated,
        TemplateOpened: _opened,
        TemplatePaused: _paused,
        TemplateResumed: _resumed,
        TemplateEnded: _ended,
        TemplateStockIncreased: _stock_increased,
        TemplateShortened: _shortened,
        TemplateCouponIssued: _coupon_issued,
        TemplateCouponsIssued: _coupons_issued,
        TemplateStockReserved: _stock_reserved,
        TemplateReservationConfirmed: _reservation_confirmed,
        TemplateReservationCancelled: _reservation_cancelled,
    },
)
