"""PostgreSQL, Redis, ClickHouse and, if wanted, Kafka on one data folder: started together, stopped together."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.embedded.clickhouse import EmbeddedClickHouse
from infra.embedded.engine import Engine
from infra.embedded.kafka import EmbeddedKafka
from infra.embedded.postgres import EmbeddedPostgres
from infra.embedded.redis import EmbeddedRedis
from infra.processes import FolderLock


@dataclass(frozen=True)
class Endpoints:
    """Where the engines are: all that the rest of the system ever learns about them. Kafka is None without one."""

    postgres_dsn: str
    redis_url: str
    clickhouse_url: str
    kafka_bootstrap: str | None = None


class EmbeddedStack:
    """The engines on `data_dir`, one process at a time; Kafka among them with `kafka`.

    Data and ports are kept from one run to the next (a port that was taken meanwhile is replaced). `ephemeral` is for
    tests: the folder is deleted at the end.

    Entering it must happen once, and again only after leaving. Errors: FolderInUse, EngineFailed, StillRunning; after
    an error, or Ctrl-C, nothing is left running.
    """

    def __init__(self, data_dir: Path | str, *, ephemeral: bool = False, kafka: bool = False) -> None:
        self.data_dir = Path(data_dir).expanduser().resolve()
        self._ephemeral = ephemeral
        self._lock = FolderLock(self.data_dir)
        self._postgres = EmbeddedPostgres(self.data_dir)
        self._redis = EmbeddedRedis(self.data_dir)
        self._clickhouse = EmbeddedClickHouse(self.data_dir)
        self._kafka = EmbeddedKafka(self.data_dir) if kafka else None

    def __enter__(self) -> Self:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock.__enter__()
        try:
            self._start_all()
            self._remember_ports()
        except BaseException:  # Ctrl-C too: nothing may stay behind.
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def endpoints(self) -> Endpoints:
        """The addresses, once it runs."""
        return Endpoints(
            self._postgres.address,
            self._redis.address,
            self._clickhouse.address,
            self._kafka.address if self._kafka is not None else None,
        )

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Each of them, for somebody who keeps them running."""
        stores = (self._postgres, self._redis, self._clickhouse)
        return stores if self._kafka is None else (*stores, self._kafka)

    def close(self) -> None:
        """Stop all of them in order, each within its grace, and let go of the folder."""
        try:
            with ThreadPoolExecutor(len(self.engines)) as pool:
                list(pool.map(lambda engine: engine.stop(), self.engines))
        finally:
            self._lock.__exit__(None, None, None)
            if self._ephemeral:
                shutil.rmtree(self.data_dir, ignore_errors=True)

    def _start_all(self) -> None:
        ports = self._remembered_ports()
        with ThreadPoolExecutor(len(self.engines)) as pool:
            starts = [pool.submit(engine.start, ports.get(engine.name)) for engine in self.engines]
            for start in starts:
                start.result()  # In here: Ctrl-C, too, has to wait for the starts under way to stop them.

    @property
    def _ports_file(self) -> Path:
        return self.data_dir / "ports.json"

    def _remembered_ports(self) -> dict[str, int]:
        try:
            ports = json.loads(self._ports_file.read_text())
        except (OSError, ValueError):
            return {}  # They are a convenience: without them, others are chosen.
        return {name: port for name, port in ports.items() if isinstance(port, int)} if isinstance(ports, dict) else {}

    def _remember_ports(self) -> None:
        now = {engine.name: engine.port for engine in self.engines}
        self._ports_file.write_text(json.dumps({**self._remembered_ports(), **now}) + "\n")
