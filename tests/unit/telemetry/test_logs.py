"""Logs are JSON lines with ids, and no secret ever gets into them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from infra.telemetry.logs import _KafkaClientSays, configure_logs

KEY = "tsk_3f9a1c7b20de_5ec2e75ec2e7"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where this test's logs go; afterwards everything is as before."""
    root, client = logging.getLogger(), logging.getLogger("aiokafka")
    handlers, level, client_level = root.handlers[:], root.level, client.level
    stream = io.StringIO()
    configure_logs(level="INFO", stream=stream)
    yield stream
    root.handlers[:], root.level = handlers, level
    client.setLevel(client_level)


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


def test_what_kafka_s_client_says_over_and_over_is_one_warning_of_ours_that_counts(stream: io.StringIO) -> None:
    client, clock = logging.getLogger("aiokafka.cluster"), iter([0.0, 1.0, 2.0, 3.0, 61.0])
    handler, *_ = logging.getLogger().handlers  # Others are of the tests themselves.
    handler.filters[:] = [_KafkaClientSays(now=lambda: next(clock))]
    for topic in ("a", "b", "a"):
        client.error("Topic %s not found in cluster metadata", topic)
    client.error("Unable connect to %s", "node 1")
    client.error("Topic %s not found in cluster metadata", "b")
    assert [(line["event"], line["level"], line["said"], line["left_out"]) for line in lines(stream)] == [
        ("kafka_client_complained", "warning", "Topic a not found in cluster metadata", 0),
        ("kafka_client_complained", "warning", "Unable connect to node 1", 0),
        ("kafka_client_complained", "warning", "Topic b not found in cluster metadata", 2),
    ]


def test_commands_hear_nothing_of_kafka_s_client_and_the_next_server_does(stream: io.StringIO) -> None:
    for level, heard in (("ERROR", 0), ("INFO", 1), ("DEBUG", 1)):
        stream.truncate(stream.seek(0))
        configure_logs(level=level, stream=stream)
        logging.getLogger("aiokafka").error("Topic %s not found in cluster metadata", "a")
        assert len(lines(stream)) == heard, level
