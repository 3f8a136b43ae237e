"""Ids that follow from what caused them: the same cause, the same id, on every machine and in every replay."""

from base64 import b32encode
from hashlib import sha256

from contracts.identity import Realm, escape

_LENGTH = 24  # Base 32: 120 bits.


def derived_id(prefix: str, realm: Realm, *parts: object) -> str:
    """``prefix`` and 24 lower-case letters and digits that depend on nothing but the realm and the parts."""
    # Escaped parts hold no slash: no two lists of parts read the same.
    text = "/".join([realm.key, prefix, *(escape(str(part)) for part in parts)])
    return prefix + b32encode(sha256(text.encode()).digest()).decode().lower()[:_LENGTH]


def coupon_id(realm: Realm, template_id: str, user_id: str, nth: int) -> str:
    """The id of a user's n-th coupon of a template: nobody can be given the same one twice."""
    return derived_id("c", realm, template_id, user_id, nth)


def guard_key(name: str, *parts: str) -> str:
    """The key of a guard counter, its parts escaped so that no two can collide."""
    return ":".join([name, *(escape(part).replace(":", "%3A") for part in parts)])
