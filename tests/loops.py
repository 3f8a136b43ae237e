"""Engines that run, of either kind: on an event loop, on one thread with those who ask, or on a thread of their own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvloop

from command.engine import Engine, EngineObserver, EngineSettings
from command.handlers.handler import Handlers
from command.ports import EventLog
from infra import fiber
from infra.bootstrap.stores import running_on_loop
from infra.fiber import FiberBell

PATIENCE_SECONDS = 30


def engine_for_a_loop(
    log: EventLog,
    handlers: Handlers,
    settings: EngineSettings | None = None,
    observer: EngineObserver | None = None,
    *,
    pause: Callable[[float], None] = fiber.pause,
) -> Engine:
    """An engine that :func:`on_a_loop` can run."""
    return Engine(log, handlers, settings, observer, pause=pause, bell=FiberBell())


@contextmanager
def running_engine(
    log: EventLog,
    handlers: Handlers,
    settings: EngineSettings | None = None,
    observer: EngineObserver | None = None,
    *,
    on_loop: bool,
) -> Iterator[Engine]:
    """An engine that runs: on a loop, as the API's does, or on a thread of its own, as those of workers do."""
    if on_loop:
        engine = engine_for_a_loop(log, handlers, settings, observer)
        with on_a_loop(engine):
            yield engine
        return
    engine = Engine(log, handlers, settings, observer)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@contextmanager
def on_a_loop(*engines: Engine) -> Iterator[asyncio.AbstractEventLoop]:
    """Engines that run on the loop of a thread of its own; what is queued at the end is finished first."""
    runs, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        async with running_on_loop(engines):
            await asyncio.sleep(0)  # They have begun.
            runs.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: uvloop.run(run()), daemon=True)
    thread.start()
    assert runs.wait(PATIENCE_SECONDS)
    try:
        yield loops[0]
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
