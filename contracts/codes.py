"""Bounds of codes that both the rules and whoever writes codes must agree on, and the names made from them."""

from typing import Final

CODES_PER_BATCH_MAX: Final = 10_000_000
BATCH_NUMBER_MAX: Final = 2**24 - 1
# Of one realm, over all its keys: as long as no more are alive, a guess meets one with a chance of at most 2^-47.
CODES_PER_REALM_MAX: Final = 2**33


# So many codes of a batch share a counter of those that are used or void one by one.
CODES_PER_BLOCK: Final = 10_000


def batch_id_of(key_id: str, number: int) -> str:
    """A batch's id follows from what its codes say: ``batch_id_of("k1", 7) == "k1-7"``."""
    return f"{key_id}-{number}"


def code_key_of(batch_id: str, index: int) -> str:
    """The key of one code's stream: ``code_key_of("k1-7", 41) == "k1-7.41"``."""
    return f"{batch_id}.{index}"
