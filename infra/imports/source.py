"""The files of an import as typed DuckDB tables: read once and completely, or refused with file, row and reason."""

import csv
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from infra.imports.errors import BadMapping, BadSource
from infra.imports.mapping import Mapping, SourceFile

HEADER_BYTES_MAX: Final = 1_000_000
ROW_GROUPS_PROBED_MAX: Final = 10_000

# DuckDB casts '1.5' to the integer 2 and '1e3' to 1000; a file that says so is dirty, not approximate.
_TEXT_FORMS: Final = {
    "INTEGER": r"[+-]?[0-9]+",
    "BIGINT": r"[+-]?[0-9]+",
    "DATE": r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "TIMESTAMP": r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9:.]+",
    "TIMESTAMPTZ": r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9:.]+ ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)",
    "BOOLEAN": r"(?i)true|false|t|f|0|1",
}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a file was when the import read it."""

    size_bytes: int
    sha256: str


def fingerprint_all(folder: Path, mapping: Mapping) -> dict[str, Fingerprint]:
    """Size and digest of every expected file, by table name. Raises BadSource for a missing one."""
    return {name: _fingerprint(folder / file.path) for name, file in mapping.files.items()}


def load_all(connection: duckdb.DuckDBPyConnection, folder: Path, mapping: Mapping) -> None:
    """Make one table per expected file. Raises BadSource (file, row, reason) for whatever is not as declared.

    Raises BadMapping when a check is no SQL.
    """
    for name, file in mapping.files.items():
        _load(connection, name, folder / file.path, file)


def _fingerprint(path: Path) -> Fingerprint:
    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return Fingerprint(path.stat().st_size, digest)
    except OSError as error:
        raise BadSource(path, _missing(path, error)) from error


def _missing(path: Path, error: OSError) -> str:
    if not isinstance(error, FileNotFoundError):
        return error.strerror or str(error)
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    present = ", ".join(sorted(p.name for p in path.parent.iterdir() if p.suffix in {".csv", ".parquet"})) or "no data"
    return f"the file is missing (the folder holds {present})"


def _load(connection: duckdb.DuckDBPyConnection, name: str, path: Path, file: SourceFile) -> None:
    raw = f"_raw_{name}"
    if file.is_csv:
        _load_csv(connection, raw, path, file)
    else:
        _load_parquet(connection, raw, path, file)
    actual = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {raw}").fetchall()}
    for column, declared in file.columns.items():
        _check_column(connection, raw, path, column, actual[column], declared)
    casts = ", ".join(f"CAST({_quote(c)} AS {_type(t)}) AS {_quote(c)}" for c, t in file.columns.items())
    connection.execute(f"CREATE TABLE {_quote(name)} AS SELECT {casts} FROM {raw} ORDER BY rowid")
    connection.execute(f"DROP TABLE {raw}")
    for words, condition in file.checks.items():
        _check_rows(connection, name, path, words, condition)


# Parquet


def _load_parquet(connection: duckdb.DuckDBPyConnection, raw: str, path: Path, file: SourceFile) -> None:
    if not path.exists():
        raise BadSource(path, _missing(path, FileNotFoundError()))
    source = f"read_parquet({literal(path)})"
    try:
        present = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
    except duckdb.Error as error:
        raise BadSource(path, _reason(error, "it is truncated or no Parquet file")) from error
    _require_columns(path, file.columns, present)
    columns = ", ".join(_quote(column) for column in file.columns)
    try:
        connection.execute(f"CREATE TABLE {raw} AS SELECT {columns} FROM {source}")
    except duckdb.Error as error:
        row = _first_broken_row(connection, path, columns)
        raise BadSource(path, _reason(error, "the rows from here on cannot be read"), row=row) from error


def _first_broken_row(connection: duckdb.DuckDBPyConnection, path: Path, columns: str) -> int | None:
    """The first row of the first row group that cannot be read: Parquet is damaged by the group, not by the row."""
    groups = connection.execute(
        f"SELECT row_group_id, any_value(row_group_num_rows) FROM parquet_metadata({literal(path)}) "
        f"GROUP BY row_group_id ORDER BY row_group_id LIMIT {ROW_GROUPS_PROBED_MAX}"
    ).fetchall()
    first = 0
    for _, rows in groups:
        try:
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE _probe AS SELECT {columns} FROM read_parquet({literal(path)}, "
                f"file_row_number=true) WHERE file_row_number BETWEEN {first} AND {first + rows - 1}"
            )
        except duckdb.Error:
            return first + 1
        first += rows
    return None


# CSV


def _load_csv(connection: duckdb.DuckDBPyConnection, raw: str, path: Path, file: SourceFile) -> None:
    header = _read_header(path, file.delimiter)
    _require_columns(path, file.columns, set(header))
    _require_final_newline(path)
    columns = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in header)
    wanted = ", ".join(_quote(column) for column in file.columns)
    try:
        connection.execute(
            f"CREATE TABLE {raw} AS SELECT {wanted} FROM read_csv({literal(path)}, columns={{{columns}}}, "
            f"header=true, auto_detect=false, delim={literal(file.delimiter)}, quote='\"', escape='\"', "
            "store_rejects=true)"
        )
        rejected = connection.execute(
            "SELECT line, coalesce(column_name, ''), error_message FROM reject_errors ORDER BY line LIMIT 1"
        ).fetchall()
    except duckdb.Error as error:
        raise BadSource(path, _reason(error, "the text cannot be read"), row=_line_in(error)) from error
    if rejected:
        line, column, message = rejected[0]
        where = f"column {column}: " if column else ""
        raise BadSource(path, f"{where}{message}", row=int(line) - 1)


def _read_header(path: Path, delimiter: str) -> list[str]:
    try:
        with path.open("rb") as content:  # Read as text, a fault further down would be blamed on the header.
            line = content.readline(HEADER_BYTES_MAX).decode("utf-8-sig")
    except OSError as error:
        raise BadSource(path, _missing(path, error)) from error
    except UnicodeDecodeError as error:
        raise BadSource(path, "the header is not UTF-8 text") from error
    header = next(csv.reader([line], delimiter=delimiter), [])
    if not header:
        raise BadSource(path, "the file is empty: it has no header")
    if repeated := sorted({column for column in header if header.count(column) > 1}):
        raise BadSource(path, f"the header names {', '.join(repeated)} twice")
    return header


def _require_final_newline(path: Path) -> None:
    """A text cut within its last field still parses ('12.3' of '12.34'): only the line's end proves it whole."""
    with path.open("rb") as content:
        content.seek(-1, 2)
        if content.read(1) in (b"\n", b"\r"):
            return
        content.seek(0)
        rows = sum(block.count(b"\n") for block in iter(lambda: content.read(1 << 20), b""))
    raise BadSource(path, "the last line does not end: the file is truncated (or lacks its final line end)", row=rows)


