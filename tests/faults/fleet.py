"""Callers who never give up, and the engines that they call: in this process or in processes that may be killed.

:class:`Load` keeps a number of callers busy on each engine. A caller follows a flow (a generator that yields commands
and is sent their answers); a command without an answer is sent again, under its id, to whoever has a free place. What
callers were told is kept here, outside of the engines.
"""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, Protocol

import orjson
import psycopg

from command.engine import Busy, Engine, EngineStopped, Outcome
from contracts.commands import Command
from contracts.envelope import Answer, CommandEnvelope
from contracts.position import Position
from infra.postgres.recorder import APPEND_LOCK_CLASS
from tests.audit import Acknowledged
from tests.builders import REALM

ROOT: Final = Path(__file__).parents[2]
PATIENCE_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.001
CATCHES_MAX: Final = 2_000

Flow = Generator[Command, Answer, None]
Hears = Callable[[Outcome], None]


class NotAnswered(Exception):
    """An engine process said that it has no answer, and why."""


class Gone(Exception):
    """The process ended before it answered."""


class Server(Protocol):
    """Whoever takes commands."""

    name: str

    def send(self, envelope: CommandEnvelope, hears: Hears) -> None:
        """Never raises; ``hears`` is called once, later or at once, on any thread."""
        ...


class LocalEngine:
    """An engine of this process."""

    def __init__(self, engine: Engine, name: str = "here") -> None:
        self.name = name
        self._engine = engine

    def send(self, envelope: CommandEnvelope, hears: Hears) -> None:
        try:
            self._engine.submit_to([(envelope, hears)])
        except (Busy, EngineStopped) as error:
            hears(error)


class EngineProcess:
    """An engine in a process of its own, under a database role of its own (so that its sessions can be told apart)."""

    def __init__(
        self,
        dsn: str,
        name: str,
        *,
        timeouts: Mapping[str, Any] | None = None,
        engine: Mapping[str, Any] | None = None,
        on_loop: bool = False,
        clock_ahead_seconds: float = 0.0,
    ) -> None:
        self.name = name
        options = {
            "dsn": dsn,
            "timeouts": timeouts or {},
            "engine": engine or {},
            "on_loop": on_loop,
            "clock_ahead_seconds": clock_ahead_seconds,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.engine_process", orjson.dumps(options).decode()],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._heard_by: dict[str, Hears] = {}
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name=f"answers of {name}", daemon=True)
        self._reader.start()

    def send(self, envelope: CommandEnvelope, hears: Hears) -> None:
        line = {
            "id": envelope.command_id,
            "realm": [envelope.realm.tenant_id, envelope.realm.app_id],
            "type": envelope.command.type,
            "body": envelope.command.model_dump(mode="json"),
        }
        with self._lock:
            self._heard_by[envelope.command_id] = hears
        try:
            assert self._process.stdin is not None
            os.write(self._process.stdin.fileno(), orjson.dumps(line) + b"\n")
        except (OSError, ValueError) as error:  # Its end of the pipe is gone, or ours is.
            self._hear(envelope.command_id, Gone(str(error)))

    def signal(self, which: signal.Signals) -> None:
        """Send a signal, and wait until it has had its effect."""
        self._process.send_signal(which)
        if which is signal.SIGKILL:
            self._process.wait(PATIENCE_SECONDS)
            self._reader.join(PATIENCE_SECONDS)  # Whatever it had said before was heard.
        elif which is signal.SIGSTOP:
            wait_for(lambda: _state(self._process.pid) == "T", f"{self.name} to stop")

    def close(self) -> int:
        """Stop it in good order; its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            return self._process.wait(PATIENCE_SECONDS)
        finally:
            self._process.kill()
            self._reader.join(PATIENCE_SECONDS)
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):
                told = orjson.loads(line)
                self._hear(told["id"], _outcome(told))
        with self._lock:
            unanswered = list(self._heard_by)
        for command_id in unanswered:
            self._hear(command_id, Gone(f"{self.name} ended"))

    def _hear(self, command_id: str, outcome: Outcome) -> None:
        with self._lock:
            hears = self._heard_by.pop(command_id, None)
        if hears is not None:
            hears(outcome)


def _outcome(told: dict[str, Any]) -> Outcome:
    if "error" in told:
        return NotAnswered(f"{told['error']}: {told['detail']}")
    position = Position(*told["position"])
    return Answer(told["status"], told["code"], told["detail"], told["data"], position, told["replayed"])


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@dataclass(slots=True)
class _Job:
    """A caller's present command, and the flow that it belongs to."""

    envelope: CommandEnvelope
    flow: Flow
    answered: bool = False


