"""``kill -9`` of the API while orders come in: what was acknowledged is held, and nothing is held twice."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import environ
from pathlib import Path

import httpx
import pytest

from contracts.access import ROLES
from infra.bootstrap.stores import create_key
from infra.processes import LOOPBACK, free_port, wait_until
from infra.settings import Settings
from tests.engines import Corners
from tests.integration.sagas.world import Store, World

pytestmark = pytest.mark.faults

CALLERS = 8
ORDERS_EACH = 8
KILLS = 2
PATIENCE_SECONDS = 120.0


@pytest.fixture
def store(corners: Corners) -> Iterator[Store]:
    """A store of one's own."""
    with corners.postgres() as dsn:
        store = Store(dsn)
        yield store
        store.close()


@contextmanager
def running(settings: Settings, log: Path, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """One of our processes; killed at the end, if nobody did before."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli", *command],
            env={**environ, **settings.to_env()},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


class Buyers:
    """Callers who place orders, and repeat under the same key what was not answered."""

    def __init__(self, world: World, url: str, token: str) -> None:
        self._world = world
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._until = time.monotonic() + PATIENCE_SECONDS
        self._lock = threading.Lock()
        self.held = 0

    def buy(self, caller: int) -> None:
        """One caller's orders, one after the other."""
        with httpx.Client(headers=self._headers, timeout=10) as client:
            for number in range(ORDERS_EACH):
                answer = self._place(client, f"{caller}-{number}")
                assert answer["checkout"]["status"] == "ready", answer
                with self._lock:
                    self.held += 1

    def _place(self, client: httpx.Client, name: str) -> dict[str, dict[str, str]]:
        order = self._world.placing(f"o{name}", f"c{name}", user=f"u{name}").model_dump(mode="json", exclude_none=True)
        while time.monotonic() < self._until:
            try:
                response = client.post(f"{self._url}/v1/orders", json=order, headers={"Idempotency-Key": name})
            except httpx.TransportError:
                time.sleep(0.05)  # Nobody listens at this moment.
                continue
            if response.status_code in {200, 201}:
                answer: dict[str, dict[str, str]] = response.json()
                return answer
        raise AssertionError(f"order {name} was not answered in time")


def test_orders_survive_the_api_that_was_killed_while_it_took_them(store: Store, tmp_path: Path) -> None:
    world = World(store)
    world.template()
    names = [f"{caller}-{number}" for caller in range(CALLERS) for number in range(ORDERS_EACH)]
    for name in names:
        world.claim(f"c{name}", user=f"u{name}")
    nowhere = {"redis_url": f"redis://{LOOPBACK}:1/0", "clickhouse_url": f"http://{LOOPBACK}:1/none"}
    settings = Settings.load(postgres_dsn=store.dsn, http_port=free_port(), log_level="error", **nowhere)
    token = create_key(settings, world.realm, role="admin", scopes=ROLES["admin"], label="test")
    buyers = Buyers(world, f"http://{LOOPBACK}:{settings.http_port}", token)
    log = tmp_path / "log"

    with running(settings, log, "worker", "sagas"), ThreadPoolExecutor(CALLERS) as pool:
        waiting = [pool.submit(buyers.buy, caller) for caller in range(CALLERS)]
        for kill in range(KILLS):
            with running(settings, log, "serve") as api:
                enough = (kill + 1) * len(names) // (KILLS + 2)
                assert wait_until(lambda: buyers.held >= enough, timeout_seconds=PATIENCE_SECONDS), log.read_text()  # noqa: B023
                api.send_signal(signal.SIGKILL)
        with running(settings, log, "serve"):
            for future in waiting:
                future.result(PATIENCE_SECONDS)
        assert wait_until(lambda: _standing(world) == {"held": len(names)}, timeout_seconds=PATIENCE_SECONDS)

    assert {tuple(world.checkout(f"o{name}")) for name in names} == {("ready",)}
    assert {world.coupon(f"c{name}") for name in names} == {"locked"}
    assert (world.owed(), world.double_effects()) == ([], [])
    world.close()


def _standing(world: World) -> dict[str, int]:
    return {row["step"]: row["n"] for row in world.rows("SELECT step, count(*) AS n FROM sagas GROUP BY step")}
