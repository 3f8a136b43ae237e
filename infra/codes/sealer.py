"""What is inside a code: the number of its batch and its index there, and 32 bits that must be zero.

::

    80 bits = 32 zeros | 24 bits batch number | 24 bits index    (encrypted as one: FF1, AES-256, tweak = the realm)

A code is found by decrypting it: there is no table of codes. A guess decrypts to anything with the same chance, so it
is a living code with a chance of (living codes) / 2^80; docs/decisions has the arithmetic.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from contracts.codes import BATCH_NUMBER_MAX, CODES_PER_BATCH_MAX
from contracts.identity import Realm
from infra.codes import text
from infra.codes.bulk import CODE_LENGTH, TWEAK_BYTES, encrypt_run, write_run
from infra.codes.ff1 import Ff1

KEY_BYTES: Final = 32
INDEX_BITS: Final = 24
BATCH_BITS: Final = 24
RUN_CODES_MAX: Final = 8_192

assert CODES_PER_BATCH_MAX <= 2**INDEX_BITS
assert BATCH_NUMBER_MAX < 2**BATCH_BITS


@dataclass(frozen=True, slots=True)
class Opened:
    """What a code says, to who has its key: the number of its batch under that key, and its index in the batch."""

    number: int
    index: int


@dataclass(frozen=True, slots=True, repr=False)
class Sealer:
    """Writes and opens the codes of one realm's one key, in one thread at a time."""

    key_id: str
    _cipher: Ff1
    _tweak: bytes

    @classmethod
    def of(cls, realm: Realm, key_id: str, secret: bytes) -> "Sealer":
        """The sealer of a key. The realm is the tweak: even under the same secret its codes are its own."""
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a code key has {KEY_BYTES} bytes")
        tweak = blake2b(realm.key.encode(), digest_size=TWEAK_BYTES, person=b"tessera code").digest()
        return cls(key_id, Ff1(secret, text.RADIX, tweak), tweak)

    def seal(self, number: int, index: int) -> str:
        """One code."""
        plain = number << INDEX_BITS | index
        numerals = [plain >> 5 * place & 31 for place in reversed(range(text.DATA_SYMBOLS))]
        return text.write(self._cipher.encrypt(numerals))

    def seal_run(self, number: int, first: int, count: int) -> list[str]:
        """The codes of consecutive indices, at most RUN_CODES_MAX: much cheaper than one by one."""
        symbols = encrypt_run(self._cipher, self._tweak, number << INDEX_BITS | first, count)
        written = write_run(symbols).decode("ascii")
        return [written[start : start + CODE_LENGTH] for start in range(0, len(written), CODE_LENGTH)]

    def open(self, symbols: list[int]) -> Opened | None:
        """What the symbols of a code say, or None: it was not sealed with this key."""
        plain = 0
        for numeral in self._cipher.decrypt(symbols):
            plain = plain << 5 | numeral
        if plain >> (BATCH_BITS + INDEX_BITS):
            return None
        return Opened(plain >> INDEX_BITS, plain & (2**INDEX_BITS - 1))


def runs(first: int, count: int) -> Iterator[tuple[int, int]]:
    """``[first, first + count)`` in runs of bounded size: (first, count) each."""
    for start in range(first, first + count, RUN_CODES_MAX):
        yield start, min(RUN_CODES_MAX, first + count - start)
