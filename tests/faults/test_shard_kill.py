"""``kill -9`` of either shard's saga worker under load: orders over both shards end whole, and nothing twice."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from infra.embedded import Endpoints
from tests.engines import Corners
from tests.integration.shards.world import ON_0, ON_1, GiantWorld, TwoStores

pytestmark = pytest.mark.faults

ORDERS = 60
KILLS = 4
PATIENCE_SECONDS = 120.0


@pytest.fixture
def stores(corners: Corners) -> Iterator[TwoStores]:
    """Both stores, of one's own."""
    with corners.postgres() as zero, corners.postgres() as one:
        stores = TwoStores(zero, one)
        yield stores
        stores.close()


def start(stores: TwoStores, shard: int, endpoints: Endpoints, log: Path) -> "subprocess.Popen[bytes]":
    """``tessera worker sagas`` of one shard."""
    dsns = {str(store.shard): store.dsn for store in stores.shards}
    settings = {
        "TESSERA_SHARD": str(shard),
        "TESSERA_POSTGRES_DSN": dsns[str(shard)],
        "TESSERA_SHARD_DSNS": json.dumps(dsns),
        "TESSERA_SPREAD_TENANTS": json.dumps({"giant": {"0": "0-511", "1": "512-1023"}}),
        "TESSERA_REDIS_URL": endpoints.redis_url,
        "TESSERA_CLICKHOUSE_URL": endpoints.clickhouse_url,
    }
    with log.open("ab") as output:
        command = [sys.executable, "-m", "infra.cli", "worker", "sagas"]
        return subprocess.Popen(command, env={**os.environ, **settings}, stdout=output, stderr=subprocess.STDOUT)


def test_saga_workers_of_both_shards_killed_in_turn_under_load_lose_and_double_nothing(
    stores: TwoStores, endpoints: Endpoints, tmp_path: Path
) -> None:
    world, log = GiantWorld(stores), tmp_path / "workers.log"
    for tag in (ON_0, ON_1):
        world.budget(ORDERS * 1_000, f"{tag}-pot").template(f"{tag}-ten-off", budget_ids=(f"{tag}-pot",))
    workers = [start(stores, shard, endpoints, log) for shard in (0, 1)]

    def count(event_type: str) -> int:
        rows = world.rows("SELECT count(*) AS n FROM stored_events WHERE topic = %s", event_type)
        return sum(int(row["n"]) for row in rows)

    def wait_until(event_type: str, wanted: int) -> None:
        deadline = monotonic() + PATIENCE_SECONDS
        while count(event_type) < wanted:
            assert monotonic() < deadline, log.read_text()[-4_000:]
            sleep(0.02)

    try:
        for number in range(ORDERS):
            order, user = f"{(ON_0, ON_1)[number % 2]}-o{number}", f"u{number}"
            for shard, tag in enumerate((ON_0, ON_1)):
                world.claim(f"c{number}-{shard}", template=f"{tag}-ten-off", user=user)
            world.place(order, f"c{number}-0", f"c{number}-1", user=user).pay(f"p{number}", order, 4_000)
            if (number + 1) % (ORDERS // (KILLS + 1)) == 0 and number + 1 < ORDERS:
                wait_until("loan.answered.v1", count("loan.answered.v1") + 1)  # In the middle of its work.
                shard = (number // 2) % 2
                workers[shard].send_signal(signal.SIGKILL)
                workers[shard].wait(30)
                workers[shard] = start(stores, shard, endpoints, log)
        wait_until("coupon.redeemed.v1", 2 * ORDERS)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.wait(60)

    assert count("checkout.completed.v1") == ORDERS
    assert count("settlement.recorded.v1") == count("coupon.redeemed.v1") == 2 * ORDERS
    assert world.pots() == [{"reserved": 0, "committed": ORDERS * 1_000, "credited": 0}] * 2
    assert world.double_effects() == []
    assert world.rows("SELECT * FROM parked_events") == []
    world.close()
