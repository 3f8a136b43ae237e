"""The whole system as separate processes over links that can fail: engines, API processes and workers."""

import random
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
from infra.processes import LOOPBACK, ChildSpec, FolderLock, port_is_free, spawn, wait_until
from infra.settings import Settings
from infra.stack import KAFKA_SESSION_SECONDS
from tests.chaos.kafka import Door, ManyDoors
from tests.chaos.network import Network
from tests.chaos.nursery import Nursery
from tests.chaos.services import Service, engine_service, part_service

ROOT: Final = Path(__file__).parents[2]
REALM: Final = Realm("chaos", "shop")
READY_SECONDS_MAX: Final = 240.0
LOCK_TTL_SECONDS: Final = 8  # Some orders are left alone: their locks end during the run.
POSTGRES, REDIS, CLICKHOUSE, KAFKA = "postgres", "redis", "clickhouse", "kafka"
CALLERS: Final = "callers"
# Below what the kernel gives to outgoing connections: whoever is started again finds its port free.
PORTS: Final = (15_000, 32_000)


@dataclass(frozen=True)
class Part:
    """One of our own processes: how it is called, and which engines it speaks to."""

    name: str
    call: tuple[str, ...]
    speaks_to: tuple[str, ...]


OVER_THE_LOG: Final = (
    Part("api-1", ("serve",), (POSTGRES, REDIS)),
    Part("api-2", ("serve",), (POSTGRES, REDIS)),
    Part("sagas-1", ("worker", "sagas"), (POSTGRES,)),
    Part("sagas-2", ("worker", "sagas"), (POSTGRES,)),
    Part("projections-1", ("worker", "projections"), (POSTGRES, REDIS, CLICKHOUSE)),
    Part("projections-2", ("worker", "projections"), (POSTGRES, REDIS, CLICKHOUSE)),
    Part("distributions-1", ("worker", "distributions"), (POSTGRES,)),
    Part("distributions-2", ("worker", "distributions"), (POSTGRES,)),
)
OVER_KAFKA: Final = (
    Part("api-1", ("serve",), (POSTGRES, REDIS)),
    Part("api-2", ("serve",), (POSTGRES, REDIS)),
    Part("sagas-1", ("worker", "sagas"), (POSTGRES, KAFKA)),
    Part("sagas-2", ("worker", "sagas"), (POSTGRES, KAFKA)),
    Part("projections-1", ("worker", "projections"), (POSTGRES, REDIS, CLICKHOUSE, KAFKA)),
    Part("projections-2", ("worker", "projections"), (POSTGRES, REDIS, CLICKHOUSE, KAFKA)),
    Part("distributions-1", ("worker", "distributions"), (POSTGRES,)),
    Part("distributions-2", ("worker", "distributions"), (POSTGRES,)),
    *(
        Part(f"{worker}-{number}", ("worker", worker), (POSTGRES, KAFKA))
        for worker in ("relay", "intake")
        for number in (1, 2)
    ),
)


