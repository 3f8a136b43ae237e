"""``python -m tests.chaos``: the whole system as real processes, killed, frozen and cut off again and again.

It stops at the first violation, names the seed, the cycle and what was done last, and keeps the folder.
"""

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Final

from tests.chaos.faults import Fault, schedule
from tests.chaos.load import Unanswered
from tests.chaos.run import Cycle, Run, Summary, Violation, running

CYCLES_PER_CHECK: Final = 12
CYCLES_PER_STACK: Final = 120  # Then a fresh one: folding a whole log at every check takes longer and longer.


def main(argv: list[str]) -> int:
    """0: everything held; 1: a violation."""
    options = _parser().parse_args(argv)
    logging.disable(logging.CRITICAL)  # Clients that find nobody at home say so; that is what is wanted.
    summary = Summary(options.seed, kafka=options.kafka, callers=options.callers)
    began = monotonic()
    chance = random.Random(options.seed)
    deadline = monotonic() + 60 * options.minutes if options.minutes else float("inf")
    folder = Path(tempfile.mkdtemp(prefix="tessera-chaos-", dir=options.folder))
    folder.chmod(0o755)  # PostgreSQL may run as another user.
    print(f"seed {options.seed}, {options.cycles} cycles at most, in {folder}", flush=True)
    while len(summary.cycles) < options.cycles and monotonic() < deadline:
        stack_folder = folder / f"stack-{len(summary.cycles)}"
        try:
            _one_stack(stack_folder, options, summary, chance, deadline)
        except (Violation, Unanswered) as violation:
            print(f"\nVIOLATION with seed {options.seed} after cycle {len(summary.cycles)}:\n{violation}", flush=True)
            print(f"everything is kept in {stack_folder}: logs, engines' data, acknowledged.jsonl")
            return 1
        finally:
            summary.seconds = monotonic() - began
            _write(options.results, summary)
        if not options.keep:
            shutil.rmtree(stack_folder, ignore_errors=True)
    if not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"\n{len(summary.cycles)} cycles, {summary.acknowledged:,} acknowledgements, {summary.events:,} events, "
        f"{summary.checks} checks of everything: no violation"
    )
    return 0


def _one_stack(
    folder: Path, options: argparse.Namespace, summary: Summary, chance: random.Random, deadline: float
) -> None:
    room = min(CYCLES_PER_STACK, options.cycles - len(summary.cycles))
    with running(
        folder, options.seed + len(summary.cycles), summary, kafka=options.kafka, callers=options.callers, say=_say
    ) as (
        stack,
        run,
    ):
        faults = islice(schedule(stack, chance, options.kinds, options.victims), room)
        while (group := list(islice(faults, CYCLES_PER_CHECK))) and monotonic() < deadline:
            _one_group(run, group, deadline)


def _one_group(run: Run, group: list[Fault], deadline: float) -> None:
    """Some faults, one after the other as long as there is time, then a check of everything."""
    run.open()
    done: list[str] = []
    try:
        for fault in group:
            if monotonic() > deadline:
                break
            done.append(f"{fault.kind} {fault.victim}")
            print(_line(run.cycle(fault)), flush=True)
        run.check()
        print(flush=True)
    except (Violation, Unanswered) as violation:
        raise Violation(f"{violation}\nwhat was done since the last check: {', '.join(done)}") from violation


def _say(text: str) -> None:
    print(f"      {text}", end=";", flush=True)


def _line(cycle: Cycle) -> str:
    return (
        f"{cycle.number:>5} {cycle.kind:<9} {cycle.victim:<26} {cycle.in_flight:>3} in flight; served after "
        f"{cycle.served_seconds:5.2f} s, caught up after {cycle.caught_up_seconds:5.2f} s"
        f"{f' ({cycle.last})' if cycle.last else ''}"
    )


def _write(path: Path | None, summary: Summary) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(summary.as_json(), indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--cycles", type=int, default=1_000, help="how many faults, at most")
    parser.add_argument("--for", dest="minutes", type=float, default=0.0, help="so many minutes at most")
    parser.add_argument("--seed", type=int, default=1, help="chooses faults, their times and what customers do")
    parser.add_argument("--callers", type=int, default=16, help="how many commands may be in flight")
    kinds = ("kill", "freeze", "network")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=list(kinds), help="which faults")
    parser.add_argument("--victims", nargs="+", default=[], help="only these: postgres, api-1, sagas-2→postgres …")
    parser.add_argument("--folder", default=os.environ.get("TMPDIR"), help="where the stacks' folders are made")
    parser.add_argument("--kafka", action="store_true", help="the log reaches its followers through a Kafka broker")
    parser.add_argument("--keep", action="store_true", help="keep the folders, also when everything held")
    parser.add_argument("--results", type=Path, help="write every cycle to this JSON file")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
