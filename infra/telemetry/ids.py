"""New ids for requests, commands and traces: unique, quick to make, and no secrets."""

import os
import random
from time import time_ns
from typing import Final

_NANOSECONDS: Final = 1_000_000  # In a millisecond.
_RANDOM_BITS: Final = 80
_TIME_BITS: Final = 48

# Seeded by the system, and again in a child of a fork: two processes never make the same ids. Asking the system for
# every id would cost more than all else that a request needs of telemetry.
_random: Final = random.Random(os.urandom(32))
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_id() -> str:
    """32 hexadecimal digits: 48 bits of milliseconds since 1970, then 80 random ones.

    Made at about the same time, ids stand side by side in an index: the next command's row goes where the last one's
    went, not into any of the pages of a large table, each of which is read, and after a checkpoint logged as a whole.
    """
    milliseconds = (time_ns() // _NANOSECONDS) & ((1 << _TIME_BITS) - 1)
    return f"{milliseconds << _RANDOM_BITS | _random.getrandbits(_RANDOM_BITS):032x}"
