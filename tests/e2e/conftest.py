"""The whole stack as people run it: `tessera up` as a process, and everything else beside it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.processes import free_port

ROOT = Path(__file__).parents[2]
STOP_SECONDS_MAX = 60.0
CLI = (sys.executable, "-m", "infra.cli")


@dataclass
class Up:
    """A running `tessera up` and what it printed once it was ready."""

    process: "subprocess.Popen[str]"
    data_dir: Path
    facts: dict[str, Any]

    @property
    def url(self) -> str:
        """The API."""
        return str(self.facts["http_url"])

    @property
    def token(self) -> str:
        """The local key."""
        return str(self.facts["key"])

    @property
    def pids(self) -> list[int]:
        """Every process of the stack, the supervisor first."""
        return [self.process.pid, *self.facts["pids"].values()]

    def run(self, *arguments: str, code: int | None = 0) -> dict[str, Any]:
        """Run a command in a second terminal and parse what it says."""
        done = run_cli(*arguments, "--json", "--data-dir", str(self.data_dir))
        assert code is None or done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        parsed: dict[str, Any] = json.loads(done.stdout)
        return parsed

    def hears(self) -> dict[str, Any]:
        """The next line that it prints."""
        assert self.process.stdout is not None
        parsed: dict[str, Any] = json.loads(self.process.stdout.readline())
        return parsed

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_SECONDS_MAX)

    def kill(self) -> None:
        """End the supervisor by kill -9, and of nobody else; returns when all are gone."""
        self.process.kill()
        self.process.wait(STOP_SECONDS_MAX)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while any(is_running(pid) for pid in self.pids):
            assert time.monotonic() < deadline, "processes are left behind"
            time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def run_cli(*arguments: str, timeout: float = 120.0) -> "subprocess.CompletedProcess[str]":
    """One command to its end."""
    return subprocess.run(
        [*CLI, *arguments], cwd=ROOT, env=clean_env(), capture_output=True, text=True, check=False, timeout=timeout
    )


def clean_env() -> dict[str, str]:
    """Without addresses that somebody set: the commands have to find the stack themselves."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}


@contextmanager
def up(data_dir: Path, *options: str) -> Iterator[Up]:
    """`tessera up` on a folder, ready; whatever happens, nothing of it is left running."""
    if not (data_dir / "http-port.json").exists():  # Else another worker's stack may take the usual one meanwhile.
        options = (*options, "--port", str(free_port()))
    process = subprocess.Popen(
        [*CLI, "up", *options, "--json", "--data-dir", str(data_dir)],
        cwd=ROOT,
        env=clean_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    running = None
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # Written at once when everything is ready.
        if not line:
            assert process.stderr is not None
            pytest.fail(f"`tessera up` did not start: {process.stderr.read()}")
        running = Up(process, data_dir, json.loads(line))
        yield running
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(STOP_SECONDS_MAX)
        for pid in running.pids if running is not None else ():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One stack for the tests of a module that leave it as they found it."""
    with up(tmp_path_factory.mktemp("stack")) as running:
        yield running
