"""FF1 over thousands of consecutive numbers at a time: radix 32, sixteen numerals, a tweak of ten bytes.

With these lengths a round is one AES block and one addition modulo 2^40. Halves lie in 16-byte slots of one large
integer, so that a round of all numbers is a handful of operations of the interpreter, whatever their count: no carry of
40 bits leaves its slot. `tests/unit/codes` holds it against :mod:`infra.codes.ff1`, numeral by numeral.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from infra.codes.ff1 import BLOCK_BYTES, ROUNDS, Ff1
from infra.codes.text import ALPHABET, CHECK_WEIGHTS, DATA_SYMBOLS, GROUPS, multiply

TWEAK_BYTES: Final = 10
HALF_BITS: Final = 40
HALF_SYMBOLS: Final = 8
SYMBOL_BITS: Final = 5
# Of the 12 bytes that the standard takes of a round's block, the last five count modulo 2^40: 4 bytes from the end.
_SHIFT: Final = 32

_LETTERS: Final = bytes(ord(ALPHABET[value]) if value < len(ALPHABET) else 0 for value in range(256))
_WEIGHTED: Final = tuple(
    bytes(multiply(weight, value) if value < len(ALPHABET) else 0 for value in range(256)) for weight in CHECK_WEIGHTS
)
CODE_LENGTH: Final = sum(GROUPS) + len(GROUPS) - 1


class _Slots(NamedTuple):
    """What all batches of one size share: in each slot 1, its number, 2^40 - 1, 31."""

    ones: int
    numbers: int
    halves: int
    symbols: int


@lru_cache(4)
def _slots(count: int) -> _Slots:
    ones = int.from_bytes((1).to_bytes(BLOCK_BYTES, "big") * count, "big")
    numbers = int.from_bytes(b"".join(number.to_bytes(BLOCK_BYTES, "big") for number in range(count)), "big")
    return _Slots(ones, numbers, ones * (2**HALF_BITS - 1), ones * (2**SYMBOL_BITS - 1))


def encrypt_run(cipher: Ff1, tweak: bytes, first: int, count: int) -> list[bytes]:
    """The ciphertexts of ``first``, ``first + 1`` …: one string of ``count`` symbols (0 to 31) for each of 16 places.

    ``cipher`` is one of radix 32 with this very tweak. The numbers must agree in their upper 40 bits.
    """
    upper, lower = divmod(first, 2**HALF_BITS)
    if len(tweak) != TWEAK_BYTES or lower + count > 2**HALF_BITS:
        raise ValueError("a run has a tweak of ten bytes and stays within 40 bits")
    slots = _slots(count)
    head = int.from_bytes(cipher.blocks(cipher.head(DATA_SYMBOLS)), "big")
    a, b = slots.ones * upper, slots.ones * lower + slots.numbers
    for i in range(ROUNDS):
        begin = head ^ int.from_bytes(tweak + bytes([i]) + bytes(BLOCK_BYTES - TWEAK_BYTES - 1), "big")
        blocks = cipher.blocks(((slots.ones * begin) ^ b).to_bytes(BLOCK_BYTES * count, "big"))
        a, b = b, (a + (int.from_bytes(blocks, "big") >> _SHIFT & slots.halves)) & slots.halves
    return [
        (half >> SYMBOL_BITS * place & slots.symbols).to_bytes(BLOCK_BYTES * count, "big")[
            BLOCK_BYTES - 1 :: BLOCK_BYTES
        ]
        for half in (a, b)
        for place in reversed(range(HALF_SYMBOLS))
    ]


def write_run(symbols: list[bytes]) -> bytearray:
    """Codes as people read them, one after the other, each CODE_LENGTH bytes; ``symbols`` as of :func:`encrypt_run`."""
    count = len(symbols[0])
    check = 0
    for place, column in enumerate(symbols):
        check ^= int.from_bytes(column.translate(_WEIGHTED[place]), "big")
    text = bytearray(b"-" * (CODE_LENGTH * count))
    for place, column in zip(_PLACES, [*symbols, check.to_bytes(count, "big")], strict=True):
        text[place::CODE_LENGTH] = column.translate(_LETTERS)
    return text


def _places() -> list[int]:
    """Where in the text the symbols stand, between the hyphens."""
    groups = [group for group, length in enumerate(GROUPS) for _ in range(length)]
    return [place + group for place, group in enumerate(groups)]


_PLACES: Final = _places()
