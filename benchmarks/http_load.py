"""What HTTP costs: requests a second and processor time, of a bare server, of our edge, and of a durable claim.

``python -m benchmarks.http_load [--seconds 3] [--rounds 3] [--connections 64] [--json FILE]``

Three servers run at once and are loaded in turns, so that a busy machine is unfair to all of them alike:

- ``bare``: uvicorn (uvloop, httptools) and an ASGI function that answers two bytes to the same requests;
- ``no-op``: our application on the claim route (key, body, command, answer) with a queue that answers at once;
- ``claim``: ``tessera serve`` over PostgreSQL; every request claims a coupon durably, each for a fresh user.

Processor time is read from /proc for the API (its event loop and its other threads apart), PostgreSQL and the load
client. On a machine that others use, too, ratios of processor time hold better than ratios of rates.
"""

import argparse
import hashlib
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx

from command.engine import Listener
from contracts.access import ROLES
from contracts.envelope import Answer, CommandEnvelope
from contracts.identity import Realm
from contracts.position import Position
from infra.bootstrap import create_key
from infra.embedded.postgres import EmbeddedPostgres
from infra.postgres.migrations import migrate
from infra.processes import free_port, wait_until
from infra.settings import Settings
from infra.telemetry.metrics import Metrics

REALM: Final = Realm("bench", "shop")
TICKS: Final = os.sysconf("SC_CLK_TCK")
START_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 30.0
RECEIVE_BYTES: Final = 65_536
TERMS: Final[dict[str, Any]] = {
    "name": "Hot",
    "campaign_id": "bench",
    "currency": "EUR",
    "discount": {"kind": "amount_off", "amount_minor": 1_000},
    "claims_per_user_max": 1,
    "claim_from": "2020-01-01T00:00:00Z",
    "claim_until": "2100-01-01T00:00:00Z",
    "validity": {"kind": "after_claim", "duration_seconds": 604_800},
}


