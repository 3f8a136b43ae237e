"""Lists the golden examples that are released: ``python -m tests.golden.release`` adds those that are not yet listed.

An example is released with the first version that may have written such an event into somebody's log. From then on its
line in RELEASED.sha256 must not change, and neither may the file.
"""

import hashlib
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent / "events"
RELEASED: Final = FOLDER.parent / "RELEASED.sha256"


def golden_files() -> list[Path]:
    """All examples, by name."""
    return sorted(FOLDER.glob("*.json"))


def released() -> dict[str, str]:
    """Event name -> SHA-256 of its released example."""
    lines = (line.split(maxsplit=1) for line in RELEASED.read_text().splitlines() if line)
    return {name.removesuffix(".json"): digest for digest, name in lines}


def release() -> list[str]:
    """Add what is not listed yet; returns the names added."""
    known = released()
    added = [path for path in golden_files() if path.stem not in known]
    with RELEASED.open("a") as file:
        file.writelines(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in added)
    return [path.stem for path in added]


if __name__ == "__main__":
    sys.stdout.writelines(f"released {name}\n" for name in release())
