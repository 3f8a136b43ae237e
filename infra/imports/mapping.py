"""A mapping: the folder with a ``mapping.toml`` and a few SQL files that says how files become commands."""

import hashlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.identity import Realm
from contracts.values import Currency, Id
from infra.imports.errors import BadMapping

SHIPPED: Final = Path(__file__).parent / "mappings"
MAPPING_FILE: Final = "mapping.toml"
SQL_BYTES_MAX: Final = 1_000_000

_NAME = r"^[a-z][a-z0-9_]{0,62}$"
_COLUMN = r"^(INTEGER|BIGINT|BOOLEAN|DATE|TIMESTAMP|TIMESTAMPTZ|VARCHAR|DECIMAL\([1-9]\d?, ?\d\d?\))( NOT NULL)?$"

Name = Annotated[str, Field(pattern=_NAME)]
Column = Annotated[str, Field(pattern=_COLUMN)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SourceFile(_Part):
    """One expected file, loaded as a table. ``columns``: name -> type, the only ones that statements see.

    ``checks``: what is said of every row, in words -> in SQL. Damage that still parses is only noticed by what the data
    must look like.
    """

    path: Annotated[str, Field(pattern=r"^[^/\\]+\.(csv|parquet)$")]
    columns: Annotated[dict[str, Column], Field(min_length=1, max_length=1_000)]
    checks: Annotated[dict[str, str], Field(max_length=100)] = {}
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","

    @property
    def is_csv(self) -> bool:
        """Whether it is text (else Parquet)."""
        return self.path.endswith(".csv")


class Statement(_Part):
    """One SELECT, in a file of its own beside ``mapping.toml``. ``about`` says what one of its rows is."""

    name: Name
    sql: Annotated[str, Field(pattern=r"^[^/\\]+\.sql$")]
    about: str = ""


class Total(_Part):
    """One figure (or table) told by the source and read back: from the event store, and from the facts.

    ``source`` is DuckDB's SQL over the files; ``events`` is PostgreSQL's over the view ``events`` with the parameters
    ``%(tenant_id)s``, ``%(app_id)s``, ``%(import_id)s``; ``facts`` is ClickHouse's with ``{tenant_id:String}`` and so
    on. ``settled``: true only when sagas and timers have caught up, too.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    source: str
    events: str | None = None
    facts: str | None = None
    settled: bool = False

    @model_validator(mode="after")
    def _reads_something_back(self) -> Self:
        if self.events is None and self.facts is None:
            raise ValueError("a total needs `events` or `facts` to read back from")
        return self


class _RealmNames(_Part):
    tenant_id: Id
    app_id: Id


class _Document(_Part):
    """What ``mapping.toml`` holds."""

    name: Name
    about: str = ""
    realm: _RealmNames
    currency: Currency | None = None
    prepare: Annotated[str, Field(pattern=r"^[^/\\]+\.sql$")] | None = None
    clock_until: str | None = None
    files: Annotated[dict[Name, SourceFile], Field(min_length=1, max_length=100)]
    statements: Annotated[tuple[Statement, ...], Field(min_length=1, max_length=100, strict=False)]
    totals: Annotated[tuple[Total, ...], Field(max_length=100, strict=False)] = ()

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        names = [statement.name for statement in self.statements]
        if len(set(names)) != len(names):
            raise ValueError("two statements share a name")
        return self


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping as read. ``sql`` holds the text of every statement; ``digest`` changes with anything in it."""

    folder: Path
    name: str
    about: str
    realm: Realm
    currency: str | None
    prepare: str | None
    clock_until: str | None
    files: dict[str, SourceFile]
    statements: tuple[Statement, ...]
    sql: tuple[str, ...]
    totals: tuple[Total, ...]
    digest: str


def find_mapping(name_or_path: str) -> Mapping:
    """Read a mapping that ships with the program, by name, or anybody's, by the path of its folder.

    Raises BadMapping.
    """
    shipped = SHIPPED / name_or_path
    if name_or_path in shipped_mappings():
        return read_mapping(shipped)
    folder = Path(name_or_path)
    if not folder.is_dir():
        known = ", ".join(shipped_mappings())
        raise BadMapping(name_or_path, f"neither a folder nor one that ships with the program ({known})")
    return read_mapping(folder)


def shipped_mappings() -> list[str]:
    """The names of the mappings that ship with the program."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{MAPPING_FILE}"))


def read_mapping(folder: Path) -> Mapping:
    """Read a mapping's folder. Raises BadMapping with the place and the reason."""
    toml = _read(folder / MAPPING_FILE)
    try:
        document = _Document.model_validate(tomllib.loads(toml))
    except tomllib.TOMLDecodeError as error:
        raise BadMapping(folder / MAPPING_FILE, str(error)) from error
    except ValidationError as error:
        raise BadMapping(folder / MAPPING_FILE, "; ".join(_explain(error))) from error
    prepare = _read(folder / document.prepare) if document.prepare is not None else None
    sql = tuple(_read(folder / statement.sql) for statement in document.statements)
    return Mapping(
        folder=folder,
        name=document.name,
        about=document.about,
        realm=Realm(document.realm.tenant_id, document.realm.app_id),
        currency=document.currency,
        prepare=prepare,
        clock_until=document.clock_until,
        files=document.files,
        statements=document.statements,
        sql=sql,
        totals=document.totals,
        digest=_digest_of_rows(document, prepare, sql),
    )


def _digest_of_rows(document: _Document, prepare: str | None, sql: tuple[str, ...]) -> str:
    """What decides about the rows; a better total or a better word about a statement is no other import."""
    files = {name: file.model_dump() for name, file in document.files.items()}
    names = [statement.name for statement in document.statements]
    parts = (files, names, prepare, sql, document.clock_until)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > SQL_BYTES_MAX:
            raise BadMapping(path, f"larger than {SQL_BYTES_MAX:,} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadMapping(path, str(error)) from error


def _explain(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False):
        yield f"{'.'.join(str(part) for part in problem['loc']) or 'document'}: {problem['msg']}"
