"""Ids that follow from what caused them: the same cause, the same id, on every machine and in every replay."""

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final

from contracts.identity import Realm, are_plain, escape
from contracts.placement import COUPON_ID_LENGTH, COUPON_PREFIX, LETTERS, slot_letters, slot_of

_LENGTH: Final = 24  # Five bits each: 120 bits.
# Five bits of each byte of a digest make one letter: one call, where base 32 would take eight microseconds of Python.
_LETTER_OF_BYTE: Final = bytes(ord(LETTERS[byte & 31]) for byte in range(256))
_ORDERED_LETTERS: Final = "".join(sorted(LETTERS))  # As indexes sort them.
_SHIFTS: Final = range(25, -1, -5)  # Of six letters.
_TIMED: Final = re.compile(
    r"([0-9a-f]{8})(?:([0-9a-f])[0-9a-f]{23}|-([0-9a-f])[0-9a-f]{3}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})(?=:|\Z)"
)
_TIMES_REMEMBERED_MAX: Final = 4_096
_TEMPLATES_REMEMBERED_MAX: Final = 4_096
_GUARDS_REMEMBERED_MAX: Final = 4_096  # One claim asks for its counter's name three times.


def derived_id(prefix: str, realm: Realm, *parts: object) -> str:
    """``prefix`` and 24 lower-case letters and digits that depend on nothing but the realm and the parts."""
    # Escaped parts hold no slash: no two lists of parts read the same.
    text = "/".join([realm.key, prefix, *(escape(str(part)) for part in parts)])
    return prefix + _letters(text)


def coupon_id(realm: Realm, template_id: str, user_id: str, nth: int, command_id: str = "", place: int = 0) -> str:
    """The id of a user's n-th coupon of a template. ``place``: among those that its command gives out.

    After its prefix it carries the slot of its template, so that it is found where its template is. When its command's
    id begins with a time, that comes next, so that coupons of about the same time stand side by side in an index, and
    the rest follows from the command; else all of it follows from the number (docs/decisions/0025).
    """
    start, prefix = _of_template(realm, template_id)
    time = _time_letters(command_id)
    digest = _letters(f"{start}{escape(user_id)}/{f'{command_id}/{place}' if time else nth}")
    return (prefix + time + digest)[:COUPON_ID_LENGTH]


def coupon_ids(
    realm: Realm, template_id: str, claims: Sequence[tuple[str, int]], command_ids: Sequence[str] = ()
) -> list[str]:
    """The same for many claims of one template: (user, n-th) each. ``command_ids``: of each claim, or none at all."""
    start, prefix = _of_template(realm, template_id)
    if not are_plain(user_id for user_id, _ in claims):
        claims = [(escape(user_id), nth) for user_id, nth in claims]
    times = [_time_letters(command_id) for command_id in command_ids]
    if any(times):
        names = [
            f"{start}{user_id}/{f'{command_id}/0' if time else nth}"
            for (user_id, nth), command_id, time in zip(claims, command_ids, times, strict=True)
        ]
    else:
        names, times = [f"{start}{user_id}/{nth}" for user_id, nth in claims], [""] * len(claims)
    digests = [sha256(name.encode()).digest()[:_LENGTH] for name in names]
    letters = b"".join(digests).translate(_LETTER_OF_BYTE).decode()
    places = range(0, len(letters), _LENGTH)
    return [
        (prefix + time + letters[at : at + _LENGTH])[:COUPON_ID_LENGTH] for time, at in zip(times, places, strict=True)
    ]


def _time_letters(command_id: str) -> str:
    """The time that a command's id begins with, to four seconds, as letters that sort as it does; none without one.

    Such are the ids that the API makes (32 hexadecimal digits; in a batch ``:`` and a number follow) and UUIDs of
    version 7. Other 32 hexadecimal digits tell a time that means nothing, which does no harm.
    """
    found = _TIMED.match(command_id)
    return "" if found is None else _ordered_letters(found[1] + (found[2] or found[3]))


@lru_cache(_TIMES_REMEMBERED_MAX)
def _ordered_letters(digits: str) -> str:
    """36 of 48 bits of milliseconds, in hexadecimal, as six letters: they begin anew every 139 years."""
    time = int(digits, 16)
    return "".join([_ORDERED_LETTERS[time >> shift & 31] for shift in _SHIFTS])


@lru_cache(_GUARDS_REMEMBERED_MAX)
def guard_key(name: str, *parts: str) -> str:
    """The key of a guard counter, its parts escaped so that no two can collide."""
    return ":".join([name, *[part if part.isalnum() else escape(part).replace(":", "%3A") for part in parts]])


def guard_keys(name: str, part: str, lasts: Sequence[str]) -> list[str]:
    """The keys ``guard_key(name, part, last)`` of many counters that differ in their last part only."""
    start = guard_key(name, part, "")
    if are_plain(lasts) and ":" not in "".join(lasts):
        return [start + last for last in lasts]
    return [start + (last if last.isalnum() else escape(last).replace(":", "%3A")) for last in lasts]


@lru_cache(_TEMPLATES_REMEMBERED_MAX)
def _of_template(realm: Realm, template_id: str) -> tuple[str, str]:
    """What the ids of a template's coupons are made from, and how they begin."""
    start = f"{realm.key}/{COUPON_PREFIX}/{escape(template_id)}/"
    return start, COUPON_PREFIX + slot_letters(slot_of(template_id))


def _letters(text: str) -> str:
    return sha256(text.encode()).digest()[:_LENGTH].translate(_LETTER_OF_BYTE).decode()
