"""structlog as JSON lines: ``noun_verb`` events with ids, secrets masked, no personal data."""

import logging
import re
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final, TextIO

import orjson
import structlog

from infra.settings import Settings

_SECRET_FIELD: Final = re.compile(r"secret|password|passwd|token|authorization|api_?key|cookie|dsn", re.IGNORECASE)
# Keys, and passwords inside connection addresses, wherever they turn up in a text.
_SECRET_TEXT: Final = re.compile(r"(tsk_[A-Za-z0-9]+_)[A-Za-z0-9_\-]+|(://[^:/@\s]*:)[^@\s]+(?=@)|(password=)\S+")
_MASK: Final = "***"
_DEPTH_MAX: Final = 5
_KAFKA_CLIENT: Final = "aiokafka"
_COMPLAINT_SECONDS: Final = 60.0
_COMPLAINTS_MAX: Final = 100  # Different ones that are remembered.

Event = MutableMapping[str, Any]


def configure_logs(*, level: str = "INFO", stream: TextIO | None = None, human: bool = False) -> None:
    """Send every log of this process, the libraries' too, to ``stream`` (standard error): JSON lines, or for people."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    stream = stream or sys.stderr
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
        )
        if human
        else structlog.processors.JSONRenderer(serializer=_to_json)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.setLevel(level)  # Beside the root's: some libraries set a level of their own.
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    _tame_kafka_client(handler, root.level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        cache_logger_on_first_use=False,  # Else whatever was logged first would decide for good where a logger writes.
    )


def _tame_kafka_client(handler: logging.Handler, level: int) -> None:
    """At INFO Kafka's client tells every step of every group, and whatever it tries again is an error to it.

    What finally fails, our own parts say. So commands, which log errors only, hear nothing of it, and servers a warning
    now and then; at DEBUG it says what it likes.
    """
    client = logging.getLogger(_KAFKA_CLIENT)
    if level < logging.INFO:
        client.setLevel(logging.NOTSET)
        return
    client.setLevel(logging.WARNING if level <= logging.WARNING else logging.CRITICAL + 1)
    handler.addFilter(_KafkaClientSays())


class _KafkaClientSays(logging.Filter):
    """Makes one line of ours, ``kafka_client_complained``, of what Kafka's client says over and over."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._told: dict[str, tuple[float, int]] = {}  # What it says -> when that was told, how often it came since.

    def filter(self, record: logging.LogRecord) -> bool:
        """Once in a while each thing that it says, as a warning; with how often it was left out since the last time."""
        if record.name.partition(".")[0] != _KAFKA_CLIENT:
            return True
        now, what = self._now(), str(record.msg)  # Without what is filled in: topics, partitions, correlation ids.
        told_at, left_out = self._told.get(what, (float("-inf"), 0))
        if now - told_at < _COMPLAINT_SECONDS:
            self._told[what] = told_at, left_out + 1
            return False
        if len(self._told) >= _COMPLAINTS_MAX:
            self._told.clear()
        self._told[what] = now, 0
        record.said, record.left_out = record.getMessage(), left_out
        record.msg, record.args = "kafka_client_complained", ()
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        return True


def configure_logs_by(settings: Settings) -> None:
    """The logs of a server process, by its settings' level and format."""
    configure_logs(level=settings.log_level.upper(), human=settings.log_format == "console")


def mask_secrets(_logger: object, _method: str, event: Event) -> Event:
    """Hide values of fields that are named like secrets, and keys and passwords inside any text."""
    return {name: _masked(name, value, 0) for name, value in event.items()}


def _masked(name: str, value: object, depth: int) -> object:
    if _SECRET_FIELD.search(name):
        return _MASK
    if isinstance(value, str):
        return _SECRET_TEXT.sub(lambda found: f"{found[1] or found[2] or found[3]}{_MASK}", value)
    if isinstance(value, dict) and depth < _DEPTH_MAX:
        return {str(key): _masked(str(key), inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple) and depth < _DEPTH_MAX:
        return [_masked("", inner, depth + 1) for inner in value]
    return value


def _to_json(event: object, **_options: object) -> str:
    return orjson.dumps(event, default=repr).decode()
