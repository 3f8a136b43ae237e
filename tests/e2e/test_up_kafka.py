"""`tessera up --kafka`: a broker among the engines, its topics made, its address found by a second terminal."""

import json
from pathlib import Path

import pytest

from contracts.topics import ALL_TOPICS
from tests.e2e.conftest import up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_a_broker_runs_with_the_rest_on_a_port_that_is_kept_and_every_topic_is_there(tmp_path: Path) -> None:
    with up(tmp_path, "--kafka") as running:
        bootstrap = running.facts["kafka_bootstrap"]
        assert "kafka" in running.facts["pids"]
        kafka = {each["thing"]: each for each in running.run("doctor")["findings"]}["Kafka"]
        assert (kafka["level"], kafka["detail"]) == ("ok", f"{len(ALL_TOPICS)} topics; events in 4 partitions each")
        assert running.interrupt() == 0
    kept = json.loads((tmp_path / "ports.json").read_text())["kafka"]
    assert bootstrap == f"127.0.0.1:{kept}"
