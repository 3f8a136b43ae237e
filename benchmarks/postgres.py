"""One PostgreSQL for a whole run: embedded, durable (and asked whether it is), a fresh database for each target."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.figures import Latencies
from infra.embedded.postgres import EmbeddedPostgres, _install_folder
from infra.postgres.migrations import migrate
from infra.processes import FolderLock

# A benchmark of a store that forgets is none.
DURABLE: Final = ("fsync", "full_page_writes", "synchronous_commit")
SHOWN: Final = (
    *("server_version", *DURABLE, "wal_sync_method", "commit_delay", "wal_level", "wal_compression"),
    *("shared_buffers", "min_wal_size", "max_wal_size", "max_connections", "checkpoint_timeout", "autovacuum"),
)
CONNECTIONS_MAX: Final = 200
PGBENCH_SLACK_SECONDS: Final = 60.0


class NotDurable(RuntimeError):
    """The server would lose acknowledged commits in a power cut; what it measures is not comparable."""


class PgbenchFailed(RuntimeError):
    """pgbench ended with an error; the message holds its last words."""


class _Postgres(EmbeddedPostgres):
    """As in production, with room for pgbench's 128 clients beside our own connections."""

    def argv(self) -> tuple[str, ...]:
        return (*super().argv(), "-c", f"max_connections={CONNECTIONS_MAX}")


class Instance:
    """The server. A context manager: it runs on a temporary folder, which is deleted at the end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tessera-bench-", ignore_cleanup_errors=True)
        self._lock = FolderLock(Path(self._folder.name))
        self._engine = _Postgres(Path(self._folder.name))
        self._numbers = count(1)

    def __enter__(self) -> Self:
        self._lock.__enter__()
        try:
            self._engine.start()
            require_durable(self.settings())
        except BaseException:  # Ctrl-C too: nothing may stay behind.
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def folder(self) -> Path:
        """For whatever a target wants to keep until the end of the run."""
        return Path(self._folder.name)

    @property
    def pid(self) -> int:
        """The postmaster, whose children are all of PostgreSQL."""
        assert self._engine.child is not None
        return self._engine.child.pid

    def settings(self) -> dict[str, str]:
        """The server's settings that matter for these figures, as it shows them."""
        with self._admin() as connection:
            rows = connection.execute("SELECT name, current_setting(name) FROM pg_settings").fetchall()
        told = dict(rows)
        return {name: told[name] for name in SHOWN}

    @contextmanager
    def database(self, *, store: bool = True) -> Iterator[str]:
        """The DSN of a fresh database, with an event store in it unless it shall be empty; dropped afterwards."""
        name = f"bench_{next(self._numbers)}"
        with self._admin() as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0'.encode())
        dsn = urlunsplit(urlsplit(self._engine.address)._replace(path=f"/{name}"))
        try:
            if store:
                migrate(dsn)
            yield dsn
        finally:
            with self._admin() as connection:
                connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())

    def checkpoint(self) -> None:
        """Write everything out, so that no round pays for what another has left."""
        with self._admin() as connection:
            connection.execute("CHECKPOINT")

    def wal_bytes(self) -> int:
        """How much write-ahead log was ever written."""
        return int(self._value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def _value(self, sql: str) -> Any:
        with self._admin() as connection:
            row = connection.execute(sql.encode()).fetchone()
        assert row is not None
        return row[0]

    def _admin(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(self._engine.address, autocommit=True)

    def _stop(self) -> None:
        try:
            self._engine.stop()
        finally:
            self._lock.__exit__(None, None, None)
            self._folder.cleanup()


def require_durable(settings: Mapping[str, str]) -> None:
    """Raises NotDurable, naming every setting that is not on."""
    off = [f"{name} is {settings.get(name)}" for name in DURABLE if settings.get(name) != "on"]
    if off:
        raise NotDurable(f"{', '.join(off)}: this benchmark measures durable commits only")


@dataclass(frozen=True, slots=True)
class PgbenchRun:
    """What pgbench measured."""

    clients: int
    transactions: int
    per_second: float
    latencies: Latencies | None = None  # With ``log_folder`` only.


def pgbench(
    dsn: str,
    script: str,
    *,
    clients: int,
    seconds: float,
    variables: Mapping[str, str | int] | None = None,
    latencies: bool = False,
    rate: float | None = None,
) -> PgbenchRun:
    """Run one script with prepared statements on two threads. ``latencies`` asks for single ones (a log file).

    ``rate``: so many a second, at random instants, and each is timed from when it was due; None: as many as it can.
    Raises PgbenchFailed.
    """
    with tempfile.TemporaryDirectory(prefix="tessera-pgbench-") as folder:
        (Path(folder) / "script.sql").write_text(script)
        flags = [part for name, value in (variables or {}).items() for part in ("-D", f"{name}={value}")]
        command = [
            *(str(_install_folder() / "bin" / "pgbench"), "-n", "-M", "prepared", "-j", "2"),
            *("-c", str(clients), "-T", str(max(1, round(seconds))), "-f", "script.sql"),
            *flags,
            *(("-l", "--log-prefix=latency") if latencies else ()),
            *(() if rate is None else ("--rate", f"{rate:.0f}")),
        ]
        done = subprocess.run(
            command,
            cwd=folder,
            env=_connection_variables(dsn),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + PGBENCH_SLACK_SECONDS,
        )
        if done.returncode != 0:
            raise PgbenchFailed(f"pgbench ended with {done.returncode}: {done.stderr.strip()[-1_000:]}")
        measured = _logged_latencies(Path(folder)) if latencies else None
    transactions, per_second = parse_pgbench(done.stdout)
    return PgbenchRun(clients, transactions, per_second, measured)


def parse_pgbench(text: str) -> tuple[int, float]:
    """Transactions and transactions a second from pgbench's summary. Raises PgbenchFailed."""
    done = re.search(r"transactions actually processed: (\d+)", text)
    rate = re.search(r"^tps = ([\d.]+)", text, re.MULTILINE)
    if done is not None and int(done[1]) == 0:  # A machine so busy that the clients were not all connected in time.
        return 0, 0.0
    if done is None or rate is None:
        raise PgbenchFailed(f"pgbench said nothing that we understand: {text[-500:]}")
    return int(done[1]), float(rate[1])


def _logged_latencies(folder: Path) -> Latencies:
    """From the log: client, transaction, microseconds, script, and when it ended."""
    lines = (line for path in folder.glob("latency.*") for line in path.read_text().splitlines())
    return Latencies.of(int(line.split()[2]) / 1_000 for line in lines)


def _connection_variables(dsn: str) -> dict[str, str]:
    """The password goes by the environment: a command line is everybody's to read."""
    given = conninfo_to_dict(dsn)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    return {**os.environ, **{variable: str(given[name]) for name, variable in names.items() if given.get(name)}}
