"""A PostgreSQL server of the test's own, to be stopped, killed, and starved of disk."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.embedded.postgres import EmbeddedPostgres
from tests.faults.fleet import wait_for

PAGE_BYTES = 4_096


class OwnServer(EmbeddedPostgres):
    """An embedded server with some settings of its own that may end as servers do."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self._settings = settings or {}

    def argv(self) -> tuple[str, ...]:
        flags = (part for name, value in self._settings.items() for part in ("-c", f"{name}={value}"))
        return (*super().argv(), *flags)

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self.child is not None and self.child.ending() is None

    def end(self, how: signal.Signals) -> None:
        """SIGINT: a fast shutdown; SIGQUIT: an immediate one, as if the power had gone; SIGKILL: worse."""
        assert self.child is not None
        os.kill(self.child.pid, how)
        wait_for(lambda: not self.runs, "the server to end")

    def start_where_it_was(self) -> None:
        """On its port, and answering; the engine's own `start_again` waits for nobody."""
        port = self.port
        self.start(port)
        assert self.port == port, "somebody else took the port meanwhile"


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder that the server may be let into. (pytest closes its own to other users whenever another run begins.)"""
    with TemporaryDirectory(prefix="tessera-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def own_server(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[OwnServer]:
    """A running server with an empty database."""
    server = OwnServer(folder, settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class NoSmallDisk(Exception):
    """No file system of limited size can be made here."""


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk in memory of so many MB, mounted on the folder. Raises NoSmallDisk, where that needs rights we lack."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NoSmallDisk(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take every free byte of a disk; delete the file that is returned to give them back."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(PAGE_BYTES))
    return ballast
