"""Where read models lie in Redis: the names that projections write under and readers read from."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from contracts.identity import Realm, escape

WALLET: Final = "wallet"
COUPON: Final = "coupon"
TEMPLATE: Final = "template"
TEMPLATES: Final = "templates"
ORDER: Final = "order"
BUDGET: Final = "budget"
CLOCK: Final = "clock"
MODELS: Final = (WALLET, COUPON, TEMPLATE, TEMPLATES, ORDER, BUDGET, CLOCK)

INSTANT_FORMAT: Final = "%Y-%m-%dT%H:%M:%S.%fZ"  # In UTC. Such texts sort like their times.

# What a coupon's document says while no order holds it.
NO_LOCK: Final[Mapping[str, Any]] = MappingProxyType(
    {"order_id": None, "lock_until": None, "discount_minor": None, "external": False}
)

# Every bucket's stamp, `offset.revision`: up to where it was written, and how often. Without one it is not trusted.
POSITION_FIELD: Final = "_pos"
SINGLE_FIELD: Final = "doc"  # The field of a bucket that holds one document only.
ACTIVE_FIELD: Final = "active"  # In the control hash: the number of the version that readers use,
READY_FIELD: Final = "ready_at"  # and the offset that it has to reach before it may be served.
NEVER_READY: Final = 1 << 62  # No log is that long: the version is not served again; another one takes its place.


def model_at(model: str, shard: int) -> str:
    """What a shard's model is called in Redis: ``wallet`` on shard 0, ``wallet@1`` on shard 1. They never meet.

    Wherever a name of a model is asked for here, this is one, too.
    """
    return f"{model}@{shard}" if shard else model


def bucket_key(model: str, version: int, realm: Realm, key: str | None) -> str:
    """One hash: ``bucket_key("wallet", 1, Realm("acme", "shop"), "u1") == "wallet:v1:{acme/shop/u1}"``.

    The braces are Redis Cluster's hash tag: all keys of one bucket are in one slot. Without a key it is the realm's.
    """
    tag = realm.key if key is None else f"{realm.key}/{escape(key)}"
    return f"{model}:v{version}:{{{tag}}}"


def list_key(bucket: str) -> str:
    """The sorted set beside a bucket that lists its fields by the offset of their first event."""
    return f"{bucket}:list"


def control_key(model: str) -> str:
    """The hash that says, per model, which version is active and where each version stands in the log."""
    return f"{model}:control"


def checkpoint_field(version: int) -> str:
    """In the control hash: a version's position, as :meth:`contracts.position.Position.token` writes it."""
    return f"v{version}"


def lane_field(version: int, lane: str) -> str:
    """In the control hash: where a version stands in one lane, ``v1/coupon-event-topic/3``, if it follows over lanes.

    Its checkpoint is then where the last of its lanes is.
    """
    return f"{checkpoint_field(version)}/{lane}"
