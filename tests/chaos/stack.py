"""The whole system as separate processes over links that can fail: engines, API processes and workers."""

import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

from contracts.access import ROLES
from contracts.identity import Realm
from infra.bootstrap import stores
from infra.embedded.clickhouse import EmbeddedClickHouse
from infra.embedded.engine import Engine
from infra.embedded.postgres import EmbeddedPostgres
from infra.embedded.redis import EmbeddedRedis
from infra.processes import LOOPBACK, ChildSpec, FolderLock, free_port, wait_until
from infra.settings import Settings
from tests.chaos.network import Network
from tests.chaos.services import Service, engine_service, part_service

ROOT: Final = Path(__file__).parents[2]
REALM: Final = Realm("chaos", "shop")
READY_SECONDS_MAX: Final = 60.0
LOCK_TTL_SECONDS: Final = 30  # Some orders are left alone: their locks end during the run.
POSTGRES, REDIS, CLICKHOUSE = "postgres", "redis", "clickhouse"


@dataclass(frozen=True)
class Part:
    """One of our own processes: how it is called, and which engines it speaks to."""

    name: str
    call: tuple[str, ...]
    speaks_to: tuple[str, ...]


PARTS: Final = (
    Part("api-1", ("serve",), (POSTGRES, REDIS)),
    Part("api-2", ("serve",), (POSTGRES, REDIS)),
    Part("sagas-1", ("worker", "sagas"), (POSTGRES,)),
    Part("sagas-2", ("worker", "sagas"), (POSTGRES,)),
    Part("projections", ("worker", "projections"), (POSTGRES, REDIS, CLICKHOUSE)),
    Part("distributions", ("worker", "distributions"), (POSTGRES,)),
)


class Stack:
    """Everything, on one folder. ``settings``: as somebody sees it who speaks to the engines directly."""

    def __init__(self, folder: Path, *, overrides: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.engines: dict[str, Engine] = {
            POSTGRES: EmbeddedPostgres(folder),
            REDIS: EmbeddedRedis(folder),
            CLICKHOUSE: EmbeddedClickHouse(folder),
        }
        self.services: dict[str, Service] = {}
        self.links: list[str] = []  # "api-1→postgres", and "callers→api-1".
        self.servers: dict[str, str] = {}  # API process -> where callers reach it.
        self.network = Network()
        self.token = ""
        self._overrides = dict(overrides or {})
        self._ports: dict[str, int] = {}
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as starting:
            starting.enter_context(FolderLock(self.folder))
            starting.enter_context(self.network)
            starting.callback(self._stop)
            self._start_engines()
            stores.migrate(self.settings)
            self.token = stores.create_key(self.settings, REALM, role="admin", scopes=ROLES["admin"], label="chaos")
            for part in PARTS:
                self._start_part(part)
            for name in self.servers:
                if not wait_until(lambda name=name: self.is_ready(name), timeout_seconds=READY_SECONDS_MAX):  # type: ignore[misc]
                    raise TimeoutError(f"{name} did not become ready; see {self.folder / 'logs' / name}.log")
            self._exit = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @property
    def settings(self) -> Settings:
        """The engines where they are now, past every proxy."""
        return self._settings({name: engine.address for name, engine in self.engines.items()})

    def is_ready(self, server: str) -> bool:
        """Whether an API process says that it and its stores are there."""
        try:
            with urllib.request.urlopen(f"{self.servers[server]}/health/ready", timeout=2.0) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    @property
    def unasked(self) -> list[str]:
        """Every ending of a process that nobody here had caused."""
        return [ending for service in self.services.values() for ending in service.unasked]

    def _start_engines(self) -> None:
        for name, engine in self.engines.items():
            self.services[name] = engine_service(engine, self._aim_at)
        with ThreadPoolExecutor(len(self.engines)) as pool:
            list(pool.map(Service.start, self.services.values()))

    def _start_part(self, part: Part) -> None:
        addresses = {name: engine.address for name, engine in self.engines.items()}
        for engine in part.speaks_to:
            link = f"{part.name}→{engine}"
            self._ports[link] = self._open(link, self.engines[engine].port)
            addresses[engine] = at_port(addresses[engine], self._ports[link])
        http_port = free_port()
        if part.call == ("serve",):
            self.servers[part.name] = f"http://{LOOPBACK}:{self._open(f'callers→{part.name}', http_port)}"
        spec = ChildSpec(
            name=part.name,
            argv=(sys.executable, "-m", "infra.cli", *part.call),
            log_path=self.folder / "logs" / f"{part.name}.log",
            env=self._settings(addresses, http_port=http_port).to_env(),
            cwd=ROOT,
        )
        self.services[part.name] = part_service(spec)
        self.services[part.name].start()

    def _open(self, link: str, port: int) -> int:
        self.links.append(link)
        return self.network.open(link, (LOOPBACK, port))

    def _aim_at(self, engine: Engine) -> None:
        """An engine came back on another port: whoever speaks to it through a link does not notice."""
        for link in self.links:
            if link.endswith(f"→{engine.name}"):
                self.network.aim(link, (LOOPBACK, engine.port))

    def _settings(self, addresses: Mapping[str, str], **more: Any) -> Settings:
        return Settings.load(
            data_dir=self.folder,
            postgres_dsn=addresses[POSTGRES],
            redis_url=addresses[REDIS],
            clickhouse_url=addresses[CLICKHOUSE],
            lock_ttl_seconds=LOCK_TTL_SECONDS,
            **self._overrides,
            **more,
        )

    def _stop(self) -> None:
        """Our own processes first, all at once; then the engines."""
        for group in (
            [service for name, service in self.services.items() if name not in self.engines],
            [service for name, service in self.services.items() if name in self.engines],
        ):
            if group:
                with ThreadPoolExecutor(len(group)) as pool:
                    list(pool.map(Service.stop, group))


def at_port(address: str, port: int) -> str:
    """The same address at another port: of a URL, or of ``host:port``."""
    if "//" not in address:
        return f"{address.rpartition(':')[0]}:{port}"
    url = urlsplit(address)
    return urlunsplit(url._replace(netloc=f"{url.netloc.rpartition(':')[0]}:{port}"))
