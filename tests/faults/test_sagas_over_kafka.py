"""Sagas over a real Kafka: workers of one group die, are stopped, go on and join under load, and nothing is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from command.handlers import KINDS
from infra.embedded import Endpoints
from infra.kafka.admin import create_topics
from infra.postgres.log import PostgresEventLog
from infra.processes import wait_until
from infra.settings import Settings
from infra.verify.run import Verifier
from tests.engines import Corners
from tests.integration.sagas.world import Store, World

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

ORDERS = 40
PATIENCE_SECONDS = 120.0


@pytest.fixture
def store(corners: Corners) -> Iterator[Store]:
    """A store of one's own."""
    with corners.postgres() as dsn:
        store = Store(dsn)
        yield store
        store.close()


@pytest.fixture
def addresses(store: Store, endpoints: Endpoints, kafka_bootstrap: str, kafka_prefix: str) -> dict[str, str]:
    """Where everything is, by the names of settings."""
    return {
        "postgres_dsn": store.dsn,
        "redis_url": endpoints.redis_url,
        "clickhouse_url": endpoints.clickhouse_url,
        "kafka_bootstrap": kafka_bootstrap,
        "kafka_prefix": kafka_prefix,
        "kafka_partitions": "3",
        "follower_feed": "kafka",
    }


@contextmanager
def worker(part: str, addresses: dict[str, str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``tessera worker …`` as a process of its own."""
    environment = {**os.environ, **{f"TESSERA_{name.upper()}": value for name, value in addresses.items()}}
    with output.open("ab") as log:
        command = [sys.executable, "-m", "infra.cli", "worker", part]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(timeout=30)


def wait_for(holds: Callable[[], bool], *outputs: Path) -> None:
    found = wait_until(holds, timeout_seconds=PATIENCE_SECONDS, every_seconds=0.05)
    assert found, "\n".join(output.read_text()[-2_000:] for output in outputs)


def test_workers_that_die_stop_and_join_under_load_lose_and_double_nothing(
    store: Store, addresses: dict[str, str], tmp_path: Path
) -> None:
    create_topics(Settings.load(**addresses))
    world = World(store)
    world.budget(ORDERS * 1_000).template(budget_ids=("pot",))
    outputs = [tmp_path / f"worker-{number}.log" for number in range(4)]
    quarters = iter([range(start, start + ORDERS // 4) for start in range(0, ORDERS, ORDERS // 4)])

    def quarter() -> None:
        for number in next(quarters):
            order, coupon, user = f"o{number}", f"c{number}", f"u{number}"
            world.claim(coupon, user=user).place(order, coupon, user=user).pay(f"p{number}", order)

    def completed() -> int:
        found = world.rows("SELECT count(*) AS n FROM sagas WHERE step = 'completed'")
        return int(found[0]["n"])

    def join(number: int) -> subprocess.Popen[bytes]:
        process = stack.enter_context(worker("sagas", addresses, outputs[number]))
        wait_for(lambda: b"lanes_assigned" in outputs[number].read_bytes(), outputs[number])
        return process

    with ExitStack() as stack:
        stack.enter_context(worker("relay", addresses, tmp_path / "relay.log"))
        first, second, third = join(0), join(1), join(2)
        quarter()
        wait_for(lambda: completed() == ORDERS // 4, *outputs[:3], tmp_path / "relay.log")

        quarter()
        first.kill()  # In the middle of it: somebody else gets its lanes.
        wait_for(lambda: completed() == ORDERS // 2, *outputs[:3])

        quarter()
        second.send_signal(signal.SIGSTOP)
        wait_for(lambda: completed() == ORDERS * 3 // 4, *outputs[:3])

        fourth = join(3)
        second.send_signal(signal.SIGCONT)  # It goes on with what it had in hand, while others have its lanes.
        quarter()
        wait_for(lambda: completed() == ORDERS, *outputs)
        wait_for(lambda: _heard(world) == store.feed.head(), *outputs)
        wait_for(lambda: world.owed() == [], *outputs)
        for process in (second, third, fourth):
            process.send_signal(signal.SIGTERM)
        assert [process.wait(timeout=60) for process in (second, third, fourth)] == [0, 0, 0]

    for event_type in ("checkout.completed.v1", "coupon.redeemed.v1", "settlement.recorded.v1"):
        (found,) = world.rows("SELECT count(*) AS n FROM stored_events WHERE topic = %s", event_type)
        assert found["n"] == ORDERS, event_type
    assert world.pot() == {"reserved": 0, "committed": ORDERS * 1_000, "credited": 0}
    assert (world.double_effects(), world.rows("SELECT * FROM parked_events")) == ([], [])
    assert {row["kind"] for row in world.rows("SELECT kind FROM timers")} == {"template_close"}
    assert _violations(store) == []
    world.close()


def _heard(world: World) -> int:
    found = world.rows("SELECT log_offset FROM follower_positions WHERE follower = 'sagas'")
    return int(found[0]["log_offset"]) if found else 0


def _violations(store: Store) -> list[str]:
    """What `tessera verify` finds in the store."""
    with (
        closing(psycopg.connect(store.dsn, autocommit=True)) as connection,
        closing(PostgresEventLog(store.dsn)) as log,
    ):
        report = Verifier(connection, log, KINDS, None, None, shard=0).run()
    return [str(violation) for violation in report.violations]
