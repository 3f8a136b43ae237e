"""How a server keeps house: young objects are set aside unseen while looks find no garbage, else looked at."""

import gc
import subprocess
import sys

import pytest

from infra.memory import GARBAGE_MAX, SET_ASIDE_IN_A_ROW, YOUNG_OBJECTS_MAX, Housekeeper

SETTLED = f"""
import gc
from infra import memory

memory.settle()
memory.settle()  # Once is enough.
assert sum(isinstance(each, memory.Housekeeper) for each in gc.callbacks) == 1
looked_at = []
gc.callbacks.append(lambda phase, info: looked_at.append(info["collected"]) if phase == "stop" else None)
frozen = gc.get_freeze_count()
kept = [[] for _ in range({YOUNG_OBJECTS_MAX} + 1_000)]
assert looked_at == [0], looked_at
assert gc.get_freeze_count() - frozen >= {YOUNG_OBJECTS_MAX} - 1_000
for _ in range({SET_ASIDE_IN_A_ROW} + 5):
    for _ in range({YOUNG_OBJECTS_MAX} + 1_000):
        cycle = []
        cycle.append(cycle)
assert sum(each >= {YOUNG_OBJECTS_MAX} - 1_000 for each in looked_at) >= 5, looked_at
"""


def test_a_process_that_settled_sets_objects_aside_and_collects_cycles_once_it_has_seen_them() -> None:
    subprocess.run([sys.executable, "-c", SETTLED], check=True, timeout=60)


class Collections:
    """The collections of a process, told to its housekeeper; ``frozen`` counts those that it left nothing to see."""

    def __init__(self) -> None:
        self.frozen = 0
        self._keeper = Housekeeper()

    def happens(self, collected: int, generation: int = 0) -> bool:
        """Whether it had anything to look at."""
        before = self.frozen
        self._keeper("start", {"generation": generation, "collected": 0, "uncollectable": 0})
        looks = self.frozen == before
        told = collected if looks else 0
        self._keeper("stop", {"generation": generation, "collected": told, "uncollectable": 0})
        return looks


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> Collections:
    made = Collections()

    def freeze() -> None:
        made.frozen += 1

    monkeypatch.setattr(gc, "freeze", freeze)
    return made


def test_where_nothing_is_found_one_in_many_is_a_look(collections: Collections) -> None:
    looks = [collections.happens(collected=GARBAGE_MAX) for _ in range(3 * (SET_ASIDE_IN_A_ROW + 1))]
    assert looks == ([False] * SET_ASIDE_IN_A_ROW + [True]) * 3


def test_where_garbage_is_found_all_are_looks_until_there_is_none(collections: Collections) -> None:
    for _ in range(SET_ASIDE_IN_A_ROW):
        collections.happens(collected=0)
    assert [collections.happens(collected=GARBAGE_MAX + 1) for _ in range(5)] == [True] * 5
    assert collections.happens(collected=0)
    assert not collections.happens(collected=0)


def test_a_collection_of_everything_is_let_be(collections: Collections) -> None:
    assert collections.happens(collected=0, generation=2)
    assert collections.frozen == 0
