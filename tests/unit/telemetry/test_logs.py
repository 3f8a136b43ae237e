"""Logs are JSON lines with ids, and no secret ever gets into them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from infra.telemetry.logs import configure_logs

KEY = "tsk_3f9a1c7b20de_5ec2e75ec2e7"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where this test's logs go; afterwards everything is as before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs(level="INFO", stream=stream)
    yield stream
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was logged."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_its_ids(stream: io.StringIO) -> None:
    structlog.get_logger("edge").info("request_served", request_id="r1", tenant_id="acme", command_id="k1")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("request_served", "info", "edge")
    assert (line["request_id"], line["tenant_id"], line["command_id"]) == ("r1", "acme", "k1")
    assert line["timestamp"].endswith("Z")


def test_libraries_log_in_the_same_way(stream: io.StringIO) -> None:
    logging.getLogger("engine").warning("batch_failed", extra={"command_id": "k1"})
    (line,) = lines(stream)
    assert (line["event"], line["command_id"], line["level"]) == ("batch_failed", "k1", "warning")


def test_lines_for_people_have_no_colours_in_a_file(stream: io.StringIO) -> None:
    configure_logs(stream=stream, human=True)
    structlog.get_logger("edge").error("worker_ended", worker="worker-1")
    assert "worker_ended" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_secrets_are_masked_by_name_and_by_look(stream: io.StringIO) -> None:
    structlog.get_logger().info(
        "key_used",
        secret="hush",
        headers={"Authorization": f"Bearer {KEY}", "Accept": "*/*"},
        detail=f"called with {KEY}",
        address="postgresql://tessera:hush@db:5432/tessera?password=hush",
        items=[f"see {KEY}", 5],
    )
    text = stream.getvalue()
    assert "hush" not in text
    assert "5ec2e7" not in text
    (line,) = lines(stream)
    assert line["secret"] == "***"
    assert line["headers"] == {"Authorization": "***", "Accept": "*/*"}
    assert line["detail"] == "called with tsk_3f9a1c7b20de_***"
    assert line["address"] == "postgresql://tessera:***@db:5432/tessera?password=***"
    assert line["items"] == ["see tsk_3f9a1c7b20de_***", 5]


def test_secrets_in_tracebacks_are_masked_too(stream: io.StringIO) -> None:
    try:
        raise ConnectionError(f"redis://:hush@cache refused {KEY}")
    except ConnectionError:
        structlog.get_logger().exception("store_lost")
    text = stream.getvalue()
    assert "ConnectionError" in text
    assert "hush" not in text
    assert "5ec2e7" not in text


def test_what_is_below_the_level_is_not_logged(stream: io.StringIO) -> None:
    structlog.get_logger().debug("request_served")
    logging.getLogger("engine").debug("batch_taken")
    assert lines(stream) == []