@dataclass(frozen=True)
class Round:
    """One turn of one server. Microseconds are processor time per request."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    api_us: float
    loop_us: float  # The API's first thread: the event loop.
    postgres_us: float
    client_us: float


@dataclass(frozen=True)
class Target:
    """A server to be loaded: where it is, what to send, and whose processor time counts."""

    name: str
    port: int
    request: Callable[[], bytes]
    status: bytes
    api_pids: Sequence[int]
    postgres_pid: int | None = None


# The load -------------------------------------------------------------------------------------------------------------


class Connection:
    """One keep-alive connection with one request in flight."""

    __slots__ = ("answer", "sent_at", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = b""
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        """Send the next request; it fits into the socket's buffer."""
        self.answer = b""
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Take in what came; whether the answer is whole."""
        if not (came := self.socket.recv(RECEIVE_BYTES)):
            raise ConnectionError(f"the server closed a connection; it had said {self.answer[:500]!r}")
        self.answer += came
        head_end = self.answer.find(b"\r\n\r\n")
        if head_end < 0:
            return False
        start = self.answer.find(b"content-length: ") + 16
        length = int(self.answer[start : self.answer.find(b"\r", start)])
        return len(self.answer) >= head_end + 4 + length


def load(target: Target, connections: Sequence[Connection], seconds: float) -> list[float]:
    """Keep every connection busy for so long; the seconds that each answer took."""
    latencies: list[float] = []
    by_fd = {each.socket.fileno(): each for each in connections}
    expected, request, now = b"HTTP/1.1 " + target.status, target.request, time.perf_counter
    with select.epoll() as poll:
        for fd, each in by_fd.items():
            poll.register(fd, select.EPOLLIN)
            each.send(request())
        until, waiting = now() + seconds, len(by_fd)
        while waiting:
            ready = poll.poll(ANSWER_SECONDS)
            if not ready:
                raise TimeoutError(f"{target.name} did not answer {waiting} requests")
            for fd, _ in ready:
                each = by_fd[fd]
                if not each.receive():
                    continue
                if not each.answer.startswith(expected):
                    raise RuntimeError(f"{target.name} answered {each.answer[:500]!r}")
                arrived = now()
                latencies.append(arrived - each.sent_at)
                if arrived < until:
                    each.send(request())
                else:
                    waiting -= 1
    return latencies


def measure(target: Target, connections: int, seconds: float) -> Round:
    """One turn, on fresh connections: servers close idle ones."""
    opened = [Connection(target.port) for _ in range(connections)]
    before, started = _spent(target), time.perf_counter()
    latencies = load(target, opened, seconds)
    elapsed, after = time.perf_counter() - started, _spent(target)
    for each in opened:
        each.socket.close()
    done = len(latencies)
    api, loop, postgres, client = ((late - early) / done * 1e6 for early, late in zip(before, after, strict=True))
    latencies.sort()
    p50, p99 = (latencies[int(done * share)] * 1_000 for share in (0.5, 0.99))
    return Round(done / elapsed, p50, p99, api, loop, postgres, client)


def _spent(target: Target) -> tuple[float, float, float, float]:
    """Processor seconds so far: API, its event loop, PostgreSQL, this client."""
    api = sum(_seconds(f"/proc/{pid}/stat") for pid in target.api_pids)
    loop = sum(_seconds(f"/proc/{pid}/task/{pid}/stat") for pid in target.api_pids)
    postgres = sum(_seconds(f"/proc/{pid}/stat") for pid in _family(target.postgres_pid))
    return api, loop, postgres, time.process_time()


def _seconds(stat: str) -> float:
    try:
        fields = Path(stat).read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # It ended meanwhile.
    return (int(fields[11]) + int(fields[12])) / TICKS


def _family(pid: int | None) -> list[int]:
    """A process and its children."""
    if pid is None:
        return []
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


# What is loaded -------------------------------------------------------------------------------------------------------


async def bare(scope: Any, _receive: Any, send: Any) -> None:
    """The least that an ASGI application can do."""
    if scope["type"] == "http":
        head = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"ok"})


def serve_bare(port: int) -> None:
    """Run the bare server as ours is run."""
    import uvicorn

    uvicorn.run(
        bare, host="127.0.0.1", port=port, loop="uvloop", http="httptools", ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, date_header=False,
    )  # fmt: skip


class Yes:
    """A queue that accepts every command without thinking."""

    def submit_to(self, envelopes: Sequence[tuple[CommandEnvelope, Listener]]) -> None:
        """Answer at once, with what a claim is answered with."""
        for envelope, listener in envelopes:
            listener(Answer("accepted", "ok", "", {"coupon_id": envelope.command_id}, Position(0, "e", 1)))


@dataclass
class AnyKey:
    """The one key of the no-op server."""

    realm: Realm = REALM
    actor: str = "key:bench"
    secret_sha256: bytes = field(default_factory=hashlib.sha256(b"secret").digest)
    scopes: frozenset[str] = ROLES["admin"]
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


def serve_no_op(port: int) -> None:
    """Run our edge, put together as always, over a queue that answers at once."""
    from infra import memory
    from infra.bootstrap import run_server
    from infra.http.access import KeyRing
    from infra.http.app import HttpParts, create_app
    from infra.http.health import Readiness

    unused: Any = None
    with ThreadPoolExecutor(1) as blocking:
        parts = HttpParts(
            queue=Yes(), dry_run=unused, outcomes=unused, keys=KeyRing(lambda _: AnyKey(), blocking=blocking),
            models=Nothing(), reports=Nothing(), histories=Nothing(), positions={}, readiness=Readiness({}),
            metrics=Metrics(), blocking=blocking,
        )  # fmt: skip
        app = create_app(parts)
        memory.settle()
        run_server(app, "127.0.0.1", port)


class Nothing:
    """Readers that nobody asks."""

    def __getattr__(self, name: str) -> Any:
        return None


@contextmanager
def child(*argv: str, env: dict[str, str] | None = None) -> Iterator[int]:
    """A process of ours, ended with the block."""
    process = subprocess.Popen([sys.executable, "-m", *argv], env={**os.environ, **(env or {})})
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def answers(port: int) -> bool:
    """Whether somebody answers there."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5).status_code < 500
    except httpx.TransportError:
        return False


