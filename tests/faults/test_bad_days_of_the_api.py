"""While the store keeps the engine waiting the API hears everybody: the engine runs on its event loop."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from command.engine import EngineStopped
from command.handlers import HANDLERS
from command.ports import StoreUnavailable
from contracts.access import ROLES
from infra.bootstrap import stores
from infra.bootstrap.serving import http_application
from infra.bootstrap.stores import create_key, running_on_loop
from infra.postgres.log import PostgresEventLog
from infra.postgres.recorder import APPEND_LOCK_CLASS
from tests.builders import REALM
from tests.builders import claim as claim_of
from tests.faults.conftest import fresh_shop
from tests.faults.fleet import wait_for
from tests.faults.own_server import OwnServer, own_folder, own_server
from tests.faults.shop import sent
from tests.integration.http.conftest import read_side_in_memory, serving, settings_for
from tests.loops import engine_for_a_loop

pytestmark = pytest.mark.faults

LOOKS = 5
PATIENCE_SECONDS = 2.0  # A wait of the engine's for a lock ends after three and a half; for a silent server, twenty.


@contextmanager
def api_over(dsn: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Its address, and the headers of an admin."""
    settings = settings_for(dsn)
    token = create_key(settings, REALM, role="admin", scopes=ROLES["admin"], label="test")
    with http_application(settings, read_side=read_side_in_memory()) as app, serving(app) as url:
        yield url, {"Authorization": f"Bearer {token}"}


async def claim(client: httpx.AsyncClient, user: str) -> httpx.Response:
    headers = {"Idempotency-Key": f"key-{user}"}
    return await client.post("/v1/templates/wide/claims", json={"user_id": user}, headers=headers)


async def waits_at(admin: psycopg.Connection[Any]) -> None:
    """Until somebody waits for a lock."""

    def somebody_waits() -> bool:
        return admin.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() != (0,)

    await asyncio.to_thread(wait_for, somebody_waits, "somebody to wait for a lock")


async def hears_others_while(client: httpx.AsyncClient, waiting: "asyncio.Task[httpx.Response]") -> None:
    """Whoever asks something else is answered, and whoever waits still waits after that."""
    for _ in range(LOOKS):
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await client.get("/health/live")).status_code == 200
    assert not waiting.done()


@pytest.mark.parametrize("known", [False, True], ids=["first_command", "goes_ahead"])
async def test_a_lock_that_somebody_keeps_makes_only_those_wait_who_need_it(shop: str, *, known: bool) -> None:
    with api_over(shop) as (url, headers), psycopg.connect(shop, autocommit=True) as admin:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            if known:
                assert (await claim(client, "before")).status_code == 201
            admin.execute("SELECT pg_advisory_lock(%s, 0)", (APPEND_LOCK_CLASS,))
            waiting = asyncio.create_task(claim(client, "u1"))
            await waits_at(admin)
            await hears_others_while(client, waiting)
            admin.execute("SELECT pg_advisory_unlock(%s, 0)", (APPEND_LOCK_CLASS,))
            assert (await waiting).status_code == 201


async def test_a_table_that_somebody_locked_makes_only_those_wait_who_need_it(shop: str) -> None:
    with api_over(shop) as (url, headers), psycopg.connect(shop) as admin:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            assert (await claim(client, "before")).status_code == 201
            admin.execute("LOCK TABLE guard_counts")
            waiting = asyncio.create_task(claim(client, "u1"))
            await waits_at(admin)
            await hears_others_while(client, waiting)
            admin.rollback()
            assert (await waiting).status_code == 201


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_folder() as folder, own_server(folder) as running:
        yield running


@contextmanager
def stopped(server: OwnServer) -> Iterator[None]:
    """No process of it says or hears anything."""
    assert server.child is not None
    group = [server.child.pid, *children_of(server.child.pid)]
    for pid in group:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in group:
            os.kill(pid, signal.SIGCONT)


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(each) for each in file.read().split()]


async def test_a_server_that_says_nothing_makes_only_those_wait_who_need_it(server: OwnServer) -> None:
    dsn = fresh_shop(server, "silent")
    with api_over(dsn) as (url, headers), psycopg.connect(dsn, autocommit=True) as admin:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            assert (await claim(client, "before")).status_code == 201
            admin.execute("SELECT pg_advisory_lock(%s, 0)", (APPEND_LOCK_CLASS,))
            waiting = asyncio.create_task(claim(client, "u1"))
            await waits_at(admin)
            with stopped(server):
                await hears_others_while(client, waiting)
            admin.execute("SELECT pg_advisory_unlock(%s, 0)", (APPEND_LOCK_CLASS,))
            assert (await waiting).status_code == 201


@pytest.mark.parametrize("where", ["under_the_lock", "ahead"])
async def test_a_server_that_says_nothing_keeps_no_engine_from_ending_and_everybody_is_told(
    server: OwnServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(stores, "ENGINE_STOP_SECONDS", 0.2)
    monkeypatch.setattr(stores, "CANCEL_SECONDS", 0.2)
    dsn = fresh_shop(server, f"ends_{where}")
    log = PostgresEventLog(dsn)  # It would wait for twenty seconds, five times.
    engine = engine_for_a_loop(log, HANDLERS)
    heard: list[object] = []
    async with asyncio.timeout(PATIENCE_SECONDS * 5):
        # The server is heard again when all of this is over, however it ends.
        with psycopg.connect(dsn, autocommit=True) as admin, ExitStack() as until_the_end:
            async with running_on_loop([engine]):
                if where == "ahead":
                    await asyncio.wrap_future(engine.submit(sent("before", claim_of("u0", "wide"))))
                admin.execute("SELECT pg_advisory_lock(%s, 0)", (APPEND_LOCK_CLASS,))
                engine.submit_to([(sent("first", claim_of("u1", "wide")), heard.append)])
                await waits_at(admin)
                until_the_end.enter_context(stopped(server))
                engine.submit_to([(sent("queued", claim_of("u2", "wide")), heard.append)])
    assert len(heard) == 2
    assert {type(each) for each in heard} <= {StoreUnavailable, EngineStopped}
    log.close()
