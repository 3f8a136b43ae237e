"""The process under measurement: an engine as production builds it, and its load.

Orders and answers are JSON, one line in, one line out. It ends when its input does, and so never outlives whoever
started it.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from benchmarks.garbage import GarbageWatch
from benchmarks.loops import BatchSizes, closed_loop, open_loop
from benchmarks.sampler import Sampler
from benchmarks.workloads import WORKLOADS, Workload, distribute
from infra import memory
from infra.bootstrap.stores import WriteSide, write_side
from infra.settings import Settings


class EngineChild:
    """Carries out orders; ``workload`` is made once for each kind, so that users and orders stay new."""

    def __init__(self, side: WriteSide, dsn: str, batches: BatchSizes, name: str) -> None:
        self._side = side
        self._engine = side.engine
        self._dsn = dsn
        self._batches = batches
        self._name = name
        self._workloads: dict[str, Workload] = {}
        self._orders: dict[str, Callable[..., dict[str, Any]]] = {
            "prepare": self._prepare,
            "closed": self._closed,
            "open": self._open,
            "profile": self._profile,
            "distribute": self._distribute,
        }

    def carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        """One order: ``do`` and its arguments."""
        return self._orders[order.pop("do")](**order)

    def _prepare(self, workload: str, clients: int) -> dict[str, Any]:
        self._workload(workload).prepare(self._engine, clients)
        return {}

    def _closed(self, workload: str, clients: int, seconds: float, warm_seconds: float) -> dict[str, Any]:
        return self._measured(
            lambda: asdict(
                closed_loop(self._engine, self._workload(workload), clients, seconds=seconds, warm_seconds=warm_seconds)
            )
        )

    def _open(self, workload: str, per_second: float, seconds: float, warm_seconds: float) -> dict[str, Any]:
        return self._measured(
            lambda: asdict(
                open_loop(
                    self._engine, self._workload(workload), per_second, seconds=seconds, warm_seconds=warm_seconds
                )
            )
        )

    def _distribute(self, name: str, template_id: str, users: int) -> dict[str, Any]:
        """Seconds that it took."""
        started = time.perf_counter()
        distribute(self._side, self._dsn, name, template_id, users)
        return {"seconds": time.perf_counter() - started}

    def _profile(self, order: dict[str, Any]) -> dict[str, Any]:
        """Another order under the sampler: its rate is no figure, its shares are."""
        sampler = Sampler()
        sampler.start()
        try:
            self.carry_out(order)
        finally:
            sampler.stop()
        return sampler.result()

    def _measured(self, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """With batch sizes, and the processor time of this process by thread."""
        self._batches.reset()
        process, main = time.process_time(), time.thread_time()
        with GarbageWatch() as garbage:
            told = run()
        own, load = time.process_time() - process, time.thread_time() - main
        seen = {"batches": self._batches.summary(), "garbage": garbage.summary()}
        return {**told, **seen, "process_seconds": own, "load_seconds": load}

    def _workload(self, kind: str) -> Workload:
        if kind not in self._workloads:
            self._workloads[kind] = WORKLOADS[kind](self._name)
        return self._workloads[kind]


def main() -> None:
    """``engine_child NAME DSN``."""
    name, dsn = sys.argv[1], sys.stdin.readline().strip()
    # Redis and ClickHouse are not asked by the write side.
    nowhere = {"redis_url": "redis://127.0.0.1:1/0", "clickhouse_url": "http://127.0.0.1:1/none"}
    settings = Settings.load(postgres_dsn=dsn, **nowhere)
    batches = BatchSizes()
    with ExitStack() as stack:
        side = stack.enter_context(write_side(settings, batches))
        memory.settle()  # As server processes do.
        child = EngineChild(side, dsn, batches, name)
        print(json.dumps({"ready": True, "threads": threading.active_count()}), flush=True)
        for line in sys.stdin:
            try:
                told = child.carry_out(json.loads(line))
            except Exception as error:  # noqa: BLE001 - whoever gave the order learns why it failed.
                told = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
