"""How a server process collects garbage: hardly ever, and never what it started with.

Python's own thresholds are made for small programs. Requests, events and cached states make millions of objects that
live for long, and every full collection walks through all of them: with a warm engine that took a fifth of the
processor time of a claim. Reference counts free nearly everything at once; what is left to collect are cycles, and
serving makes none (tests/unit/http/test_garbage.py). A look at fifty thousand young objects stops everybody for 30 to
60 ms all the same. So they are set aside unseen, which takes no time, and only now and then looked at, to see whether
that is still right: once a look finds garbage, all are looked at until one finds none. Garbage that was set aside
stays (docs/decisions/0032).
"""

import gc
from typing import Any, Final, Literal

# More than a thousand callers' commands make before they are freed again: with fewer each batch of five hundred is
# cause to do something (10,000: 86 times in four seconds).
YOUNG_OBJECTS_MAX: Final = 50_000
SET_ASIDE_IN_A_ROW: Final = 20
GARBAGE_MAX: Final = YOUNG_OBJECTS_MAX // 100  # Found by one look: less is not worth stopping everybody for.
_ROUNDS_MAX: Final = 1_000  # Of looks before one at what is older, which there is next to none of.


class Housekeeper:
    """Hears of each collection when it begins, and leaves it nothing to look at where looking finds nothing."""

    def __init__(self) -> None:
        self._left = SET_ASIDE_IN_A_ROW
        self._looks = False

    def __call__(self, phase: Literal["start", "stop"], info: dict[str, Any]) -> None:
        """As ``gc.callbacks`` are called. Collections of all generations, which somebody asked for, are let be."""
        if info["generation"] != 0:
            return
        if phase == "start":
            self._looks = self._left == 0
            if not self._looks:
                self._left -= 1
                gc.freeze()
        elif self._looks:
            self._left = SET_ASIDE_IN_A_ROW if info["collected"] <= GARBAGE_MAX else 0


def settle() -> None:
    """Set aside what start-up made, for good, and keep house from now on. Call it once all parts run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, _ROUNDS_MAX, _ROUNDS_MAX)
    if not any(isinstance(each, Housekeeper) for each in gc.callbacks):
        gc.callbacks.append(Housekeeper())
