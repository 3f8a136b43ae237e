"""The figures that Redis shows, read from the raw buckets of the versions that readers use."""

from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import orjson
import redis

from contracts.identity import unescape
from contracts.read_models import control_key, model_at
from query.verify.figures import VERSION, Figure, Figures

SCAN_COUNT = 1_000


def read_figures(client: "redis.Redis", shard: int = 0) -> Figures:
    """Coupons, wallets, templates, budgets and orders, as documents show them. Raises redis.RedisError."""
    figures: Figures = {}
    for model, read in _READ.items():
        for realm, key, documents in _buckets(client, model_at(model, shard)):
            for document in documents.values():
                figures.update(read(realm, key, document))
    return figures


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


def _buckets(client: "redis.Redis", model: str) -> Iterator[tuple[tuple[str, str], str, dict[str, Any]]]:
    active = client.hget(control_key(model), "active")
    if active is None:
        return
    prefix = f"{model}:v{_text(active)}:"
    for key in client.scan_iter(match=f"{prefix}{{*}}", count=SCAN_COUNT):
        tenant, app, name = _text(key)[len(prefix) + 1 : -1].split("/")
        fields = cast(dict[bytes, bytes], client.hgetall(key))
        documents = {_text(field): orjson.loads(value)["doc"] for field, value in fields.items() if field != b"_pos"}
        yield (unescape(tenant), unescape(app)), unescape(name), documents


def _coupon(realm: tuple[str, str], key: str, document: dict[str, Any]) -> Figures:
    return {
        Figure(realm, "coupon", key, "status"): document["status"],
        Figure(realm, "coupon", key, VERSION): document["version"],
    }


def _wallet(realm: tuple[str, str], key: str, document: dict[str, Any]) -> Figures:
    return {Figure(realm, "wallet", key, document["coupon_id"]): document["status"]}


def _template(realm: tuple[str, str], key: str, document: dict[str, Any]) -> Figures:
    return {Figure(realm, "template", key, what): document[what] for what in ("stock", "claimed", "reserved")}


def _budget(realm: tuple[str, str], key: str, document: dict[str, Any]) -> Figures:
    figures: Figures = {Figure(realm, "budget", key, "limit"): document["limit_minor"]}
    for period, amounts in document["periods"].items():
        for what in ("reserved", "committed", "credited"):
            figures[Figure(realm, "budget", key, f"{what} {period!r}")] = amounts[f"{what}_minor"]
    return figures


def _order(realm: tuple[str, str], key: str, document: dict[str, Any]) -> Figures:
    settlement = document["settlement"]
    return {
        Figure(realm, "order", key, "recorded"): settlement["recorded_minor"],
        Figure(realm, "order", key, "reversed"): settlement["reversed_minor"],
    }


_READ: Final[dict[str, Callable[[tuple[str, str], str, dict[str, Any]], Figures]]] = {
    "coupon": _coupon,
    "wallet": _wallet,
    "template": _template,
    "budget": _budget,
    "order": _order,
}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
