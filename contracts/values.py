"""The building blocks of events and commands: frozen models, ids, instants, amounts and their bounds."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from contracts.money import require_currency

AMOUNT_MINOR_MAX = 10**15
QUANTITY_MAX = 10**9
ID_LENGTH_MAX = 128
TEXT_LENGTH_MAX = 500
# What events happen in: days that facts can hold, with room on both sides for every duration that terms may name.
BUSINESS_TIME_FROM: Final = datetime(1970, 1, 1, tzinfo=UTC)
BUSINESS_TIME_UNTIL: Final = datetime(2149, 6, 6, tzinfo=UTC)


class _Encoded(BaseModel):
    """What encodes itself: as ``model_dump_json`` does, without making a text of it in between."""

    def to_json(self) -> bytes:
        """Its JSON, in UTF-8."""
        return self.__pydantic_serializer__.to_json(self)


class Value(_Encoded):
    """An immutable value. Consumers ignore fields that they do not know: an event may gain optional ones."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def but(self, **changes: Any) -> Self:
        """A copy with other values for some fields, taken as they are: for thousands that differ in little.

        A quarter of the cost of ``model_copy``. Whoever calls it knows that the values fit the fields.
        """
        copy = self.__class__.__new__(self.__class__)
        object.__setattr__(copy, "__dict__", {**self.__dict__, **changes})
        object.__setattr__(copy, "__pydantic_fields_set__", self.__pydantic_fields_set__)
        object.__setattr__(copy, "__pydantic_extra__", None)
        object.__setattr__(copy, "__pydantic_private__", None)
        return copy


class StrictValue(_Encoded):
    """An immutable value from outside: unknown fields and loose types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _integer_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _printable(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("must be printable characters without surrounding white space")
    return value


def _without_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain the NUL character")  # No text or JSON column of PostgreSQL can hold it.
    return value


def _known_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{value!r} is not an IANA time zone") from error
    return value


def _as_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("time_out_of_range", "must be in the years 1 to 9999 of UTC") from None


def _business_time(value: datetime) -> datetime:
    if not BUSINESS_TIME_FROM <= value < BUSINESS_TIME_UNTIL:
        between = {"start": BUSINESS_TIME_FROM.date().isoformat(), "end": BUSINESS_TIME_UNTIL.date().isoformat()}
        raise PydanticCustomError("time_out_of_range", "must be from {start} on and before {end}", between)
    return value


# Ids belong to whoever made them; upstream integers become decimal strings.
Id = Annotated[
    str,
    Field(min_length=1, max_length=ID_LENGTH_MAX),
    AfterValidator(_printable),
    BeforeValidator(_integer_as_text),  # Last, so that the bounds stay the text's own, not functions around it.
]
Text = Annotated[str, Field(max_length=TEXT_LENGTH_MAX), AfterValidator(_without_nul)]
Instant = Annotated[AwareDatetime, AfterValidator(_as_utc)]
BusinessTime = Annotated[Instant, AfterValidator(_business_time)]  # What a clock may be set to.
AmountMinor = Annotated[int, Field(ge=0, le=AMOUNT_MINOR_MAX)]
PositiveMinor = Annotated[int, Field(gt=0, le=AMOUNT_MINOR_MAX)]
SignedMinor = Annotated[int, Field(ge=-AMOUNT_MINOR_MAX, le=AMOUNT_MINOR_MAX)]
Quantity = Annotated[int, Field(gt=0, le=QUANTITY_MAX)]
Count = Annotated[int, Field(ge=0, le=QUANTITY_MAX)]
Currency = Annotated[str, AfterValidator(require_currency)]
Zone = Annotated[str, AfterValidator(_known_zone)]
