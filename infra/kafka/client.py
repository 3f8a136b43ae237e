"""How every connection to Kafka is made: from settings, with a limit on every wait, errors in one word."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypedDict

from aiokafka.errors import InvalidSessionTimeoutError, KafkaConnectionError, KafkaError, RequestTimedOutError

from infra.kafka.errors import KafkaUnavailable
from infra.settings import Settings

__all__ = ["KafkaUnavailable", "NoKafka", "SessionNotAllowed", "connection", "membership", "translated"]

ANSWER_TIMEOUT_MS: Final = 10_000
HEARTBEATS_PER_SESSION: Final = 5
# What a live member may take to finish what is in hand before its partitions go to others. Where nothing is said it is
# the session: whoever took longer was expelled, came back, and had the next one expelled.
REBALANCE_MS: Final = 15_000


class NoKafka(Exception):
    """Somebody needs Kafka and no address of one is set."""

    def __init__(self) -> None:
        super().__init__(
            "TESSERA_KAFKA_BOOTSTRAP is not set. Set it to the address of a broker (host:port,host:port), "
            "or run `tessera up --kafka`, which brings its own"
        )


class SessionNotAllowed(Exception):
    """The broker refuses a member of a group because of its session's length."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            f"Kafka at {settings.kafka_bootstrap} allows no session of {settings.kafka_session_seconds:g} s. Set "
            f"TESSERA_KAFKA_SESSION_SECONDS to what it allows: from its group.min.session.timeout.ms (six seconds "
            f"unless it was told otherwise) to its group.max.session.timeout.ms"
        )


def connection(settings: Settings) -> dict[str, Any]:
    """The arguments that every client of `aiokafka` (producer, consumer, admin) shares. Errors: NoKafka."""
    if settings.kafka_bootstrap is None:
        raise NoKafka
    return {
        "bootstrap_servers": [server.strip() for server in settings.kafka_bootstrap.split(",")],
        "request_timeout_ms": ANSWER_TIMEOUT_MS,
        **_security(settings),
    }


class Membership(TypedDict):
    """Arguments of `aiokafka`'s consumer: a member's silence, how often it speaks, how late it may hand over."""

    session_timeout_ms: int
    heartbeat_interval_ms: int
    rebalance_timeout_ms: int


def membership(settings: Settings) -> Membership:
    """The same for everybody who joins a group, by settings."""
    session_ms = int(1_000 * settings.kafka_session_seconds)
    return {
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": session_ms // HEARTBEATS_PER_SESSION,
        "rebalance_timeout_ms": REBALANCE_MS,
    }


def _security(settings: Settings) -> dict[str, Any]:
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        options["ssl_context"] = ssl.create_default_context(cafile=settings.kafka_ssl_cafile)
    if protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = settings.kafka_sasl_password
    return options


@contextmanager
def translated(settings: Settings) -> Iterator[None]:
    """Turn what says "out of reach, or too late" into KafkaUnavailable; mistakes of ours stay what they are.

    Raises SessionNotAllowed as well.
    """
    try:
        yield
    except InvalidSessionTimeoutError as error:
        raise SessionNotAllowed(settings) from error
    except (KafkaConnectionError, RequestTimedOutError, OSError) as error:  # A TimeoutError is an OSError.
        raise KafkaUnavailable(_unreachable(settings, error)) from error
    except KafkaError as error:
        if not error.retriable:
            raise
        raise KafkaUnavailable(_unreachable(settings, error)) from error


def _unreachable(settings: Settings, error: Exception) -> str:
    why = str(error) or type(error).__name__
    return f"Kafka at {settings.kafka_bootstrap} cannot be reached or does not answer: {why}. Is it running?"
