"""Which shard holds what: found from ids alone, never by a look-up.

A realm lives on one shard, unless it is *spread*: then each of its streams has a slot, and slots belong to shards. A
template's slot is that of its id; its coupons carry it in theirs. Whatever shares a part in braces shares a slot:
``{spring}-pot`` and ``{spring}-ten-off`` lie together, as a template and its budgets must.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from contracts.identity import Realm

SLOTS: Final = 1_024  # Two letters of 32, which is how a coupon's id tells its slot.
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
COUPON_PREFIX: Final = "c"
COUPON_ID_LENGTH: Final = 27  # The prefix, two letters of slot, 24 of digest, or six of time and 18.
_VALUE: Final = {letter: value for value, letter in enumerate(LETTERS)}


def slot_of(key: str) -> int:
    """The slot of an id: a hash of what it has in braces, else of all of it. Like Redis Cluster's hash tags."""
    start = key.find("{")
    if start >= 0 and (end := key.find("}", start)) > start + 1:
        key = key[start + 1 : end]
    high, low = sha256(key.encode()).digest()[:2]
    return (high & 31) << 5 | (low & 31)


def slot_letters(slot: int) -> str:
    """A slot as coupon ids carry it."""
    return LETTERS[slot >> 5] + LETTERS[slot & 31]


def coupon_slot(coupon_id: str) -> int:
    """The slot that a coupon's id carries; any other text (no coupon of ours) has one, too."""
    if len(coupon_id) == COUPON_ID_LENGTH and coupon_id[0] == COUPON_PREFIX:
        high, low = _VALUE.get(coupon_id[1]), _VALUE.get(coupon_id[2])
        if high is not None and low is not None:
            return high * 32 + low
    return slot_of(coupon_id)


class PlacementError(ValueError):
    """The map of realms to shards cannot be meant; the message names the entry."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Realms to shards. ``tenants``: ``tenant`` or ``tenant/app`` (the more exact one counts) -> shard; everybody else
    lives on ``default``, which therefore never moves when a shard is added. ``spread``: the same names -> 1,024 shards,
    by slot.
    """

    shards: frozenset[int]
    default: int
    tenants: Mapping[str, int] = field(default_factory=dict)
    spread: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        shards: Iterable[int],
        *,
        default: int | None = None,
        tenants: Mapping[str, int] | None = None,
        spread: Mapping[str, Mapping[int, str]] | None = None,
    ) -> "Placement":
        """Check a map. ``spread``: name -> shard -> slots, ``{0: "0-511", 1: "512-1023"}``. Raises PlacementError."""
        known = frozenset(shards)
        fallback = min(known) if default is None else default
        slots = {name: _slots(name, told) for name, told in (spread or {}).items()}
        placement = cls(known, fallback, dict(tenants or {}), slots)
        for where, shard in (("default", fallback), *placement.tenants.items()):
            if shard not in known:
                raise PlacementError(f"{where} is placed on shard {shard}, which is not one of {sorted(known)}")
        for name, by_slot in slots.items():
            if unknown := set(by_slot) - known:
                raise PlacementError(f"slots of {name} are on shards {sorted(unknown)}, not among {sorted(known)}")
            if name in placement.tenants:
                raise PlacementError(f"{name} is placed on one shard and spread over several: remove one of them")
        return placement

    def slots_of(self, realm: Realm) -> Sequence[int] | None:
        """The shard of each slot, for a realm that is spread; None for one that lives on one shard."""
        if not self.spread:
            return None
        return self.spread.get(realm.key) or self.spread.get(realm.tenant_id)

    def home_of(self, realm: Realm) -> int:
        """The one shard of a realm that is not spread."""
        at = self.tenants.get(realm.key)
        return self.tenants.get(realm.tenant_id, self.default) if at is None else at

    def shards_of(self, realm: Realm) -> tuple[int, ...]:
        """Every shard that may hold something of a realm, in order."""
        slots = self.slots_of(realm)
        return (self.home_of(realm),) if slots is None else tuple(sorted(set(slots)))

    def shard_of(self, realm: Realm, key: str) -> int:
        """Where a template, budget, order or anything else but a coupon lies."""
        slots = self.slots_of(realm)
        return self.home_of(realm) if slots is None else slots[slot_of(key)]

    def shard_of_coupon(self, realm: Realm, coupon_id: str) -> int:
        """Where a coupon lies: with its template."""
        slots = self.slots_of(realm)
        return self.home_of(realm) if slots is None else slots[coupon_slot(coupon_id)]


def _slots(name: str, told: Mapping[int, str]) -> tuple[int, ...]:
    by_slot: list[int | None] = [None] * SLOTS
    for shard, ranges in told.items():
        for first, last in _ranges(name, ranges):
            for slot in range(first, last + 1):
                if by_slot[slot] is not None:
                    raise PlacementError(f"slot {slot} of {name} is placed twice")
                by_slot[slot] = shard
    filled = tuple(shard for shard in by_slot if shard is not None)
    if len(filled) != SLOTS:
        raise PlacementError(f"slot {by_slot.index(None)} of {name} is on no shard: slots are 0-{SLOTS - 1}")
    return filled


def _ranges(name: str, text: str) -> Iterable[tuple[int, int]]:
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise PlacementError(f"{text!r} of {name} does not read like 0-511,700")
        low, high = int(first), int(last or first)
        if not 0 <= low <= high < SLOTS:
            raise PlacementError(f"{part.strip()!r} of {name} is no range within 0-{SLOTS - 1}")
        yield low, high
