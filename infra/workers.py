"""Several API processes on one port, each with an engine of its own; whichever ends is started again."""

import sys
from typing import Final

import structlog

from infra.processes import ChildSpec, port_is_free
from infra.settings import Settings
from infra.supervisor import Ended, RestartPolicy, Started, Supervisor
from infra.telemetry.logs import configure_logs_by

logger = structlog.get_logger(__name__)

# What a worker may take to answer what is under way and to drain its engine.
GRACE_SECONDS: Final = 45.0
# However often one ends: the others go on meanwhile, and whoever runs us watches `/health/ready`.
POLICY: Final = RestartPolicy(ends_max=None, pause_seconds=1.0, pause_factor=1.0)


class PortTaken(RuntimeError):
    """Somebody else listens on the port already; the message says what to do."""


def serve_together(settings: Settings) -> None:
    """Serve with ``http_workers`` processes until SIGTERM or SIGINT. Raises PortTaken or MetricsPortTaken.

    The kernel spreads connections over them (SO_REUSEPORT), and any engine may write any stream. A worker that ends by
    itself takes its own connections along and nobody else's; it is started again after a pause.
    """
    configure_logs_by(settings)
    # Whoever shares a port shares it with anybody who asks to: look before.
    if not port_is_free(settings.http_port):
        raise PortTaken(f"port {settings.http_port} is taken")
    for number in range(settings.http_workers):  # A worker whose port is taken later is started until it is free again.
        if (port := _metrics_port(settings, number)) is not None and not port_is_free(port):
            from infra.bootstrap.processes import MetricsPortTaken

            raise MetricsPortTaken(f"port {port}, where worker-{number} would serve its metrics, is taken")
    with Supervisor(POLICY) as supervisor:
        for number in range(settings.http_workers):
            supervisor.start(_worker(settings, number))
        supervisor.wait(_log)


def _log(what: Ended | Started) -> None:
    match what:
        case Ended(ending):
            logger.error("worker_ended", worker=ending.name, exit_code=ending.exit_code)
        case Started(name, pid):
            logger.info("worker_started_again", worker=name, pid=pid)


def _metrics_port(settings: Settings, number: int) -> int | None:
    """Each counts for itself, so each serves its own metrics, when a first port for them is set."""
    first = settings.follower_metrics_port
    return None if first is None else first + number


def _worker(settings: Settings, number: int) -> ChildSpec:
    settings = settings.model_copy(update={"follower_metrics_port": _metrics_port(settings, number)})
    return ChildSpec(
        name=f"worker-{number}",
        argv=(sys.executable, "-m", "infra.cli", "serve", "--shared-port"),
        log_path=None,
        env=settings.to_env(),
        grace_seconds=GRACE_SECONDS,
    )
