"""Damage to read models, as a careless hand would do it: the only way to make the stores disagree."""

from typing import cast

import orjson

from contracts.identity import Realm
from contracts.read_models import ACTIVE_FIELD, BUDGET, SINGLE_FIELD, bucket_key, control_key
from infra.demo.day import SPRING_BUDGET
from infra.demo.faults import Planted
from infra.settings import Settings

AMOUNT_MINOR = 12_345


def damage_read_models(settings: Settings, realm: Realm) -> list[Planted]:
    """Falsify the spring budget in Redis; returns what must be reported."""
    from infra.redis.connection import connect

    with connect(settings.redis_url) as client:
        version = int(cast(bytes, client.hget(control_key(BUDGET), ACTIVE_FIELD)))
        bucket = bucket_key(BUDGET, version, realm, SPRING_BUDGET)
        entry = orjson.loads(cast(bytes, client.hget(bucket, SINGLE_FIELD)))
        entry["doc"]["limit_minor"] += AMOUNT_MINOR
        client.hset(bucket, SINGLE_FIELD, orjson.dumps(entry, option=orjson.OPT_SORT_KEYS))
    subject = f"{realm.key}/budget/{SPRING_BUDGET} limit"
    return [Planted("store_drift", subject, "a budget's limit was falsified in Redis", frozenset({"I8"}))]
