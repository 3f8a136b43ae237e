"""The kept mutants are still mutants of this code: every patch applies, every named test is there."""

import ast
from pathlib import Path

import pytest

from tests.mutants.run import HERE, ROOT, Mutant, apply, table

MUTANTS = table()


def test_every_patch_is_in_the_table_and_every_row_has_its_patch() -> None:
    assert {mutant.patch for mutant in MUTANTS} == set(HERE.glob("*.patch"))
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_patch_applies_and_its_test_exists(mutant: Mutant) -> None:
    applied = apply(mutant.patch, ROOT, "--check")
    assert applied.returncode == 0, f"{applied.stderr}Make it anew: see tests/mutants/README.md"
    file, *_, name = mutant.test.split("::")
    assert name in functions_of(ROOT / file)


def functions_of(file: Path) -> set[str]:
    """The names of a file's functions; of its imported test classes' ones, too."""
    tree = ast.parse(file.read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if "EventLogContract" in file.read_text():
        names |= functions_of(ROOT / "tests" / "contract" / "event_log.py") if file.stem != "event_log" else set()
    return names
