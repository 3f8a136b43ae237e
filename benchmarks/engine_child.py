"""The process under measurement: an engine as production builds it, and its load.

``loop``: as in ``tessera serve`` the engine runs on the event loop of those who ask. ``thread``: as in
``tessera worker`` it has a thread of its own; only ``distribute`` is asked of it then.

Orders and answers are JSON, one line in, one line out. It ends when its input does, and so never outlives whoever
started it.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import uvloop

from benchmarks.garbage import GarbageWatch
from benchmarks.loops import BatchSizes, Measured, closed_loop, open_loop
from benchmarks.sampler import Sampler
from benchmarks.workloads import WORKLOADS, Workload, distribute
from infra import memory
from infra.bootstrap.stores import WriteSide, running_on_loop, write_side
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
        self._orders: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "prepare": self._prepare,
            "closed": self._closed,
            "open": self._open,
            "profile": self._profile,
            "distribute": self._distribute,
        }

    async def carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        """One order: ``do`` and its arguments."""
        return await self._orders[order.pop("do")](**order)

    async def _prepare(self, workload: str, clients: int) -> dict[str, Any]:
        await asyncio.to_thread(self._workload(workload).prepare, self._engine, clients)
        return {}

    async def _closed(self, workload: str, clients: int, seconds: float, warm_seconds: float) -> dict[str, Any]:
        load = closed_loop(self._engine, self._workload(workload), clients, seconds=seconds, warm_seconds=warm_seconds)
        return await self._measured(load)

    async def _open(self, workload: str, per_second: float, seconds: float, warm_seconds: float) -> dict[str, Any]:
        load = open_loop(self._engine, self._workload(workload), per_second, seconds=seconds, warm_seconds=warm_seconds)
        return await self._measured(load)

    async def _distribute(self, name: str, template_id: str, users: int) -> dict[str, Any]:
        """Seconds that it took."""
        started = time.perf_counter()
        await asyncio.to_thread(distribute, self._side, self._dsn, name, template_id, users)
        return {"seconds": time.perf_counter() - started}

    async def _profile(self, order: dict[str, Any]) -> dict[str, Any]:
        """Another order under the sampler: its rate is no figure, its shares are."""
        sampler = Sampler()
        sampler.start()
        try:
            await self.carry_out(order)
        finally:
            sampler.stop()
        return sampler.result()

    async def _measured(self, load: Awaitable[Measured]) -> dict[str, Any]:
        """With batch sizes, and this process's processor time."""
        self._batches.reset()
        process = time.process_time()
        with GarbageWatch() as garbage:
            told = asdict(await load)
        seen = {"batches": self._batches.summary(), "garbage": garbage.summary()}
        return {**told, **seen, "process_seconds": time.process_time() - process}

    def _workload(self, kind: str) -> Workload:
        if kind not in self._workloads:
            self._workloads[kind] = WORKLOADS[kind](self._name)
        return self._workloads[kind]


async def carry_out_orders(child: EngineChild) -> None:
    """Until there are no more."""
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            told = await child.carry_out(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whoever gave the order learns why it failed.
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), flush=True)


async def serve_orders(runs_on: str, name: str, dsn: str) -> None:
    """With an engine that runs here, or on a thread of its own."""
    # Redis and ClickHouse are not asked by the write side.
    nowhere = {"redis_url": "redis://127.0.0.1:1/0", "clickhouse_url": "http://127.0.0.1:1/none"}
    settings, batches = Settings.load(postgres_dsn=dsn, **nowhere), BatchSizes()
    with write_side(settings, batches, on_loop=runs_on == "loop") as side:
        async with running_on_loop([side.engine] if runs_on == "loop" else []):
            memory.settle()  # As server processes do.
            await carry_out_orders(EngineChild(side, dsn, batches, name))


def main() -> None:
    """``engine_child loop|thread NAME``; the first line of its input is the DSN."""
    runs_on, name = sys.argv[1:]
    uvloop.run(serve_orders(runs_on, name, sys.stdin.readline().strip()))


if __name__ == "__main__":
    main()
