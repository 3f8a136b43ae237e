"""What is loaded over HTTP: a bare server, our edge alone, and the API as it is served."""

import hashlib
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from command.engine import Listener
from contracts.access import ROLES
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.position import Position
from infra.bootstrap.stores import create_key
from infra.processes import LOOPBACK, free_port, wait_until
from infra.settings import Settings

REALM: Final = Realm("bench", "shop")
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 45.0
NO_OP_TOKEN: Final = "tsk_noop_secret"
BARE: Final = "bare"
NO_OP: Final = "no-op"


class ServerFailed(RuntimeError):
    """A server did not start; the message holds its last words."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    pid: int
    port: int
    token: str = ""


@contextmanager
def alone(kind: str, folder: Path) -> Iterator[Running]:
    """The bare server or the edge over a queue that answers at once: no store behind them."""
    port = free_port()
    with child(["benchmarks.http_servers", kind, str(port)], port, folder) as pid:
        yield Running(pid, port, NO_OP_TOKEN)


@contextmanager
def api(dsn: str, folder: Path, *, shares: Path | None = None) -> Iterator[Running]:
    """``tessera serve`` over a store. Redis and ClickHouse are not asked by commands, and are not there.

    ``shares``: run it under the sampler, which writes there (see ``profiled_serve``).
    """
    port = free_port()
    settings = settings_for(dsn, http_port=port)
    token = create_key(settings, REALM, role="admin", scopes=ROLES["admin"], label="bench")
    argv = ["infra.cli", "serve"] if shares is None else ["benchmarks.profiled_serve", str(shares)]
    with child(argv, port, folder, settings.to_env()) as pid:
        yield Running(pid, port, token)


@contextmanager
def worker(kind: str, dsn: str, folder: Path) -> Iterator[int]:
    """``tessera worker …`` beside the API: its process."""
    port = free_port()
    env = settings_for(dsn, follower_metrics_port=port).to_env()
    with child(["infra.cli", "worker", kind], port, folder, env) as pid:
        yield pid


def settings_for(dsn: str, **given: Any) -> Settings:
    """Settings of a write side."""
    nowhere = {"redis_url": f"redis://{LOOPBACK}:1/0", "clickhouse_url": f"http://{LOOPBACK}:1/none"}
    return Settings.load(postgres_dsn=dsn, **nowhere, log_level="warning", **given)


@contextmanager
def child(argv: Sequence[str], port: int, folder: Path, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """A process of ours that answers HTTP on a port, ended with the block. Raises ServerFailed."""
    log = folder / f"server-{port}.log"
    with log.open("wb") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", *argv],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,  # Ctrl-C is ours to pass on.
        )
        try:
            answered = wait_until(lambda: process.poll() is not None or _answers(port), timeout_seconds=START_SECONDS)
            if not answered or process.poll() is not None:
                raise ServerFailed(f"{' '.join(argv)}: {log.read_text(errors='replace')[-2_000:]}")
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/health/live", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


# In the child.


async def bare(scope: Any, _receive: Any, send: Any) -> None:
    """The least that an ASGI application can do."""
    if scope["type"] == "http":
        head = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"ok"})


class AcceptsAtOnce:
    """A queue that accepts every command without thinking."""

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        """Answer at once, with what a claim is answered with."""
        for envelope, listener in envelopes:
            listener(Answer("accepted", "ok", "", {"coupon_id": envelope.command_id}, Position(0, "e", 1)))


@dataclass
class TheKey:
    """The one key of the edge alone."""

    realm: Realm = REALM
    actor: str = "key:bench"
    secret_sha256: bytes = field(default_factory=hashlib.sha256(b"secret").digest)
    scopes: frozenset[str] = ROLES["admin"]
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class _Unasked:
    """Readers that nobody asks."""

    def __getattr__(self, name: str) -> Any:
        return None


def serve_bare(port: int) -> None:
    """Run the bare server: uvicorn as we run it, and its own way of answering."""
    import uvicorn

    from infra.bootstrap.serving import server_options

    uvicorn.run(bare, lifespan="off", **server_options(LOOPBACK, port))


def serve_no_op(port: int) -> None:
    """Run our edge, put together as always, over a queue that answers at once."""
    from infra import memory
    from infra.bootstrap.serving import run_server
    from infra.http.access import KeyRing
    from infra.http.app import HttpParts, create_app
    from infra.http.health import Readiness
    from infra.telemetry.metrics import Metrics

    unasked = _Unasked()
    with ThreadPoolExecutor(1) as blocking:
        given = {
            "queue": AcceptsAtOnce(),
            "keys": KeyRing(lambda _prefix: TheKey(), blocking=blocking),
            "positions": {},
            "readiness": Readiness({}),
            "metrics": Metrics(),
            "blocking": blocking,
        }
        needed: dict[str, Any] = {each.name: unasked for each in fields(HttpParts) if _is_required(each)}
        parts = HttpParts(**{**needed, **given})
        app = create_app(parts)
        memory.settle()  # As `tessera serve` does.
        run_server(app, LOOPBACK, port)


def _is_required(part: "Field[Any]") -> bool:
    return part.default is MISSING and part.default_factory is MISSING


if __name__ == "__main__":
    {BARE: serve_bare, NO_OP: serve_no_op}[sys.argv[1]](int(sys.argv[2]))
