"""Whose and which: the tenant and app of everything, and the text ids of streams built from them."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

REALMS_REMEMBERED_MAX: Final = 4_096

_ESCAPES = {"%": "%25", "/": "%2F", "{": "%7B", "}": "%7D"}
_TABLE = str.maketrans(_ESCAPES)


class Realm(NamedTuple):
    """One tenant's one app: the wall that no read or write crosses."""

    tenant_id: str
    app_id: str

    @property
    def key(self) -> str:
        """``tenant/app``, escaped: the prefix of every stream, cache key and topic key of this realm."""
        return _realm_key(self)


@lru_cache(REALMS_REMEMBERED_MAX)
def _realm_key(realm: Realm) -> str:
    return f"{escape(realm.tenant_id)}/{escape(realm.app_id)}"


@lru_cache(REALMS_REMEMBERED_MAX)
def _realm(tenant: str, app: str) -> Realm:
    return Realm(unescape(tenant), unescape(app))


class StreamName(NamedTuple):
    """A stream's id taken apart: ``tenant/app/kind/key``."""

    realm: Realm
    kind: str
    key: str


def escape(part: str) -> str:
    """Make a part safe inside a slash-joined id (and inside a Redis hash tag), so that no two ids collide."""
    return part if part.isalnum() else part.translate(_TABLE)  # Most ids need no look at every character.


def are_plain(parts: Iterable[str]) -> bool:
    """Whether none of many parts needs escaping: asked once, instead of looking at each."""
    together = "".join(parts)
    return not any(character in together for character in _ESCAPES)


def unescape(part: str) -> str:
    """The inverse of :func:`escape`."""
    if "%" not in part:
        return part
    return part.replace("%2F", "/").replace("%7B", "{").replace("%7D", "}").replace("%25", "%")


def stream_id(realm: Realm, kind: str, key: str) -> str:
    """``stream_id(Realm("acme", "shop"), "coupon", "c1") == "acme/shop/coupon/c1"``."""
    return f"{realm.key}/{kind}/{escape(key)}"


def parse_stream(text: str) -> StreamName:
    """The inverse of :func:`stream_id`. Raises ValueError when the text has not exactly four parts."""
    parts = text.split("/")
    if len(parts) != 4:
        raise ValueError(f"{text!r} is not a stream id: expected tenant/app/kind/key")
    tenant, app, kind, key = parts
    return StreamName(_realm(tenant, app), kind, unescape(key))
