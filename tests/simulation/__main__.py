"""Simulates seeds on several cores, shows how far it has come, and says how to see a failure again.

::

    python -m tests.simulation --seeds 1..200 --commands 5000 --processes 2
    python -m tests.simulation --seeds 17 --commands 5000 --trace trace.txt   # one seed, with all that happened

Ctrl-C ends it with the figures so far. Every run is an entry of the file of totals, kept up while it goes on, so that
many runs add up.
"""

import argparse
import gc
import logging
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from time import monotonic, process_time
from typing import Final, NamedTuple

import structlog

from tests.simulation.totals import Ledger, Totals
from tests.simulation.world import Plan, Result, SimulationFailed, World

TELL_EVERY_SECONDS: Final = 10.0
FAILURES_MAX: Final = 5
# A day makes hardly any garbage in cycles until it is over: looking for it every 700 objects took a fifth of the time.
OBJECTS_BETWEEN_COLLECTIONS: Final = 100_000


class Outcome(NamedTuple):
    """What became of one seed: its result, or what is wrong; ``seconds`` of one processor."""

    seed: int
    found: Result | str
    seconds: float


def be_silent() -> None:
    """What is broken on purpose is no news."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def simulate(plan: Plan) -> Outcome:
    """One seed."""
    be_silent()
    began = process_time()
    try:
        found: Result | str = World(plan).run()
    except SimulationFailed as failure:
        found = str(failure)
    except Exception as defect:  # noqa: BLE001 - whatever it is, it is a finding, and the other seeds go on.
        found = f"seed {plan.seed}: {type(defect).__name__}: {defect}"
    gc.collect()
    return Outcome(plan.seed, found, process_time() - began)


def seeds_of(text: str) -> list[int]:
    """``7``, ``1..200`` (both included), or several of these with commas between."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("..")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def main() -> int:
    """Exit code 0 when everything held, 130 when it was interrupted before the end."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=seeds_of, default="1..20", help="7, or 1..200, or 1..9,17")
    parser.add_argument("--commands", type=int, default=5_000, help="different commands of each seed")
    parser.add_argument("--engines", type=int, default=2, help="engine processes over one store")
    parser.add_argument("--processes", type=int, default=2, help="cores")
    parser.add_argument("--trace", help="write everything that happens to this file (one seed)")
    parser.add_argument("--totals", type=Path, help="add this run's figures to this file (JSON)")
    told = parser.parse_args()
    plans = [Plan(seed, commands=told.commands, engines=told.engines) for seed in told.seeds]
    if told.trace:
        return _trace(plans[0], told.trace)
    return Run(plans, told.processes, told.totals).go()


def _trace(plan: Plan, path: str) -> int:
    be_silent()
    with open(path, "w", encoding="utf-8") as file:
        world = World(plan, file)
        try:
            print(_line(world.run()))
        except SimulationFailed as failure:
            print(failure)
            return 1
        finally:
            print(f"{world.trace.lines} lines in {path}")
    return 0


@dataclass
class Run:
    """All seeds that were asked for, and what came of them so far."""

    plans: list[Plan]
    processes: int
    file: Path | None
    totals: Totals = field(default_factory=Totals)
    happened: Counter[str] = field(default_factory=Counter)
    last: Result | None = None
    began: float = field(default_factory=monotonic)

    def go(self) -> int:
        """Simulate, tell, and keep the file up. Returns the exit code."""
        for asked in (signal.SIGINT, signal.SIGTERM):  # Also where a shell had this one ignore Ctrl-C.
            signal.signal(asked, signal.default_int_handler)
        ledger = Ledger(self.file, tree=_tree(), seeds=_shortened(self.plans), commands=self.plans[0].commands)
        interrupted = False
        told_at = self.began
        try:
            with closing(_outcomes(self.plans, self.processes)) as outcomes:
                for outcome in outcomes:
                    self._take(outcome)
                    if len(self.totals.failed_seeds) >= FAILURES_MAX:
                        print(f"{FAILURES_MAX} seeds failed: stopped")
                        break
                    if monotonic() - told_at >= TELL_EVERY_SECONDS:
                        told_at = monotonic()
                        ledger.keep(self.totals)
                        print(self._progress(), flush=True)
        except KeyboardInterrupt:
            interrupted = True
            print("interrupted")
        ledger.keep(self.totals)
        self._tell_the_end(ledger)
        return 1 if self.totals.failed_seeds else 130 if interrupted else 0

    def _take(self, outcome: Outcome) -> None:
        if isinstance(outcome.found, str):
            self.totals.failed_seeds.append(outcome.seed)
            print(outcome.found, flush=True)
        else:
            self.last = outcome.found
            self.totals.add(outcome.found)
            self.happened += outcome.found.happened
        self.totals.processor_seconds += outcome.seconds
        self.totals.seconds = monotonic() - self.began

    def _progress(self) -> str:
        totals, seconds = self.totals, max(self.totals.seconds, 0.001)
        ended = totals.seeds + len(totals.failed_seeds)
        left = timedelta(seconds=round(seconds / max(ended, 1) * (len(self.plans) - ended)))
        return f"{totals.text(of=len(self.plans))}; {totals.decided / seconds:,.0f} decided/s, {left} left"

    def _tell_the_end(self, ledger: Ledger) -> None:
        print(self._progress())
        if self.last is not None and len(self.plans) == 1:
            print(_line(self.last))
        print("; ".join(f"{what}: {count:,}" for what, count in self.happened.most_common()))
        if ledger.runs > 1:
            print(f"all {ledger.runs} runs of {self.file}: {ledger.sum().text()}")
        if failed := self.totals.failed_seeds:
            print(
                f"{len(failed)} FAILED. To see one again: make simulate SEEDS=<seed> COMMANDS={self.plans[0].commands}"
            )


def _outcomes(plans: list[Plan], processes: int) -> Generator[Outcome, None, None]:
    """In the order of the plans. Closing it lets the seeds that run end, and no others begin."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, 50, 1_000)
    if processes == 1 or len(plans) == 1:
        yield from map(simulate, plans)
        return
    # Ctrl-C is the first process's business.
    with ProcessPoolExecutor(
        processes, get_context("fork"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            yield from pool.map(simulate, plans)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _tree() -> str:
    """Which code it was, as far as git can tell."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    asked = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def _shortened(plans: list[Plan]) -> str:
    first, last = plans[0].seed, plans[-1].seed
    return f"{first}..{last}" if len(plans) == last - first + 1 else ",".join(str(plan.seed) for plan in plans[:100])


def _line(result: Result) -> str:
    return f"seed {result.seed}: trace {result.digest}, {result.decided:,} commands, {result.events:,} events"


if __name__ == "__main__":
    sys.exit(main())
