"""P2: the same commands, beside what the event-sourcing library saves out of the box."""

import threading
from time import perf_counter
from typing import Any, Final

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from psycopg.conninfo import conninfo_to_dict

from benchmarks.bench import ENGINE_CLIENTS, Bench, Figure, Outcome, Sweep, Target, best_of, in_turn, ratio
from benchmarks.parts import engines, typical_event
from benchmarks.verification import verify

THREADS: Final = (1, 2, 4, 8, 16)
WORKLOAD = "locks"


class Coupon(Aggregate):
    """One event when it is made, with as many bytes as ours."""

    @event("Claimed")
    def __init__(self, payload: str) -> None:
        self.payload = payload


def saves(dsn: str, payload: str, threads: int, seconds: float) -> Figure:
    """``Application.save`` of one new aggregate with one event each, a second, over all threads."""
    given = conninfo_to_dict(dsn)
    application: Application[Any] = Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": str(given["dbname"]),
            "POSTGRES_HOST": str(given["host"]),
            "POSTGRES_PORT": str(given["port"]),
            "POSTGRES_USER": str(given["user"]),
            "POSTGRES_PASSWORD": str(given["password"]),
            "POSTGRES_POOL_SIZE": str(threads),
        }
    )
    try:
        application.save(Coupon(payload))  # Connect, make tables, prepare.
        saved = [0] * threads
        start = perf_counter()

        def work(number: int) -> None:
            while perf_counter() - start < seconds:
                application.save(Coupon(payload))
                saved[number] += 1

        workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return Figure(sum(saved) / (perf_counter() - start), {"threads": threads})
    finally:
        application.close()


def run(bench: Bench) -> Outcome:
    """The library with its best number of threads."""
    effort = bench.effort
    with bench.postgres.database() as dsn, engines(bench, dsn) as ours:
        ours.prepare(WORKLOAD, max(ENGINE_CLIENTS))
        our_sweep = ours.best_of(WORKLOAD)
        _, payload = typical_event(dsn)
        with bench.postgres.database(store=False) as library_dsn:
            sweep: Sweep = best_of(
                bench,
                "Application.save",
                lambda threads: saves(library_dsn, payload, threads, effort.sweep_seconds),
                THREADS,
            )
            sides = in_turn(
                bench,
                {
                    "single-event commands": lambda: ours.closed(WORKLOAD, our_sweep.best),
                    "Application.save": lambda: saves(library_dsn, payload, sweep.best, effort.seconds),
                },
            )
        outcome = ratio(sides, our_sweep=our_sweep.values, their_sweep=sweep.values)
        outcome.notes.append(f"the library saves most with {sweep.best} threads, we answer {our_sweep.best} clients")
        return verify(bench, outcome, dsn)


TARGET = Target(
    key="p2",
    title="single-event commands/s ÷ Application.save/s",
    how="as P1 ÷ the library's Application.save of one event of the same bytes, at the best of 1-16 threads",
    run=run,
    target=15.0,
    moonshot=30.0,
    others="1 (the library)",
)
