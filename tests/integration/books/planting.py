"""Events put into the log past the deciders, as plain SQL would: what verification and reconciliation must notice."""

import json
from typing import Any

from contracts.identity import stream_id
from tests.integration.books.conftest import Business

INSTANT = "2026-03-01T12:30:00Z"


def append(business: Business, kind: str, key: str, type_: str, data: dict[str, Any], **changes: Any) -> str:
    """Store an event; returns how verification will name its row. ``changes``: realm, stream, version, command_id."""
    realm = changes.get("realm", business.world.realm)
    stream = changes.get("stream", stream_id(realm, kind, key))
    row = business.sql.execute(
        "SELECT coalesce(max(originator_version), 0) + 1 FROM stored_events WHERE originator_id = %s", (stream,)
    ).fetchone()
    version = changes.get("version") or (row[0] if row else 1)
    now = business.sql.execute(
        "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    ).fetchone()
    state = {
        "id": f"planted-{stream}-{version}",
        "at": INSTANT,
        "rec": now[0] if now else INSTANT,
        "by": "somebody",
        "cmd": changes.get("command_id", "told-1"),
        "corr": "x",
        "cause": None,
        "trace": None,
        "tenant": realm.tenant_id,
        "app": realm.app_id,
        "data": data,
    }
    business.sql.execute(
        "INSERT INTO stored_events (originator_id, originator_version, topic, state) VALUES (%s, %s, %s, %s)",
        (stream, version, type_, json.dumps(state).encode()),
    )
    return f"{stream}@{version}"


def about(user: str, **changes: Any) -> dict[str, Any]:
    """What a coupon event repeats."""
    ref = {
        "template_id": "ten-off",
        "terms_version": 1,
        "campaign_id": "spring",
        "shop_id": None,
        "source": "platform",
        "user_id": user,
        "currency": "GBP",
    }
    return {**ref, **changes}


def claimed(business: Business, coupon_id: str, user: str, **changes: Any) -> str:
    """A coupon out of nowhere."""
    data = {
        "coupon_id": coupon_id,
        "about": about(user, **changes),
        "channel": "direct",
        "reference": None,
        "nth": 1,
        "valid_from": "2026-03-01T12:00:00Z",
        "valid_until": "2026-04-01T12:00:00Z",
    }
    return append(business, "coupon", coupon_id, "coupon.claimed.v1", data)
