"""JSON from outside: read within bounds, and every mistake told by place and code."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from infra.entry.problems import FieldError, Problem, pointer_to

DEPTH_MAX: Final = 32
_WHITE_SPACE: Final = b" \t\r\n"

_CODES: Final[dict[str, str]] = {
    "missing": "missing",
    "union_tag_not_found": "missing",
    "extra_forbidden": "unknown_field",
    "literal_error": "not_one_of",
    "union_tag_invalid": "not_one_of",
    "timezone_aware": "time_without_zone",
    "datetime_parsing": "not_a_time",
    "datetime_from_date_parsing": "not_a_time",
    "string_too_short": "wrong_length",
    "string_too_long": "wrong_length",
    "too_short": "wrong_length",
    "too_long": "wrong_length",
    "string_pattern_mismatch": "wrong_format",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "time_out_of_range": "out_of_range",
}
# Validators of ours say what is wrong in words; what it is about is the field's own name.
_CODES_BY_FIELD: Final[dict[str, str]] = {"currency": "unknown_currency", "zone": "unknown_zone"}


def parse_json(raw: bytes) -> Any:
    """Any JSON value, within the depth that bodies may have. Raises Problem."""
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise _unreadable(str(error)) from None
    _require_shallow(value)
    return value


def problem_of(error: ValidationError, raw: bytes) -> Problem:
    """What a failed validation of a JSON text means to whoever sent it. Raises Problem when it is not JSON at all."""
    value = parse_json(raw) if raw.strip(_WHITE_SPACE) else {}
    return malformed([_field_error(details, value) for details in error.errors(include_url=False, include_input=False)])


def malformed(errors: Sequence[FieldError]) -> Problem:
    """A 422 that carries the errors' own code when they agree on one."""
    codes = {error.code for error in errors}
    code = codes.pop() if len(codes) == 1 else "malformed"
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(code, f"{first.pointer or 'the body'}: {first.message}{more}", errors=errors)


def object_at(value: object, where: str, allowed: set[str] | None, required: Sequence[str] = ()) -> Mapping[str, Any]:
    """A JSON object with these members only. Raises Problem that names every wrong one."""
    if not isinstance(value, dict):
        raise malformed([FieldError(where, "wrong_type", "must be an object")])
    errors = [
        FieldError(where + pointer_to((name,)), "missing", "must be there") for name in required if name not in value
    ]
    if allowed is not None:
        errors += [
            FieldError(where + pointer_to((name,)), "unknown_field", "is not a member here")
            for name in value
            if name not in allowed
        ]
    if errors:
        raise malformed(errors)
    return value


def text_at(value: object, where: str) -> str:
    """A string; an integer becomes its decimal digits, as in every id."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise malformed([FieldError(where, "wrong_type", "must be a string")])


def _field_error(details: ErrorDetails, value: Any) -> FieldError:
    location = _without_tags(details["loc"], value)
    kind, message = details["type"], details["msg"].removeprefix("Value error, ")
    field = str(location[-1]) if location else ""
    code = _CODES.get(kind, "invalid")
    if kind.endswith("_type"):
        code = "wrong_type"
    elif kind == "value_error":
        code = _CODES_BY_FIELD.get(field, code)
    elif kind in {"greater_than", "greater_than_equal"} and field.endswith("_minor"):
        code = "negative_amount"
    return FieldError(pointer_to(location), code, message)


def _without_tags(location: Sequence[str | int], value: Any) -> list[str | int]:
    """Where the error is in the text: pydantic also names the member of a union that was tried, which is nowhere."""
    path: list[str | int] = []
    for index, part in enumerate(location):
        if isinstance(value, dict):
            if part not in value and index < len(location) - 1:
                continue
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        path.append(part)
    return path


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise Problem("too_deep", f"the JSON is nested deeper than {DEPTH_MAX} levels")


def _children(node: Any) -> Sequence[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else ()


def _unreadable(message: str) -> Problem:
    if message.startswith("recursion limit"):
        return Problem("too_deep", f"the JSON is nested deeper than {DEPTH_MAX} levels")
    return Problem("malformed_json", f"the body is not JSON: {message}")
