"""What the engine needs to know of a command: how it is handled and which streams it surely touches."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from command.unit_of_work import Kind, NotYet, UnitOfWork
from contracts.commands import Command

C = TypeVar("C", bound=Command)

Data = dict[str, Any]
Touches = Sequence[tuple[Kind[Any], str]]


@dataclass(frozen=True, slots=True)
class Rush(Generic[C]):
    """How commands are decided together that are ``alike`` (of one realm, the same key) and next to each other.

    ``handle`` returns each one's answer, in order, and leaves the log, the answers and the counters as deciding one
    after the other would. Where it cannot (somebody would be refused, say) it returns None or raises a Refusal, and
    each is decided by itself. It records with :meth:`UnitOfWork.create_by_each` last: that event is a command's latest.
    """

    alike: Callable[[C], Hashable]
    handle: Callable[[UnitOfWork, Sequence[C]], list[Data] | None]
    counts: Callable[[UnitOfWork, Sequence[C]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Handler(Generic[C]):
    """``handle`` loads, decides and records; it returns the answer's JSON data, or raises a Refusal.

    ``touches`` names the first streams that it will load, ``counts`` the guard counters (it runs once those streams are
    there, and must not record): a batch fetches each in one round trip. Both are hints: what they forget is fetched
    when it is asked for. Commands that are alike in the sense of ``rush`` touch the same streams.

    ``counts_anew``: as a rule none of those counters is there before, and a command that is accepted changes each. Then
    a batch is decided as if it were so, and its append shows whether it is (docs/decisions/0028). False for commands
    whose counters go on, or are only read: such a guess would be wrong each time, and costs an append.
    """

    handle: Callable[[UnitOfWork, C], Data]
    touches: Callable[[C], Touches]
    counts: Callable[[UnitOfWork, C], Sequence[str]] | None = None
    rush: Rush[C] | None = None
    counts_anew: bool = True


Handlers = Mapping[type[Command], Handler[Any]]


def require_time(uow: UnitOfWork, due_at: datetime) -> None:
    """A timer that is early (the store's clock was set back since it was found due) has to come again. Raises NotYet.

    Answered for good, it would have been forgotten, and what it waits for never be recorded.
    """
    if uow.now < due_at:
        raise NotYet(f"this is due at {due_at.isoformat()}, and it is {uow.now.isoformat()}")
