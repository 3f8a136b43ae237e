"""What every long-running process does alike: stop when asked to, serve metrics, trace."""

import errno
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from infra.kafka.errors import KafkaUnavailable
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from infra.telemetry.tracing import Tracing, make_provider

T = TypeVar("T")

WORKER_STOP_SECONDS: Final = 20.0
KAFKA_LOOKS_MAX: Final = 60
KAFKA_LOOK_SECONDS: Final = 1.0

logger = logging.getLogger(__name__)


class MetricsPortTaken(RuntimeError):
    """Somebody listens already where metrics were to be served; the message names the port."""


def make_tracing(settings: Settings, service: str) -> Tracing:
    """Spans when there is somewhere to send them, ids in any case."""
    if settings.otlp_endpoint is None:
        return Tracing()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
    return Tracing(make_provider(service, exporter=exporter))


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. Only for a main thread that never waits on it."""
    stop = threading.Event()
    former = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


@contextmanager
def metrics_served(settings: Settings, metrics: Metrics) -> Iterator[None]:
    """Serve a worker's own metrics, where a port for them is set. Raises MetricsPortTaken."""
    if settings.follower_metrics_port is None:
        yield
        return
    from prometheus_client import start_http_server

    port = settings.follower_metrics_port
    try:
        server, thread = start_http_server(port, settings.http_host, metrics.registry)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise MetricsPortTaken(f"port {port}, where this process would serve its metrics, is taken") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(WORKER_STOP_SECONDS)


def once_kafka_is_there(look: Callable[[], T], stop: threading.Event) -> T:
    """What a look at Kafka returns, which may come up after us.

    Raises KafkaUnavailable once we have looked for long enough, or were asked to stop.
    """
    for looks_left in range(KAFKA_LOOKS_MAX, 0, -1):
        try:
            return look()
        except KafkaUnavailable as error:
            if stop.is_set():
                raise
            logger.warning("kafka_awaited", extra={"reason": str(error), "looks_left": looks_left})
            time.sleep(KAFKA_LOOK_SECONDS)  # Not a wait on `stop`: its own signal handler could deadlock with it.
    return look()
