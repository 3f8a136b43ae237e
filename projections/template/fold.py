"""A template's document from its own stream: how many are left, under which terms, in which window."""

from collections.abc import Callable
from typing import Any

from contracts.envelope import Recorded
from contracts.events import (
    Event,
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
from contracts.read_models import SINGLE_FIELD, TEMPLATE, TEMPLATES
from contracts.terms import Terms
from projections.model import Document, Place, ReadModel, changed, instant, require

FIRST_TERMS_VERSION = 1


def route(recorded: Recorded) -> tuple[Place, ...]:
    """A template's stream is its document."""
    return (Place(recorded.realm, recorded.name.key, SINGLE_FIELD),)


def route_list(recorded: Recorded) -> tuple[Place, ...]:
    """The same document is also a field of the realm's own bucket, which lists them."""
    return (Place(recorded.realm, None, recorded.name.key),)


def fold_template(document: Document | None, recorded: Recorded) -> Document:
    """The template after one event. ``stock`` and ``remaining`` are None when they are unlimited."""
    event = recorded.event
    if isinstance(event, TemplateCreated):
        return _created(event, recorded)
    before = require(document, recorded)
    change = _CHANGES.get(type(event))
    after = changed(before, recorded, {"version": recorded.version, **(change(event) if change else {})})
    return {**after, "remaining": _remaining(after)}


def _remaining(document: Document) -> int | None:
    if document["stock"] is None:
        return None
    return int(document["stock"] - document["claimed"] - document["reserved"])


def _created(event: TemplateCreated, recorded: Recorded) -> Document:
    created_at = instant(recorded.metadata.occurred_at)
    return {
        "template_id": event.template_id,
        "stream": recorded.stream,
        "version": recorded.version,
        "status": "draft",
        "reason": None,
        "terms_version": FIRST_TERMS_VERSION,
        **_terms(event.terms),
        "stock": event.terms.stock,
        "claimed": 0,
        "reserved": 0,
        "remaining": event.terms.stock,
        "opened": False,
        "ended_at": None,
        "created_at": created_at,
        "updated_at": created_at,
    }


def _terms(terms: Terms) -> dict[str, Any]:
    """The terms whole, and beside them what lists show and filter by."""
    return {
        "name": terms.name,
        "campaign_id": terms.campaign_id,
        "shop_id": terms.shop_id,
        "category": terms.category,
        "source": terms.source,
        "currency": terms.currency,
        "claim_from": instant(terms.claim_from),
        "claim_until": instant(terms.claim_until),
        "terms": terms.model_dump(mode="json"),
    }


def _revised(event: TemplateRevised) -> dict[str, Any]:
    # The stock is the template's, not a version's: it changes by increase only.
    return {"terms_version": event.terms_version, **_terms(event.terms)}


def _ended(event: TemplateEnded) -> dict[str, Any]:
    return {
        "status": "ended",
        "ended_cause": event.cause,
        "reason": event.reason or None,
        "ended_at": instant(event.ended_at),
    }


_CHANGES: dict[type[Event], Callable[[Any], dict[str, Any]]] = {
    TemplateActivated: lambda _: {"status": "active"},
    TemplateOpened: lambda event: {"opened": True, "opened_at": instant(event.opened_at)},
    TemplatePaused: lambda event: {"status": "paused", "reason": event.reason or None},
    TemplateResumed: lambda _: {"status": "active", "reason": None},
    TemplateEnded: _ended,
    TemplateStockIncreased: lambda event: {"stock": event.stock},
    TemplateShortened: lambda event: {"claim_until": instant(event.claim_until)},
    TemplateRevised: _revised,
    TemplateCouponIssued: lambda event: {"claimed": event.claimed},
    TemplateCouponsIssued: lambda event: {"claimed": event.claimed},
    TemplateStockReserved: lambda event: {"reserved": event.reserved},
    TemplateReservationConfirmed: lambda event: {"reserved": event.reserved},
    TemplateReservationCancelled: lambda event: {"reserved": event.reserved},
}

_KINDS = frozenset({"template"})
TEMPLATE_MODEL = ReadModel(name=TEMPLATE, kinds=_KINDS, route=route, fold=fold_template)
TEMPLATES_MODEL = ReadModel(name=TEMPLATES, kinds=_KINDS, route=route_list, fold=fold_template, listed=True)
