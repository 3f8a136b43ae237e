"""Breaks: ledgers that disagree, found by reconciliation, with their history."""

from dataclasses import dataclass
from typing import Final

from command.unit_of_work import Kind
from contracts.commands import OpenBreak
from contracts.events import BreakClosed, BreakOpened, Event
from contracts.refusals import UnknownBreak


@dataclass(frozen=True, slots=True)
class Break:
    """The break as it was last found, and whether it is still open."""

    found: BreakOpened | None = None
    is_open: bool = False


def evolve(found: Break, event: Event) -> Break:
    """Fold one event of a break's stream."""
    match event:
        case BreakOpened():
            return Break(event, is_open=True)
        case BreakClosed():
            return Break(found.found, is_open=False)
    return found


BREAK: Final = Kind("break", Break, Break(), evolve)


def open_break(found: Break, command: OpenBreak) -> tuple[Event, ...]:
    """Record a break: a new one, one that came back, or one that looks different now."""
    opened = BreakOpened(**command.model_dump())
    return () if found.is_open and found.found == opened else (opened,)


def close_break(found: Break, reason: str) -> tuple[Event, ...]:
    """Record that later facts settled it."""
    if found.found is None:
        raise UnknownBreak
    if not found.is_open:
        return ()
    known = found.found
    return (BreakClosed(break_id=known.break_id, kind=known.kind, subject=known.subject, reason=reason),)
