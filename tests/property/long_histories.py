"""Plays histories on a real PostgreSQL for as many steps as asked for, on several cores, and tells how far it is."""

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from multiprocessing import get_context
from time import monotonic
from typing import Any, Final, NamedTuple

import psycopg
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from command.ports import EventLog
from infra.embedded import EmbeddedStack
from infra.postgres.log import PostgresEventLog
from infra.postgres.migrations import migrate
from tests.engines import at_database
from tests.property.histories import Histories

STEPS_PER_HISTORY: Final = 500
HISTORIES_PER_SEED: Final = 4
TELL_EVERY_SECONDS: Final = 10.0
TEMPLATE: Final = "histories_template"

_names = itertools.count(1)


class Played(NamedTuple):
    """What became of one seed. ``trouble`` is empty when all of its histories agreed with the model."""

    seed: int
    steps: int
    trouble: str = ""


def play(dsn: str, number: int) -> Played:
    """The histories of one seed, each on a database of its own."""
    with ExitStack() as contexts:

        @seed(number)
        class OnPostgres(Histories):
            @staticmethod
            def make_log() -> EventLog:
                contexts.close()  # Of the history before.
                return PostgresEventLog(contexts.enter_context(_database(dsn)))

            @staticmethod
            def close_log(log: Any) -> None:
                log.close()

        bounds = settings(
            max_examples=HISTORIES_PER_SEED,
            stateful_step_count=STEPS_PER_HISTORY,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        try:
            run_state_machine_as_test(OnPostgres, settings=bounds)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is a finding.
            return Played(number, OnPostgres.steps, f"{type(failure).__name__}: {failure}")
    return Played(number, OnPostgres.steps)


@contextmanager
def _database(dsn: str) -> Iterator[str]:
    name = f"h_{os.getpid()}_{next(_names)}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}"'.encode())
        try:
            yield at_database(dsn, name)
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def main() -> int:
    """Exit code 1 at the first history that does not agree, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="make histories", description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000, help="rules to carry out")
    parser.add_argument("--processes", type=int, default=2, help="cores")
    parser.add_argument("--seed", type=int, default=1, help="the first; each one plays some histories")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tessera-histories-") as folder, EmbeddedStack(folder) as stack:
        dsn = stack.endpoints.postgres_dsn
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f'CREATE DATABASE "{TEMPLATE}"'.encode())
        migrate(at_database(dsn, TEMPLATE))
        try:
            return _play_all(dsn, told.steps, told.processes, told.seed)
        except KeyboardInterrupt:
            print("interrupted")
            return 130


def _play_all(dsn: str, wanted: int, processes: int, first: int) -> int:
    began = told_at = monotonic()
    steps = seeds = 0
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        numbers = itertools.count(first)
        under_way = [pool.submit(play, dsn, next(numbers)) for _ in range(2 * processes)]
        while steps < wanted:
            played = under_way.pop(0).result()
            under_way.append(pool.submit(play, dsn, next(numbers)))
            steps, seeds = steps + played.steps, seeds + 1
            if played.trouble:
                pool.shutdown(cancel_futures=True)
                print(
                    f"seed {played.seed} FAILED: {played.trouble}\nTo see it again: make histories SEED={played.seed}"
                )
                return 1
            now = monotonic()
            if now - told_at >= TELL_EVERY_SECONDS or steps >= wanted:
                told_at, speed = now, steps / (now - began)
                left = timedelta(seconds=round(max(0, wanted - steps) / speed))
                print(f"{steps:,} steps of {seeds} seeds agree; {speed:,.0f} steps/s, {left} left", flush=True)
        pool.shutdown(cancel_futures=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
