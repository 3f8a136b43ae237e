"""The sides that several targets share: our engine under a workload, and PostgreSQL alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import psycopg

from benchmarks.bench import ENGINE_CLIENTS, PGBENCH_CLIENTS, Bench, Figure, Sweep, best_of
from benchmarks.engine_process import EngineProcess, order_all
from benchmarks.postgres import pgbench
from benchmarks.processor import Meter, micros_each

HOT_CLIENTS: Final = 64

# One row of as many bytes as an event of ours, under an id: what a commit costs by itself.
SINGLE_ROWS: Final = "CREATE TABLE bench_rows (id bigserial PRIMARY KEY, payload text NOT NULL)"
INSERT_ROW: Final = "INSERT INTO bench_rows (payload) VALUES (:payload);\n"
HOT_ROW: Final = "CREATE TABLE bench_stock (id int PRIMARY KEY, stock bigint NOT NULL)"
TAKE_ONE: Final = "UPDATE bench_stock SET stock = stock - 1 WHERE id = 1;\n"


class Engines:
    """One or more processes, each with an engine: on the same store, or each on a shard of its own."""

    def __init__(self, bench: Bench, children: list[EngineProcess]) -> None:
        self._bench = bench
        self._children = children

    def prepare(self, workload: str, clients: int) -> None:
        """One after the other: they share templates."""
        for child in self._children:
            child.order("prepare", workload=workload, clients=self._share(clients))

    def distribute(self, name: str, template_id: str, users: int) -> Figure:
        """Bulk issue: coupons a second."""
        meter = Meter({"engine 1": self._children[0].pid, "PostgreSQL": self._bench.postgres.pid})
        told = self._children[0].order("distribute", name=name, template_id=template_id, users=users)
        return Figure(users / told["seconds"], {"micros_each": micros_each(meter.used(), users), "users": users})

    def closed(self, workload: str, clients: int, seconds: float | None = None) -> Figure:
        """Commands a second, all processes together."""
        return self._measure(
            "closed", workload=workload, clients=self._share(clients), **self._window(seconds), total_clients=clients
        )

    def best_of(self, workload: str) -> Sweep:
        """The number of clients that is served best."""
        seconds = self._bench.effort.sweep_seconds
        return best_of(
            self._bench, f"engine, {workload}", lambda clients: self.closed(workload, clients, seconds), ENGINE_CLIENTS
        )

    def open(self, workload: str, per_second: float, seconds: float | None = None) -> Figure:
        """Arrivals at this rate, all processes together."""
        share = per_second / len(self._children)
        return self._measure("open", workload=workload, per_second=share, **self._window(seconds), total_clients=0)

    def profile(self, workload: str, clients: int) -> dict[str, Any]:
        """Shares of the first process's processor time, by part and function."""
        return self._profile({"do": "closed", "workload": workload, "clients": clients, **self._window(None)})

    def profile_bulk(self, name: str, template_id: str, users: int) -> dict[str, Any]:
        """The same of a bulk issue."""
        return self._profile({"do": "distribute", "name": name, "template_id": template_id, "users": users})

    def _profile(self, order: dict[str, Any]) -> dict[str, Any]:
        return self._children[0].order("profile", order=order)

    def _measure(self, do: str, *, total_clients: int, **arguments: Any) -> Figure:
        roots = {f"engine {number + 1}": child.pid for number, child in enumerate(self._children)}
        meter, wal = Meter({**roots, "PostgreSQL": self._bench.postgres.pid}), self._bench.postgres.wal_bytes()
        told = order_all(self._children, do, **arguments)
        used, wal = meter.used(), self._bench.postgres.wal_bytes() - wal
        per_second = sum(each["per_second"] for each in told)
        # The meter ran through the warm-up, too: so did the commands that its seconds are shared among.
        operations = sum(round(each["batches"]["batches"] * each["batches"]["commands_mean"]) for each in told)
        load = sum(each["load_seconds"] for each in told)
        worst = max(told, key=lambda each: each["latencies"]["p99_ms"])
        return Figure(
            per_second,
            {
                "clients": total_clients,
                "latencies": worst["latencies"],
                "batches": [each["batches"] for each in told],
                "garbage": [each["garbage"] for each in told],
                "micros_each": {
                    **micros_each(used, operations),
                    "of which making the load": load * 1e6 / operations if operations else 0.0,
                },
                "wal_bytes_each": wal / operations if operations else 0.0,
            },
        )

    def _share(self, clients: int) -> int:
        return max(1, clients // len(self._children))

    def _window(self, seconds: float | None) -> dict[str, float]:
        return {"seconds": seconds or self._bench.effort.seconds, "warm_seconds": self._bench.effort.warm_seconds}


@contextmanager
def engines(bench: Bench, *dsns: str, runs_on: str = "loop") -> Iterator[Engines]:
    """One engine process for each of these stores; whoever names a store twice has two on it.

    ``runs_on``: "loop" as in ``tessera serve``, "thread" as in ``tessera worker``, which carries out distributions.
    """
    children = [EngineProcess(dsn, name, runs_on=runs_on) for dsn, name in zip(dsns, "abcdefgh", strict=False)]
    with _all(children):
        yield Engines(bench, children)


@contextmanager
def _all(children: list[EngineProcess]) -> Iterator[None]:
    if not children:
        yield
        return
    with children[0], _all(children[1:]):
        yield


def single_rows(bench: Bench, dsn: str, payload: str) -> Sweep:
    """Make the table, and find the number of clients at which PostgreSQL commits most single rows."""
    execute(dsn, SINGLE_ROWS)
    return best_of(
        bench,
        "pgbench, single-row commits",
        lambda clients: single_row_commits(dsn, payload, clients, bench.effort.sweep_seconds),
        PGBENCH_CLIENTS,
    )


def single_row_commits(
    dsn: str, payload: str, clients: int, seconds: float, *, latencies: bool = False, rate: float | None = None
) -> Figure:
    """Durable commits a second, each of one row: as many as there can be, or ``rate`` of them at random instants."""
    variables = {"payload": payload}
    run = pgbench(
        dsn, INSERT_ROW, clients=clients, seconds=seconds, variables=variables, latencies=latencies, rate=rate
    )
    details: dict[str, Any] = {"clients": clients}
    if run.latencies is not None:
        details["latencies"] = asdict(run.latencies)
    return Figure(run.per_second, details)


def hot_row_updates(dsn: str, clients: int, seconds: float) -> Figure:
    """Durable updates a second of one row that everybody wants."""
    return Figure(pgbench(dsn, TAKE_ONE, clients=clients, seconds=seconds).per_second, {"clients": clients})


def make_hot_row(dsn: str) -> None:
    """One row with stock for everybody."""
    execute(dsn, HOT_ROW)
    execute(dsn, "INSERT INTO bench_stock VALUES (1, 1000000000000)")


def typical_event(dsn: str) -> tuple[int, str]:
    """Bytes of the last stored event (stream, type and state together), and a text of as many bytes."""
    sql = """
        SELECT octet_length(originator_id) + octet_length(topic) + length(state) FROM stored_events
        ORDER BY notification_id DESC LIMIT 1
    """
    with psycopg.connect(dsn) as connection:
        row = connection.execute(sql.encode()).fetchone()
    size = int(row[0]) if row else 512
    return size, ("0123456789abcdef" * (size // 16 + 1))[:size]


def execute(dsn: str, sql: str) -> None:
    """One statement."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.encode())
