"""The API as it is served: a real server on a real port, over real PostgreSQL."""

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from contracts.access import ROLES
from contracts.identity import Realm
from infra.bootstrap.serving import ReadSide, http_application, server_options
from infra.bootstrap.stores import create_key
from infra.http.app import Application
from infra.settings import Settings
from infra.telemetry.tracing import Tracing
from tests.unit.http.conftest import FakeModels

ACME = Realm("acme", "shop")


@dataclass
class Server:
    """A running API and a key for it."""

    url: str
    token: str
    settings: Settings
    app: Application

    @property
    def headers(self) -> dict[str, str]:
        """What presents the key."""
        return {"Authorization": f"Bearer {self.token}"}


@contextmanager
def serving(app: ASGIApp, **options: Any) -> Iterator[str]:
    """Serve on a free port of the loopback, as in production (but for these options), until the block ends.

    Yields the address.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1_024)
        server = uvicorn.Server(uvicorn.Config(app, **(server_options(*listener.getsockname()) | options)))
        # In a thread that is not the main one uvicorn leaves the signals alone.
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(15)
            assert not thread.is_alive()


def settings_for(dsn: str, **given: Any) -> Settings:
    """Settings with a database of one's own; Redis and ClickHouse are not asked, unless they are given."""
    nowhere = {"redis_url": "redis://127.0.0.1:1/0", "clickhouse_url": "http://127.0.0.1:1/none"}
    return Settings.load(**{"postgres_dsn": dsn, **nowhere, "order_wait_ms": 500, **given})


def read_side_in_memory() -> ReadSide:
    """What shard 0 shows; nothing is shown of others."""
    models = FakeModels()
    return ReadSide(models, models, {0: {"models": models.position, "facts": models.position}}, {})


@contextmanager
def api(dsn: str, tracing: Tracing | None = None, **given: Any) -> Iterator[Server]:
    """The API over a database, with an admin's key for acme and read models in memory."""
    settings = settings_for(dsn, **given)
    token = create_key(settings, ACME, role="admin", scopes=ROLES["admin"], label="test")
    with ExitStack() as stack:
        app = stack.enter_context(http_application(settings, tracing=tracing, read_side=read_side_in_memory()))
        url = stack.enter_context(serving(app))
        yield Server(url, token, settings, app)


@pytest.fixture
def server(postgres_dsn: str) -> Iterator[Server]:
    """A running API."""
    with api(postgres_dsn) as running:
        yield running


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A caller with the admin's key."""
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=30) as client:
        yield client
