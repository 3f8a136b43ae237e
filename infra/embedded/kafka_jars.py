"""The jars of Kafka's broker: exactly those of the lock, verified by their hashes, fetched once per user.

``python -m infra.embedded.kafka_jars lock`` resolves the broker's dependencies anew and rewrites the lock.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from infra.embedded.engine import EngineFailed
from infra.processes import wait_until

if TYPE_CHECKING:
    from jgo.maven import Artifact, MavenContext

LOCK: Final = Path(__file__).with_name("kafka_jars.lock")
# The broker, and what makes its log readable: without a binding it says nothing, not even why it does not start.
ROOTS: Final = ("org.apache.kafka:kafka_2.13:4.3.1", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4")

FETCH_ATTEMPTS_MAX: Final = 3
FETCHES_AT_A_TIME: Final = 4
ANSWER_TIMEOUT_SECONDS: Final = 20  # Of one request.
FETCH_TIMEOUT_SECONDS: Final = 150.0  # How long to wait for another process that fetches the same.

logger = logging.getLogger(__name__)


class LockedJar(NamedTuple):
    """One line of the lock: Maven coordinate and SHA-256, nothing about where it comes from."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def coordinate(self) -> str:
        """``group:artifact:version``."""
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def file_name(self) -> str:
        """As repositories name it."""
        return f"{self.artifact}-{self.version}.jar"


def locked() -> tuple[LockedJar, ...]:
    """What the lock names, in its order."""
    lines = (line.split() for line in LOCK.read_text().splitlines() if line and not line.startswith("#"))
    return tuple(
        LockedJar(group, artifact, version, sha256)
        for coordinate, sha256 in lines
        for group, artifact, version in [coordinate.split(":")]
    )


def jars(cache: Path | None = None) -> Path:
    """The folder that holds every jar of the lock and nothing else; fetched when it is not there or not as locked.

    Any number of processes may ask at once: one fetches, the others wait. Errors: EngineFailed, with what to do.
    """
    cache = cache or cache_folder()
    folder = cache / f"kafka-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"
    if not _is_whole(folder):
        cache.mkdir(parents=True, exist_ok=True)
        with only_one(cache):
            if not _is_whole(folder):  # Somebody else may have brought them while we waited.
                _fetch(folder)
    return folder


def cache_folder() -> Path:
    """Where jars are kept from one run to the next, for all data folders of a user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "tessera"


def _is_whole(folder: Path) -> bool:
    """Whether all are there as locked. Looked at before every start: it takes a tenth of a second."""
    return all((folder / jar.file_name).exists() and _is_as_locked(folder / jar.file_name, jar) for jar in locked())


def _is_as_locked(path: Path, jar: LockedJar) -> bool:
    return _sha256(path) == jar.sha256


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def only_one(cache: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go when it dies. Waits no longer than a fetch may take."""
    with (cache / "kafka.lock").open("a") as lock:

        def is_ours() -> bool:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        if not wait_until(is_ours, timeout_seconds=FETCH_TIMEOUT_SECONDS):
            raise EngineFailed(f"another process has been fetching Kafka's jars to {cache} for too long; try again")
        yield


def _fetch(folder: Path) -> None:
    """Bring all of them to a folder beside, verify, and put it in place in one step."""
    logger.warning("kafka_jars_fetching", extra={"jars": len(locked()), "folder": str(folder)})
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as beside:
        ready = Path(beside) / "jars"
        ready.mkdir()
        context = _maven(Path(beside) / "repository")
        with ThreadPoolExecutor(FETCHES_AT_A_TIME) as pool:
            for jar, path in zip(
                locked(), pool.map(lambda jar: _fetch_one(context, jar, folder), locked()), strict=True
            ):
                shutil.copyfile(path, ready / jar.file_name)
        shutil.rmtree(folder, ignore_errors=True)  # Whatever is there is not as locked.
        ready.replace(folder)


def _maven(repository: Path) -> "MavenContext":
    """Maven Central, or whatever mirrors the user's own configuration of jgo names; Maven's own cache is looked at."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    known = GlobalSettings.load()
    return MavenContext(
        repo_cache=repository,
        local_repos=[known.repo_cache],
        remote_repos={**(known.repositories or {}), "central": MAVEN_CENTRAL_URL},
        timeout=ANSWER_TIMEOUT_SECONDS,
    )


def _fetch_one(context: "MavenContext", jar: LockedJar, folder: Path) -> Path:
    """Errors: EngineFailed, when it cannot be had or is not what was locked."""
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    trouble: Exception | None = None
    for _ in range(FETCH_ATTEMPTS_MAX):
        try:
            path = artifact.resolve()
        except (OSError, RuntimeError) as error:  # No network; no such file anywhere.
            trouble = error
            _forget(artifact)
            continue
        if _is_as_locked(path, jar):
            return path
        trouble = ValueError(f"its SHA-256 is {_sha256(path)}, locked is {jar.sha256}")
        _forget(artifact)  # A download that was cut off looks the same: try again.
    raise EngineFailed(
        f"Kafka's broker cannot be fetched: {jar.coordinate}: {trouble}. It comes from Maven Central, once: allow "
        f"that, name a mirror under [repositories] in ~/.config/jgo.conf, or copy {folder} from a machine that has it. "
        "To use a broker of your own, set TESSERA_KAFKA_BOOTSTRAP to its address"
    ) from trouble


def _forget(artifact: "Artifact") -> None:
    if artifact.cached_path is not None:
        artifact.cached_path.unlink(missing_ok=True)


def write_lock() -> None:
    """Resolve the broker's dependencies anew and lock what came of it."""
    with tempfile.TemporaryDirectory() as beside:
        context = _maven(Path(beside))
        # Each root by itself: together, the versions that one manages would be forced upon the other.
        resolved = [context.resolver.resolve([context.create_dependency(root)]) for root in ROOTS]
        found = [each.artifact for inputs, transitive in resolved for each in (*inputs, *transitive)]
        artifacts = {(each.groupId, each.artifactId): each for each in reversed(found)}  # The first root's wins.
        lines = sorted(
            f"{each.groupId}:{each.artifactId}:{each.version} {_sha256(each.resolve())}" for each in artifacts.values()
        )
    LOCK.write_text("# Kafka's broker: coordinate, SHA-256. Rewritten by `make lock`.\n" + "\n".join(lines) + "\n")


def main(arguments: list[str]) -> int:
    """Rewrite the lock; returns the exit code."""
    if arguments != ["lock"]:
        sys.stderr.write("usage: python -m infra.embedded.kafka_jars lock\n")
        return 2
    write_lock()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
