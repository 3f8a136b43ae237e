"""Whose and which: the tenant and app of everything, and the text ids of streams built from them."""

from typing import NamedTuple

_ESCAPES = {"%": "%25", "/": "%2F", "{": "%7B", "}": "%7D"}
_TABLE = str.maketrans(_ESCAPES)


class Realm(NamedTuple):
    """One tenant's one app: the wall that no read or write crosses."""

    tenant_id: str
    app_id: str

    @property
    def key(self) -> str:
        """``tenant/app``, escaped: the prefix of every stream, cache key and topic key of this realm."""
        return f"{escape(self.tenant_id)}/{escape(self.app_id)}"


class StreamName(NamedTuple):
    """A stream's id taken apart: ``tenant/app/kind/key``."""

    realm: Realm
    kind: str
    key: str


def escape(part: str) -> str:
    """Make a part safe inside a slash-joined id (and inside a Redis hash tag), so that no two ids collide."""
    return part.translate(_TABLE)


def unescape(part: str) -> str:
    """The inverse of :func:`escape`."""
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
    return StreamName(Realm(unescape(tenant), unescape(app)), kind, unescape(key))
