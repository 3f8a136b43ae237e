"""``python -m tests.chaos``: the whole system as real processes, killed, frozen and cut off again and again.

It stops at the first violation, names the seed, the round and what was done last, and keeps the folder. Ctrl-C ends it
after the check of the round that is under way, a second one at once; with ``--results`` every round that was checked
is kept, and the same call goes on where it was cut off.
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, Final

from tests.chaos.faults import WEIGHTS, schedule
from tests.chaos.load import Unanswered
from tests.chaos.run import Cycle, Run, Summary, Violation, running

CYCLES_PER_CHECK: Final = 40
CHECKS_PER_STACK: Final = 5  # Then a fresh one: folding a whole log at every check takes longer and longer.


@dataclass
class Journey:
    """How far it is: what is done, what it was told to do, and whether somebody wants it to end."""

    options: argparse.Namespace
    cycles: int = 0
    rounds: int = 0
    done_before: int = 0
    began: float = field(default_factory=monotonic)
    wants_end: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        """Whether nothing new is to be begun."""
        minutes: float = self.options.minutes
        late = minutes > 0 and monotonic() - self.began > 60 * minutes
        return self.wants_end.is_set() or late or self.cycles >= self.options.cycles

    def keep(self, summary: Summary) -> None:
        """A round was checked: count it, and keep it in the file."""
        self.cycles += len(summary.cycles)
        self.rounds += 1
        path: Path | None = self.options.results
        if path is not None:
            with path.open("a") as lines:
                lines.write(json.dumps(summary.as_json()) + "\n")

    def line(self) -> str:
        """Where it stands, and how long it takes still."""
        minutes = (monotonic() - self.began) / 60
        pace = (self.cycles - self.done_before) / minutes
        left = (self.options.cycles - self.cycles) / pace if pace else 0.0
        if self.options.minutes:
            left = min(left, self.options.minutes - minutes)
        return (
            f"{self.cycles:,} of {self.options.cycles:,}, {pace:.1f} a minute; about {max(0.0, left):.0f} minutes left"
        )


def main(argv: list[str]) -> int:
    """0: everything held; 1: a violation."""
    options = _parser().parse_args(argv)
    logging.disable(logging.CRITICAL)  # Clients that find nobody at home say so; that is what is wanted.
    journey = Journey(options)
    for known in _kept(options.results):
        journey.cycles += len(known["cycles"])
        journey.rounds += 1
    journey.done_before = journey.cycles
    folder = Path(tempfile.mkdtemp(prefix="tessera-chaos-", dir=options.folder))
    folder.chmod(0o755)  # PostgreSQL may run as another user.
    print(f"seed {options.seed}, {journey.cycles:,} of {options.cycles:,} cycles done, in {folder}", flush=True)
    signal.signal(signal.SIGINT, lambda _number, _frame: _end(journey))
    while not journey.is_over:
        stack_folder = folder / f"stack-{journey.rounds}"
        try:
            _one_stack(stack_folder, journey)
        except (Violation, Unanswered) as violation:
            print(f"\nVIOLATION with seed {options.seed} in round {journey.rounds}:\n{violation}", flush=True)
            print(f"everything is kept in {stack_folder}: logs, engines' data, acknowledged.jsonl")
            return 1
        if not options.keep:
            shutil.rmtree(stack_folder, ignore_errors=True)
    if not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{journey.cycles:,} cycles in {journey.rounds} rounds: no violation")
    return 0


def _end(journey: Journey) -> None:
    if journey.wants_end.is_set():
        raise KeyboardInterrupt
    journey.wants_end.set()
    print("\nends after the check of this round; once more ends it now", flush=True)


def _one_stack(folder: Path, journey: Journey) -> None:
    options = journey.options
    seed = options.seed + 1_000 * journey.rounds  # Whoever goes on after a break does not repeat what was done.
    chance = random.Random(seed)
    with running(folder, seed, kafka=options.kafka, forked=options.forked, callers=options.callers, say=_say) as (
        stack,
        run,
    ):
        faults = schedule(stack, chance, options.kinds, options.victims)
        for _ in range(CHECKS_PER_STACK):
            if journey.is_over:
                return
            room = min(options.per_check, options.cycles - journey.cycles)
            summary = Summary(seed, options.kafka, options.callers, options.at_once, options.forked)
            _one_round(run, (each for each in islice(faults, room) if not journey.is_over), summary)
            journey.keep(summary)
            print(f"\n      {journey.line()}", flush=True)


def _one_round(run: Run, faults: Any, summary: Summary) -> None:
    """Some faults as long as there is time, then a check of everything."""
    began = monotonic()

    def done(cycle: Cycle) -> None:
        summary.cycles.append(cycle)
        print(_line(cycle), flush=True)

    try:
        run.open()
        run.faults(faults, summary.at_once, done)
        run.check(summary)
    except (Violation, Unanswered) as violation:
        last = ", ".join(f"{each.kind} {each.victim}" for each in summary.cycles)
        raise Violation(f"{violation}\nwhat was done since the last check: {last}") from violation
    summary.seconds = monotonic() - began


def _say(text: str) -> None:
    print(f"      {text}", end=";", flush=True)


def _line(cycle: Cycle) -> str:
    beside = f" (beside it: {', '.join(cycle.others)})" if cycle.others else ""
    return (
        f"      {cycle.kind:<9} {cycle.victim:<26} {cycle.in_flight:>3} in flight; served after "
        f"{cycle.served_seconds:5.2f} s{beside}"
    )


def _kept(path: Path | None) -> list[dict[str, Any]]:
    """The rounds that a file has already."""
    if path is None:
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--cycles", type=int, default=1_000, help="how many faults, at most")
    parser.add_argument("--for", dest="minutes", type=float, default=0.0, help="so many minutes at most")
    parser.add_argument("--seed", type=int, default=1, help="chooses faults, their times and what customers do")
    parser.add_argument("--callers", type=int, default=8, help="how many commands may be in flight")
    parser.add_argument("--at-once", type=int, default=2, help="how many faults may be under way side by side")
    parser.add_argument("--per-check", type=int, default=CYCLES_PER_CHECK, help="faults between checks of everything")
    kinds = tuple(WEIGHTS)
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=list(kinds), help="which faults")
    parser.add_argument("--victims", nargs="+", default=[], help="only these: postgres, api-1, sagas-2→postgres …")
    parser.add_argument("--folder", default=os.environ.get("TMPDIR"), help="where the stacks' folders are made")
    parser.add_argument("--kafka", action="store_true", help="the log reaches its followers through a Kafka broker")
    parser.add_argument(
        "--forked", action="store_true", help="fork our own processes instead of starting them cold: many more cycles"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folders, also when everything held")
    parser.add_argument("--results", type=Path, help="a file to which every checked round is added, one JSON line each")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
