"""The schema of the facts is applied once, in order, and can be restored."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from infra.clickhouse import migrations
from infra.clickhouse.connection import FactsDamaged, connect, translated
from projections.facts import TABLES


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    client = connect(clickhouse_url)
    yield client
    client.close()


def names(client: Client) -> set[str]:
    rows = client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows
    return {row[0] for row in rows}


def test_every_fact_table_has_exactly_the_columns_that_its_processor_writes(client: Client) -> None:
    migrations.migrate(client)
    for table in TABLES.values():
        described = client.query(f"DESCRIBE TABLE {table.name}").result_rows
        assert tuple(row[0] for row in described) == table.columns, table.name


def test_every_fact_table_replaces_by_event_and_row_within_the_month_that_the_event_says(client: Client) -> None:
    migrations.migrate(client)
    for name in TABLES:
        engine, partition, key = client.query(
            "SELECT engine, partition_key, sorting_key FROM system.tables"
            f" WHERE database = currentDatabase() AND name = '{name}'"
        ).result_rows[0]
        assert engine == "ReplacingMergeTree", name
        assert partition == "toYYYYMM(occurred_at)", name
        assert key.endswith("event_id, row_no"), name


def test_migrating_twice_applies_nothing_the_second_time(client: Client) -> None:
    assert migrations.pending(client) == [each.name for each in migrations.released()]
    assert migrations.migrate(client) == [each.name for each in migrations.released()]
    assert migrations.pending(client) == []
    assert migrations.migrate(client) == []


def test_a_dropped_table_and_a_dropped_view_come_back(client: Client) -> None:
    migrations.migrate(client)
    before = names(client)
    client.command("DROP TABLE coupon_facts SYNC")
    client.command("DROP VIEW spend")
    migrations.restore(client)
    assert names(client) == before


def test_what_somebody_dropped_is_missed_by_name_and_what_is_pending_is_not(client: Client) -> None:
    assert migrations.missing(client) == []
    migrations.migrate(client)
    assert migrations.missing(client) == []
    client.command("DROP TABLE coupon_facts SYNC")
    client.command("DROP VIEW spend")
    assert migrations.missing(client) == ["coupon_facts", "spend"]


def test_a_query_of_a_dropped_table_is_told_from_an_engine_out_of_reach(client: Client) -> None:
    migrations.migrate(client)
    client.command("DROP TABLE coupon_facts SYNC")
    with pytest.raises(FactsDamaged, match=r"projections rebuild facts.*coupon_facts"), translated():
        client.query("SELECT event_id FROM coupon_facts")


def test_an_edited_migration_is_refused_by_name(client: Client, tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE IF NOT EXISTS a (x Int8) ENGINE = Memory;\n")
    migrations.migrate(client, tmp_path)
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE IF NOT EXISTS a (x Int16) ENGINE = Memory;\n")
    with pytest.raises(migrations.MigrationRefused, match="0001_first"):
        migrations.migrate(client, tmp_path)


def test_a_database_of_a_newer_version_is_refused(client: Client, tmp_path: Path) -> None:
    migrations.migrate(client)
    (tmp_path / "0001_other.sql").write_text("SELECT 1;\n")
    with pytest.raises(migrations.MigrationRefused, match="does not know"):
        migrations.migrate(client, tmp_path)


def test_a_gap_in_the_numbers_is_refused(client: Client, tmp_path: Path) -> None:
    (tmp_path / "0002_second.sql").write_text("SELECT 1;\n")
    with pytest.raises(migrations.MigrationRefused, match="0001"):
        migrations.migrate(client, tmp_path)
