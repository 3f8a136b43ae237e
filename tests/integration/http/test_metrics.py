"""What Prometheus sees of the stores, whichever process did the work."""

import httpx
import psycopg

from infra.postgres import positions
from infra.postgres.feed import StoreFeed
from tests.integration.http.conftest import Server
from tests.integration.http.test_serving import active_template


async def test_lag_sagas_and_dead_letters_are_read_from_the_store(client: httpx.AsyncClient, server: Server) -> None:
    await active_template(client, "t1")
    dsn = server.settings.postgres_dsn
    feed = StoreFeed(dsn)
    head, epoch = feed.head(), feed.epoch()
    feed.close()
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        positions.reset(cursor, "wallet", epoch, head - 1)
        cursor.execute(
            "INSERT INTO sagas VALUES ('acme', 'shop', 'checkout', 'o1', 1, 'locked', 'checkout.ready.v1', 1, now())"
        )
        cursor.execute(
            "INSERT INTO parked_events (follower, stream, version, log_offset, reason, attempts)"
            " VALUES ('wallet', 'acme/shop/coupon/c1', 1, 1, 'poison', 3)"
        )
    text = (await client.get("/metrics")).text
    assert 'tessera_follower_lag_events{follower="wallet",shard="0"} 1.0' in text
    assert 'tessera_sagas{shard="0",step="locked"} 1.0' in text
    assert 'tessera_dead_letters{shard="0",source="wallet"} 1.0' in text
    assert "tessera_metric_sources_failed 0.0" in text
