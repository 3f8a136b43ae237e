"""How much memory this machine, or the container that we are in, has for everybody."""

import os
from pathlib import Path
from typing import Final

# What a container may use, by control groups of the second and of the first version.
_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_bytes(limits: tuple[Path, ...] = _LIMITS) -> int:
    """The machine's memory, or the limit that was set on us where it is less."""
    known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        try:
            known.append(int(path.read_text()))
        except (OSError, ValueError):  # No such file, or the word "max".
            continue
    return min(known)
