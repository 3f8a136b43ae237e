"""The embedded server's buffers follow the memory that there is, a container's limit included."""

from pathlib import Path

import pytest

from infra.embedded.memory import memory_bytes
from infra.embedded.postgres import shared_buffers_mb

GIBIBYTE = 1024**3


def test_a_limit_counts_where_it_is_less_than_the_machine_has(tmp_path: Path) -> None:
    machine = memory_bytes(())
    (tmp_path / "memory.max").write_text("1048576\n")
    (tmp_path / "none").write_text("max\n")
    assert machine > 1048576
    assert memory_bytes((tmp_path / "absent", tmp_path / "none")) == machine
    assert memory_bytes((tmp_path / "none", tmp_path / "memory.max")) == 1048576


@pytest.mark.parametrize(("gibibytes", "megabytes"), [(0.25, 128), (1, 256), (8, 2_048), (256, 4_096)])
def test_buffers_are_a_quarter_of_the_memory_within_bounds(gibibytes: float, megabytes: int) -> None:
    assert shared_buffers_mb(int(gibibytes * GIBIBYTE)) == megabytes
