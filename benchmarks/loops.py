"""Load on an engine in this process: clients that wait for answers, and arrivals that wait for nobody.

Both run on the event loop that runs the engine, too, as the API's callers and its engine share one.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter, thread_time
from typing import Final

from benchmarks.figures import Latencies
from benchmarks.workloads import Workload, envelope
from command.engine import Busy, Engine, Listener, Outcome
from contracts.envelope import CommandEnvelope

DRAIN_SECONDS: Final = 60.0
WAIT_SECONDS: Final = 0.5
ARRIVAL_TICK_SECONDS: Final = 0.001  # uvloop's timers know no shorter time.


class LoadFailed(RuntimeError):
    """Commands were refused or failed: the figures would mean nothing."""


class BatchSizes:
    """An engine's observer that remembers how large its batches were. Implements ``command.engine.EngineObserver``."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._events = 0
        self._failures = 0

    def batch_committed(
        self, tickets: int, events: int, outcomes: Mapping[tuple[str, str], int], seconds: float
    ) -> None:
        """Where the engine runs."""
        self._sizes.append(tickets)
        self._events += events

    def batch_overtaken(self, tickets: int) -> None:
        """Decided again; nothing was lost but time."""

    def batch_misjudged(self, tickets: int) -> None:
        """As well."""

    def batch_failed(self, tickets: int, error: Exception) -> None:
        """Where the engine runs."""
        self._failures += 1

    def reset(self) -> None:
        """Forget what was."""
        self._sizes, self._events, self._failures = [], 0, 0

    def summary(self) -> dict[str, float]:
        """How many batches, commands per batch, events per command, failures."""
        sizes = sorted(self._sizes)
        commands = sum(sizes)
        return {
            "batches": len(sizes),
            "commands_mean": commands / len(sizes) if sizes else 0.0,
            "commands_p50": sizes[len(sizes) // 2] if sizes else 0,
            "commands_max": sizes[-1] if sizes else 0,
            "events_per_command": self._events / commands if commands else 0.0,
            "failures": self._failures,
        }


@dataclass(slots=True)
class Measured:
    """One measurement: commands answered within the window, and how long each took."""

    seconds: float
    per_second: float
    latencies: Latencies
    offered_per_second: float = 0.0  # Open loop only.
    refused: dict[str, int] = field(default_factory=dict)
    load_seconds: float = 0.0  # Processor time of making the load and of looking at the answers.


class _Inbox:
    """Where the engine leaves answers for whoever makes the load, who is told once for many."""

    def __init__(self) -> None:
        self.arrived: deque[tuple[int, float, Outcome]] = deque()
        self._loop, self._news, self._is_told = asyncio.get_running_loop(), asyncio.Event(), False

    def listener(self, client: int, since: float) -> Listener:
        """Notes what is answered; ``since`` is when the waiting began. It ends when the client's loop gets to it."""

        def hear(outcome: Outcome) -> None:
            self.arrived.append((client, since, outcome))
            if not self._is_told:
                self._is_told = True
                self._loop.call_soon_threadsafe(self._news.set)

        return hear

    async def wait(self) -> None:
        """Until something arrived, or for a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                await self._news.wait()
        self._news.clear()
        self._is_told = False


async def closed_loop(
    engine: Engine, workload: Workload, clients: int, *, seconds: float, warm_seconds: float
) -> Measured:
    """So many clients, each of which sends its next command when it has its answer. Raises LoadFailed."""
    inbox, ledger = _Inbox(), _Ledger()

    def send(ready: list[int]) -> None:
        now = perf_counter()
        with ledger.making_load():
            engine.submit_to(
                [
                    (envelope(workload.next(client), workload.command_id()), inbox.listener(client, now))
                    for client in ready
                ]
            )

    begin = perf_counter() + warm_seconds
    end = begin + seconds
    ready, outstanding = list(range(clients)), 0
    while outstanding or ready:
        if ready and perf_counter() < end:
            send(ready)
            outstanding += len(ready)
        elif not outstanding:
            break
        await inbox.wait()
        ready = []
        with ledger.making_load():
            at = perf_counter()
            while inbox.arrived:
                client, since, outcome = inbox.arrived.popleft()
                ready.append(client)
                ledger.note(since, at, outcome, begin <= at < end)
        outstanding -= len(ready)
        if perf_counter() > end + DRAIN_SECONDS:
            raise LoadFailed(f"{outstanding} commands were not answered within {DRAIN_SECONDS:.0f} s")
    return ledger.measured(seconds)


async def open_loop(
    engine: Engine, workload: Workload, per_second: float, *, seconds: float, warm_seconds: float, seed: int = 1
) -> Measured:
    """Arrivals at random instants, at this rate on average, whatever is still unanswered.

    A latency runs from the instant at which the command *should* have been sent: a stall counts for everybody who
    would have come during it, not only for those few who were let in (coordinated omission). Raises LoadFailed.
    """
    inbox, ledger, chance = _Inbox(), _Ledger(), random.Random(seed)
    start = perf_counter()
    begin, end = start + warm_seconds, start + warm_seconds + seconds
    due, sent, answered = start, 0, 0
    while True:
        now = perf_counter()
        with ledger.making_load():
            arrivals: list[tuple[CommandEnvelope, Listener]] = []
            while due <= now and due < end:
                arrivals.append((envelope(workload.next(sent), workload.command_id()), inbox.listener(sent, due)))
                sent += 1
                due += chance.expovariate(per_second)
            if arrivals:
                _submit(engine, arrivals)
            while inbox.arrived:
                _, since, outcome = inbox.arrived.popleft()
                answered += 1
                ledger.note(since, now, outcome, begin <= since < end)
        if due >= end and answered == sent:
            return ledger.measured(seconds, offered=per_second)
        if now > end + DRAIN_SECONDS:
            raise LoadFailed(f"{sent - answered} commands were not answered within {DRAIN_SECONDS:.0f} s")
        await asyncio.sleep(ARRIVAL_TICK_SECONDS)


def _submit(engine: Engine, arrivals: list[tuple[CommandEnvelope, Listener]]) -> None:
    try:
        engine.submit_to(arrivals)
    except Busy as busy:
        raise LoadFailed(f"the queue is full at this rate: {busy}") from busy


class _Ledger:
    """What came of the commands."""

    def __init__(self) -> None:
        self._milliseconds: list[float] = []
        self._refused: Counter[str] = Counter()
        self._load_seconds = 0.0

    @contextmanager
    def making_load(self) -> Iterator[None]:
        """What is done here is the load's."""
        began = thread_time()
        yield
        self._load_seconds += thread_time() - began

    def note(self, since: float, at: float, outcome: Outcome, counts: bool) -> None:
        """One answer. Raises LoadFailed for one that is an error."""
        if isinstance(outcome, Exception):
            raise LoadFailed(f"a command failed: {outcome!r}") from outcome
        if not outcome.accepted:
            self._refused[outcome.code] += 1
        if counts:
            self._milliseconds.append((at - since) * 1_000)

    def measured(self, seconds: float, offered: float = 0.0) -> Measured:
        """Raises LoadFailed when anything was refused: nothing in these workloads should be."""
        if self._refused:
            raise LoadFailed(f"commands were refused: {dict(self._refused)}")
        rate = len(self._milliseconds) / seconds
        latencies = Latencies.of(self._milliseconds)
        return Measured(seconds, rate, latencies, offered, load_seconds=self._load_seconds)
