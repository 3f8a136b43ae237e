"""Child processes that die with their parent, stop within a bounded time, and say why they ended."""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

LOOPBACK = "127.0.0.1"
SERVER_PORTS = range(20_000, 32_000)  # Linux takes those of outgoing connections from 32,768 on, others later.
LOG_BYTES_MAX = 16 * 1024 * 1024  # A log that grew past this is set aside when its process starts again.
TAIL_BYTES_MAX = 16 * 1024
KILL_WAIT_SECONDS = 5.0
POLL_SECONDS = 0.05
SIGNAL_SECONDS = 0.5  # Within which a signal is heard in any case.
_PR_SET_PDEATHSIG = 1


class StillRunning(RuntimeError):
    """A process of an earlier run did not go away in time; the message names it."""


class FolderInUse(RuntimeError):
    """Another process holds the folder; the message says which."""


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """What to start, as whom, and how to stop it again.

    `stop_signal` asks for an orderly end, also when this process dies; after `grace_seconds` the child is killed.
    `env` is added to the environment of this process. Without `log_path` it speaks where this process speaks.
    """

    name: str
    argv: tuple[str, ...]
    log_path: Path | None
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 10.0


@dataclass(frozen=True)
class Ending:
    """A child ended by itself: its exit code (negative: the signal that ended it) and its last words.

    One that could not be started has no exit code, and the last words are those of whoever tried.
    """

    name: str
    exit_code: int | None
    log_tail: str

    def __str__(self) -> str:
        if self.exit_code is None:
            return f"{self.what}: {self.log_tail}"
        return self.what + (f"; the end of its log:\n{self.log_tail}" if self.log_tail else "")

    @property
    def what(self) -> str:
        """Who ended and how, without the last words."""
        if self.exit_code is None:
            return f"{self.name} could not be started"
        how = f"exit code {self.exit_code}" if self.exit_code >= 0 else f"signal {-self.exit_code}"
        return f"{self.name} ended ({how})"


class Child:
    """One running child process and the part of its log that this run wrote."""

    def __init__(self, spec: ChildSpec, process: "subprocess.Popen[bytes]", log_offset_bytes: int) -> None:
        self.spec = spec
        self._process = process
        self._log_offset_bytes = log_offset_bytes

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pid(self) -> int:
        return self._process.pid

    def ending(self) -> Ending | None:
        """None while it runs."""
        exit_code = self._process.poll()
        return None if exit_code is None else Ending(self.name, exit_code, self.log_tail())

    def stop(self) -> int:
        """Ask, wait for at most the grace, then kill. Returns the exit code; a child that has ended is left alone."""
        if self._process.poll() is None:
            self._process.send_signal(self.spec.stop_signal)
            try:
                self._process.wait(self.spec.grace_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait(KILL_WAIT_SECONDS)

    def kill(self) -> None:
        """End it at once; a child that has ended is left alone."""
        if self._process.poll() is None:
            self._process.kill()

    def log_tail(self, lines_max: int = 20) -> str:
        """The last lines that this run wrote to its log, if it has one of its own."""
        if self.spec.log_path is None:
            return ""
        with self.spec.log_path.open("rb") as log:
            log.seek(max(self._log_offset_bytes, log.seek(0, os.SEEK_END) - TAIL_BYTES_MAX))
            return "\n".join(log.read(TAIL_BYTES_MAX).decode(errors="replace").splitlines()[-lines_max:])


def spawn(spec: ChildSpec) -> Child:
    """Start a child in a session of its own; on Linux the kernel sends it `stop_signal` when this process dies.

    A session of its own keeps the terminal's Ctrl-C away from it: only the supervisor hears that, and stops its
    children in order. Elsewhere than on Linux an orphan is found and ended by the next start (see `end_leftover`).

    Errors: OSError when the program cannot be started.
    """
    return _spawner().submit(_spawn_here, spec).result()


def _spawn_here(spec: ChildSpec) -> Child:
    if spec.log_path is None:
        return Child(spec, _popen(spec, None), 0)
    _set_aside_a_large_log(spec.log_path)
    with spec.log_path.open("ab") as log:
        offset_bytes = log.tell()  # Now: the child shares this file's position, and moves it with its first word.
        return Child(spec, _popen(spec, log), offset_bytes)


def _popen(spec: ChildSpec, log: IO[bytes] | None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        spec.argv,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=spec.cwd,
        env={**os.environ, **(spec.env or {})},
        start_new_session=True,
        preexec_fn=_die_with_parent(spec.stop_signal),  # noqa: PLW1509 - it takes no lock and allocates nothing.
        **_as_user(spec.user),
    )


def _as_user(user: str | None) -> dict[str, Any]:
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


def _die_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    """What the child does between fork and exec. It runs after the change of user, which would clear the request."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # Loaded here: after a fork only the simplest things are safe.
    parent_pid = os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent_pid:  # The parent died before the request was made.
            os._exit(1)

    return in_child


_spawner_pool: ThreadPoolExecutor | None = None
_spawner_lock = threading.Lock()


def _spawner() -> ThreadPoolExecutor:
    """The one thread that forks. The kernel's death signal follows the forking *thread*: it must live as long as we."""
    global _spawner_pool  # noqa: PLW0603 - one per process is the point.
    with _spawner_lock:
        if _spawner_pool is None:
            _spawner_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
        return _spawner_pool


def _forget_spawner() -> None:
    global _spawner_pool, _spawner_lock  # Threads do not survive a fork.
    _spawner_pool, _spawner_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_spawner)


