"""structlog as JSON lines: ``noun_verb`` events with ids, secrets masked, no personal data."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import orjson
import structlog

from infra.settings import Settings

_SECRET_FIELD: Final = re.compile(r"secret|password|passwd|token|authorization|api_?key|cookie|dsn", re.IGNORECASE)
# Keys, and passwords inside connection addresses, wherever they turn up in a text.
_SECRET_TEXT: Final = re.compile(r"(tsk_[A-Za-z0-9]+_)[A-Za-z0-9_\-]+|(://[^:/@\s]*:)[^@\s]+(?=@)|(password=)\S+")
_MASK: Final = "***"
_DEPTH_MAX: Final = 5

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
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    if root.level == logging.INFO:  # Kafka's client tells every step of every group at that level.
        logging.getLogger("aiokafka").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        cache_logger_on_first_use=False,  # Else whatever was logged first would decide for good where a logger writes.
    )


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
