"""How a code reads: sixteen symbols and a check symbol of an alphabet in which no letter looks like another one.

The alphabet is Douglas Crockford's base 32: no I, L, O and U. Whoever types O for 0, or I or L for 1, is understood;
case, blanks and hyphens do not matter.

The check symbol makes the sum of ``x^i * symbol_i`` zero in the field of 32 elements, x being a generator of it. No two
of the seventeen weights are the same, and none is zero. So every wrong symbol shows, every swap of two symbols (next to
each other or not), and every pair of equal neighbours mistyped as another pair.
"""

from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
RADIX: Final = 32
DATA_SYMBOLS: Final = 16
SYMBOLS: Final = DATA_SYMBOLS + 1
GROUPS: Final = (4, 4, 4, 5)
# Longer text is no code, however many blanks it holds.
TEXT_LENGTH_MAX: Final = 64

_POLYNOMIAL: Final = 0b100101  # x^5 + x^2 + 1, primitive: x runs through all 31 elements but zero.
_HEARD_AS: Final = {"O": "0", "I": "1", "L": "1"}
_VALUE: Final = {
    letter: ALPHABET.index(_HEARD_AS.get(letter.upper(), letter.upper()))
    for upper in (*ALPHABET, *_HEARD_AS)
    for letter in {upper, upper.lower()}
}
_IGNORED: Final = str.maketrans("", "", " -")


def multiply(left: int, right: int) -> int:
    """The product of two elements of the field of 32 elements."""
    product = 0
    for bit in range(5):
        if right >> bit & 1:
            product ^= left << bit
    for bit in range(8, 4, -1):
        if product >> bit & 1:
            product ^= _POLYNOMIAL << (bit - 5)
    return product


def _powers() -> tuple[int, ...]:
    powers = [1]
    while len(powers) < RADIX - 1:
        powers.append(multiply(powers[-1], 2))
    return tuple(powers)


POWERS: Final = _powers()
# What a data symbol at place i adds to the check symbol: x^i, seen from the check symbol's own weight x^16.
CHECK_WEIGHTS: Final = tuple(POWERS[(place - DATA_SYMBOLS) % len(POWERS)] for place in range(DATA_SYMBOLS))
_PRODUCTS: Final = tuple(tuple(multiply(weight, value) for value in range(RADIX)) for weight in CHECK_WEIGHTS)


def check_symbol(symbols: list[int]) -> int:
    """The symbol that belongs behind sixteen others. All are numbers in ``[0, 32)``."""
    check = 0
    for place, symbol in enumerate(symbols):
        check ^= _PRODUCTS[place][symbol]
    return check


def write(symbols: list[int]) -> str:
    """Sixteen symbols and their check symbol as people read them: ``7KQ4-M2XP-9HTR-W3VNC``."""
    letters = "".join(ALPHABET[symbol] for symbol in (*symbols, check_symbol(symbols)))
    starts = [sum(GROUPS[:group]) for group in range(len(GROUPS))]
    return "-".join(letters[start : start + length] for start, length in zip(starts, GROUPS, strict=True))


def read(text: str) -> list[int] | None:
    """The sixteen symbols of a text, or None: it is no code, or it is mistyped."""
    if len(text) > TEXT_LENGTH_MAX:
        return None
    letters = text.translate(_IGNORED)
    if len(letters) != SYMBOLS:
        return None
    symbols = [_VALUE.get(letter, -1) for letter in letters]
    if -1 in symbols or check_symbol(symbols[:-1]) != symbols[-1]:
        return None
    return symbols[:-1]
