"""Several API processes on one port: all of them work, and losing one loses nothing that was acknowledged."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from contracts.access import ROLES
from infra.bootstrap.stores import create_key
from infra.processes import LOOPBACK, free_port
from infra.settings import Settings
from tests.integration.http.conftest import ACME, settings_for
from tests.integration.http.test_serving import active_template

READY_SECONDS = 60
STOP_SECONDS = 60
CLIENTS, CLAIMS_EACH = 12, 10


@dataclass
class Workers:
    """Two workers and their parent."""

    process: "subprocess.Popen[bytes]"
    settings: Settings
    token: str
    log: Path

    @property
    def url(self) -> str:
        """Where they answer."""
        return f"http://127.0.0.1:{self.settings.http_port}"

    def client(self) -> httpx.AsyncClient:
        """A caller with a new connection for each request: the kernel chooses a worker every time."""
        headers = {"Authorization": f"Bearer {self.token}"}
        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, limits=limits)

    def pids(self) -> set[int]:
        """The workers' processes."""
        told = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return {int(pid) for children in told for pid in children.read_text().split()}

    async def ready(self) -> None:
        """Return once both answer at their own ports for metrics."""
        async with asyncio.timeout(READY_SECONDS):
            while None in [await self.served(number) for number in range(2)]:
                assert self.process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.1)

    async def served(self, number: int) -> float | None:
        """How many claims a worker has answered, by its own count; None while it does not answer."""
        assert self.settings.follower_metrics_port is not None
        try:
            async with httpx.AsyncClient() as client:
                text = (await client.get(f"http://127.0.0.1:{self.settings.follower_metrics_port + number}")).text
        except httpx.TransportError:
            return None
        counts = re.findall(r'^tessera_http_requests_total\{.*claims".*\} (\S+)$', text, re.MULTILINE)
        return sum(map(float, counts))


@pytest.fixture
def workers(postgres_dsn: str, tmp_path: Path) -> Iterator[Workers]:
    """A running `tessera serve --workers 2`."""
    ports = {"http_port": free_port(), "follower_metrics_port": free_port(neighbours=2)}
    settings = settings_for(postgres_dsn, data_dir=tmp_path, **ports)
    token = create_key(settings, ACME, role="admin", scopes=ROLES["admin"], label="test")
    log = tmp_path / "serve.log"
    with log.open("wb") as file:
        argv = [sys.executable, "-m", "infra.cli", "serve", "--workers", "2"]
        process = subprocess.Popen(argv, env=os.environ | settings.to_env(), stdout=file, stderr=file)
        try:
            yield Workers(process, settings, token, log)
        finally:
            process.kill()  # Its workers hear of it from the kernel.
            process.wait(STOP_SECONDS)


async def test_both_work_and_losing_one_loses_nothing_that_was_acknowledged(workers: Workers) -> None:
    await workers.ready()
    acknowledged: dict[str, str] = {}
    before = workers.pids()
    killed = asyncio.Event()

    async def claim_all(client: httpx.AsyncClient, number: int) -> None:
        for user in (f"u{number}-{n}" for n in range(CLAIMS_EACH)):
            while user not in acknowledged:
                try:
                    response = await client.post(
                        "/v1/templates/t1/claims", json={"user_id": user}, headers={"Idempotency-Key": user}
                    )
                except httpx.TransportError:
                    continue  # The worker took the connection along: ask again with the same id.
                if response.status_code == 201:
                    acknowledged[user] = response.json()["data"]["coupon_id"]
            if len(acknowledged) > CLIENTS * CLAIMS_EACH // 2 and not killed.is_set():
                killed.set()
                os.kill(min(before), signal.SIGKILL)

    async with asyncio.timeout(READY_SECONDS), workers.client() as client:
        await active_template(client, "t1")
        await asyncio.gather(*(claim_all(client, number) for number in range(2)))
        assert all([await workers.served(each) for each in range(2)]), "one of them had nothing to do"
        await asyncio.gather(*(claim_all(client, number) for number in range(2, CLIENTS)))
    assert killed.is_set()
    with psycopg.connect(workers.settings.postgres_dsn) as connection:
        rows = connection.execute(
            "SELECT state::text::jsonb -> 'data' ->> 'coupon_id' FROM ("
            "  SELECT convert_from(state, 'UTF8') AS state FROM stored_events WHERE topic = 'coupon.claimed.v1') AS s"
        ).fetchall()
    assert sorted(coupon for (coupon,) in rows) == sorted(acknowledged.values())
    # It is started again, and a polite stop ends all.
    await workers.ready()
    after = workers.pids()
    assert len(after) == 2
    assert after != before
    lines = [json.loads(line) for line in workers.log.read_text().splitlines()]
    assert [line["exit_code"] for line in lines if line["event"] == "worker_ended"] == [-signal.SIGKILL]
    workers.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(workers.process.wait, STOP_SECONDS) == 0
    assert not [pid for pid in after if _exists(pid)]


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("setting", "options", "told"),
    [
        ("http_port", ("--workers", "2"), "--port"),
        ("follower_metrics_port", ("--workers", "2"), "TESSERA_FOLLOWER_METRICS_PORT"),
        ("follower_metrics_port", ("--shared-port",), "TESSERA_FOLLOWER_METRICS_PORT"),  # As each worker is started.
    ],
)
def test_a_port_that_somebody_has_is_not_shared_with_them(
    postgres_dsn: str, setting: str, options: tuple[str, ...], told: str
) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        settings = settings_for(postgres_dsn, **{"http_port": free_port(), setting: port})
        argv = [sys.executable, "-m", "infra.cli", "serve", *options]
        ended = subprocess.run(
            argv, env=os.environ | settings.to_env(), capture_output=True, timeout=STOP_SECONDS, check=False, text=True
        )
    assert ended.returncode == 2
    assert f"port {port}" in ended.stderr
    assert "is taken" in ended.stderr
    assert told in ended.stderr
