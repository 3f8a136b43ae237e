"""P6, P7 and P15: what HTTP costs: of a bare server, of our edge alone, and of a durable claim, in the same rounds."""

import json
import re
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from itertools import count
from statistics import median
from typing import Any, Final, NamedTuple

from benchmarks import processor
from benchmarks.bench import Bench, Figure, Outcome, Side, Target, best_of, in_turn, ratio
from benchmarks.http_client import closed_loop, post
from benchmarks.http_servers import BARE, NO_OP, Running, alone, api
from benchmarks.processor import EDGE, ENGINE, Meter, ProcessorTime, micros_each
from benchmarks.profiled_serve import switch
from benchmarks.targets.profile import part_rows, top
from benchmarks.verification import verify
from benchmarks.workloads import HOT, terms
from infra.processes import LOOPBACK, wait_until

CONNECTIONS: Final = (32, 64, 128, 256, 512)
CONNECTIONS_AT_ONCE: Final = (32, 64)  # Of whoever answers at once: more only wait, and throw each other out of caches.
SHARES_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 120.0
CLAIM: Final = "claim"
_SHARED: Final = "http"
_HELLO: Final = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n"


class Server:
    """One server under load: requests a second, and processor time per request by part."""

    def __init__(self, bench: Bench, running: Running, request: Callable[[], bytes], *, stores: bool) -> None:
        self._bench = bench
        self._running = running
        self._request = request
        self._roots = {"API": running.pid} | ({"PostgreSQL": bench.postgres.pid} if stores else {})
        self._numbers = CONNECTIONS if stores else CONNECTIONS_AT_ONCE
        self.connections = self._numbers[0]

    def sweep(self, name: str) -> dict[int, float]:
        """Find the number of connections at which it serves most, and stay with it; requests a second at each."""
        seconds = self._bench.effort.sweep_seconds
        swept = best_of(self._bench, name, lambda number: self._load(number, seconds), self._numbers)
        self.connections = swept.best
        return swept.values

    def measure(self) -> Figure:
        """One round."""
        return self._load(self.connections, self._bench.effort.seconds)

    def _load(self, connections: int, seconds: float) -> Figure:
        pid = self._running.pid
        wal = self._bench.postgres.wal_bytes()
        meter, threads, engine = Meter(self._roots), processor.of_threads(pid), engine_so_far(self._running)
        served = closed_loop(
            self._running.port,
            self._request,
            connections=connections,
            seconds=seconds,
            warm_seconds=self._bench.effort.warm_seconds,
        )
        used, after = meter.used(), processor.of_threads(pid)
        loop, engine = after[pid] - threads[pid], engine_so_far(self._running).since(engine)
        return Figure(
            served.per_second,
            {
                "clients": connections,
                "latencies": asdict(served.latencies),
                "batches": engine.batches,
                "micros_each": micros_each(by_part(used, loop, engine.time), served.requests),
                "micros_total": sum(time.total for time in used.values()) * 1e6 / served.requests,
                "wal_bytes_each": (self._bench.postgres.wal_bytes() - wal) / served.requests,
                "kernel_share": _kernel_share(used.values()),
            },
        )


class Measured(NamedTuple):
    """All three servers: their rounds, what each gave by its number of connections, and what verifying said."""

    sides: Mapping[str, Side]
    sweeps: Mapping[str, Mapping[int, float]]
    checked: Outcome


def measured(bench: Bench) -> Measured:
    """Measured in the same rounds, once for a whole run."""
    if _SHARED not in bench.shared:
        bench.shared[_SHARED] = _measure(bench)
    told: Measured = bench.shared[_SHARED]
    return told


def no_op(bench: Bench) -> Outcome:
    """P6."""
    return _beside_bare(measured(bench), NO_OP)


def claim(bench: Bench) -> Outcome:
    """P7."""
    told = measured(bench)
    outcome = _beside_bare(told, CLAIM)
    outcome.verified, outcome.held = told.checked.verified, told.checked.held
    return outcome


