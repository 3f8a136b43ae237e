"""Every target, in the order of the table."""

from typing import Final

from benchmarks.bench import Target
from benchmarks.targets import p01_commits, p02_library, p04_hot_template, p05_hot_row, write_path

TARGETS: Final[tuple[Target, ...]] = (
    p01_commits.TARGET,
    p02_library.TARGET,
    p04_hot_template.TARGET,
    p05_hot_row.TARGET,
    write_path.TARGET,
)
