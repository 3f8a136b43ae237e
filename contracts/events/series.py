"""Events of one type that differ in a few fields: thousands of them written as one, and its fields filled in."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from contracts.events.base import Event
from contracts.values import Value

Path = tuple[str, ...]  # Names of fields, from the event inwards.
Column = Sequence[str] | Sequence[str | None] | Sequence[int]

_MARK: Final = "field"


class Form(NamedTuple):
    """The JSON of all events of a series: a text with a ``%s`` for each column, and the columns in that order."""

    text: str
    columns: list[Sequence[object]]


class EventSeries:
    """``like``, with other values for some of its fields in each event. ``columns``: field -> texts or whole numbers.

    All columns are of one length, that of the series. Whoever makes one knows that the values fit the fields.
    """

    __slots__ = ("_columns", "_length", "like")

    def __init__(self, like: Event, columns: Mapping[Path, Column]) -> None:
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise ValueError(f"columns of one length are wanted, not of {sorted(lengths)}")
        self.like = like
        self._columns = dict(columns)
        (self._length,) = lengths

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Event:
        return self._with({path: column[index] for path, column in self._columns.items()})

    def __iter__(self) -> Iterator[Event]:
        for values in zip(*self._columns.values(), strict=True):
            yield self._with(dict(zip(self._columns, values, strict=True)))

    def form(self) -> Form:
        """What each event's own encoder would write, byte for byte, for a thousandth of its work."""
        mark = _absent_from(self.like.model_dump_json())
        marks = {f'"{mark}{number}"': path for number, path in enumerate(self._columns)}
        marked = self._with({path: quoted[1:-1] for quoted, path in marks.items()})
        text = marked.model_dump_json(warnings=False).replace("%", "%%")  # Of texts where numbers belong.
        order = sorted(marks, key=text.index)
        columns: list[Sequence[object]] = []
        for quoted in order:
            blank, column = blank_for(self._columns[marks[quoted]])
            text = text.replace(quoted, blank)
            columns.append(column)
        return Form(text, columns)

    def _with(self, changes: Mapping[Path, object]) -> Event:
        event = _but(self.like, changes)
        assert isinstance(event, Event)
        return event


def blank_for(column: Column) -> tuple[str, Sequence[object]]:
    """What stands for a column's values in a text of JSON, and the values to fill in."""
    if isinstance(column[0], int):
        return "%s", column
    together = "".join(map(str, column))
    is_plain = together.isascii() and together.isprintable() and '"' not in together and "\\" not in together
    if is_plain and None not in column:
        return '"%s"', column  # Nothing to escape in any of them, as a rule.
    return "%s", [orjson.dumps(value).decode() for value in column]


def _absent_from(text: str) -> str:
    """A mark that the text does not hold: it grows until it is longer than whatever resembles it."""
    mark = _MARK
    while mark in text:
        mark += "_"
    return mark


def _but(value: Value, changes: Mapping[Path, object]) -> Value:
    """A copy of a value with other contents for some fields, however deep."""
    here: dict[str, object] = {}
    deeper: dict[str, dict[Path, object]] = {}
    for (name, *rest), content in changes.items():
        if rest:
            deeper.setdefault(name, {})[tuple(rest)] = content
        else:
            here[name] = content
    return value.but(**here, **{name: _but(getattr(value, name), each) for name, each in deeper.items()})
