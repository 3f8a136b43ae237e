"""What the engine needs to know of a command: how it is handled and which streams it surely touches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from command.unit_of_work import Kind, NotYet, UnitOfWork
from contracts.commands import Command

C = TypeVar("C", bound=Command)

Data = dict[str, Any]
Touches = Sequence[tuple[Kind[Any], str]]


@dataclass(frozen=True, slots=True)
class Handler(Generic[C]):
    """``handle`` loads, decides and records; it returns the answer's JSON data, or raises a Refusal.

    ``touches`` names the first streams that it will load, ``counts`` the guard counters (it runs once those streams are
    there, and must not record): a batch fetches each in one round trip. Both are hints: what they forget is fetched
    when it is asked for.
    """

    handle: Callable[[UnitOfWork, C], Data]
    touches: Callable[[C], Touches]
    counts: Callable[[UnitOfWork, C], Sequence[str]] | None = None


Handlers = Mapping[type[Command], Handler[Any]]


def require_time(uow: UnitOfWork, due_at: datetime) -> None:
    """A timer that is early (the store's clock was set back since it was found due) has to come again. Raises NotYet.

    Answered for good, it would have been forgotten, and what it waits for never be recorded.
    """
    if uow.now < due_at:
        raise NotYet(f"this is due at {due_at.isoformat()}, and it is {uow.now.isoformat()}")
