"""A fact table as its processor sees it: column names in order, their defaults, and how an event becomes a row."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from contracts.envelope import Recorded
from contracts.events import Event
from contracts.money import to_major
from contracts.terms import CouponRef

Row = tuple[Any, ...]

# Where a row comes from: the same for all tables. (event_id, row_no) names a row for ever.
ORIGIN: Final = (
    "tenant_id",
    "app_id",
    "event_id",
    "row_no",
    "stream",
    "version",
    "offset",
    "type",
    "occurred_at",
    "recorded_at",
    "actor",
    "command_id",
)

ABOUT: Final[Mapping[str, Any]] = {
    "template_id": "",
    "terms_version": 0,
    "campaign_id": "",
    "shop_id": "",
    "source": "",
    "user_id": "",
    "currency": "",
}


class Table:
    """One fact table. A column that an event says nothing of holds its default: "", 0 or None."""

    def __init__(self, name: str, defaults: Mapping[str, Any]) -> None:
        self.name = name
        self.columns = (*ORIGIN, *defaults)
        self._defaults = dict(defaults)

    def row(self, recorded: Recorded, row_no: int = 0, **values: Any) -> Row:
        """One row of this event. Raises ValueError for a value without a column."""
        told = self._defaults | values
        if len(told) != len(self._defaults):
            raise ValueError(f"{self.name} has no column for {sorted(values.keys() - self._defaults.keys())}")
        return (*_origin(recorded, row_no), *told.values())


Processor = Callable[[Recorded, Any], Iterable[Row]]


@dataclass(frozen=True, slots=True)
class Facts:
    """A table and what writes it: which events, and the rows that each of them becomes."""

    table: Table
    processors: Mapping[type[Event], Processor]


def _origin(recorded: Recorded, row_no: int) -> Row:
    name, about = recorded.name, recorded.metadata
    return (
        name.realm.tenant_id,
        name.realm.app_id,
        about.event_id,
        row_no,
        recorded.stream,
        recorded.version,
        recorded.offset,
        recorded.event.type,
        about.occurred_at,
        about.recorded_at,
        about.actor,
        about.command_id,
    )


def about_columns(about: CouponRef) -> dict[str, Any]:
    """The columns of :data:`ABOUT`."""
    return {
        "template_id": about.template_id,
        "terms_version": about.terms_version,
        "campaign_id": about.campaign_id,
        "shop_id": about.shop_id or "",
        "source": about.source,
        "user_id": about.user_id,
        "currency": about.currency,
    }


def exact_columns(told: str | None, amount_minor: int, currency: str, *, sign: int = 1) -> dict[str, Any]:
    """``exact_amount``: major units with every digit the upstream told, else what the minor units say.

    ``rounding_amount``: the exact amount less the minor units, so that rounding is a figure of its own.
    """
    rounded = to_major(amount_minor, currency)
    exact = rounded if told is None else Decimal(told)
    return {"exact_amount": sign * exact, "rounding_amount": sign * (exact - rounded)}
