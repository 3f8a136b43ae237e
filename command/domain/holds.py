"""What orders hold of a budget: found by order, and by the instant at which a hold ends; each in constant time."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import takewhile
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from command.domain.sorted_map import SortedMap

End = tuple[str, datetime, str]  # Period, instant, order: holds of one period in the order in which they end.


@dataclass(frozen=True, slots=True)
class OpenReservation:
    """What one order holds of the budget, over all its coupons, until its lock ends."""

    period: str
    amount_minor: int
    lock_until: datetime


@dataclass(frozen=True, slots=True)
class Holds:
    """Every open reservation. As JSON only ``by_order``: the rest follows from it."""

    by_order: SortedMap[str, OpenReservation] = field(default_factory=SortedMap)
    ends: SortedMap[End, int] = field(default_factory=SortedMap)

    def __len__(self) -> int:
        return len(self.by_order)

    def __iter__(self) -> Iterator[tuple[str, OpenReservation]]:
        """Every one with its order, by order."""
        return iter(self.by_order)

    def get(self, order_id: str) -> OpenReservation | None:
        """What an order holds; None when it holds nothing."""
        return self.by_order.get(order_id)

    def plus(self, order_id: str, period: str, amount_minor: int, lock_until: datetime) -> "Holds":
        """An order holds so much more. What it held before keeps its period and its end."""
        held = self.get(order_id) or OpenReservation(period, 0, lock_until)
        return self._with(order_id, replace(held, amount_minor=held.amount_minor + amount_minor))

    def minus(self, order_id: str, amount_minor: int) -> "Holds":
        """An order holds so much less; nothing of it is left when that was all."""
        if (held := self.get(order_id)) is None:
            return self
        if held.amount_minor > amount_minor:
            return self._with(order_id, replace(held, amount_minor=held.amount_minor - amount_minor))
        return Holds(self.by_order.minus(order_id), self.ends.minus(_end(order_id, held)))

    def ended(self, period: str, now: datetime) -> Iterator[tuple[str, int]]:
        """The orders whose hold on this period is over, with what they held, the oldest end first."""
        oldest_first = self.ends.after((period,))
        over = takewhile(lambda item: item[0][0] == period and item[0][1] <= now, oldest_first)
        return ((order_id, amount_minor) for (_, _, order_id), amount_minor in over)

    def _with(self, order_id: str, held: OpenReservation) -> "Holds":
        return Holds(self.by_order.plus(order_id, held), self.ends.plus(_end(order_id, held), held.amount_minor))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        by_order = handler.generate_schema(SortedMap[str, OpenReservation])
        return core_schema.no_info_after_validator_function(
            _of,
            by_order,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda holds: holds.by_order, return_schema=by_order
            ),
        )


def _of(by_order: SortedMap[str, OpenReservation]) -> Holds:
    return Holds(by_order, SortedMap((_end(order_id, held), held.amount_minor) for order_id, held in by_order))


def _end(order_id: str, held: OpenReservation) -> End:
    return held.period, held.lock_until, order_id
