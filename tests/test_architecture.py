"""Who may import whom: the rules in pyproject.toml hold, and each of them bites when it is broken."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
LINTER_TIMEOUT_S = 60


@dataclass(frozen=True)
class Breach:
    """One illegal import: where it is planted, what it says, which rule it breaks, how the report names it."""

    module: str
    statement: str
    contract: str
    named: str

    @property
    def path(self) -> Path:
        return Path(*self.module.split(".")).with_suffix(".py")


BREACHES = [
    Breach("command.planted", "import query", "top-level", "command.planted -> query"),
    Breach("query.planted", "from sagas import __doc__", "top-level", "query.planted -> sagas"),
    Breach("sagas.planted", "import projections", "top-level", "sagas.planted -> projections"),
    Breach("projections.planted", "import command", "top-level", "projections.planted -> command"),
    Breach("contracts.planted", "import command", "top-level", "contracts.planted -> command"),
    Breach("command.planted", "def late():\n    import infra", "top-level", "command.planted -> infra"),
    Breach("infra.settings.planted", "import infra.cli", "infra", "infra.settings.planted -> infra.cli"),
    Breach("infra.postgres.planted", "import infra.redis", "infra", "infra.postgres.planted -> infra.redis"),
    Breach("infra.http.planted", "import infra.bootstrap", "infra", "infra.http.planted -> infra.bootstrap"),
    Breach("infra.sagas.planted", "import infra.http", "infra", "infra.sagas.planted -> infra.http"),
    Breach("infra.projections.planted", "import infra.verify", "infra", "infra.projections.planted -> infra.verify"),
    Breach("command.domain.planted", "import psycopg", "drivers", "command.domain.planted -> psycopg"),
    Breach("sagas.planted", "import fastapi", "drivers", "sagas.planted -> fastapi"),
    Breach("projections.planted", "from redis import Redis", "drivers", "projections.planted -> redis"),
    Breach("command.planted", "from psycopg import connect", "write-side-drivers", "command.planted -> psycopg"),
    Breach("command.domain.planted", "from time import time", "determinism", "command.domain.planted -> time"),
    Breach("sagas.planted", "import random", "determinism", "sagas.planted -> random"),
    Breach("command.domain.planted", "from uuid import uuid4", "domain-ids", "command.domain.planted -> uuid"),
    Breach("infra.planted", "import pytest", "test-code", "infra.planted -> pytest"),
]


def lint_imports(directory: Path, contract: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the packages in ``directory``, with the one ``contract`` or with all."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    if contract is not None:
        command += ["--contract", contract]
    environment = os.environ | {"PYTHONPATH": str(directory), "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=LINTER_TIMEOUT_S
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packages that a test may break."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def plant(directory: Path, breach: Breach) -> None:
    """Write the illegal import, and the packages on the way to it when they do not exist."""
    target = directory / breach.path
    turn_into_package(target.parent)
    target.write_text(f"{breach.statement}\n")
    imported = breach.named.split(" -> ")[1]
    if imported.partition(".")[0] in PACKAGES:
        turn_into_package(directory / Path(*imported.split(".")))


def turn_into_package(directory: Path) -> None:
    """Make sure that ``directory`` is a package; a module of that name becomes its ``__init__``."""
    directory.mkdir(parents=True, exist_ok=True)
    module = directory.with_suffix(".py")
    if module.exists():
        module.rename(directory / "__init__.py")
    (directory / "__init__.py").touch()


def test_every_package_keeps_the_import_rules() -> None:
    report = lint_imports(ROOT)
    assert report.returncode == 0, report.stdout + report.stderr


def test_the_rules_cover_every_package_that_is_shipped() -> None:
    assert set(PYPROJECT["tool"]["importlinter"]["root_packages"]) == set(PACKAGES)


def test_every_rule_has_a_breach_that_proves_it() -> None:
    rules = {contract["id"] for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
    assert rules == {breach.contract for breach in BREACHES}


@pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: f"{breach.contract}: {breach.named}")
def test_an_illegal_import_is_refused_and_named(breach: Breach, copy: Path) -> None:
    plant(copy, breach)
    report = lint_imports(copy, breach.contract)
    assert report.returncode == 1, report.stdout + report.stderr
    assert breach.named in report.stdout, report.stdout


ASKS_A_CLOCK = re.compile(
    r"\b(?:datetime|date)\.(?:now|utcnow|today)\(|\btime\.time(?:_ns)?\b|from time import [^\n]*\btime(?:_ns)?\b"
)


@pytest.mark.parametrize("package", ["command", "sagas", "projections", "contracts"])
def test_whoever_decides_asks_no_clock_of_its_machine(package: str) -> None:
    """Time is what the store tells: two processes whose clocks differ decide alike."""
    asking = [str(path) for path in (ROOT / package).rglob("*.py") if ASKS_A_CLOCK.search(path.read_text())]
    assert asking == []


def test_what_asks_a_clock_is_known_when_it_is_seen() -> None:
    asks = ["datetime.now(UTC)", "date.today()", "from time import monotonic, time_ns", "time.time()"]
    assert [bool(ASKS_A_CLOCK.search(each)) for each in asks] == [True] * len(asks)
