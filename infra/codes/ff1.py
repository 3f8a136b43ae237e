"""FF1 of NIST SP 800-38G: a permutation of numeral strings of a fixed length, keyed with AES, told apart by a tweak."""

from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

ROUNDS: Final = 10
BLOCK_BYTES: Final = 16
RADIX_MAX: Final = 2**16
# The standard's own lower bound of a domain: below it every plaintext could simply be tried.
DOMAIN_MIN: Final = 1_000_000

Numerals = Sequence[int]


class Ff1:
    """The permutation for one key, radix and tweak. For one thread at a time: so is the AES of the library.

    ``key``: 16, 24 or 32 bytes. A numeral is an integer in ``[0, radix)``, the most significant one first.
    Variable names are the standard's, section 5.2.
    """

    def __init__(self, key: bytes, radix: int, tweak: bytes = b"") -> None:
        if not 2 <= radix <= RADIX_MAX:
            raise ValueError(f"the radix must be 2 to {RADIX_MAX}, not {radix}")
        self._radix = radix
        self._tweak = tweak
        self._aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # Whole blocks only: it keeps no state.

    def encrypt(self, numerals: Numerals) -> list[int]:
        """The ciphertext of a numeral string: of the same length. Raises ValueError for one that is none."""
        a, b, halves = self._halves(numerals)
        for i in range(ROUNDS):
            m = halves[i % 2]
            a, b = b, (a + self._round(i, b, halves, len(numerals))) % self._radix**m
        return [*self._numerals(a, halves[0]), *self._numerals(b, halves[1])]

    def decrypt(self, numerals: Numerals) -> list[int]:
        """The inverse of :meth:`encrypt`."""
        a, b, halves = self._halves(numerals)
        for i in reversed(range(ROUNDS)):
            m = halves[i % 2]
            a, b = (b - self._round(i, a, halves, len(numerals))) % self._radix**m, a
        return [*self._numerals(a, halves[0]), *self._numerals(b, halves[1])]

    def head(self, length: int) -> bytes:
        """The standard's block P: what all rounds of all strings of this length begin with."""
        u = length // 2
        radix, counts = self._radix.to_bytes(3, "big"), length.to_bytes(4, "big")
        return b"\x01\x02\x01" + radix + b"\x0a" + bytes([u % 256]) + counts + len(self._tweak).to_bytes(4, "big")

    def blocks(self, data: bytes) -> bytes:
        """AES of whole blocks, each by itself."""
        return self._aes.update(data)

    def _round(self, i: int, b: int, halves: tuple[int, int], length: int) -> int:
        """The round function: a large number that depends on the key, the tweak, the round and one half."""
        bytes_of_half = ((self._radix ** halves[1] - 1).bit_length() + 7) // 8
        d = 4 * ((bytes_of_half + 3) // 4) + 4
        padding = bytes(-(len(self._tweak) + bytes_of_half + 1) % BLOCK_BYTES)
        r = self._mac(self.head(length) + self._tweak + padding + bytes([i]) + b.to_bytes(bytes_of_half, "big"))
        s = r
        for j in range(1, -(-d // BLOCK_BYTES)):
            s += self.blocks(_xor(r, j.to_bytes(BLOCK_BYTES, "big")))
        return int.from_bytes(s[:d], "big")

    def _mac(self, data: bytes) -> bytes:
        """The standard's PRF: CBC-MAC over whole blocks of a length that the first one tells."""
        y = bytes(BLOCK_BYTES)
        for start in range(0, len(data), BLOCK_BYTES):
            y = self.blocks(_xor(y, data[start : start + BLOCK_BYTES]))
        return y

    def _halves(self, numerals: Numerals) -> tuple[int, int, tuple[int, int]]:
        length, radix = len(numerals), self._radix
        if length < 2 or radix**length < DOMAIN_MIN:
            raise ValueError(f"{length} numerals of radix {radix} are fewer than {DOMAIN_MIN} strings")
        if not all(0 <= numeral < radix for numeral in numerals):
            raise ValueError(f"a numeral is not in [0, {radix})")
        u = length // 2
        return self._number(numerals[:u]), self._number(numerals[u:]), (u, length - u)

    def _number(self, numerals: Numerals) -> int:
        number = 0
        for numeral in numerals:
            number = number * self._radix + numeral
        return number

    def _numerals(self, number: int, length: int) -> list[int]:
        numerals = [0] * length
        for place in reversed(range(length)):
            number, numerals[place] = divmod(number, self._radix)
        return numerals


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(BLOCK_BYTES, "big")
