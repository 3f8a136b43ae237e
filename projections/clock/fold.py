"""A realm's business clock from its stream; a realm that runs on the wall clock has no document."""

from contracts.envelope import Recorded
from contracts.events import ClockAdvanced
from contracts.read_models import CLOCK, SINGLE_FIELD
from projections.model import Document, Place, ReadModel, instant


def route(recorded: Recorded) -> tuple[Place, ...]:
    """The realm's one clock."""
    return (Place(recorded.realm, None, SINGLE_FIELD),)


def fold_clock(document: Document | None, recorded: Recorded) -> Document:
    """What it shows."""
    event = recorded.event
    return {"shows": instant(event.to)} if isinstance(event, ClockAdvanced) else document or {}


CLOCK_MODEL = ReadModel(name=CLOCK, kinds=frozenset({"clock"}), route=route, fold=fold_clock)
