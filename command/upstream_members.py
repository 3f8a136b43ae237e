"""Members of upstreams' events: how each is read, and the JSON Schema of what can be, told by one declaration."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from contracts.money import EXPONENTS, require_currency
from contracts.orders import COUPONS_MAX
from contracts.values import ID_LENGTH_MAX, TEXT_LENGTH_MAX

Data = Mapping[str, Any]
JsonSchema = dict[str, Any]
Forms = tuple[JsonSchema, ...]

_DECIMAL: Final = r"[0-9]{1,15}(\.[0-9]{1,9})?"
_AMOUNT: Final = re.compile(f"-?{_DECIMAL}")

# As JSON Schema: the forms that a value may have.
_ID_FORMS: Final[Forms] = ({"type": "string", "minLength": 1, "maxLength": ID_LENGTH_MAX}, {"type": "integer"})
_AMOUNT_FORMS: Final[Forms] = ({"type": "string", "pattern": f"^{_DECIMAL}$"}, {"type": "number", "minimum": 0})


class UntranslatableEvent(Exception):
    """An upstream event whose name or data we cannot read. ``field`` is the member of its data that is at fault."""

    def __init__(self, field: str, code: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.code = code


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an upstream event's data: how it is read, and the forms of what can be.

    Of several ``names`` the first that is there counts. One that is null is not there.
    """

    names: tuple[str, ...]
    about: str
    forms: Forms
    read: Callable[[Data, str], Any]  # The data, and the currency of its amounts. Raises UntranslatableEvent.
    is_required: bool = False


def by_id(*names: str, about: str, is_required: bool = True) -> Member:
    """An id of theirs: text, or an integer, which becomes its digits."""
    read = _id if is_required else _optional_id
    return Member(names, about, _ID_FORMS, lambda data, _currency: read(data, *names), is_required)


def by_ids(name: str, about: str) -> Member:
    """Ids; none where it is absent."""
    ids = {"type": "array", "items": {"anyOf": list(_ID_FORMS)}, "maxItems": COUPONS_MAX}
    return Member((name,), about, (ids,), lambda data, _currency: _ids(data, name))


def by_text(name: str, about: str) -> Member:
    """Words; empty where they are absent."""
    words = {"type": "string", "maxLength": TEXT_LENGTH_MAX}
    return Member((name,), about, (words,), lambda data, _currency: _text(data, name))


def by_amount(*names: str, about: str, is_required: bool = True) -> Member:
    """Major units as minor ones; 0 where it may be absent, and is."""

    def read(data: Data, currency: str) -> int:
        if not is_required and all(data.get(name) is None for name in names):
            return 0
        return _minor(data, currency, *names)

    return Member(names, about, _AMOUNT_FORMS, read, is_required)


CURRENCY: Final = Member(
    ("currency",),
    "ISO 4217, in capitals. Without it: USD, and over HTTP whatever is set for the tenant.",
    ({"type": "string", "pattern": "^[A-Z]{3}$"},),
    lambda _data, currency: currency,
)


def schema_of(members: Collection[Member]) -> JsonSchema:
    """The JSON Schema of an object with these members; it allows others, which are passed over."""
    needed = [member for member in members if member.is_required]
    told = {
        "type": "object",
        "required": [member.names[0] for member in needed if len(member.names) == 1],
        "properties": {name: _property_of(member, name) for member in members for name in member.names},
        "allOf": [_one_of(member.names) for member in needed if len(member.names) > 1],
    }
    return {name: part for name, part in told.items() if part}


def _property_of(member: Member, name: str) -> JsonSchema:
    others = [each for each in member.names if each != name]
    also = f" Also as {' or '.join(others)}: the first of them that is there counts." if others else ""
    may_be_null = bool(others) or not member.is_required
    forms = [*member.forms, *([{"type": "null"}] if may_be_null else [])]
    about = {"description": f"{member.about}{also}"}
    return {**about, **(forms[0] if len(forms) == 1 else {"anyOf": forms})}


def _one_of(names: tuple[str, ...]) -> JsonSchema:
    return {"anyOf": [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]}


def _id(data: Data, *names: str) -> str:
    """The first of these members that is there."""
    found = _optional_id(data, *names)
    if found is None:
        raise UntranslatableEvent(names[0], "missing", f"needs {' or '.join(names)}")
    return found


def _optional_id(data: Data, *names: str) -> str | None:
    for name in names:
        if (value := data.get(name)) is not None:
            return _as_id(name, value)
    return None


def _ids(data: Data, name: str) -> tuple[str, ...]:
    values = data.get(name) or []
    if not isinstance(values, list):
        raise UntranslatableEvent(name, "wrong_type", "must be an array")
    return tuple(_as_id(name, value) for value in values)


def _as_id(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UntranslatableEvent(name, "wrong_type", "must be a string or an integer")
    return str(value)


def _text(data: Data, name: str) -> str:
    value = data.get(name) or ""
    if not isinstance(value, str):
        raise UntranslatableEvent(name, "wrong_type", "must be a string")
    return value


def _minor(data: Data, currency: str, *names: str) -> int:
    """An amount of major units as minor units. A fraction of a minor unit is refused, never rounded."""
    name = next((each for each in names if data.get(each) is not None), None)
    if name is None:
        raise UntranslatableEvent(names[0], "missing", f"needs {' or '.join(names)}")
    value = data[name]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UntranslatableEvent(name, "wrong_type", "must be a decimal number of major units")
    # A float is read by its shortest decimal text, which is what its sender printed. No exponents: 1E+999999999
    # would be an honest decimal, and all of our memory.
    text = str(value)
    if not _AMOUNT.fullmatch(text):
        raise UntranslatableEvent(name, "wrong_format", "must be a decimal number of major units")
    minor = Decimal(text).scaleb(EXPONENTS[_currency(currency)])
    if minor != minor.to_integral_value():
        raise UntranslatableEvent(name, "wrong_format", f"has more digits than {currency} has")
    return int(minor)


def _currency(code: object) -> str:
    try:
        return require_currency(str(code))
    except ValueError as error:
        raise UntranslatableEvent("currency", "unknown_currency", str(error)) from None
