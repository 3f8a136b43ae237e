"""The figures that Redis shows, read from the raw buckets of the versions that readers use."""

from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

import orjson
import redis

from contracts.identity import unescape
from contracts.read_models import control_key, model_at
from query.verify.books import Realm
from query.verify.figures import VERSION, Shown, figure_of

KEYS_PER_TRIP: Final = 500


def shown(client: "redis.Redis", shard: int = 0) -> Iterator[Shown]:
    """Coupons, wallets, templates, budgets and orders, as documents show them. Raises redis.RedisError."""
    readers = {prefix: read for model, read in _READ.items() if (prefix := _prefix(client, model_at(model, shard)))}
    keys = client.scan_iter(match="*:v*:{*}", count=KEYS_PER_TRIP)
    while some := [_text(key) for key in islice(keys, KEYS_PER_TRIP)]:
        wanted = [(key, read) for key in some if (read := readers.get(key.partition("{")[0])) is not None]
        with client.pipeline(transaction=False) as pipeline:
            for key, _ in wanted:
                pipeline.hgetall(key)
            buckets = pipeline.execute()
        for (key, read), bucket in zip(wanted, buckets, strict=True):
            tenant, app, name = key.partition("{")[2][:-1].split("/")
            realm = (unescape(tenant), unescape(app))
            for field, value in bucket.items():
                if field != b"_pos":
                    yield read(realm, unescape(name), orjson.loads(value)["doc"])


def positions(client: "redis.Redis", shard: int = 0) -> dict[str, int]:
    """Model -> the offset that its active version has reached; a model without one is at -1."""
    found = {}
    for model in _READ:
        control = control_key(model_at(model, shard))
        active = client.hget(control, "active")
        token = client.hget(control, f"v{_text(active)}") if active else None
        found[model] = _offset(_text(token)) if token else -1
    return found


def _offset(token: str) -> int:
    return int(urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().rsplit(".", 1)[1])


def _prefix(client: "redis.Redis", model: str) -> str | None:
    """What the keys of the version begin with that readers use."""
    active = client.hget(control_key(model), "active")
    return None if active is None else f"{model}:v{_text(active)}:"


def _coupon(realm: Realm, key: str, document: dict[str, Any]) -> Shown:
    return Shown("coupon", realm, key, {"status": document["status"], VERSION: document["version"]})


def _wallet(realm: Realm, user_id: str, document: dict[str, Any]) -> Shown:
    return Shown("wallet", realm, document["coupon_id"], {"user_id": user_id, "status": document["status"]})


def _template(realm: Realm, key: str, document: dict[str, Any]) -> Shown:
    return Shown("template", realm, key, {what: document[what] for what in ("stock", "claimed", "reserved")})


def _budget(realm: Realm, key: str, document: dict[str, Any]) -> Shown:
    sums = {
        figure_of(what, period): amounts[f"{what}_minor"]
        for period, amounts in document["periods"].items()
        for what in ("reserved", "committed", "credited")
    }
    return Shown("budget", realm, key, {"limit": document["limit_minor"], **sums})


def _order(realm: Realm, key: str, document: dict[str, Any]) -> Shown:
    settlement = document["settlement"]
    amounts = {"recorded": settlement["recorded_minor"], "reversed": settlement["reversed_minor"]}
    return Shown("order", realm, key, amounts)


_READ: Final[dict[str, Callable[[Realm, str, dict[str, Any]], Shown]]] = {
    "coupon": _coupon,
    "wallet": _wallet,
    "template": _template,
    "budget": _budget,
    "order": _order,
}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
