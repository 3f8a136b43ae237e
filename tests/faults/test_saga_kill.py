"""``kill -9`` of the saga worker under load: every order still ends as it should, and nothing took effect twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from infra.embedded import Endpoints
from tests.engines import Corners
from tests.integration.sagas.world import Store, World

pytestmark = pytest.mark.faults

ORDERS = 240
KILLS = 5
PATIENCE_SECONDS = 150.0


@pytest.fixture
def store(corners: Corners) -> Iterator[Store]:
    """A store of one's own."""
    with corners.postgres() as dsn:
        store = Store(dsn)
        yield store
        store.close()


class WorkerProcess:
    """``tessera worker sagas`` as a process of its own."""

    def __init__(self, store: Store, endpoints: Endpoints, log: Path) -> None:
        addresses = {
            "TESSERA_POSTGRES_DSN": store.dsn,
            "TESSERA_REDIS_URL": endpoints.redis_url,
            "TESSERA_CLICKHOUSE_URL": endpoints.clickhouse_url,
        }
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli", "worker", "sagas"],
                env={**os.environ, **addresses},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """No last words, no clean-up."""
        self._process.send_signal(signal.SIGKILL)
        assert self._process.wait(30) == -signal.SIGKILL

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)


def wait_for(what: Callable[[], bool], log: Path) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while not what():
        assert monotonic() < deadline, log.read_text()[-4_000:]
        sleep(0.01)


def test_a_saga_worker_killed_again_and_again_under_load_loses_and_doubles_nothing(
    store: Store, endpoints: Endpoints, tmp_path: Path
) -> None:
    world, log = World(store), tmp_path / "worker.log"
    world.budget(ORDERS * 1_000).template(budget_ids=("pot",))

    def count(event_type: str) -> int:
        return int(world.rows("SELECT count(*) AS n FROM stored_events WHERE topic = %s", event_type)[0]["n"])

    worker = WorkerProcess(store, endpoints, log)
    for number in range(ORDERS):
        order, coupon, user = f"o{number}", f"c{number}", f"u{number}"
        world.claim(coupon, user=user).place(order, coupon, user=user).pay(f"p{number}", order)
        if (number + 1) % (ORDERS // (KILLS + 1)) == 0 and number + 1 < ORDERS:
            heard, sent = count("saga.heard.v1"), count("checkout.ready.v1")
            # It has to be in the middle of its work, not starting.
            wait_for(lambda: count("saga.heard.v1") > heard and count("checkout.ready.v1") > sent, log)  # noqa: B023
            worker.kill()
            worker = WorkerProcess(store, endpoints, log)
    wait_for(lambda: _standing(world) == {"completed": ORDERS}, log)
    assert worker.stop() == 0

    assert count("checkout.completed.v1") == ORDERS
    assert count("coupon.redeemed.v1") == ORDERS
    assert count("settlement.recorded.v1") == ORDERS
    assert world.pot() == {"reserved": 0, "committed": ORDERS * 1_000, "credited": 0}
    assert world.double_effects() == []
    assert world.owed() == []
    assert world.rows("SELECT * FROM timers WHERE kind = 'order_lock_end'") == []
    assert world.rows("SELECT * FROM parked_events") == []
    world.close()


def _standing(world: World) -> dict[str, int]:
    return {row["step"]: row["n"] for row in world.rows("SELECT step, count(*) AS n FROM sagas GROUP BY step")}
