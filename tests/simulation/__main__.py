"""Simulates seeds on several cores, shows how far it has come, and says how to see a failure again.

::

    python -m tests.simulation --seeds 1..200 --commands 5000 --processes 2
    python -m tests.simulation --seeds 17 --commands 5000 --trace trace.txt   # one seed, with all that happened
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from time import monotonic
from typing import Final

import structlog

from tests.simulation.world import Plan, Result, SimulationFailed, World

TELL_EVERY_SECONDS: Final = 10.0
FAILURES_MAX: Final = 5


def be_silent() -> None:
    """What is broken on purpose is no news."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def simulate(plan: Plan) -> Result | str:
    """One seed: its result, or what is wrong."""
    be_silent()
    try:
        return World(plan).run()
    except SimulationFailed as failure:
        return str(failure)
    except Exception as defect:  # noqa: BLE001 - whatever it is, it is a finding, and the other seeds go on.
        return f"seed {plan.seed}: {type(defect).__name__}: {defect}"


def seeds_of(text: str) -> list[int]:
    """``7``, ``1..200`` (both included), or several of these with commas between."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("..")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def main() -> int:
    """Exit code 0 when everything held."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=seeds_of, default="1..20", help="7, or 1..200, or 1..9,17")
    parser.add_argument("--commands", type=int, default=5_000, help="different commands of each seed")
    parser.add_argument("--engines", type=int, default=2, help="engine processes over one store")
    parser.add_argument("--processes", type=int, default=2, help="cores")
    parser.add_argument("--trace", help="write everything that happens to this file (one seed)")
    told = parser.parse_args()
    plans = [Plan(seed, commands=told.commands, engines=told.engines) for seed in told.seeds]
    if told.trace:
        return _trace(plans[0], told.trace)
    return _run(plans, told.processes)


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


def _run(plans: list[Plan], processes: int) -> int:
    began = told_at = monotonic()
    results: list[Result] = []
    failures: list[str] = []
    for outcome in _outcomes(plans, processes):
        if isinstance(outcome, str):
            failures.append(outcome)
            print(outcome, flush=True)
        else:
            results.append(outcome)
        if len(failures) >= FAILURES_MAX:
            print(f"{FAILURES_MAX} seeds failed: stopped")
            break
        if monotonic() - told_at >= TELL_EVERY_SECONDS:
            told_at = monotonic()
            print(_progress(results, len(plans), told_at - began) if results else "none holds so far", flush=True)
    if not results:
        print("no seed held")
        return 1
    print(_progress(results, len(plans), monotonic() - began))
    if len(results) == 1:
        print(_line(results[0]))
    happened = sum((result.happened for result in results), Counter[str]())
    print("; ".join(f"{what}: {count:,}" for what, count in happened.most_common()))
    if failures:
        print(f"{len(failures)} FAILED. To see one again: make simulate SEEDS=<seed> COMMANDS={plans[0].commands}")
    return 1 if failures else 0


def _outcomes(plans: list[Plan], processes: int) -> Iterator[Result | str]:
    if processes == 1 or len(plans) == 1:
        yield from map(simulate, plans)
        return
    with ProcessPoolExecutor(processes) as pool:
        try:
            yield from pool.map(simulate, plans)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _progress(results: list[Result], seeds: int, seconds: float) -> str:
    commands, decided, sendings, events = (
        sum(numbers)
        for numbers in zip(*((it.commands, it.decided, it.sendings, it.events) for it in results), strict=True)
    )
    return (
        f"{len(results):,} of {seeds:,} seeds: {commands:,} commands of clients sent {sendings:,} times, {decided:,} "
        f"commands decided, {events:,} events; {decided / seconds:,.0f} decided/s"
    )


def _line(result: Result) -> str:
    return f"seed {result.seed}: trace {result.digest}, {result.decided:,} commands, {result.events:,} events"


if __name__ == "__main__":
    sys.exit(main())
