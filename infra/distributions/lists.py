"""Lists of users as people send them: CSV or a JSON array, checked as a whole before anything is given to anybody."""

import csv
import io
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from contracts.commands.distribution import DISTRIBUTION_USERS_MAX
from contracts.values import ID_LENGTH_MAX

USER_COLUMN: Final = "user_id"
ERRORS_MAX: Final = 50
_LINE_CHARACTERS_MAX: Final = 100_000
_COLUMNS_TOLD_MAX: Final = 20

_Row = tuple[list[str], int]  # Its fields, and the line of the file that it stands in.


class BadEntry(NamedTuple):
    """One entry that is no user id. Rows count from 1, blank lines and the header do not count; lines all count."""

    row: int
    what: str
    line: int | None = None  # Of the file, when it came as one.

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"row {self.row}" + ("" if self.line is None else f" (line {self.line} of the file)")


class BadList(ValueError):
    """A list that cannot be meant; nothing was done. ``entries`` are the first that are wrong, if single ones are."""

    def __init__(self, what: str, entries: Sequence[BadEntry] = ()) -> None:
        super().__init__(what)
        self.entries = entries


class UnclearColumn(BadList):
    """A file of which nobody can tell where the users are: whoever sends it has to name one of its columns."""

    def __init__(self, what: str, columns: Sequence[str]) -> None:
        super().__init__(f"{what}; its columns: {', '.join(columns[:_COLUMNS_TOLD_MAX])}")


class _Uneven(NamedTuple):
    """A row with more or fewer fields than the first: most likely not quoted, so no field of it is to be trusted."""

    fields: int
    width: int


class CsvUsers(NamedTuple):
    """The users of a file in its order. Without a header its first row is a user, whatever it says."""

    users: list[str]
    has_header: bool


def users_of_json(values: object) -> list[str]:
    """The users of a JSON array of strings; integers become decimal strings. Raises BadList."""
    if not isinstance(values, list):
        raise BadList("user_ids must be an array")
    return _checked([str(each) if isinstance(each, int) and not isinstance(each, bool) else each for each in values])


def read_csv(raw: bytes, column: str | None = None) -> CsvUsers:
    """The users of a CSV file: its column of that name, else ``user_id``, else its only one. Raises BadList."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadList(f"the file is not UTF-8: see byte {error.start + 1}") from None
    first_line = text[:_LINE_CHARACTERS_MAX].partition("\n")[0]
    delimiter = ";" if ";" in first_line and "," not in first_line else ","
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = ((line, lines.line_num) for line in lines if any(line))
        first = next(rows, None)
        if first is None:
            raise BadList("the list is empty")
        header, _ = first
        index = _index(header, column)
        users, at = _column(chain([first], rows) if index is None else rows, index or 0, len(header))
    except csv.Error as error:
        raise BadList(f"line {lines.line_num} is no CSV: {error}") from None
    return CsvUsers(_checked(users, at), has_header=index is not None)


def _index(header: list[str], column: str | None) -> int | None:
    """Which column the users are in; None when the file has one column and no header. Raises UnclearColumn."""
    names = [name.strip().lower() for name in header]
    wanted = USER_COLUMN if column is None else column.strip().lower()
    match names.count(wanted):
        case 1:
            return names.index(wanted)
        case 0 if column is None and len(header) == 1:
            return None
        case 0:
            raise UnclearColumn(f"the file has no column called {column or USER_COLUMN}", header)
    raise UnclearColumn(f"the file has several columns called {wanted}", header)


def _column(rows: Iterable[_Row], index: int, width: int) -> tuple[list[Any], "array[int]"]:
    """One column's values, and the line that each stands in."""
    users: list[Any] = []
    lines = array("L")
    for fields, line in rows:
        users.append(fields[index] if len(fields) == width else _Uneven(len(fields), width))
        lines.append(line)
    return users, lines


def _checked(users: list[Any], lines: Sequence[int] | None = None) -> list[str]:
    if not users:
        raise BadList("the list is empty")
    if len(users) > DISTRIBUTION_USERS_MAX:
        raise BadList(f"the list has {len(users):,} users; one distribution takes {DISTRIBUTION_USERS_MAX:,}")
    bad = [
        BadEntry(row, what, None if lines is None else lines[row - 1])
        for row, user in enumerate(users, 1)
        if (what := _wrong(user)) is not None
    ]
    if bad:
        raise BadList(f"{bad[0].place}: {bad[0].what} (of {len(bad):,} rows that are wrong)", bad[:ERRORS_MAX])
    return users


def _wrong(user: object) -> str | None:
    if isinstance(user, _Uneven):
        return f"has {user.fields} fields, and the first row {user.width}"
    if not isinstance(user, str):
        return "must be one user id"
    if 0 < len(user) <= ID_LENGTH_MAX and user.isprintable() and user == user.strip():
        return None
    return f"must be 1 to {ID_LENGTH_MAX} printable characters without surrounding white space"
