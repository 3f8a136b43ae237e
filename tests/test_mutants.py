"""The kept mutants are still mutants of this code: every patch applies, every named test is there."""

import ast
import re
from pathlib import Path

import pytest

from tests.mutants.run import HERE, ROOT, Mutant, apply, table

MUTANTS = table()
MIGRATIONS = ROOT / "infra" / "postgres" / "migrations"
FUNCTION = r"FUNCTION (\w+)\("


def test_every_patch_is_in_the_table_and_every_row_has_its_patch() -> None:
    assert {mutant.patch for mutant in MUTANTS} == set(HERE.glob("*.patch"))
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_patch_applies_and_its_test_exists(mutant: Mutant) -> None:
    applied = apply(mutant.patch, ROOT, "--check")
    assert applied.returncode == 0, f"{applied.stderr}Make it anew: see tests/mutants/README.md"
    file, *_, name = mutant.test.split("::")
    assert name in functions_of(ROOT / file)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_patch_of_a_database_function_is_where_it_was_defined_last(mutant: Mutant) -> None:
    for migration, line in patched_lines(mutant.patch):
        text = (MIGRATIONS / migration).read_text()
        defined = re.findall(FUNCTION, "\n".join(text.splitlines()[:line]))
        later = [file.name for file in MIGRATIONS.glob("*.sql") if file.name > migration]
        again = [name for name in later if defined[-1] in re.findall(FUNCTION, (MIGRATIONS / name).read_text())]
        assert not again, f"{defined[-1]} is defined anew in {again}: the defect in {migration} would do nothing"


def patched_lines(patch: Path) -> list[tuple[str, int]]:
    """Which migrations it changes, and from which line on."""
    text = patch.read_text()
    return [
        (file, int(line))
        for file, hunks in re.findall(
            r"^\+\+\+ b/infra/postgres/migrations/(\S+)\n((?:[@ +-].*\n)+)", text, re.MULTILINE
        )
        for line in re.findall(r"^@@ -(\d+)", hunks, re.MULTILINE)
    ]


def functions_of(file: Path) -> set[str]:
    """The names of a file's functions; of its imported test classes' ones, too."""
    tree = ast.parse(file.read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if "EventLogContract" in file.read_text():
        names |= functions_of(ROOT / "tests" / "contract" / "event_log.py") if file.stem != "event_log" else set()
    return names
