"""Runs every mutant: the sound code passes the named tests, and each patch makes its own test fail.

::

    python -m tests.mutants.run                # all of them
    python -m tests.mutants.run NAME …         # only these
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
HERE: Final = ROOT / "tests" / "mutants"
TEST_SECONDS_MAX: Final = 300
TESTS_FAILED: Final = 1  # pytest's exit code; anything else but 0 says that the tests did not run.
NOT_COPIED: Final = shutil.ignore_patterns(".git", ".venv*", ".mypy_cache", "__pycache__", ".tessera", "results", "var")


class Mutant(NamedTuple):
    """One row of the table in README.md."""

    name: str
    breaks: str
    test: str

    @property
    def patch(self) -> Path:
        """The defect."""
        return HERE / f"{self.name}.patch"


def table() -> list[Mutant]:
    """The mutants as README.md lists them."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `(.+?)` \|$", (HERE / "README.md").read_text(), re.MULTILINE)
    return [Mutant(*row) for row in rows]


def apply(patch: Path, tree: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Apply a patch to a tree that need not be a repository."""
    return subprocess.run(
        ["git", "apply", *options, str(patch)],
        cwd=tree,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def run(tests: list[str], tree: Path) -> "subprocess.CompletedProcess[str]":
    """Run tests in a tree, stopping at the first that fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout", str(TEST_SECONDS_MAX)]
    # A place of its own for temporary folders: pytest closes theirs to other users, whose servers may run below it.
    own = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DEBUG_TEMPROOT": str(tree.parent)}
    environment = os.environ | own
    return subprocess.run([*command, *tests], cwd=tree, env=environment, capture_output=True, text=True, check=False)


def verdict(mutant: Mutant, tree: Path) -> str:
    """Empty when the mutant was caught; else what is wrong."""
    applied = apply(mutant.patch, tree)
    if applied.returncode:
        return f"does not apply any more: {applied.stderr.strip()}"
    done = run([mutant.test], tree)
    apply(mutant.patch, tree, "--reverse").check_returncode()
    if done.returncode == TESTS_FAILED:
        return ""
    return (
        "SURVIVED" if done.returncode == 0 else f"the test did not run:\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}"
    )


def main(wanted: list[str]) -> int:
    """Exit code 0 when every mutant was caught."""
    mutants = [mutant for mutant in table() if not wanted or mutant.name in wanted]
    with tempfile.TemporaryDirectory(prefix="tessera-mutants-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
        sound = run(sorted({mutant.test for mutant in mutants}), tree)
        if sound.returncode:
            print(f"the sound code fails already:\n{sound.stdout[-4_000:]}")
            return 1
        print(f"sound: {sound.stdout.strip().splitlines()[-1]}", flush=True)
        survivors = 0
        for mutant in mutants:
            began = monotonic()
            trouble = verdict(mutant, tree)
            survivors += bool(trouble)
            print(f"{mutant.name}: {trouble or 'caught'} ({monotonic() - began:.0f} s)", flush=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
