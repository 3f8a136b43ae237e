"""An intake over a real store and a real broker, in this process or in one of its own."""

import asyncio
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.topics import COMMANDS, DEAD_LETTERS, REPLIES, TAKEN_IN, Topic
from infra.bootstrap.stores import write_side
from infra.bootstrap.workers import intake_samples
from infra.entry.bridge import CommandQueue
from infra.intake.service import IntakeService
from infra.kafka.admin import create_topics
from infra.kafka.client import connection
from infra.processes import Child, ChildSpec, spawn
from infra.sagas.first_step import first_step
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from infra.telemetry.tracing import Tracing
from tests.integration.http.conftest import settings_for

INTAKE_TOPICS = (*TAKEN_IN, *DEAD_LETTERS, REPLIES)
STOP_SECONDS = 30.0


def kafka_settings(
    dsn: str, bootstrap: str, prefix: str, topics: Sequence[Topic] = INTAKE_TOPICS, **given: Any
) -> Settings:
    """Settings of a process that takes in, with its topics made."""
    settings = settings_for(dsn, kafka_bootstrap=bootstrap, kafka_prefix=prefix, **{"kafka_partitions": 2, **given})
    create_topics(settings, topics)
    return settings


@contextmanager
def taking_in(settings: Settings, queue: CommandQueue | None = None) -> Iterator[Metrics]:
    """An intake in this process, over a store or over any queue, until the block ends."""
    metrics, stop = Metrics(), threading.Event()
    service = IntakeService(settings, connection(settings), Tracing(), metrics)
    metrics.add_source(lambda: intake_samples(service))
    service.require_topics()
    failed: list[BaseException] = []

    def run(over: CommandQueue) -> None:
        try:
            asyncio.run(service.run(over, first_step, stop))
        except BaseException as error:  # noqa: BLE001 - told by the test's thread.
            failed.append(error)

    with write_side(settings, metrics) as side:
        thread = threading.Thread(target=run, args=(queue or side.engine,), daemon=True)
        thread.start()
        try:
            yield metrics
        finally:
            stop.set()
            thread.join(STOP_SECONDS)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


def intake_process(settings: Settings, folder: Path, name: str = "intake") -> Child:
    """``tessera worker intake``; stopped or killed by whoever started it."""
    return spawn(
        ChildSpec(
            name=name,
            argv=(sys.executable, "-m", "infra.cli", "worker", "intake"),
            log_path=folder / f"{name}.log",
            env=settings.to_env(),
            grace_seconds=STOP_SECONDS,
        )
    )


def group_of(settings: Settings, topic: Any = COMMANDS) -> str:
    """The consumer group that takes a topic in."""
    return f"{settings.kafka_prefix}tessera-intake-{topic.name}"
