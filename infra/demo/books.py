"""What the stores say after the day, each asked in its own language, to be held against what the callers were told."""

from collections import Counter
from collections.abc import Iterator, Mapping
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
    standings: Mapping[str, str]  # Order -> the step at which its saga stands.
    orders: Mapping[str, Any]
    timeline: list[dict[str, Any]]

    @property
    def saga_steps(self) -> Counter[str]:
        """How many sagas stand at each step."""
        return Counter(self.standings.values())

    def disagreements(self, tally: Tally, day: Day) -> list[str]:
        """Everything in which a store differs from what callers were told, in words."""
        return [*self._about_the_rush(tally, day), *self._about_claims(tally), *self._about_orders(tally, day)]

    def _about_the_rush(self, tally: Tally, day: Day) -> Iterator[str]:
        if (answered := tally.claims[RUSH].total()) != len(day.rush_users):
            yield f"{answered} of {len(day.rush_users)} rush callers were answered"
        counted = {"callers were told": tally.claims[RUSH]["ok"], "users hold one": self.rush_users, **self.rush_claims}
        for who, count in counted.items():
            if count != day.rush_stock:
                yield f"{day.rush_stock} coupons in the rush, but {who}: {count}"

    def _about_claims(self, tally: Tally) -> Iterator[str]:
        for row in self.funnel:
            for code, told in tally.claims.get(row["template_id"], {}).items():
                counted = row["claimed"] if code == "ok" else row["refused_by_code"].get(code, 0)
                if counted != told:
                    yield f"{row['template_id']}: callers heard {code} {told} times, the funnel says {counted}"

    def _about_orders(self, tally: Tally, day: Day) -> Iterator[str]:
        for order in day.orders:
            step = self.standings.get(order.order_id)
            if order.order_id not in tally.told.refused_orders and step != order.scenario.ends_in:
                name, ends_in = order.scenario.name, order.scenario.ends_in
                yield f"order {order.order_id} {name}: its saga stands at {step}, not at {ends_in}"
        if waiting := {step: count for step, count in self.saga_steps.items() if step in _UNFINISHED}:
            yield f"sagas that did not get to an end: {waiting}"
        if tally.races["won"] * 2 != tally.races.total():
            yield f"of two orders for one coupon not exactly one won: {dict(tally.races)}"


_UNFINISHED: Final = frozenset({"awaiting_order", "holding", "held", "redeeming", "releasing", "refunding"})


def read_books(settings: Settings, realm: Realm) -> Books:
    """Ask PostgreSQL, Redis and ClickHouse. Raises when one is out of reach."""
    with connect(settings.postgres_dsn, name="demo", autocommit=True) as connection:
        cursor = connection.cursor()
        events, commands = _one(cursor.execute(_TOTALS, list(realm) * 2))
        rush, users = _one(cursor.execute(_RUSH, [*realm, RUSH]))
        standings = dict(cursor.execute(_STANDINGS, list(realm)).fetchall())
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
        standings=standings,
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

_STANDINGS: Final = "SELECT key, step FROM sagas WHERE tenant_id = %s AND app_id = %s"

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
