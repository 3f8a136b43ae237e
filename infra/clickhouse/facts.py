"""The store of facts: rows in, position after them, checksums, and a shadow database to rebuild in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.insert import InsertContext

from contracts.position import Position
from infra.clickhouse import migrations
from infra.clickhouse.connection import at_database, connect, database_of, quoted, translated
from projections.facts import TABLES, Row

POSITION_NAME = "facts"
NOTED_NAME = "facts:noted"  # The row of what is about to be taken in, beside the one of where the facts stand.
SHADOW_SUFFIX = "__shadow"
SERIALS_PER_VERSION = 1 << 40  # Of positions: no log is that long.

# A batch may hold events of any business time; the default limit of 100 months per insert is not ours to hit.
_INSERT_SETTINGS = {"max_partitions_per_insert_block": 0}


@dataclass(frozen=True, slots=True)
class FactsCheckpoint:
    """Where the facts stand. ``version`` counts rebuilds.

    ``noted`` is how far rows may be there already, at or behind the position, and ``mark`` which event that is.
    """

    version: int
    position: Position
    noted: Position | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a table holds, in one number: independent of order, parts, redelivery and version."""

    rows: int
    digest: str


class FactsStore:
    """Reads and writes the fact tables of one database. Safe in several threads. Raises ClickHouseUnavailable."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connected: Client | None = None
        self._contexts: dict[str, InsertContext] = {}

    @property
    def _client(self) -> Client:
        if self._connected is None:
            self._connected = connect(self._url)
        return self._connected

    def checkpoint(self) -> FactsCheckpoint | None:
        """Where the facts stand, or None when they have not begun. Raises FactsDamaged without the schema."""
        query = (
            "SELECT name, version, shard, epoch, `offset`, mark FROM projection_positions FINAL"
            " WHERE name IN ({stands:String}, {noted:String})"
        )
        with translated():
            parameters = {"stands": POSITION_NAME, "noted": NOTED_NAME}
            found = {row[0]: row[1:] for row in self._client.query(query, parameters=parameters).result_rows}
        if POSITION_NAME not in found:
            return None
        version, *position, _ = found[POSITION_NAME]
        _, *noted, mark = found.get(NOTED_NAME, (0, ""))
        return FactsCheckpoint(version, Position(*position), Position(*noted) if noted else None, mark)

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """One insert of any number of rows; doing it again changes nothing. Raises FactsDamaged."""
        with translated():
            context = self._contexts.get(table)
            if context is None:
                context = self._client.create_insert_context(table, TABLES[table].columns, settings=_INSERT_SETTINGS)
                self._contexts[table] = context
            context.data = rows
            self._client.insert(context=context)

    def save(self, checkpoint: FactsCheckpoint) -> None:
        """Note where the facts stand, after their rows. A later version wins, and within a version a later offset.

        So whoever comes late, having lost its turn unawares, takes nothing back.
        """
        self._put(POSITION_NAME, checkpoint.version, checkpoint.position)

    def note(self, version: int, position: Position, mark: str) -> None:
        """Note up to which event rows may be there from now on, before any of them is. The last of all wins."""
        self._put(NOTED_NAME, version, position, mark)

    def _put(self, name: str, version: int, position: Position, mark: str = "") -> None:
        serial = version * SERIALS_PER_VERSION + position.offset
        row = (name, version, *position, serial, mark)
        names = ["name", "version", "shard", "epoch", "offset", "serial", "mark"]
        types = ["LowCardinality(String)", "UInt32", "UInt16", "String", "UInt64", "UInt64", "String"]
        with translated():
            self._client.insert("projection_positions", [row], names, column_type_names=types)

    def lanes(self, version: int, epoch: str) -> dict[str, int]:
        """Where a version stands in each lane that it was moved on in, by the lanes' keys. Raises FactsDamaged."""
        query = (
            "SELECT lane, max(`offset`) FROM projection_lanes"
            " WHERE name = {name:String} AND version = {version:UInt32} AND epoch = {epoch:String} GROUP BY lane"
        )
        parameters = {"name": POSITION_NAME, "version": version, "epoch": epoch}
        with translated():
            rows = self._client.query(query, parameters=parameters).result_rows
        return {str(lane): int(offset) for lane, offset in rows}

    def save_lanes(self, version: int, epoch: str, lanes: Mapping[str, int]) -> None:
        """Note where a version stands in some lanes, after their rows. The highest offset wins."""
        rows = [(POSITION_NAME, version, epoch, lane, offset) for lane, offset in lanes.items()]
        names = ["name", "version", "epoch", "lane", "offset"]
        types = ["LowCardinality(String)", "UInt32", "String", "String", "UInt64"]
        with translated():
            self._client.insert("projection_lanes", rows, names, column_type_names=types)

    def checksums(self, upto: int) -> dict[str, Checksum]:
        """Per table what is stored of the events up to an offset. Raises FactsDamaged."""
        return {table: self._checksum(table, upto) for table in TABLES}

    def migrate(self) -> list[str]:
        """Make the database if need be, and apply pending migrations; returns their names. Raises MigrationRefused."""
        migrations.create_database(self._url)
        return migrations.migrate(self._client)

    def restore(self) -> None:
        """Bring back tables (empty) and views that somebody dropped. Raises MigrationRefused."""
        migrations.restore(self._client)

    def begin_shadow(self) -> Self:
        """A fresh, empty database of the same schema beside this one. A former shadow is dropped."""
        self.drop_shadow()
        with translated():
            self._client.command(f"CREATE DATABASE {quoted(self._shadow_name)}")
        shadow = type(self)(at_database(self._url, self._shadow_name))
        shadow.migrate()
        return shadow

    def switch_to_shadow(self) -> None:
        """Exchange every table with the shadow's, each atomically; the old rows are the shadow's from then on."""
        live = quoted(database_of(self._url))
        with translated():
            for table in TABLES:
                self._client.command(f"EXCHANGE TABLES {live}.{table} AND {quoted(self._shadow_name)}.{table}")

    def has_shadow(self) -> bool:
        """Whether there is a shadow: being built, or what was live before a switch."""
        with translated():
            return bool(self._client.command(f"EXISTS DATABASE {quoted(self._shadow_name)}"))

    def drop_shadow(self) -> None:
        """Delete the shadow and everything in it."""
        with translated():
            self._client.command(f"DROP DATABASE IF EXISTS {quoted(self._shadow_name)} SYNC")

    def close(self) -> None:
        """Give back the connection. A store that is used again opens a new one."""
        client, self._connected = self._connected, None
        self._contexts.clear()
        if client is not None:
            client.close()

    @property
    def _shadow_name(self) -> str:
        return database_of(self._url) + SHADOW_SUFFIX

    def _checksum(self, table: str, upto: int) -> Checksum:
        # Every column counts, the origin too; NULL as well, which a hash of columns would swallow. The sum of hashes
        # does not care about order.
        columns = ", ".join(quoted(column) for column in TABLES[table].columns)
        query = (
            f"SELECT count(), lower(hex(sum(reinterpretAsUInt128(sipHash128(formatRow('RowBinary', {columns})))))) "
            f"FROM {table} FINAL WHERE `offset` <= {{upto:UInt64}}"
        )
        with translated():
            rows, digest = self._client.query(query, parameters={"upto": upto}).result_rows[0]
        return Checksum(rows, digest)
