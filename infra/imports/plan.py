"""The plan of an import: every row of every statement in business-time order, before the first one is sent."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import duckdb
from pydantic import ValidationError

from contracts.commands import Command
from contracts.identity import Realm
from contracts.placement import LETTERS
from contracts.registry import COMMANDS
from contracts.values import BUSINESS_TIME_UNTIL
from infra.imports.errors import BadMapping, BadRow
from infra.imports.mapping import Mapping, Statement
from infra.imports.source import literal, load_all

MEMORY_LIMIT: Final = "1GB"  # Beyond it DuckDB spills to the plan's own temporary folder.
ROW_KEY_LENGTH_MAX: Final = 120
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US: Final = 86_400 * 1_000_000
_UNTIL_US: Final = (BUSINESS_TIME_UNTIL - EPOCH) // timedelta(microseconds=1)

_REQUIRED: Final = ("row_key", "occurred_at", "command", "fields")
_OPTIONAL: Final = {
    "set_aside": "CAST(NULL AS VARCHAR)",
    "detail": "''",
    "amount": "CAST(NULL AS DECIMAL(38, 6))",
    "booked_minor": "CAST(NULL AS BIGINT)",
    "source_rows": "1",
}

# Half-even, exactly, on decimals; and an instant as commands write it.
_MACROS: Final = """
CREATE MACRO half_even(x) AS CAST(
    floor(x) + CASE WHEN x - floor(x) > 0.5 OR (x - floor(x) = 0.5 AND floor(x) % 2 <> 0) THEN 1 ELSE 0 END AS BIGINT);
