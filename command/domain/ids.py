"""Ids that follow from what caused them: the same cause, the same id, on every machine and in every replay."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from contracts.identity import Realm, escape

_BYTES: Final = 15  # 120 bits: 24 letters and digits of base 32.
_DIGITS: Final = "abcdefghijklmnopqrstuvwxyz234567"
# Two digits by their value: the library's encoder takes three times as long, for every claim of a rush.
_PAIRS: Final = tuple(high + low for high in _DIGITS for low in _DIGITS)


def derived_id(prefix: str, realm: Realm, *parts: object) -> str:
    """``prefix`` and 24 lower-case letters and digits that depend on nothing but the realm and the parts."""
    # Escaped parts hold no slash: no two lists of parts read the same.
    text = "/".join([realm.key, prefix, *(escape(str(part)) for part in parts)])
    return prefix + _letters(text)


def coupon_id(realm: Realm, template_id: str, user_id: str, nth: int) -> str:
    """The id of a user's n-th coupon of a template: nobody can be given the same one twice."""
    return derived_id("c", realm, template_id, user_id, nth)


def coupon_ids(realm: Realm, template_id: str, claims: Sequence[tuple[str, int]]) -> list[str]:
    """The same for many claims of one template: (user, n-th) each."""
    start = f"{realm.key}/c/{escape(template_id)}/"
    return [f"c{_letters(f'{start}{escape(user_id)}/{nth}')}" for user_id, nth in claims]


def guard_key(name: str, *parts: str) -> str:
    """The key of a guard counter, its parts escaped so that no two can collide."""
    return ":".join([name, *[part if part.isalnum() else escape(part).replace(":", "%3A") for part in parts]])


def guard_keys(name: str, part: str, lasts: Sequence[str]) -> list[str]:
    """The keys ``guard_key(name, part, last)`` of many counters that differ in their last part only."""
    start = guard_key(name, part, "")
    return [start + (last if last.isalnum() else escape(last).replace(":", "%3A")) for last in lasts]


def _letters(text: str) -> str:
    value = int.from_bytes(sha256(text.encode()).digest()[:_BYTES], "big")
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(110, -1, -10)])
