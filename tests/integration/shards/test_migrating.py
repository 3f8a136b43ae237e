"""``tessera migrate`` over two shards: all stores are brought up to date; until then each says what it waits for."""

from pathlib import Path

import psycopg

from infra.bootstrap.stores import pending_migrations
from tests.engines import Corners
from tests.integration.shards.command_line import operator
from tests.integration.shards.readside import drop_beside

STORES = ["postgres", "clickhouse", "postgres of shard 1", "clickhouse of shard 1", "clickhouse of all shards"]


def test_all_stores_are_brought_up_to_date_and_each_tells_what_it_waits_for(corners: Corners, tmp_path: Path) -> None:
    with corners.postgres(empty=True) as zero, corners.postgres(empty=True) as one, corners.clickhouse() as facts:
        tessera = operator(tmp_path, (zero, one), clickhouse_url=facts)
        waiting = pending_migrations(tessera.settings)
        assert list(waiting) == STORES
        assert all(waiting.values())
        assert waiting["postgres"] == waiting["postgres of shard 1"]

        assert tessera.shown("migrate") == waiting
        nothing: dict[str, list[str]] = {store: [] for store in STORES}
        assert pending_migrations(tessera.settings) == tessera.shown("migrate") == nothing
        assert [tessera.rows(shard, "SELECT count(*) FROM stored_events") for shard in (0, 1)] == [[(0,)], [(0,)]]

        last = waiting["postgres"][-1]
        with psycopg.connect(one) as connection:
            connection.execute("DELETE FROM schema_migrations WHERE name = %s", (last,))
        drop_beside(facts)
        gone = {store: waiting[store] for store in ("clickhouse of shard 1", "clickhouse of all shards")}
        assert pending_migrations(tessera.settings) == {**nothing, "postgres of shard 1": [last], **gone}
