"""New ids for requests, commands and traces: unique, quick to make, and no secrets."""

import os
import random
from typing import Final

# Seeded by the system, and again in a child of a fork: two processes never make the same ids. Asking the system for
# every id would cost more than all else that a request needs of telemetry.
_random: Final = random.Random(os.urandom(32))
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_id() -> str:
    """128 random bits as 32 hexadecimal digits."""
    return f"{_random.getrandbits(128):032x}"
