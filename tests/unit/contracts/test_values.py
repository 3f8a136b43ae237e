"""Values from outside are bounded and can be stored."""

import pytest
from pydantic import TypeAdapter, ValidationError

from contracts.terms import Terms
from contracts.values import TEXT_LENGTH_MAX, Text

TEXT: TypeAdapter[str] = TypeAdapter(Text)


@pytest.mark.parametrize("text", ["a\x00b", "\x00", "x" * (TEXT_LENGTH_MAX + 1)])
def test_text_that_no_column_can_hold_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TEXT.validate_python(text)


@pytest.mark.parametrize("text", ["", "x" * TEXT_LENGTH_MAX, "two\nlines", "Käse 🧀", "\\u0000 spelled out"])
def test_any_other_text_is_taken_as_it_is(text: str) -> None:
    assert TEXT.validate_python(text) == text


def test_a_templates_name_is_text_too() -> None:
    with pytest.raises(ValidationError, match=r"name\n.*NUL"):
        Terms.model_validate({"name": "n\x00m"})
