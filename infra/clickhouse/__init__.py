"""ClickHouse: connections, migrations and the store of facts. One path, HTTP, through `clickhouse-connect`."""
