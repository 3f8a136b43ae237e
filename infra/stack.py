"""The whole system on one machine: embedded engines, migrations, a local key, API and the workers as children."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from contracts.access import ROLES
from contracts.identity import Realm
from infra.embedded import EmbeddedStack
from infra.embedded.kafka import EmbeddedKafka
from infra.local_shards import make_databases, placed, remember, shards_of
from infra.processes import Child, ChildSpec, free_port, port_is_free
from infra.settings import Settings, variable
from infra.supervisor import Ended, Supervisor, Tell

DEMO_REALM: Final = Realm("demo", "shop")
READY_TIMEOUT_SECONDS: Final = 120.0  # Two shards with Kafka are sixteen processes, perhaps on two busy cores.
READY_POLL_SECONDS: Final = 0.05
CHILD_GRACE_SECONDS: Final = 15.0
KAFKA_SESSION_SECONDS: Final = 2.0  # Our own broker allows it; on one machine nobody is cut off for longer.
_ENDPOINTS_FILE: Final = "endpoints.json"
_KEY_FILE: Final = "local-key.json"
_KAFKA_FILE: Final = "with-kafka.json"
_KAFKA: Final = {"kafka_bootstrap", "kafka_prefix", "kafka_partitions", "kafka_replication", "follower_feed"}
_PLACEMENT: Final = {"shard", "shard_dsns", "default_shard", "tenant_shards", "spread_tenants"}

# In the order of starting: what each shard has of its own; leases are for several shards only.
WORKERS: Final = ("sagas", "projections", "distributions")
WORKERS_OF_SEVERAL: Final = (*WORKERS, "leases")
WORKER_OF_KAFKA: Final = "relay"  # Of each shard, beside the others.
INTAKE: Final = "intake"  # One for all shards.

Say = Callable[[str], None]


class PartFailed(RuntimeError):
    """A part of the stack ended or did not become ready; the message names it and shows the end of its log."""


@dataclass(frozen=True)
class RunningStack:
    """Where a local stack is, and what lies where in it: what a second terminal needs."""

    pid: int
    http_url: str
    http_port: int
    postgres_dsn: str
    redis_url: str
    clickhouse_url: str
    started_at: str
    placement: dict[str, Any]
    kafka: dict[str, Any]

    def as_settings(self, data_dir: Path) -> Settings:
        """The settings of a command that works with it."""
        return Settings.load(data_dir=data_dir, **self._told)

    def overrides(self, data_dir: Path, environment: Mapping[str, str]) -> list[str]:
        """The variables that say otherwise than the stack itself: a command that works with it does not heed them."""
        given = {name.upper(): text for name, text in environment.items()}
        used = self.as_settings(data_dir).to_env()
        names = [variable(name) for name in self._told]
        return [name for name in names if given.get(name) and not _says(given[name], used.get(name))]

    @property
    def _told(self) -> dict[str, Any]:
        """What the stack says of itself; it wins over everything that is set."""
        addresses = {name: getattr(self, name) for name in ("postgres_dsn", "redis_url", "clickhouse_url", "http_port")}
        return addresses | self.placement | self.kafka


@dataclass(frozen=True)
class LocalKey:
    """The key of a local stack: the only place where its secret is kept, readable by its owner alone."""

    tenant_id: str
    app_id: str
    role: str
    token: str


def _says(text: str, used: str | None) -> bool:
    """Whether a variable says what is used; tables are JSON, and say the same in many ways."""
    try:
        return used is not None and (text == used or json.loads(text) == json.loads(used))
    except ValueError:
        return False


def running_stack(data_dir: Path) -> RunningStack | None:
    """The stack that runs on this folder, if one does."""
    try:
        told = json.loads((data_dir / _ENDPOINTS_FILE).read_text())
        stack = RunningStack(**{field.name: told[field.name] for field in fields(RunningStack)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stack if _is_running(stack.pid) else None


def local_key(data_dir: Path) -> LocalKey | None:
    """The key that the first start on this folder made, if there was one."""
    try:
        return LocalKey(**json.loads((data_dir / _KEY_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


class LocalStack:
    """Everything on one data folder, as a context manager: entering starts it and waits until it is ready.

    ``shards``: how many a new folder is made for; an old one stays as it is. With ``kafka`` a broker runs, too, and
    followers read topics; None: as the last time. ``overrides`` are settings.
    Errors: PartFailed, OtherShards, and those of EmbeddedStack; after an error nothing is left running.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        shards: int | None = None,
        kafka: bool | None = None,
        ephemeral: bool = False,
        overrides: Mapping[str, Any] | None = None,
        say: Say = lambda _text: None,
    ) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self._port = port
        self._shards = shards
        self._overrides = dict(overrides or {})
        self._ephemeral = ephemeral
        self.kafka = _with_kafka(self.data_dir, kafka)
        self._engines = EmbeddedStack(self.data_dir, ephemeral=ephemeral, kafka=self.kafka)
        self._supervisor = Supervisor()
        self._say = say
        self._exit = ExitStack()
        self.settings: Settings
        self.key: LocalKey

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            # The supervisor outlives the engines: until the last one has stopped, it listens to a second Ctrl-C.
            starting.enter_context(self._supervisor)
            shards = shards_of(self.data_dir, self._shards, is_new=local_key(self.data_dir) is None)
            self._say(f"starting PostgreSQL, Redis{', ClickHouse and Kafka' if self.kafka else ' and ClickHouse'}")
            starting.enter_context(self._engines)
            starting.callback(self._supervisor.stop)
            starting.callback(lambda: (self.data_dir / _ENDPOINTS_FILE).unlink(missing_ok=True))
            for engine in self._engines.engines:
                assert engine.child is not None  # It has just answered.
                self._supervisor.adopt(engine.child, engine.start_again)
            self.settings = self._settings(shards)
            self._say("applying migrations")
            self._migrate()
            self.key = self._key()
            carriers = ", distributions, relay and intake" if self.kafka else " and distributions"
            self._say(f"starting API, sagas, projections{carriers}")
            self._wait_until_ready(self._start_parts())
            self._write_endpoints()
            self._exit = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ephemeral:  # Nothing of it is kept: nobody has to finish anything.
            self._supervisor.kill()
        self._exit.close()

    @property
    def http_url(self) -> str:
        """Where the API answers."""
        return f"http://{self.settings.http_host}:{self.settings.http_port}"

    @property
    def leaves_kafka_out(self) -> bool:
        """Whether the folder has a Kafka that does not run: what comes in by topic waits unseen."""
        return not self.kafka and EmbeddedKafka(self.data_dir).is_made

    def wait(self, tell: Tell) -> Ended | None:
        """Keep every part and engine running until one is given up (returned), or a signal asks to stop (None).

        Whichever ends is started again, with the port, the folder and the settings that it had; `tell` hears of it.
        """
        return self._supervisor.wait(tell)

    def require_alive(self) -> None:
        """Raise PartFailed when a part or an engine has ended: for whoever does not keep them running."""
        if (ending := self._supervisor.ending()) is not None:
            raise PartFailed(str(ending))

    @property
    def pids(self) -> dict[str, int]:
        """Every process of the stack by name."""
        return self._supervisor.pids

    def _settings(self, shards: int) -> Settings:
        endpoints = self._engines.endpoints
        remember(self.data_dir, shards)
        (self.data_dir / _KAFKA_FILE).write_text(json.dumps(self.kafka) + "\n")
        others = make_databases(endpoints.postgres_dsn, shards)
        settings = Settings.load(
            **{
                "data_dir": self.data_dir,
                "postgres_dsn": endpoints.postgres_dsn,
                "redis_url": endpoints.redis_url,
                "clickhouse_url": endpoints.clickhouse_url,
                "http_port": self._http_port(),
                **({"shard_dsns": others} if others else {}),
                **self._kafka_settings(),
                **self._overrides,
            }
        )
        if self.kafka and "kafka_session_seconds" not in settings.model_fields_set:
            settings = settings.model_copy(update={"kafka_session_seconds": KAFKA_SESSION_SECONDS})
        return placed(settings, DEMO_REALM.tenant_id)

    def _kafka_settings(self) -> dict[str, Any]:
        """Without a broker of ours: as everywhere, a Kafka of the user's own included."""
        if not self.kafka:
            return {}
        return {"kafka_bootstrap": self._engines.endpoints.kafka_bootstrap, "follower_feed": "kafka"}

    def _http_port(self) -> int:
        """The wished port; else the one of the last time or 8080, if nobody else has it.

        A stack that is gone in a minute takes any: two that start at once would both find the usual one free.
        """
        if self._ephemeral:
            return self._port if self._port is not None else free_port()
        port = self._port if self._port is not None else self._usual_port()
        (self.data_dir / "http-port.json").write_text(f"{port}\n")
        return port

    def _usual_port(self) -> int:
        try:
            last = int(json.loads((self.data_dir / "http-port.json").read_text()))
        except (OSError, ValueError, TypeError):
            last = 8080
        return last if port_is_free(last) else free_port()

    def _migrate(self) -> None:
        from infra.bootstrap import stores

        stores.migrate(self.settings)

    def _key(self) -> LocalKey:
        """The folder's key; the first start makes it, and only its hash goes into the store."""
        if (known := local_key(self.data_dir)) is not None:
            return known
        from infra.bootstrap import stores

        token = stores.create_key(self.settings, DEMO_REALM, role="admin", scopes=ROLES["admin"], label="local stack")
        key = LocalKey(DEMO_REALM.tenant_id, DEMO_REALM.app_id, "admin", token)
        _write_private(self.data_dir / _KEY_FILE, asdict(key))
        return key

    def _start_parts(self) -> Child:
        """One API, which is returned, and of each shard all workers, named after it where there are several."""
        api = self._start("serve", ("serve",), self.settings)
        shards = list(self.settings.stores)
        for shard in shards:
            workers = WORKERS_OF_SEVERAL if len(shards) > 1 else WORKERS
            for worker in (*workers, *((WORKER_OF_KAFKA,) if self.kafka else ())):
                name = f"{worker}-{shard}" if len(shards) > 1 else worker
                self._start(name, ("worker", worker), self.settings.at_shard(shard))
        if self.kafka:
            self._start(INTAKE, ("worker", INTAKE), self.settings)
        return api

    def _start(self, name: str, call: tuple[str, ...], settings: Settings) -> Child:
        return self._supervisor.start(self._spec(name, call, settings))

    def _spec(self, name: str, call: tuple[str, ...], settings: Settings) -> ChildSpec:
        return ChildSpec(
            name=name,
            argv=(sys.executable, "-m", "infra.cli", *call),
            log_path=self.data_dir / "logs" / f"{name}.log",
            env=settings.to_env(),
            cwd=Path(__file__).resolve().parents[1],  # Where `-m` finds our packages, installed or not.
            grace_seconds=CHILD_GRACE_SECONDS,
        )

    def _wait_until_ready(self, api: Child) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not self._is_ready():
            if self._supervisor.stop_requested:
                raise KeyboardInterrupt
            self.require_alive()
            if time.monotonic() >= deadline:
                seconds, tail = READY_TIMEOUT_SECONDS, api.log_tail()
                raise PartFailed(f"the API was not ready after {seconds:.0f} s; the end of its log:\n{tail}")
            time.sleep(READY_POLL_SECONDS)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.http_url}/health/ready", timeout=2.0) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _write_endpoints(self) -> None:
        running = RunningStack(
            pid=os.getpid(),
            http_url=self.http_url,
            http_port=self.settings.http_port,
            postgres_dsn=self.settings.postgres_dsn,
            redis_url=self.settings.redis_url,
            clickhouse_url=self.settings.clickhouse_url,
            started_at=datetime.now(UTC).isoformat(),
            placement=self.settings.model_dump(mode="json", include=_PLACEMENT, exclude_none=True),
            kafka=self.settings.model_dump(mode="json", include=_KAFKA, exclude_none=True),
        )
        _write_private(self.data_dir / _ENDPOINTS_FILE, asdict(running))


def _with_kafka(data_dir: Path, wished: bool | None) -> bool:
    """Whether a Kafka runs: as wished, else as the last time. Folders of before that was noted: if they have one."""
    if wished is not None:
        return wished
    try:
        return json.loads((data_dir / _KAFKA_FILE).read_text()) is True
    except (OSError, ValueError):
        return EmbeddedKafka(data_dir).is_made


def _write_private(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all, and for nobody else to read."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    unfinished.replace(path)


def _is_running(pid: int) -> bool:
    """A pid that was given to somebody else meanwhile counts as well: then the servers are found not to answer."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
