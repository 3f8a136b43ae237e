"""The intake as it starts."""

import asyncio
import threading
from typing import cast

import pytest

from infra.entry.bridge import CommandQueue
from infra.entry.first_steps import no_first_step
from infra.intake.service import IntakeService
from infra.kafka.client import connection
from infra.kafka.errors import KafkaUnavailable
from infra.processes import free_port
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from infra.telemetry.tracing import Tracing


def test_a_broker_that_goes_away_while_the_intake_starts_is_named_and_no_defect() -> None:
    settings = Settings.load(
        postgres_dsn="postgresql://u:p@127.0.0.1:1/d",
        redis_url="redis://127.0.0.1:1/0",
        clickhouse_url="http://u:p@127.0.0.1:1/d",
        kafka_bootstrap=f"127.0.0.1:{free_port()}",
    )
    service = IntakeService(settings, connection(settings), Tracing(), Metrics())
    nobody_asks = cast(CommandQueue, None)
    with pytest.raises(KafkaUnavailable, match=f"Kafka at {settings.kafka_bootstrap} cannot be reached"):
        asyncio.run(asyncio.wait_for(service.run(nobody_asks, no_first_step, threading.Event()), 60))