def cost(bench: Bench) -> Outcome:
    """P15: microseconds of processor time, of the API and of PostgreSQL, with the share of each part."""
    rounds = measured(bench).sides[CLAIM].rounds
    costs = [figure.details["micros_total"] for figure in rounds]
    side = Side("durable claim", "µs", [Figure(each.details["micros_total"], each.details) for each in rounds])
    middle = sorted(rounds, key=lambda each: float(each.details["micros_total"]))[len(costs) // 2]
    parts: Mapping[str, float] = middle.details["micros_each"]
    outcome = Outcome(middle.details["micros_total"], costs, [side], {"micros_each": dict(parts)})
    outcome.notes.append(", ".join(f"{name} {micros:.0f} µs" for name, micros in parts.items()))
    shares = _shares(bench, connections=middle.details["clients"])
    in_api = outcome.value - parts["PostgreSQL"]
    outcome.details["rows"] = [
        *part_rows("API", shares["parts"], in_api),
        {"of": "PostgreSQL", "part": "all of it", "micros": round(parts["PostgreSQL"], 1)},
    ]
    outcome.details["functions"] = shares["functions"]
    outcome.notes.append(top("API", shares["functions"]))
    return outcome


def _shares(bench: Bench, connections: int) -> dict[str, Any]:
    """One more round, under the sampler."""
    path = bench.postgres.folder / "shares.json"
    with bench.postgres.database() as dsn:
        bench.say("shares of the API's parts")
        with api(dsn, bench.postgres.folder, shares=path) as running:
            make_template(running)
            server = Server(bench, running, claims(running.token), stores=True)
            server.connections = connections
            server.measure()
            switch(path).touch()
            server.measure()
            switch(path).unlink()
            if not wait_until(path.exists, timeout_seconds=SHARES_SECONDS):
                raise TimeoutError(f"the sampler wrote nothing within {SHARES_SECONDS:.0f} s")
        told: dict[str, Any] = json.loads(path.read_text())
    return told


def _measure(bench: Bench) -> Measured:
    with ExitStack() as stack:
        folder = bench.postgres.folder
        bench.say("starting three servers")
        dsn = stack.enter_context(bench.postgres.database())
        ours = stack.enter_context(api(dsn, folder))
        make_template(ours)
        bare, edge = (stack.enter_context(alone(kind, folder)) for kind in (BARE, NO_OP))
        servers = {
            CLAIM: Server(bench, ours, claims(ours.token), stores=True),
            NO_OP: Server(bench, edge, claims(edge.token), stores=False),
            BARE: Server(bench, bare, lambda: _HELLO, stores=False),
        }
        sweeps = {name: server.sweep(name) for name, server in servers.items()}
        sides = in_turn(bench, {name: server.measure for name, server in servers.items()})
        outcome = verify(bench, Outcome(0.0, [], []), dsn)
    return Measured({side.name: side for side in sides}, sweeps, outcome)


def claims(token: str) -> Callable[[], bytes]:
    """Claims of one hot template, each for a user who never claimed before."""
    users = count()
    path = f"/v1/templates/{HOT}/claims"
    return lambda: post(path, b'{"user_id":"u%012d"}' % next(users), token)


def make_template(running: Running) -> None:
    """One hot template, over HTTP as everything else."""
    body = {"template_id": HOT, "terms": json.loads(terms(HOT).model_dump_json())}
    send(running, "/v1/templates", body)
    send(running, f"/v1/templates/{HOT}/activate", {})


def send(running: Running, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """One request of the preparation. Raises urllib.error.HTTPError when it is refused."""
    told: dict[str, Any] = json.loads(fetched(running, path, json.dumps(body).encode()))
    return told


def request(
    running: Running, path: str, body: bytes | None = None, kind: str = "application/json"
) -> urllib.request.Request:
    """With the server's key; a POST where there is a body."""
    headers = {"authorization": f"Bearer {running.token}", "content-type": kind}
    return urllib.request.Request(f"http://{LOOPBACK}:{running.port}{path}", body, headers)


def fetched(running: Running, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
    """A whole answer. Raises urllib.error.HTTPError when it is none."""
    with urllib.request.urlopen(request(running, path, body, kind), timeout=ANSWER_SECONDS) as answer:
        told: bytes = answer.read()
        return told


def _beside_bare(told: Measured, name: str) -> Outcome:
    """Rates say what was served while the load shared the cores; processor time says what it costs."""
    outcome = ratio([told.sides[name], told.sides[BARE]], our_sweep=told.sweeps[name], their_sweep=told.sweeps[BARE])
    ours, theirs = (median(figure.details["micros_total"] for figure in side.rounds) for side in outcome.sides)
    outcome.details["by_processor_time"] = theirs / ours
    outcome.notes.append(f"by processor time {theirs / ours:.3f}×: {theirs:.0f} ÷ {ours:.0f} µs per request")
    our_best, their_best = (side.rounds[0].details["clients"] for side in outcome.sides)
    swept = ", ".join(f"{connections}: {rate:,.0f}/s" for connections, rate in told.sweeps[name].items())
    outcome.notes.append(
        f"at {our_best} connections, bare uvicorn at {their_best}; ours by connections, shortly: {swept}"
    )
    return outcome


def by_part(used: Mapping[str, ProcessorTime], loop: ProcessorTime, engine: ProcessorTime) -> dict[str, ProcessorTime]:
    """The API's first thread is its event loop, where edge and engine take turns; the others are whoever blocks."""
    parts = {EDGE: loop - engine, ENGINE: used["API"] - loop + engine}
    return parts | {name: time for name, time in used.items() if name != "API"}


class EngineSoFar(NamedTuple):
    """What an API's metrics tell of its engine: its share in the kernel is not told apart in ``time``."""

    time: ProcessorTime
    commands: float
    batch_count: float

    def since(self, earlier: "EngineSoFar") -> "EngineSoFar":
        """What happened meanwhile."""
        return EngineSoFar(
            self.time - earlier.time, self.commands - earlier.commands, self.batch_count - earlier.batch_count
        )

    @property
    def batches(self) -> list[dict[str, float]]:
        """As engines in process tell of theirs; nothing where there is no engine."""
        if not self.batch_count:
            return []
        return [{"batches": self.batch_count, "commands_mean": self.commands / self.batch_count}]


def engine_so_far(running: Running) -> EngineSoFar:
    """From its metrics; nothing of everything where there is no engine."""
    text = fetched(running, "/metrics")

    def told(name: str) -> float:
        found = re.search(rf"^{name} (\S+)$".encode(), text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    batch = "tessera_append_batch_commands"
    seconds = told("tessera_engine_processor_seconds_total")
    return EngineSoFar(ProcessorTime(seconds), told(f"{batch}_sum"), told(f"{batch}_count"))


def _kernel_share(times: Any) -> float:
    both = sum(times, ProcessorTime())
    return both.system / both.total if both.total else 0.0


P6: Final = Target(
    key="p6",
    title="HTTP no-op through key and validation ÷ bare uvicorn",
    how="a claim through the whole edge to a queue that answers at once ÷ an ASGI function, each at the best of "
    "32 and 64 connections",
    run=no_op,
    target=0.5,
    moonshot=0.6,
    others="0.16-0.24 FastAPI with pydantic bodies",
)
P7: Final = Target(
    key="p7",
    title="HTTP claim, durable ÷ bare uvicorn no-op",
    how="`tessera serve`, claims of one hot template, PostgreSQL on the same cores, at the best of 32-512 "
    "connections ÷ as P6",
    run=claim,
    target=0.15,
    moonshot=0.30,
)
P15: Final = Target(
    key="p15",
    title="processor time per durable HTTP claim",
    how="API and PostgreSQL together, from /proc, in the rounds of P7, at the number of connections that served best",
    run=cost,
    target=150.0,
    moonshot=60.0,
    unit="µs",
    better="lower",
)
