"""Lists of users as people send them: CSV or a JSON array, checked as a whole before anything is given to anybody."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from contracts.commands.distribution import DISTRIBUTION_USERS_MAX
from contracts.values import ID_LENGTH_MAX

USER_COLUMN: Final = "user_id"
ERRORS_MAX: Final = 50
_LINE_CHARACTERS_MAX: Final = 100_000


class BadEntry(NamedTuple):
    """One entry that is no user id. Rows count from 1, blank lines and the header do not count."""

    row: int
    what: str


class BadList(ValueError):
    """A list that cannot be meant; nothing was done. ``entries`` are the first that are wrong, if single ones are."""

    def __init__(self, what: str, entries: Sequence[BadEntry] = ()) -> None:
        super().__init__(what)
        self.entries = entries


class CsvUsers(NamedTuple):
    """The users of a file in its order. Without a header its first row is a user, whatever it says."""

    users: list[str]
    has_header: bool


def users_of_json(values: object) -> list[str]:
    """The users of a JSON array of strings; integers become decimal strings. Raises BadList."""
    if not isinstance(values, list):
        raise BadList("user_ids must be an array")
    return _checked([str(each) if isinstance(each, int) and not isinstance(each, bool) else each for each in values])


def users_of_csv(raw: bytes) -> list[str]:
    """The users of a CSV file: its column ``user_id``, or its only column. Raises BadList."""
    return read_csv(raw).users


def read_csv(raw: bytes) -> CsvUsers:
    """The users of a CSV file, and whether its first row is one of them. Raises BadList."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadList(f"the file is not UTF-8: see byte {error.start + 1}") from None
    first_line = text[:_LINE_CHARACTERS_MAX].partition("\n")[0]
    delimiter = ";" if ";" in first_line and "," not in first_line else ","
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header, rows = _header(line for line in lines if any(line))
        has_header = USER_COLUMN in _names(header)
        return CsvUsers(_checked(_column(header, rows)), has_header)
    except csv.Error as error:
        raise BadList(f"line {lines.line_num} is no CSV: {error}") from None


def _header(rows: Iterator[list[str]]) -> tuple[list[str], Iterator[list[str]]]:
    header = next(rows, None)
    if header is None:
        raise BadList("the list is empty")
    return header, rows


def _names(header: list[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def _column(header: list[str], rows: Iterable[list[str]]) -> list[Any]:
    names = _names(header)
    if USER_COLUMN in names:
        index = names.index(USER_COLUMN)
        return [line[index] if index < len(line) else "" for line in rows]
    if len(header) > 1:
        raise BadList(f"the file has several columns, and none is called {USER_COLUMN}")
    return [header[0], *(line[0] if len(line) == 1 else None for line in rows)]


def _checked(users: list[Any]) -> list[str]:
    if not users:
        raise BadList("the list is empty")
    if len(users) > DISTRIBUTION_USERS_MAX:
        raise BadList(f"the list has {len(users):,} users; one distribution takes {DISTRIBUTION_USERS_MAX:,}")
    bad = [BadEntry(row, what) for row, user in enumerate(users, 1) if (what := _wrong(user)) is not None]
    if bad:
        raise BadList(f"row {bad[0].row}: {bad[0].what} (of {len(bad):,} rows that are wrong)", bad[:ERRORS_MAX])
    return users


def _wrong(user: object) -> str | None:
    if not isinstance(user, str):
        return "must be one user id"
    if 0 < len(user) <= ID_LENGTH_MAX and user.isprintable() and user == user.strip():
        return None
    return f"must be 1 to {ID_LENGTH_MAX} printable characters without surrounding white space"