@dataclass
class Load:
    """Callers, what they still want and what they were told.

    ``told``: every acknowledgement. ``errors``: what came instead of one, in the words of the engines. ``heard_at``:
    per engine, when each acknowledgement came (``monotonic``).
    """

    flows: Iterator[Flow]
    told: list[Acknowledged] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    heard_at: dict[str, list[float]] = field(default_factory=dict)
    _waiting: deque[_Job] = field(default_factory=deque)
    _with: dict[str, dict[str, _Job]] = field(default_factory=dict)  # Per engine: the commands that it has.
    _alive: set[str] = field(default_factory=set)
    _draining: bool = False
    _changed: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def join(self, server: Server, callers: int) -> None:
        """Let so many callers begin with an engine."""
        with self._changed:
            self._alive.add(server.name)
            self._with.setdefault(server.name, {})
            self.heard_at.setdefault(server.name, [])
        for _ in range(callers):
            self._serve_next(server)

    def leave(self, server: Server) -> None:
        """Send nothing more to an engine, and what it has not answered to others. It may answer all the same."""
        with self._changed:
            self._alive.discard(server.name)
            self._waiting.extend(job for job in self._with[server.name].values() if not job.answered)

    def acknowledged(self, server: Server | None = None) -> int:
        """How many answers came, from one engine or from all."""
        return len(self.told) if server is None else len(self.heard_at[server.name])

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        """Until something is true, looked at after each answer."""
        with self._changed:
            assert self._changed.wait_for(holds, PATIENCE_SECONDS), (
                f"waited for {what}; last errors: {self.errors[-3:]}"
            )

    def wait_for_more(self, count: int, server: Server | None = None) -> None:
        """Until so many more answers came."""
        wanted = self.acknowledged(server) + count
        self.wait(lambda: self.acknowledged(server) >= wanted, f"{count} more answers")

    def finish(self) -> None:
        """Begin nothing new, and wait until every command that was ever sent is answered."""
        with self._changed:
            self._draining = True
        self.wait(self._is_drained, "the last answers")

    def _is_drained(self) -> bool:
        return all(job.answered for job in self._waiting) and not any(self._with[name] for name in self._alive)

    def longest_gap(self, servers: Iterable[Server], since: float, until: float) -> float:
        """The longest time, in seconds, that one of these engines let pass without an answer."""
        with self._changed:
            times = [
                [since, *(at for at in self.heard_at[server.name] if since < at < until), until] for server in servers
            ]
        return max(later - earlier for each in times for earlier, later in itertools.pairwise(each))

    def _serve_next(self, server: Server) -> None:
        with self._changed:
            job = self._next() if server.name in self._alive else None
            if job is not None:
                self._with[server.name][job.envelope.command_id] = job
        if job is not None:
            sent = job
            server.send(job.envelope, lambda outcome: self._hear(server, sent, outcome))

    def _next(self) -> _Job | None:
        while self._waiting:
            if not (job := self._waiting.popleft()).answered:
                return job
        return None if self._draining else self._begin(next(self.flows))

    def _begin(self, flow: Flow) -> _Job:
        return _Job(self._envelope(next(flow)), flow)

    def _envelope(self, command: Command) -> CommandEnvelope:
        command_id = f"load-{next(self._ids)}"
        return CommandEnvelope(REALM, command_id, command, actor="fleet", correlation_id=command_id)

    def _hear(self, server: Server, job: _Job, outcome: Outcome) -> None:
        with self._changed:
            self._with[server.name].pop(job.envelope.command_id, None)
            if isinstance(outcome, Answer):
                self.told.append(Acknowledged.of(job.envelope.realm, job.envelope.command_id, outcome))
                self.heard_at[server.name].append(monotonic())
                if not job.answered:  # Else somebody else had answered it meanwhile: the audit compares the two.
                    job.answered = True
                    self._go_on(job.flow, outcome)
            else:
                self.errors.append(outcome)
                if not job.answered and server.name in self._alive:
                    self._waiting.append(job)
            if isinstance(outcome, Gone | EngineStopped) and server.name in self._alive:
                self.leave(server)
            self._changed.notify_all()
        self._serve_next(server)

    def _go_on(self, flow: Flow, answer: Answer) -> None:
        try:
            command = flow.send(answer)
        except StopIteration:
            return
        if not self._draining:
            self._waiting.append(_Job(self._envelope(command), flow))


def wait_for(holds: Callable[[], bool], what: str) -> None:
    """Until something outside of this process is true."""
    deadline = monotonic() + PATIENCE_SECONDS
    while not holds():
        assert monotonic() < deadline, f"waited for {what}"
        sleep(POLL_SECONDS)


@contextmanager
def fleet(
    dsn: str,
    names: Sequence[str],
    *,
    timeouts: Mapping[str, Any] | None = None,
    engine: Mapping[str, Any] | None = None,
    clocks_ahead_seconds: Mapping[str, float] | None = None,
) -> Iterator[list[EngineProcess]]:
    """So many engine processes on one store; none of them is left behind, killed or stopped as it may be.

    The first has its engine on a loop, as the API has, the second on a thread, as workers have, and so in turn.
    ``clocks_ahead_seconds``: those whose machines have another clock, by name.
    """
    with ExitStack() as stack:
        processes = []
        for number, name in enumerate(names):
            process = EngineProcess(
                as_role(dsn, name),
                name,
                timeouts=timeouts,
                engine=engine,
                on_loop=number % 2 == 0,
                clock_ahead_seconds=(clocks_ahead_seconds or {}).get(name, 0.0),
            )
            stack.callback(process.close)
            stack.callback(process.signal, signal.SIGCONT)
            processes.append(process)
        yield processes


def as_role(dsn: str, name: str) -> str:
    """The same database for another superuser, who is made when there is none."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        known = admin.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone()
        if known is None:
            admin.execute(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{name}'".encode())
    return psycopg.conninfo.make_conninfo(dsn, user=name, password=name)


def stop_holding_the_lock(victim: EngineProcess, dsn: str) -> None:
    """SIGSTOP a process at a moment when it holds the append lock and its server session waits for its next word."""
    with psycopg.connect(dsn, autocommit=True) as admin:

        def waits_for_it() -> list[str]:
            query = """
                SELECT coalesce(wait_event, 'none') FROM pg_stat_activity JOIN pg_locks USING (pid)
                WHERE locktype = 'advisory' AND classid = %s AND granted AND usename = %s
            """
            return [event for (event,) in admin.execute(query, (APPEND_LOCK_CLASS, victim.name))]

        for _ in range(CATCHES_MAX):
            wait_for(lambda: bool(waits_for_it()), f"{victim.name} to take the append lock")
            victim.signal(signal.SIGSTOP)
            if waits_for_it() == ["ClientRead"]:
                return
            victim.signal(signal.SIGCONT)
    raise AssertionError(f"{victim.name} was never caught holding the append lock")
