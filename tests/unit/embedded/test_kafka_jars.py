"""The jars of Kafka's broker: those of the lock, whole or not at all, fetched by one process while others wait."""

import hashlib
import shutil
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from infra.embedded import kafka_jars
from infra.embedded.engine import EngineFailed

CONTENT = b"classes"
LINE = f"org.example:broker:1.0 {hashlib.sha256(CONTENT).hexdigest()}\n"
FETCH = """
import pathlib, sys
from infra.embedded import kafka_jars
kafka_jars.LOCK = pathlib.Path(sys.argv[1])
kafka_jars.jars(pathlib.Path(sys.argv[2]))
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Maven's own cache with the one jar of a small lock in it; there is no way to anywhere else."""
    lock = tmp_path / "kafka_jars.lock"
    lock.write_text("# a comment\n" + LINE)
    monkeypatch.setattr(kafka_jars, "LOCK", lock)
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    monkeypatch.setenv("JGO_CONFIG_FILE", str(tmp_path / "none.conf"))
    for way in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(way, "http://127.0.0.1:9")  # Nobody listens there.
    for way in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(way, raising=False)
    folder = tmp_path / "m2" / "org" / "example" / "broker" / "1.0"
    folder.mkdir(parents=True)
    (folder / "broker-1.0.jar").write_bytes(CONTENT)
    return folder


def test_the_lock_names_every_jar_with_its_hash_and_no_address() -> None:
    named = [jar.coordinate for jar in kafka_jars.locked()]
    assert set(kafka_jars.ROOTS) < set(named)
    assert len(named) == len({jar.file_name for jar in kafka_jars.locked()})
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in kafka_jars.locked())
    assert "://" not in kafka_jars.LOCK.read_text()


def test_a_folder_holds_what_the_lock_names(repository: Path, tmp_path: Path) -> None:
    folder = kafka_jars.jars(tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"broker-1.0.jar": CONTENT}
    shutil.rmtree(repository)
    assert kafka_jars.jars(tmp_path / "cache") == folder  # Once is enough.


def test_a_jar_that_is_not_as_locked_is_never_used(repository: Path, tmp_path: Path) -> None:
    (repository / "broker-1.0.jar").write_bytes(b"something else")
    with pytest.raises(EngineFailed, match=r"org\.example:broker:1\.0: its SHA-256 is \w+, locked is"):
        kafka_jars.jars(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/broker*"))


def test_a_jar_that_was_damaged_in_the_cache_is_fetched_again(repository: Path, tmp_path: Path) -> None:
    folder = kafka_jars.jars(tmp_path / "cache")
    (folder / "broker-1.0.jar").write_bytes(b"bitten")
    assert (kafka_jars.jars(tmp_path / "cache") / "broker-1.0.jar").read_bytes() == CONTENT


def test_who_cannot_fetch_is_told_what_to_do(repository: Path, tmp_path: Path) -> None:
    shutil.rmtree(repository)
    with pytest.raises(EngineFailed, match=r"org\.example:broker:1\.0.*Maven Central.*mirror.*TESSERA_KAFKA_BOOTSTRAP"):
        kafka_jars.jars(tmp_path / "cache")


def test_several_processes_at_once_end_with_one_whole_folder(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FETCH, str(kafka_jars.LOCK), str(tmp_path / "cache")]
    running = [Popen(command, stderr=PIPE, text=True) for _ in range(3)]
    told = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], told
    assert sum("kafka_jars_fetching" in each for each in told) == 1
    assert [path.name for path in (tmp_path / "cache").glob("*/*")] == ["broker-1.0.jar"]