CREATE MACRO instant(moment) AS strftime(CAST(moment AS TIMESTAMPTZ) AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ');
"""

# A redemption names the coupon that an earlier row claims: command.domain.ids.coupon_id, written in SQL (a test
# compares them), because functions in Python would need numpy. Five bits of each byte of a digest are one letter.
_COUPON_ID: Final = f"""
CREATE MACRO _part(x) AS
    replace(replace(replace(replace(CAST(x AS VARCHAR), '%', '%25'), '/', '%2F'), '{{', '%7B'), '}}', '%7D');
CREATE MACRO _letters(digest, many) AS array_to_string(list_transform(range(many), lambda i: substr(
    '{LETTERS}', 1 + (CAST('0x' || substr(digest, 1 + 2 * i, 2) AS INTEGER) & 31), 1)), '');
CREATE MACRO _in_braces(key) AS CASE WHEN regexp_matches(key, '^[^{{]*\\{{[^}}]+\\}}')
    THEN regexp_extract(key, '^[^{{]*\\{{([^}}]+)\\}}', 1) ELSE key END;
CREATE MACRO coupon_id(template_id, user_id, nth) AS
    'c' || _letters(sha256(_in_braces(CAST(template_id AS VARCHAR))), 2)
    || _letters(sha256(concat_ws('/', @realm, 'c', _part(template_id), _part(user_id), CAST(nth AS VARCHAR))), 24);
"""


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One row on its way: a command, or (with ``set_aside``) a row that a rule of the mapping parks.

    ``seq`` is its place in the plan; ``amount`` is the source's own exact figure in major units, ``booked_minor`` what
    the command books; ``source_rows`` how many rows of the source it stands for.
    """

    seq: int
    statement: str
    row_key: str
    at: datetime
    command: Command | None
    set_aside: str | None
    detail: str
    amount: Decimal | None
    booked_minor: int | None
    source_rows: int


@dataclass(frozen=True, slots=True)
class StatementSize:
    """How much a statement made."""

    rows: int
    source_rows: int


class Plan:
    """The rows, in order, in a DuckDB database of its own. Made by :func:`planned`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> None:
        self._connection = connection
        self._mapping = mapping
        self.sizes = self._sizes()
        self.rows_total = sum(size.rows for size in self.sizes.values())
        self.clock_until = self._clock_until()

    def read(self, after: int, limit: int) -> Iterator[PlannedRow]:
        """The rows after a place, in order, of one day (UTC) at most.

        Raises BadRow at one that is no valid command, behind the good ones.
        """
        rows = self._connection.execute(
            "SELECT seq, statement_no, row_key, at_us, command, fields, set_aside, detail, amount, booked_minor, "
            f"source_rows FROM _plan WHERE seq > ? AND seq <= ? AND at_us // {_DAY_US} = ("
            f"SELECT at_us // {_DAY_US} FROM _plan WHERE seq = ?) ORDER BY seq",
            [after, after + limit, after + 1],
        ).fetchall()
        yield from map(self._row, rows)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a mapping's own query over the files. Raises BadMapping."""
        try:
            return self._connection.execute(sql).fetchall()
        except duckdb.Error as error:
            raise BadMapping(self._mapping.folder, str(error)) from error

    def _row(self, row: tuple[Any, ...]) -> PlannedRow:
        seq, statement_no, row_key, at_us, name, fields, set_aside, detail, amount, booked_minor, source_rows = row
        statement = self._mapping.statements[statement_no].name
        return PlannedRow(
            seq=seq,
            statement=statement,
            row_key=row_key,
            at=EPOCH + timedelta(microseconds=at_us),
            command=None if set_aside is not None else _command(statement, row_key, name, fields),
            set_aside=set_aside,
            detail=detail or "",
            amount=amount,
            booked_minor=booked_minor,
            source_rows=source_rows,
        )

    def _sizes(self) -> dict[str, StatementSize]:
        counted = {
            number: StatementSize(rows, int(source_rows))
            for number, rows, source_rows in self._connection.execute(
                "SELECT statement_no, count(*), sum(source_rows) FROM _plan GROUP BY statement_no"
            ).fetchall()
        }
        names = [statement.name for statement in self._mapping.statements]
        return {name: counted.get(number, StatementSize(0, 0)) for number, name in enumerate(names)}

    def _clock_until(self) -> datetime | None:
        if self._mapping.clock_until is None:
            return None
        rows = self.query(f"SELECT epoch_us(moment) FROM ({self._mapping.clock_until}) AS _(moment)")
        return EPOCH + timedelta(microseconds=rows[0][0]) if rows and rows[0][0] is not None else None


@contextmanager
def planned(folder: Path, mapping: Mapping, realm: Realm) -> Iterator[Plan]:
    """Read the files, run the mapping's statements and put their rows in order.

    Raises BadSource, BadMapping or BadRow before anything is sent. The plan lives in a temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="tessera-import-") as scratch:
        connection = duckdb.connect(str(Path(scratch) / "plan.duckdb"), config={"memory_limit": MEMORY_LIMIT})
        try:
            connection.execute("SET TimeZone = 'UTC'")
            load_all(connection, folder, mapping)
            # From here on only the mapping's SQL runs: it sees the tables, and neither files nor network.
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            connection.execute(_MACROS)
            connection.execute(_COUPON_ID.replace("@realm", literal(realm.key)))
            _make(connection, mapping)
            yield Plan(connection, mapping)
        finally:
            connection.close()


def _make(connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> None:
    if mapping.prepare is not None:
        try:
            connection.execute(mapping.prepare)
        except duckdb.Error as error:
            raise BadMapping(mapping.folder, f"prepare: {error}") from error
    connection.execute(
        "CREATE TABLE _rows (statement_no INTEGER, row_key VARCHAR, at_us BIGINT, command VARCHAR, fields VARCHAR, "
        "set_aside VARCHAR, detail VARCHAR, amount DECIMAL(38, 6), booked_minor BIGINT, source_rows BIGINT)"
    )
    for number, (statement, sql) in enumerate(zip(mapping.statements, mapping.sql, strict=True)):
        _insert(connection, mapping, number, statement, sql.strip().rstrip(";"))
    connection.execute(
        "CREATE TABLE _plan AS SELECT row_number() OVER (ORDER BY at_us, statement_no, row_key) AS seq, * FROM _rows "
        "ORDER BY seq"
    )
    connection.execute("DROP TABLE _rows")


def _insert(
    connection: duckdb.DuckDBPyConnection, mapping: Mapping, number: int, statement: Statement, sql: str
) -> None:
    where = mapping.folder / statement.sql
    try:
        present = {row[0]: row[1] for row in connection.execute(f"DESCRIBE ({sql}\n)").fetchall()}
        _check_columns(where, present)
        optional = ", ".join(c if c in present else f"{default} AS {c}" for c, default in _OPTIONAL.items())
        # A NULL field was not told: the merge patch drops it, and the command's default applies.
        connection.execute(
            f"INSERT INTO _rows SELECT {number}, CAST(row_key AS VARCHAR), epoch_us(occurred_at), command, "
            f"CAST(json_merge_patch('{{}}', to_json(fields)) AS VARCHAR), {optional} FROM ({sql}\n)"
        )
    except duckdb.Error as error:
        raise BadMapping(where, str(error)) from error
    _check_rows(connection, number, statement)


def _check_columns(where: Path, present: dict[str, str]) -> None:
    if missing := [column for column in _REQUIRED if column not in present]:
        raise BadMapping(where, f"the SELECT lacks the column {', '.join(missing)}")
    if unknown := sorted(present.keys() - {*_REQUIRED, *_OPTIONAL}):
        raise BadMapping(where, f"unknown column {', '.join(unknown)}; a command's own fields belong into `fields`")
    if present["occurred_at"] != "TIMESTAMP WITH TIME ZONE":
        raise BadMapping(
            where, f"`occurred_at` is a {present['occurred_at']} without zone; write … AT TIME ZONE 'Europe/London'"
        )
    amount = present.get("amount", "DECIMAL")
    if not amount.startswith(("DECIMAL", "INTEGER", "BIGINT", "HUGEINT")):
        raise BadMapping(where, f"`amount` is a {amount}; money is exact: use DECIMAL")


def _check_rows(connection: duckdb.DuckDBPyConnection, number: int, statement: Statement) -> None:
    """Keys must be there, short and distinct, times present, and commands known: else resuming could not be exact."""
    for condition, reason in (
        ("row_key IS NULL", "row_key is NULL"),
        (f"length(row_key) NOT BETWEEN 1 AND {ROW_KEY_LENGTH_MAX}", f"row_key is not 1 to {ROW_KEY_LENGTH_MAX} long"),
        ("at_us IS NULL", "`occurred_at` is NULL"),
        (
            f"at_us < 0 OR at_us >= {_UNTIL_US}",
            f"`occurred_at` is not from 1970 on and before {BUSINESS_TIME_UNTIL:%Y-%m-%d}",
        ),
        ("source_rows IS NULL OR source_rows < 0", "source_rows is NULL or negative"),
        ("set_aside IS NULL AND (command IS NULL OR fields IS NULL)", "neither a command with fields nor set_aside"),
    ):
        found = connection.execute(
            f"SELECT row_key FROM _rows WHERE statement_no = {number} AND ({condition}) LIMIT 1"
        ).fetchall()
        if found:
            raise BadRow(statement.name, found[0][0], reason)
    repeated = connection.execute(
        f"SELECT row_key, count(*) AS n FROM _rows WHERE statement_no = {number} GROUP BY row_key HAVING n > 1 LIMIT 1"
    ).fetchall()
    if repeated:
        raise BadRow(statement.name, repeated[0][0], f"row_key comes {repeated[0][1]} times; it must be unique")
    names = connection.execute(
        f"SELECT command, min(row_key) FROM _rows WHERE statement_no = {number} AND set_aside IS NULL GROUP BY command"
    ).fetchall()
    for name, row_key in names:
        if name not in COMMANDS:
            raise BadRow(statement.name, row_key, f"unknown command {name!r}")


def _command(statement: str, row_key: str, name: str, fields: str) -> Command:
    try:
        return COMMANDS[name].model_validate_json(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        shown = f" (found {first['input']!r:.80})" if not isinstance(first["input"], dict) else ""
        raise BadRow(statement, row_key, f"{name}: {where or 'fields'}: {first['msg']}{shown}") from error