def _set_aside_a_large_log(path: Path) -> None:
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(path.suffix + ".1"))


# --- processes of an earlier run -------------------------------------------------------------------------------------


def write_pid_file(path: Path, pid: int) -> None:
    """Remember a child beyond our own death: its pid and when it was born, since pids are used again."""
    path.write_text(f"{pid} {_birth(pid)}\n")


def end_leftover(pid_file: Path, *, stop_signal: signal.Signals, grace_seconds: float) -> None:
    """End the child that a killed parent left behind: ask, wait, then kill. Only for whoever owns its folder.

    Errors: StillRunning when it cannot be ended.
    """
    pid, _, birth = pid_file.read_text().strip().partition(" ") if pid_file.exists() else ("", "", "")
    if pid.isdigit() and birth:
        for each_signal, wait_seconds in ((stop_signal, grace_seconds), (signal.SIGKILL, KILL_WAIT_SECONDS)):
            if _is_alive(int(pid), birth):
                _send(int(pid), each_signal)
                wait_until(lambda: not _is_alive(int(pid), birth), timeout_seconds=wait_seconds)
        if _is_alive(int(pid), birth):
            raise StillRunning(f"process {pid} of an earlier run does not end (see {pid_file}); stop it and try again")
    pid_file.unlink(missing_ok=True)


def _is_alive(pid: int, birth: str) -> bool:
    return _birth(pid) == birth


def _birth(pid: int) -> str:
    """When a process was born, in whatever unit the system tells it; empty when there is none (a zombie is none)."""
    if not sys.platform.startswith("linux"):
        return _ps("lstart=", pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # The name may hold spaces and brackets; everything after it may not.
    return "" if fields[0] in "ZX" else f"{fields[19]}@{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"


def as_typed(program: str) -> str:
    """What to type here to run a program: its name where PATH has it, else its path beside our interpreter."""
    beside = Path(sys.executable).parent / program
    if shutil.which(program) is not None or not beside.exists():
        return program
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)


def command_line(pid: int) -> str:
    """The command line of a running process, parts separated by spaces; empty when there is none."""
    if not sys.platform.startswith("linux"):
        return _ps("command=", pid)
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _ps(column: str, pid: int) -> str:
    told = subprocess.run(["ps", "-o", column, "-p", str(pid)], capture_output=True, text=True, check=False)
    return " ".join(told.stdout.split())


def _send(pid: int, which: signal.Signals) -> None:
    try:
        os.kill(pid, which)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise StillRunning(f"process {pid} of an earlier run belongs to another user; stop it and try again") from error


def wait_until(holds: Callable[[], bool], *, timeout_seconds: float, every_seconds: float = POLL_SECONDS) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every_seconds)
    return True


class FolderLock:
    """One process owns a folder: an advisory lock on a file in it, which also names the owner.

    Errors: FolderInUse on entering, when another process has it. The kernel lets go when the owner dies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None

    def __enter__(self) -> Self:
        fd = os.open(self._folder / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(fd, 20).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise
            raise FolderInUse(f"{self._folder} is in use by process {holder}; stop that first") from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


# --- threads ---------------------------------------------------------------------------------------------------------


def join_hearing_signals(threads: Iterable[threading.Thread]) -> None:
    """Wait for threads, on the main thread.

    Handlers of signals run on that thread, between two steps of Python. A signal that another thread was given, or that
    came just before a wait, does not end the wait: without an end to it, its handler would never run.
    """
    for thread in threads:
        while thread.is_alive():
            thread.join(SIGNAL_SECONDS)


# --- ports -----------------------------------------------------------------------------------------------------------


def free_port(neighbours: int = 1) -> int:
    """A TCP port of the loopback, the first of so many, that nobody listens on now.

    None of those that systems give to outgoing connections: a server that ends and starts again would find it taken by
    one. Somebody may take it before you do: be ready to retry. Raises OSError when all are taken.
    """
    start = secrets.randbelow(len(SERVER_PORTS))  # Of its own chance: whoever seeds `random` alike would ask alike.
    for first in chain(SERVER_PORTS[start:], SERVER_PORTS[:start]):
        if all(port_is_free(port) for port in range(first, first + neighbours)):
            return first
    raise OSError(errno.EADDRINUSE, f"no {neighbours} free ports from {SERVER_PORTS.start} to {SERVER_PORTS.stop}")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As servers do: past connections do not count.
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