# What both share


def _require_columns(path: Path, declared: Iterable[str], present: set[str]) -> None:
    if missing := [column for column in declared if column not in present]:
        raise BadSource(path, f"column {', '.join(missing)} is missing (there are {', '.join(sorted(present))})")


def _check_column(
    connection: duckdb.DuckDBPyConnection, raw: str, path: Path, column: str, actual: str, declared: str
) -> None:
    """Every value must be one of the declared type, exactly: nothing is rounded, cut off or guessed."""
    name, wanted = _quote(column), _type(declared)
    if declared.endswith("NOT NULL"):
        _refuse_where(connection, raw, path, column, f"{name} IS NULL", "is empty")
    if _canonical(actual) == _canonical(wanted) or wanted == "VARCHAR" == actual:
        return
    cast = f"TRY_CAST({name} AS {wanted})"
    if actual == "VARCHAR":
        exact = f"{cast} IS NOT NULL AND regexp_full_match({name}, {literal(_text_form(wanted))})"
    elif _canonical(actual).startswith(("FLOAT", "DOUBLE")):
        raise BadSource(path, f"column {column} holds {actual}, which is not exact; {wanted} was declared")
    else:
        exact = f"{cast} IS NOT NULL AND TRY_CAST({cast} AS {actual}) = {name}"
    _refuse_where(connection, raw, path, column, f"{name} IS NOT NULL AND NOT ({exact})", f"is no {wanted}")


def _check_rows(connection: duckdb.DuckDBPyConnection, name: str, path: Path, words: str, condition: str) -> None:
    """A check holds like a constraint of SQL: a row fails it when the condition is false; unknown is not false."""
    try:
        found = connection.execute(
            f"SELECT rowid + 1 FROM {_quote(name)} WHERE NOT ({condition}\n) ORDER BY rowid LIMIT 1"
        ).fetchall()
    except duckdb.Error as error:
        raise BadMapping(f"files.{name}.checks", f"{words}: {error}") from error
    if found:
        raise BadSource(path, f"it fails the check: {words}", row=int(found[0][0]))


def _refuse_where(
    connection: duckdb.DuckDBPyConnection, raw: str, path: Path, column: str, condition: str, problem: str
) -> None:
    found = connection.execute(
        f"SELECT rowid + 1, CAST({_quote(column)} AS VARCHAR) FROM {raw} WHERE {condition} ORDER BY rowid LIMIT 1"
    ).fetchall()
    if found:
        row, value = found[0]
        shown = f"{value!r} {problem}" if value is not None else problem
        raise BadSource(path, f"column {column}: {shown}", row=int(row))


def _text_form(wanted: str) -> str:
    if (decimal := re.fullmatch(r"DECIMAL\((\d+), ?(\d+)\)", wanted)) is not None:
        return rf"[+-]?[0-9]+(\.[0-9]{{0,{decimal[2]}}}0*)?"
    return _TEXT_FORMS[wanted]


def _type(declared: str) -> str:
    return declared.removesuffix(" NOT NULL")


def _canonical(type_name: str) -> str:
    return type_name.replace(" ", "").replace("TIMESTAMPWITHTIMEZONE", "TIMESTAMPTZ")


def _reason(error: duckdb.Error, meaning: str) -> str:
    """Our words first, then the reader's own first line without its class."""
    first = str(error).strip().splitlines()[0]
    return f"{meaning} ({first.removeprefix('Invalid Input Error: ')})"


def _line_in(error: duckdb.Error) -> int | None:
    found = re.search(r"on Line: (\d+)", str(error))
    return int(found[1]) - 1 if found else None


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """A text as SQL writes it."""
    return "'" + str(value).replace("'", "''") + "'"
