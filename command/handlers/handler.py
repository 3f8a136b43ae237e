"""What the engine needs to know of a command: how it is handled and which streams it surely touches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from command.unit_of_work import Kind, UnitOfWork
from contracts.commands import Command

C = TypeVar("C", bound=Command)

Data = dict[str, Any]
Touches = Sequence[tuple[Kind[Any], str]]


@dataclass(frozen=True, slots=True)
class Handler(Generic[C]):
    """``handle`` loads, decides and records; it returns the answer's JSON data, or raises a Refusal.

    ``touches`` names the first streams that it will load, so that a batch prefetches them in one round trip.
    """

    handle: Callable[[UnitOfWork, C], Data]
    touches: Callable[[C], Touches]
