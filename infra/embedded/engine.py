"""What the embedded engines have in common: prepare a folder, start a server on it, wait for its answer, stop it."""

import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from infra.processes import Child, ChildSpec, Ending, end_leftover, free_port, port_is_free, spawn, write_pid_file

START_ATTEMPTS_MAX = 20  # Half a minute of waiting for something that goes away by itself.
ATTEMPT_PAUSE_SECONDS = 1.5


class EngineFailed(RuntimeError):
    """An embedded engine is missing or did not start; the message says why and shows the end of its log."""


class Engine(ABC):
    """One server process on one folder, reachable on the loopback.

    The folder must belong to this process alone (see FolderLock).
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    grace_seconds: ClassVar[float] = 20.0
    start_seconds_max: ClassVar[float] = 60.0
    answer_poll_seconds: ClassVar[float] = 0.03
    passing_troubles: ClassVar[tuple[str, ...]] = ()  # Last words after which another attempt makes sense.

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.log_path = folder / "logs" / f"{self.name}.log"
        self.port = 0
        self.child: Child | None = None
        self._pid_file = folder / f"{self.name}.pid"

    @property
    @abstractmethod
    def address(self) -> str:
        """The URL under which clients reach it."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the folder ready for the server; called before every start, while none runs on it."""

    @abstractmethod
    def argv(self) -> tuple[str, ...]:
        """The server's command line for `self.port`."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether our server, and no stranger on the same port, does what clients will ask of it."""

    def user(self) -> str | None:
        """The system user to run as; None: ourselves."""
        return None

    def cwd(self) -> Path:
        return self.folder

    def start(self, wished_port: int | None = None) -> None:
        """Start the server, on the wished port if that is free, and wait until it answers.

        Errors: EngineFailed; StillRunning when the server of a killed parent cannot be ended.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        end_leftover(self._pid_file, stop_signal=self.stop_signal, grace_seconds=self.grace_seconds)
        self.prepare()
        ending: Ending | None = None
        for attempt in range(START_ATTEMPTS_MAX):
            wished = wished_port if attempt == 0 and wished_port and port_is_free(wished_port) else None
            self.port = wished or free_port()
            ending = self._attempt()
            if ending is None:
                return
            if not any(trouble in ending.log_tail for trouble in (*self.passing_troubles, "ddress already in use")):
                break
            time.sleep(ATTEMPT_PAUSE_SECONDS)
        raise EngineFailed(f"embedded {self.name} did not start: {ending}")

    def start_again(self) -> Child:
        """Start the server, which has ended, on the folder and the port that it had; nobody waits for its answer.

        Errors: EngineFailed, and OSError when the program cannot be started.
        """
        self.prepare()
        return self._spawn()

    def stop(self) -> None:
        """Stop it in order, within its grace; nothing to do when it does not run."""
        if self.child is not None:
            self.child.stop()
            self.child = None
            self._pid_file.unlink(missing_ok=True)

    def _attempt(self) -> Ending | None:
        child = self._spawn()
        deadline = time.monotonic() + self.start_seconds_max
        while (ending := child.ending()) is None:
            if self.answers():
                return None
            if time.monotonic() >= deadline:
                tail = child.log_tail()
                self.stop()
                raise EngineFailed(f"embedded {self.name} gave no answer in {self.start_seconds_max:.0f} s:\n{tail}")
            time.sleep(self.answer_poll_seconds)
        return ending

    def _spawn(self) -> Child:
        self.child = spawn(self._spec())
        write_pid_file(self._pid_file, self.child.pid)
        return self.child

    def _spec(self) -> ChildSpec:
        return ChildSpec(
            name=self.name,
            argv=self.argv(),
            log_path=self.log_path,
            cwd=self.cwd(),
            user=self.user(),
            stop_signal=self.stop_signal,
            grace_seconds=self.grace_seconds,
        )