class Stack:
    """Everything, on one folder. With ``kafka`` a broker carries the log to the followers.

    ``forked``: our own processes come from a nursery (see there), not from a cold start.
    """

    def __init__(
        self, folder: Path, *, kafka: bool = False, forked: bool = False, overrides: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.engines: dict[str, Engine] = {}
        self.services: dict[str, Service] = {}
        self.links: list[str] = []  # "api-1→postgres", and "callers→api-1".
        self.servers: dict[str, str] = {}  # API process -> where callers reach it.
        self.network = Network()
        self.callers_kafka: str | None = None  # Where callers reach the broker.
        self.token = ""
        self._parts = OVER_KAFKA if kafka else OVER_THE_LOG
        self._kafka = kafka
        self._nursery = Nursery() if forked else None
        self._overrides = dict(overrides or {})
        self._proxies: dict[str, int] = {}  # Link -> port.
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as starting:
            starting.enter_context(FolderLock(self.folder))
            starting.enter_context(self.network)
            if self._nursery is not None:
                starting.enter_context(self._nursery)
            starting.callback(self._stop)
            self._make_engines()
            self._start_engines()
            stores.migrate(self.settings)
            self.token = stores.create_key(self.settings, REALM, role="admin", scopes=ROLES["admin"], label="chaos")
            for part in self._parts:
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
        """As somebody sees it who speaks to the engines directly, wherever they are now."""
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

    def _make_engines(self) -> None:
        """Engines at ports that they keep, and a proxy for every link to them."""
        engines: list[Engine] = [EmbeddedPostgres(self.folder), EmbeddedRedis(self.folder)]
        engines.append(EmbeddedClickHouse(self.folder))
        for engine in engines:
            engine.port = steady_port()
            self.engines[engine.name] = engine
        doors: dict[str, Door] = {}
        for part in self._parts:
            for engine_name in part.speaks_to:
                link = f"{part.name}→{engine_name}"
                port = steady_port() if engine_name == KAFKA else self.engines[engine_name].port
                self._open(link, port)
                if engine_name == KAFKA:
                    doors[part.name] = Door(port, self._proxies[link])
        if self._kafka:
            doors[CALLERS] = Door(port := steady_port(), self._open(f"{CALLERS}→{KAFKA}", port))
            self.callers_kafka = f"{LOOPBACK}:{doors[CALLERS].tells}"
            self.engines[KAFKA] = ManyDoors(self.folder, doors)
            self.engines[KAFKA].port = steady_port()

    def _start_engines(self) -> None:
        for name, engine in self.engines.items():
            self.services[name] = engine_service(engine, self._aim_at)
        with ThreadPoolExecutor(len(self.engines)) as pool:
            list(pool.map(Service.start, self.services.values()))

    def _start_part(self, part: Part) -> None:
        addresses = {name: engine.address for name, engine in self.engines.items()}
        for engine in part.speaks_to:
            addresses[engine] = at_port(addresses[engine], self._proxies[f"{part.name}→{engine}"])
        http_port = steady_port()
        if part.call == ("serve",):
            self.servers[part.name] = f"http://{LOOPBACK}:{self._open(f'{CALLERS}→{part.name}', http_port)}"
        spec = ChildSpec(
            name=part.name,
            argv=(sys.executable, "-m", "infra.cli", *part.call),
            log_path=self.folder / "logs" / f"{part.name}.log",
            env=self._settings(addresses, http_port=http_port).to_env(),
            cwd=ROOT,
        )
        self.services[part.name] = part_service(spec, self._nursery.spawn if self._nursery is not None else spawn)
        self.services[part.name].start()

    def _open(self, link: str, port: int) -> int:
        self.links.append(link)
        self._proxies[link] = self.network.open(link, (LOOPBACK, port))
        return self._proxies[link]

    def _aim_at(self, engine: Engine) -> None:
        """An engine came up on another port: whoever speaks to it through a link does not notice."""
        for link in self.links:
            if link.endswith(f"→{engine.name}") and engine.name != KAFKA:  # Kafka's doors stay where they are.
                self.network.aim(link, (LOOPBACK, engine.port))

    def _settings(self, addresses: Mapping[str, str], **more: Any) -> Settings:
        return Settings.load(
            data_dir=self.folder,
            postgres_dsn=addresses[POSTGRES],
            redis_url=addresses[REDIS],
            clickhouse_url=addresses[CLICKHOUSE],
            lock_ttl_seconds=LOCK_TTL_SECONDS,
            **(self._kafka_settings(addresses[KAFKA]) if self._kafka else {}),
            **self._overrides,
            **more,
        )

    @staticmethod
    def _kafka_settings(address: str) -> dict[str, Any]:
        return {
            "kafka_bootstrap": address,
            "kafka_session_seconds": KAFKA_SESSION_SECONDS,
            "follower_feed": "kafka",
        }

    def _stop(self) -> None:
        """Our own processes first, all at once; then the engines."""
        for group in (
            [service for name, service in self.services.items() if name not in self.engines],
            [service for name, service in self.services.items() if name in self.engines],
        ):
            if group:
                with ThreadPoolExecutor(len(group)) as pool:
                    list(pool.map(Service.stop, group))


def steady_port() -> int:
    """A free port that no outgoing connection will take while nobody listens there."""
    return next(port for port in iter(lambda: random.randrange(*PORTS), None) if port_is_free(port))


def at_port(address: str, port: int) -> str:
    """The same address at another port: of a URL, or of ``host:port``."""
    if "//" not in address:
        return f"{address.rpartition(':')[0]}:{port}"
    url = urlsplit(address)
    return urlunsplit(url._replace(netloc=f"{url.netloc.rpartition(':')[0]}:{port}"))