def claim_requests(token: str) -> Callable[[], bytes]:
    """Requests that differ in their user only, made of ready parts."""
    head = (
        b"POST /v1/templates/hot/claims HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\n"
        b"Content-Type: application/json\r\nContent-Length: 27\r\n\r\n" % token.encode()
    )
    users = count(int(time.time()) % 1_000_000 * 1_000_000)
    return lambda: head + b'{"user_id":"u%012d"}' % next(users)


@contextmanager
def targets(folder: str) -> Iterator[list[Target]]:
    """All servers, running."""
    with ExitStack() as stack:
        postgres = EmbeddedPostgres(Path(folder))
        postgres.start(None)
        stack.callback(postgres.stop)
        ports = [free_port() for _ in range(3)]
        settings = Settings.load(
            postgres_dsn=postgres.address,
            redis_url="redis://127.0.0.1:1/0",
            clickhouse_url="http://127.0.0.1:1/none",
            http_port=ports[2],
            log_level="warning",
        )
        migrate(postgres.address)
        token = create_key(settings, REALM, role="admin", scopes=ROLES["admin"], label="bench")
        servers = [
            stack.enter_context(child("benchmarks.http_load", "--serve", "bare", "--port", str(ports[0]))),
            stack.enter_context(child("benchmarks.http_load", "--serve", "no-op", "--port", str(ports[1]))),
            stack.enter_context(child("infra.cli", "serve", env=settings.to_env())),
        ]
        for port in ports:
            if not wait_until(partial(answers, port), timeout_seconds=START_SECONDS):
                raise RuntimeError(f"nobody answers on port {port}")
        prepare(ports[2], token)
        assert postgres.child is not None
        yield [
            Target("bare", ports[0], claim_requests("tsk_noop_secret"), b"200", [servers[0]]),
            Target("no-op", ports[1], claim_requests("tsk_noop_secret"), b"201", [servers[1]]),
            Target("claim", ports[2], claim_requests(token), b"201", _family(servers[2]), postgres.child.pid),
        ]


def prepare(port: int, token: str) -> None:
    """The one hot template."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"}) as client:
        client.post("/v1/templates", json={"template_id": "hot", "terms": TERMS}).raise_for_status()
        client.post("/v1/templates/hot/activate").raise_for_status()


# The table ------------------------------------------------------------------------------------------------------------


def medians(rounds: Sequence[Round]) -> Round:
    """Field by field."""
    values = zip(*(asdict(each).values() for each in rounds), strict=True)
    return Round(*(statistics.median(column) for column in values))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load all servers in turns; medians and ratios."""
    rounds: dict[str, list[Round]] = {}
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as folder, targets(folder) as servers:
        chosen = [each for each in servers if not arguments.only or each.name in arguments.only]
        for each in chosen:
            measure(each, arguments.connections, 0.5)  # Warm.
        for _ in range(arguments.rounds):
            for each in chosen:
                rounds.setdefault(each.name, []).append(measure(each, arguments.connections, arguments.seconds))
    result: dict[str, Any] = {name: asdict(medians(each)) for name, each in rounds.items()}
    if {"bare", "no-op", "claim"} <= result.keys():
        by_rate, by_cpu = "requests_per_second", "api_us"
        result["ratios"] = {
            "P6 no-op / bare, by rate": result["no-op"][by_rate] / result["bare"][by_rate],
            "P6 no-op / bare, by processor time": result["bare"][by_cpu] / result["no-op"][by_cpu],
            "P7 claim / bare, by rate": result["claim"][by_rate] / result["bare"][by_rate],
            "P15 processor us per claim": result["claim"]["api_us"] + result["claim"]["postgres_us"],
        }
    return result


def show(result: dict[str, Any]) -> None:
    """The table for people."""
    columns = list(Round.__dataclass_fields__)
    print("".join([f"{'':8}", *(f"{name:>22}" for name in columns)]))
    for name, values in result.items():
        if name != "ratios":
            print("".join([f"{name:8}", *(f"{values[column]:22.1f}" for column in columns)]))
    for name, ratio in result.get("ratios", {}).items():
        print(f"{name}: {ratio:.3f}")


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", nargs="*", help="bare, no-op, claim")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=("bare", "no-op"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        {"bare": serve_bare, "no-op": serve_no_op}[arguments.serve](arguments.port)
        return
    result = run(arguments)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
