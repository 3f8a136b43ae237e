"""How a server process collects garbage: seldom, and never what it started with."""

import gc
from typing import Final

# Python's own thresholds are made for small programs. Requests, events and cached states make millions of objects that
# live for long, and every full collection walks through all of them: with a warm engine that took a fifth of the
# processor time of a claim, and pauses that made the slowest hundredth of answers more than twice as late (300 µs to
# 246 µs a claim, p99 134 ms to 58 ms, 64 clients in one run). Reference counts free nearly everything at once; what is
# left to collect are cycles, of exceptions mostly. A look at the young stops everybody for a microsecond or two each.
# So many are more than a thousand callers' commands make before they are freed again: with fewer each batch of five
# hundred brings a look (10,000: 86 in four seconds, an eighth of the time; 25,000: one every few seconds, of 50 ms,
# behind which a thousand commands wait). Looks come while caches fill; once they are full as much is freed as is made
# (600,000 claims in 40 s: 3 looks of 18 ms), so that the hundredth one, which also looks at what became old since the
# last hundredth, is far away.
YOUNG_OBJECTS_MAX: Final = 50_000
_YOUNG_ROUNDS_MAX: Final = 100
_MIDDLE_ROUNDS_MAX: Final = 100


def settle() -> None:
    """Set aside what start-up made, for good, and collect the rest in large portions. Call it once all parts run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, _YOUNG_ROUNDS_MAX, _MIDDLE_ROUNDS_MAX)
