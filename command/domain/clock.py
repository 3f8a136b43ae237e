"""A realm's business clock: once it was set it shows what it was set to, and it only runs forward."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from command.unit_of_work import Kind
from contracts.events import ClockAdvanced, Event
from contracts.refusals import ClockBehindHistory, ClockRunsForwardOnly

# A realm has one clock: this is its stream's key.
MAIN: Final = "main"


@dataclass(frozen=True, slots=True)
class Clock:
    """What it shows; None while the realm runs on the wall clock."""

    shows: datetime | None = None


def evolve(clock: Clock, event: Event) -> Clock:
    """Fold one event of the clock's stream."""
    return Clock(event.to) if isinstance(event, ClockAdvanced) else clock


CLOCK: Final = Kind("clock", Clock, Clock(), evolve)


def start(clock: Clock, to: datetime, *, has_history: bool, now: datetime) -> tuple[Event, ...]:
    """Set the clock for the first time: anywhere in a new realm, else not before what the realm has lived through."""
    if clock.shows is None and has_history and to < now:
        raise ClockBehindHistory(
            f"This realm has lived by the wall clock until {now.isoformat()}.", now=now.isoformat()
        )
    return advance(clock, to)


def advance(clock: Clock, to: datetime) -> tuple[Event, ...]:
    """Set the clock forward."""
    if clock.shows is not None and to < clock.shows:
        raise ClockRunsForwardOnly(f"The clock shows {clock.shows.isoformat()}.", shows=clock.shows.isoformat())
    return () if to == clock.shows else (ClockAdvanced(to=to),)
