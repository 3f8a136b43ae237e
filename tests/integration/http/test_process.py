"""`tessera serve` as a process: it says when it is ready, and a polite stop loses no answer."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from contracts.access import ROLES
from infra.bootstrap.stores import create_key, migrate
from infra.processes import free_port
from infra.settings import Settings
from tests.integration.http.conftest import ACME
from tests.integration.http.test_serving import active_template

READY_SECONDS = 60
STOP_SECONDS = 30


@dataclass
class Process:
    """The API in a process of its own."""

    process: "subprocess.Popen[bytes]"
    settings: Settings
    token: str
    log: Path

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.settings.http_port}"


@pytest.fixture
def served(postgres_dsn: str, redis_url: str, clickhouse_url: str, tmp_path: Path) -> Iterator[Process]:
    """A running `tessera serve`."""
    settings = Settings.load(
        data_dir=tmp_path,
        postgres_dsn=postgres_dsn,
        redis_url=redis_url,
        clickhouse_url=clickhouse_url,
        http_port=free_port(),
    )
    migrate(settings)
    token = create_key(settings, ACME, role="admin", scopes=ROLES["admin"], label="test")
    log = tmp_path / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli", "serve"], env=os.environ | settings.to_env(), stdout=file, stderr=file
        )
        try:
            yield Process(process, settings, token, log)
        finally:
            process.kill()
            process.wait(STOP_SECONDS)


async def answers_live(client: httpx.AsyncClient) -> bool:
    """Whether the process answers yet."""
    try:
        return (await client.get("/health/live")).status_code == 200
    except httpx.TransportError:
        return False


async def test_a_polite_stop_answers_what_is_under_way_and_keeps_what_it_answered(served: Process) -> None:
    headers = {"Authorization": f"Bearer {served.token}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=30) as client:
        async with asyncio.timeout(READY_SECONDS):
            while not await answers_live(client):
                assert served.process.poll() is None, served.log.read_text()
                await asyncio.sleep(0.1)
        ready = await client.get("/health/ready")
        # Nobody projects here, so it says which parts are missing, and serves commands all the same.
        assert ready.status_code == 503
        assert {name for name, part in ready.json()["parts"].items() if part["ready"]} == {"store", "engine"}
        await active_template(client, "t1")

        async def claim(user: int) -> tuple[str, int]:
            key = f"k{user}"
            try:
                response = await client.post(
                    "/v1/templates/t1/claims", json={"user_id": f"u{user}"}, headers={"Idempotency-Key": key}
                )
            except httpx.TransportError:
                return key, 0
            return key, response.status_code

        claims = [asyncio.create_task(claim(user)) for user in range(200)]
        await asyncio.wait(claims, return_when=asyncio.FIRST_COMPLETED)
        served.process.send_signal(signal.SIGTERM)
        outcomes = dict(await asyncio.gather(*claims))
    assert served.process.wait(STOP_SECONDS) == 0, served.log.read_text()
    answered = {key for key, status in outcomes.items() if status == 201}
    assert answered
    assert set(outcomes.values()) <= {0, 201, 503}
    with psycopg.connect(served.settings.postgres_dsn) as connection:
        rows = connection.execute("SELECT command_id FROM command_log WHERE command_type = 'claim_coupon'").fetchall()
    stored = {command_id for (command_id,) in rows}
    assert answered <= stored
    assert "Traceback" not in served.log.read_text()
