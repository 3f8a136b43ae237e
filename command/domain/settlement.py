"""The settlement ledger of one order: what its coupons took off and what refunds gave back."""

from dataclasses import dataclass
from typing import Final

from command.unit_of_work import Kind
from contracts.events import Event
from contracts.events.settlement import SettlementRecorded, SettlementReversed


@dataclass(frozen=True, slots=True)
class Settlement:
    """The sums of the order's entries. Decisions are taken in checkout; this only shows that they add up."""

    recorded_minor: int = 0
    reversed_minor: int = 0


def evolve(settlement: Settlement, event: Event) -> Settlement:
    """Fold one entry of the ledger."""
    match event:
        case SettlementRecorded():
            return Settlement(settlement.recorded_minor + event.discount_minor, settlement.reversed_minor)
        case SettlementReversed():
            return Settlement(settlement.recorded_minor, settlement.reversed_minor + event.discount_minor)
    return settlement


SETTLEMENT: Final = Kind("settlement", Settlement, Settlement(), evolve)
