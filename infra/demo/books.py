"""What the stores say after the day, each asked in its own language, to be held against what the callers were told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from contracts.identity import Realm
from infra import operations
from infra.demo.acts import Tally
from infra.demo.day import RUSH, SPRING_BUDGET, TINY_BUDGET, Day
from infra.postgres.connections import connect
from infra.settings import Settings

SCAN_COUNT: Final = 2_000


@dataclass(frozen=True, slots=True)
class Books:
    """The day's figures, by store."""

    events: int
    commands: int
    rush_claims: Mapping[str, int]  # PostgreSQL, Redis, ClickHouse.
    rush_users: int  # Different users that hold one.
    funnel: list[dict[str, Any]]
    budgets: list[dict[str, Any]]
    saga_steps: Mapping[str, int]
    orders: Mapping[str, Any]
    timeline: list[dict[str, Any]]

    def disagreements(self, tally: Tally, day: Day) -> list[str]:
        """Everything in which a store differs from what callers were told, in words."""
        wrong = []
        told = tally.claims[RUSH]["ok"]
        answered = tally.claims[RUSH].total()
        if answered != len(day.rush_users):
            wrong.append(f"{answered} of {len(day.rush_users)} rush callers were answered")
        for store, count in (("callers were told", told), *self.rush_claims.items()):
            if count != day.rush_stock:
                wrong.append(f"{day.rush_stock} coupons in the rush, but {store}: {count}")
        if self.rush_users != day.rush_stock:
            wrong.append(f"{self.rush_users} users hold the {day.rush_stock} coupons of the rush")
        for row in self.funnel:
            template_id = row["template_id"]
            for code, told_so in tally.claims.get(template_id, {}).items():
                counted = row["claimed"] if code == "ok" else row["refused_by_code"].get(code, 0)
                if counted != told_so:
                    wrong.append(f"{template_id}: callers heard {code} {told_so} times, the funnel says {counted}")
        if tally.races and tally.races["won"] * 2 != tally.races.total():
            wrong.append(f"of two orders for one coupon not exactly one won: {dict(tally.races)}")
        waiting = {step: count for step, count in self.saga_steps.items() if step in _UNFINISHED}
        if waiting:
            wrong.append(f"sagas that did not get to an end: {waiting}")
        return wrong


_UNFINISHED: Final = frozenset({"awaiting_order", "holding", "held", "redeeming", "releasing", "refunding"})


def read_books(settings: Settings, realm: Realm) -> Books:
    """Ask PostgreSQL, Redis and ClickHouse. Raises when one is out of reach."""
    with connect(settings.postgres_dsn, name="demo", autocommit=True) as connection:
        cursor = connection.cursor()
        events, commands = _one(cursor.execute(_TOTALS, list(realm) * 2))
        rush, users = _one(cursor.execute(_RUSH, [*realm, RUSH]))
        steps = dict(cursor.execute(_STEPS, list(realm)).fetchall())
        timeline = [dict(zip(("type", "events"), row, strict=True)) for row in cursor.execute(_TYPES, list(realm))]
    with operations.facts(settings) as facts:
        who = {"tenant": realm.tenant_id, "app": realm.app_id}
        (in_clickhouse,) = facts.rows(_RUSH_FACTS, {**who, "template": RUSH})[0]
        funnel = [dict(zip(_FUNNEL_COLUMNS, row, strict=True)) for row in facts.rows(_FUNNEL, who)]
        orders = dict(zip(_ORDER_COLUMNS, facts.rows(_ORDERS, who)[0], strict=True))
    in_redis, budgets = _redis_figures(settings, realm)
    return Books(
        events=events,
        commands=commands,
        rush_claims={"PostgreSQL": rush, "Redis": in_redis, "ClickHouse": in_clickhouse},
        rush_users=users,
        funnel=funnel,
        budgets=budgets,
        saga_steps=steps,
        orders=orders,
        timeline=timeline,
    )


def _redis_figures(settings: Settings, realm: Realm) -> tuple[int, list[dict[str, Any]]]:
    """How many coupon documents are of the rush, and the budgets' documents."""
    from contracts.read_models import ACTIVE_FIELD, BUDGET, COUPON, SINGLE_FIELD, bucket_key, control_key
    from infra.redis.connection import connect as connect_redis

    with connect_redis(settings.redis_url) as client:
        version = int(cast(bytes, client.hget(control_key(COUPON), ACTIVE_FIELD)))
        prefix = bucket_key(COUPON, version, realm, "").removesuffix("}")
        keys = list(client.scan_iter(match=f"{prefix}*", count=SCAN_COUNT))
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hget(key, SINGLE_FIELD)
            coupons = [orjson.loads(text)["doc"] for text in pipe.execute()]
        version = int(cast(bytes, client.hget(control_key(BUDGET), ACTIVE_FIELD)))
        found = [
            client.hget(bucket_key(BUDGET, version, realm, key), SINGLE_FIELD) for key in (SPRING_BUDGET, TINY_BUDGET)
        ]
    budgets = [orjson.loads(cast(bytes, text))["doc"] for text in found]
    return sum(coupon["template_id"] == RUSH for coupon in coupons), budgets


def _one(cursor: Any) -> Any:
    return cursor.fetchone()


_TOTALS: Final = """
    SELECT
        (SELECT count(*) FROM events WHERE tenant_id = %s AND app_id = %s),
        (SELECT count(*) FROM command_log WHERE tenant_id = %s AND app_id = %s)
"""

_RUSH: Final = """
    SELECT count(*), count(DISTINCT data -> 'about' ->> 'user_id') FROM events
    WHERE tenant_id = %s AND app_id = %s AND type = 'coupon.claimed.v1' AND data -> 'about' ->> 'template_id' = %s
"""

_STEPS: Final = "SELECT step, count(*) FROM sagas WHERE tenant_id = %s AND app_id = %s GROUP BY step ORDER BY 2 DESC, 1"

_TYPES: Final = """
    SELECT type, count(*) FROM events WHERE tenant_id = %s AND app_id = %s GROUP BY type ORDER BY 2 DESC, 1
"""

_RUSH_FACTS: Final = """
    SELECT count() FROM coupon_facts FINAL
    WHERE tenant_id = {tenant:String} AND app_id = {app:String} AND template_id = {template:String} AND kind = 'claimed'
"""

_FUNNEL_COLUMNS: Final = (
    "template_id", "stock", "claimed", "refused", "refused_by_code", "locked", "redeemed", "released", "returned",
    "expired", "redeemed_minor", "returned_minor",
)  # fmt: skip

_FUNNEL: Final = f"""
    SELECT {", ".join(_FUNNEL_COLUMNS)} FROM coupon_funnel
    WHERE tenant_id = {{tenant:String}} AND app_id = {{app:String}} AND template_id != '' ORDER BY claimed DESC
"""

_ORDER_COLUMNS: Final = (
    "placed", "cancelled", "ready", "refused", "completed", "released", "refunded", "total_minor", "discount_minor",
    "paid_minor", "refunded_minor",
)  # fmt: skip

_ORDERS: Final = f"""
    SELECT {", ".join(f"sum(f.{column})" for column in _ORDER_COLUMNS)} FROM order_funnel AS f
    WHERE tenant_id = {{tenant:String}} AND app_id = {{app:String}}
"""
