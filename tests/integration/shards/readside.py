"""Two shards with everything that reads: one API, and projections that a test moves on by hand, shard by shard."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import clickhouse_connect
import httpx

from contracts.access import ROLES
from contracts.identity import Realm
from infra import operations
from infra.bootstrap import stores
from infra.bootstrap.serving import http_application
from infra.clickhouse.connection import quoted
from infra.postgres.feed import StoreFeed
from infra.projections.coordination import PostgresCoordination
from infra.projections.service import ProjectionService
from infra.settings import Settings
from tests.engines import Corners
from tests.integration.http.conftest import serving

PLACED: dict[str, Any] = {
    "tenant_shards": {"zero": 0, "one": 1},
    "spread_tenants": {"giant": {0: "0-511", 1: "512-1023"}},
}


@dataclass
class ReadWorld:
    """An API over two prepared shards; nothing is shown before a test lets projections catch up."""

    settings: Settings
    url: str

    def caller(self, tenant: str, app: str = "shop") -> httpx.AsyncClient:
        """A tenant's caller."""
        token = stores.create_key(self.settings, Realm(tenant, app), role="admin", scopes=ROLES["admin"], label="test")
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    @contextmanager
    def projections(self, shard: int) -> Iterator[ProjectionService]:
        """The projections of one shard, to be looked at and rebuilt."""
        with operations.projections(self.settings.at_shard(shard)) as service:
            yield service

    def catch_up(self, *shards: int) -> None:
        """Let the projections of these shards (of both, when none is named) read their logs to the end."""
        for shard in shards or self.settings.stores:
            with self.projections(shard) as service:
                self._catch_up(shard, service)

    def facts(self, sql: str, shard: int | None = None) -> list[Any]:
        """Rows of ClickHouse: of one shard's database, or of the one that reads all."""
        url = self.settings.all_facts_url if shard is None else self.settings.at_shard(shard).facts_url
        client = clickhouse_connect.get_client(dsn=url)
        try:
            return list(client.query(sql).result_rows)
        finally:
            client.close()

    def _catch_up(self, shard: int, service: ProjectionService) -> None:
        dsn = self.settings.stores[shard]
        with ExitStack() as stack:
            feed, coordination = StoreFeed(dsn, shard=shard), PostgresCoordination(dsn)
            stack.callback(feed.close)
            stack.callback(coordination.close)
            for follower in (
                service.redis_follower(feed, coordination),
                service.facts_follower(feed, coordination, service.facts),
            ):
                while follower.step():
                    pass


@contextmanager
def prepared(corners: Corners, **given: Any) -> Iterator[Settings]:
    """Settings of two migrated shards; the databases that were made beside the one of ClickHouse are dropped again."""
    with ExitStack() as stack:
        zero, one = (stack.enter_context(corners.postgres()) for _ in range(2))
        redis_url = stack.enter_context(corners.redis())
        clickhouse_url = stack.enter_context(corners.clickhouse())
        stack.callback(drop_beside, clickhouse_url)
        settings = Settings.load(
            postgres_dsn=zero,
            shard_dsns={1: one},
            redis_url=redis_url,
            clickhouse_url=clickhouse_url,
            **{**PLACED, **given},
        )
        stores.migrate(settings)
        yield settings


@contextmanager
def read_world(corners: Corners, **given: Any) -> Iterator[ReadWorld]:
    """An API over two prepared shards."""
    with prepared(corners, **given) as settings, http_application(settings) as app, serving(app) as url:
        yield ReadWorld(settings, url)


def drop_beside(clickhouse_url: str) -> None:
    """Drop the databases that were made beside the one that is named."""
    client = clickhouse_connect.get_client(dsn=clickhouse_url)
    beside = "SELECT name FROM system.databases WHERE startsWith(name, concat(currentDatabase(), '_'))"
    for (name,) in client.query(beside).result_rows:
        client.command(f"DROP DATABASE {quoted(name)} SYNC")
    client.close()
