"""Relays that are killed and stopped, and brokers that come and go under them: nothing is lost, little comes twice."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from infra.embedded import Endpoints
from infra.embedded.kafka import EmbeddedKafka
from infra.kafka.client import KafkaUnavailable
from infra.kafka.messages import Published
from tests.engines import running_kafka
from tests.integration.relay.world import (
    QUICK,
    SMALL,
    World,
    events_of,
    followed,
    repeated,
    settings_for,
    wait_for,
)

pytestmark = pytest.mark.faults

BATCH = 50
STOP_SECONDS = 30


@pytest.fixture
def world(postgres_dsn: str, kafka_bootstrap: str, kafka_prefix: str) -> World:
    """A store without events, and empty topics."""
    return World(settings_for(postgres_dsn, kafka_bootstrap, kafka_prefix))


class RelayProcess:
    """A relay in a process of its own."""

    def __init__(self, world: World, log: Path, **options: Any) -> None:
        settings = world.settings.model_dump(mode="json", exclude_none=True)
        given = {"settings": settings, "batch": BATCH, "lead_seconds": 3.0, **options}
        self._log = log
        with log.open("wb") as output:
            command = [sys.executable, "-m", "tests.faults.one_relay", json.dumps(given)]
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def said(self, state: str) -> bool:
        """Whether it was ever in a state."""
        return state in self._log.read_text().split()

    @property
    def state(self) -> str:
        """The one it is in."""
        states = [line for line in self._log.read_text().splitlines() if line.isalpha()]
        return states[-1] if states else ""

    def send(self, what: signal.Signals) -> None:
        """A signal."""
        self._process.send_signal(what)

    def has_stopped(self) -> bool:
        """Whether a signal stopped it."""
        return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def has_died(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def end(self) -> int:
        """In good order; its exit code."""
        self.send(signal.SIGTERM)
        return self._process.wait(STOP_SECONDS)

    def __enter__(self) -> "RelayProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)


def test_one_killed_between_the_acknowledgements_and_the_checkpoint_repeats_one_batch_and_loses_nothing(
    world: World, tmp_path: Path
) -> None:
    world.write("a", 40)
    dying = {"signal": int(signal.SIGKILL), "at": "acknowledged", "nth": 4}
    with RelayProcess(world, tmp_path / "first", **dying) as first:
        wait_for(first.has_died, "the first to kill itself")
        published = world.checkpoint
        assert published == 3 * BATCH
        with RelayProcess(world, tmp_path / "second") as second:
            world.until_published()
            assert second.end() == 0
    lanes = world.lanes()
    assert followed(lanes) == world.log()
    assert repeated(lanes) == BATCH


def test_one_killed_wherever_it_was_again_and_again_while_others_write_loses_nothing(
    world: World, tmp_path: Path
) -> None:
    kills = 3
    writer = threading.Thread(target=world.write, args=("a", 300))
    writer.start()
    for number in range(kills):
        with RelayProcess(world, tmp_path / f"victim-{number}") as victim:
            before = world.checkpoint
            wait_for(lambda: world.checkpoint > before, "some batches")  # noqa: B023
            victim.send(signal.SIGKILL)
            wait_for(victim.has_died, "its end")
    writer.join()
    with RelayProcess(world, tmp_path / "last") as last:
        world.until_published()
        assert last.end() == 0
    lanes = world.lanes()
    assert followed(lanes) == world.log()
    assert len(world.log()) == 300 * 9
    assert repeated(lanes) <= kills * BATCH


def test_the_one_that_stands_by_takes_over_when_the_other_is_killed(world: World, tmp_path: Path) -> None:
    world.write("a", 20)
    with RelayProcess(world, tmp_path / "first") as first:
        world.until_published()
        with RelayProcess(world, tmp_path / "second") as second:
            wait_for(lambda: second.state == "standby", "the second to stand by")
            world.write("b", 20)
            world.until_published()
            assert not second.said("publishing")
            first.send(signal.SIGKILL)
            world.write("c", 20)
            world.until_published()
            assert second.state == "publishing"
            assert second.end() == 0
    lanes = world.lanes()
    assert followed(lanes) == events_of(lanes) == world.log()


def test_a_leader_that_is_stopped_makes_way_and_what_it_sends_when_it_wakes_up_harms_nobody(
    world: World, tmp_path: Path
) -> None:
    world.write("a", 40)
    # It looks late whether its session lives: what it has in hand when it wakes up is sent first, however slow it is.
    stopping = {"signal": int(signal.SIGSTOP), "at": "confirmed", "nth": 3, "looks_seconds": 30.0}
    with RelayProcess(world, tmp_path / "former", **stopping) as former:
        wait_for(former.has_stopped, "it to be stopped in the middle of a batch")
        with RelayProcess(world, tmp_path / "second") as second:
            world.write("b", 10)
            head = world.until_published()
            before = repeated(world.lanes())  # None, unless this machine is so slow that the second was too late once.
            former.send(signal.SIGCONT)
            wait_for(lambda: former.state == "standby", "the former leader to notice")
            assert second.state == "publishing"
            assert world.checkpoint == head
            world.write("c", 10)
            world.until_published()
            assert former.end() == second.end() == 0
    lanes = world.lanes()
    assert repeated(lanes) >= before + BATCH, "it was to write behind the back of the other"
    assert _steps_back(lanes) > 0
    assert followed(lanes) == world.log()


def _steps_back(lanes: Any) -> int:
    """How often an older record lies behind a newer one."""
    offsets = [[each.position.offset for each in records if isinstance(each, Published)] for records in lanes.values()]
    return sum(later < earlier for lane in offsets for earlier, later in pairwise(lane))


@pytest.fixture(scope="module")
def kafka() -> Iterator[EmbeddedKafka]:
    """A broker that may be stopped: nobody else uses it."""
    with running_kafka() as kafka:
        yield kafka


def test_a_broker_that_freezes_ends_and_comes_back_under_load_loses_nothing(
    kafka: EmbeddedKafka, postgres_dsn: str
) -> None:
    world = World(settings_for(postgres_dsn, kafka.address, "load."))
    writer = threading.Thread(target=world.write, args=("a", 300))
    relay = world.relay(replace(SMALL, backoff_seconds_max=0.2), replace(QUICK, publish_seconds=1.0, open_seconds=1.0))
    with world.running(relay):
        writer.start()
        wait_for(lambda: relay.status().published > BATCH, "some batches")
        with frozen(kafka):
            wait_for(lambda: relay.status().state == "retrying", "the relay to notice")
            assert "KafkaUnavailable" in (relay.status().last_error or "")
            assert world.checkpoint < world.log()[-1].offset
        wait_for(lambda: relay.status().state == "publishing", "the relay to go on")
        restart(kafka, lambda: wait_for(lambda: relay.status().state == "retrying", "the relay to notice"))
        writer.join()
        world.until_published()
    lanes = world.lanes()
    assert followed(lanes) == world.log()
    assert len(world.log()) == 300 * 9


def test_no_checkpoint_moves_before_a_broker_has_acknowledged(kafka: EmbeddedKafka, postgres_dsn: str) -> None:
    world = World(settings_for(postgres_dsn, kafka.address, "acks."))
    world.write("a", 20)
    relay = world.relay(publisher=replace(QUICK, publish_seconds=1.0))
    relay.step()
    assert world.checkpoint == BATCH
    with frozen(kafka), pytest.raises(KafkaUnavailable):
        relay.step()
    assert world.checkpoint == BATCH
    relay._let_go()


@contextmanager
def frozen(kafka: EmbeddedKafka) -> Iterator[None]:
    """Stopped by a signal meanwhile: its connections stay, and nobody answers."""
    assert kafka.child is not None
    os.kill(kafka.child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(kafka.child.pid, signal.SIGCONT)


def restart(kafka: EmbeddedKafka, meanwhile: Any) -> None:
    """Killed, and later started where it was."""
    port = kafka.port
    assert kafka.child is not None
    kafka.child.kill()
    meanwhile()
    kafka.stop()
    kafka.start(port)
    assert kafka.port == port, "somebody else took the port meanwhile"


def test_the_worker_publishes_until_it_is_asked_to_stop(world: World, endpoints: Endpoints, tmp_path: Path) -> None:
    del endpoints
    world.write("a", 20)
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "infra.cli", "worker", "relay"]
        environment = {**os.environ, **world.settings.to_env()}
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: process.poll() is None and world.checkpoint >= 180, lambda: log.read_text()[-4_000:])
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0, log.read_text()[-4_000:]
    finally:
        if process.poll() is None:
            process.kill()
    lanes = world.lanes()
    assert followed(lanes) == events_of(lanes) == world.log()
